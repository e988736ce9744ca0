//! How much programs tell of what they do.

use crate::screen::Stream;
use clap::{Arg, ArgMatches};
use std::{
    io::{self, Write},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};
use tracing::{debug, level_filters::LevelFilter};
use tracing_subscriber::fmt::MakeWriter;

const NAME: &str = "log-level";
const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// Whether notes are kept back.
static QUIET: AtomicBool = AtomicBool::new(false);

/// The option, which every program has.
pub(super) fn option() -> Arg {
    let help = "How much to tell on standard error: errors, also notes and progress (warn), also what is done (info), and \
                how [default: warn]";
    Arg::new(NAME).long(NAME).value_name("LEVEL").value_parser(LEVELS).ignore_case(true).help(help)
}

/// Begins to tell what the option asks for.
pub(super) fn begin(program: &str, matches: &ArgMatches) {
    let asked = matches.try_get_one::<String>(NAME).ok().flatten();
    let level = asked.and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::WARN);
    QUIET.store(level < LevelFilter::WARN, Relaxed);
    if level >= LevelFilter::INFO {
        let lines = tracing_subscriber::fmt().with_max_level(level).with_ansi(false).with_writer(Above);
        // Of two programs in one process, the first decides.
        let _ = lines.try_init();
    }
    debug!(version = super::tool::version(), "{program}");
}

/// Whether notes and progress are told.
pub(super) fn tells_notes() -> bool {
    !QUIET.load(Relaxed)
}

/// Standard error, where a progress bar that stands there gives way until it is drawn again.
struct Above;

impl MakeWriter<'_> for Above {
    type Writer = Above;

    fn make_writer(&self) -> Above {
        Above
    }
}

/// Gets whole lines.
impl Write for Above {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        Stream::Err.clear_line();
        io::stderr().write_all(line).map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
