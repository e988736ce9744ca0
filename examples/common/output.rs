//! Printing that never ends a program: what it was run for comes first.

use clap::Parser;
use halfbyte_runtime::{
    Error, Result,
    settings::{Asked, Program, Sources, with_dashes},
};
use std::{
    fmt, io,
    io::Write,
    process::ExitCode,
    sync::{Mutex, PoisonError},
};

/// Why standard output took no more.
static FAILED: Mutex<Option<io::ErrorKind>> = Mutex::new(None);

/// `println!` that remembers a failure for [`finish`].
macro_rules! say {
    ($($arg:tt)*) => {{ $crate::common::output::print(format_args!("{}\n", format_args!($($arg)*))); }};
}

/// `eprintln!` for which a standard error that is gone is no reason to stop.
macro_rules! note {
    ($($arg:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($arg)*);
    }};
}
pub(crate) use {note, say};

/// Writes to standard output, unless that failed before; gives whether it is still there.
pub fn print(text: fmt::Arguments<'_>) -> bool {
    attempt(|| io::stdout().write_fmt(text))
}

/// Does what writes to standard output, unless that failed before; gives whether it is still there.
fn attempt(write: impl FnOnce() -> io::Result<()>) -> bool {
    let mut failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner);
    if failed.is_none() {
        *failed = write().and_then(|()| io::stdout().flush()).err().map(|e| e.kind());
    }
    failed.is_none()
}

/// Reads a command line of its own, as freely as one of settings, and does `main`; see [`finish`].
pub fn start<A: Parser>(main: impl FnOnce(A) -> Result<ExitCode>) -> ExitCode {
    let mut command = A::command().args_override_self(true);
    let arguments: Vec<_> = std::env::args_os().map(|argument| with_dashes(&command, argument)).collect();
    let matches = command.try_get_matches_from_mut(arguments);
    let read = matches.and_then(|matches| A::from_arg_matches(&matches).map_err(|e| e.format(&mut command)));
    finish(read.map_err(Error::from).and_then(main))
}

/// Reads all sources of settings and does `main`, unless they are only to be printed; see [`finish`].
pub fn start_with(program: Program, main: impl FnOnce(Asked) -> Result<ExitCode>) -> ExitCode {
    let asked = program.read(std::env::args_os(), Sources::here());
    finish(asked.and_then(|asked| {
        if asked.print_config {
            print(format_args!("{}", program.print(&asked.loaded)));
            return Ok(ExitCode::SUCCESS);
        }
        main(asked)
    }))
}

/// The exit code of a program. An error goes to stderr. A standard output that could not be written is one, unless its
/// reader just went away, as `head` does.
fn finish(outcome: Result<ExitCode>) -> ExitCode {
    let code = outcome.unwrap_or_else(|e| match e {
        Error::Usage(asked) => explain(&asked),
        e => {
            note!("error: {e}");
            ExitCode::FAILURE
        }
    });
    match *FAILED.lock().unwrap_or_else(PoisonError::into_inner) {
        None | Some(io::ErrorKind::BrokenPipe) => code,
        Some(kind) => {
            note!("error: cannot write to standard output: {kind}; what was printed is incomplete");
            ExitCode::FAILURE
        }
    }
}

/// Prints a refusal of the command line, or the help that was asked for.
fn explain(asked: &clap::Error) -> ExitCode {
    if asked.use_stderr() {
        let _ = asked.print();
    } else {
        attempt(|| asked.print());
    }
    ExitCode::from(u8::try_from(asked.exit_code()).unwrap_or(1))
}
