//! Printing that never ends a program: what it was run for comes first.

use halfbyte_runtime::Result;
use std::{
    fmt, io,
    io::Write,
    process::ExitCode,
    sync::{Mutex, PoisonError},
};

/// Why standard output took no more.
static FAILED: Mutex<Option<io::ErrorKind>> = Mutex::new(None);

/// `println!` that remembers a failure for [`exit`].
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
    let mut failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner);
    if failed.is_none() {
        let mut out = io::stdout();
        *failed = out.write_fmt(text).and_then(|()| out.flush()).err().map(|e| e.kind());
    }
    failed.is_none()
}

/// The exit code of `main`; an error goes to stderr. A standard output that could not be written is one, unless its
/// reader just went away, as `head` does.
pub fn exit(main: impl FnOnce() -> Result<ExitCode>) -> ExitCode {
    let code = main().unwrap_or_else(|e| {
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
