//! Printing that never ends a program: what it was run for comes first.

use clap::Parser;
use halfbyte_runtime::Result;
use std::{
    fmt, io,
    io::Write,
    process::ExitCode,
    sync::{Mutex, PoisonError},
};

/// Why standard output took no more.
static FAILED: Mutex<Option<io::ErrorKind>> = Mutex::new(None);

/// `println!` that remembers a failure for [`start`].
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

/// Reads the command line and does `main`; gives its exit code. An error goes to stderr. A standard output that could not
/// be written is one, unless its reader just went away, as `head` does.
pub fn start<A: Parser>(main: impl FnOnce(A) -> Result<ExitCode>) -> ExitCode {
    let code = A::try_parse().map_or_else(|asked| Ok(explain(&asked)), main).unwrap_or_else(|e| {
        note!("error: {e}");
        ExitCode::FAILURE
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
