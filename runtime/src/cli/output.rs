//! Printing that never ends a program: what it was run for comes first.

use super::logs;
use crate::{
    error::{Error, Result},
    screen::{Stream, bars},
    settings::{Asked, Program, Sources, with_dashes},
};
use clap::{ArgMatches, Command};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    ffi::OsString,
    fmt, io,
    io::Write,
    process::ExitCode,
    sync::{Mutex, PoisonError},
};

/// Why standard output took no more.
static FAILED: Mutex<Option<io::ErrorKind>> = Mutex::new(None);

/// `println!` that breaks lines between words, and remembers a failure for the end of the program.
#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => {{ $crate::cli::say_line(&format!($($arg)*)); }};
}

/// `eprintln!` that breaks lines between words, and for which a standard error that is gone is no reason to stop.
#[macro_export]
macro_rules! note {
    ($($arg:tt)*) => {{ $crate::cli::note_line(&format!($($arg)*)); }};
}

/// What [`say!`](crate::say) does.
pub fn say_line(text: &str) {
    print(format_args!("{}\n", Stream::Out.fit(text)));
}

/// What [`note!`](crate::note) does, unless only errors are to be told.
pub fn note_line(text: &str) {
    if logs::tells_notes() {
        complain(text);
    }
}

/// Tells an error on standard error, which may be gone.
pub fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{}", Stream::Err.fit(text));
}

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

/// A bar for a terminal, of a length that is still to be set; it leaves nothing behind.
pub fn progress_bar(message: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg} {eta}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(None, bars()).with_style(style).with_message(message)
}

/// The same, where the arguments need not be those of this process.
pub(super) fn start_with_options(
    command: Command,
    arguments: impl IntoIterator<Item = OsString>,
    main: impl FnOnce(&ArgMatches) -> Result<ExitCode>,
) -> ExitCode {
    let command = command.args_override_self(true);
    let name = command.get_name().to_owned();
    let arguments: Vec<_> = arguments.into_iter().map(|argument| with_dashes(&command, argument)).collect();
    finish(command.try_get_matches_from(arguments).map_err(Error::from).and_then(|matches| {
        logs::begin(&name, &matches);
        main(&matches)
    }))
}

/// Reads all sources of settings and does `main`, unless they are only to be printed; see [`finish`].
pub(super) fn start_with_settings(
    program: Program,
    arguments: impl IntoIterator<Item = OsString>,
    main: impl FnOnce(Asked) -> Result<ExitCode>,
) -> ExitCode {
    let asked = program.read(arguments, Sources::here());
    finish(asked.and_then(|asked| {
        logs::begin(program.name(), &asked.matches);
        if asked.print_config {
            print(format_args!("{}", program.print(&asked.loaded, Stream::Out.columns())));
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
            complain(&format!("error: {e}"));
            ExitCode::FAILURE
        }
    });
    match *FAILED.lock().unwrap_or_else(PoisonError::into_inner) {
        None | Some(io::ErrorKind::BrokenPipe) => code,
        Some(kind) => {
            complain(&format!("error: cannot write to standard output: {kind}; what was printed is incomplete"));
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
