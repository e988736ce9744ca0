//! Who watches a run.

use crate::{error::Error, train::metrics::Record};
use std::path::PathBuf;

/// What a program shows of a run, and decides about it. `()` shows nothing.
pub trait Watch {
    /// A line of what the run finds out.
    fn say(&mut self, _line: &str) {}

    /// A line that the user should know.
    fn note(&mut self, _line: &str) {}

    /// The loop over so many steps begins; the first of them are done already where a run goes on.
    fn begin(&mut self, _done: u64, _total_steps: u64) {}

    /// There is something to save from now on; said after every step.
    fn learnt(&mut self) {}

    /// A step was done.
    fn step(&mut self, _record: &Record) {}

    /// The loop is over.
    fn finish(&mut self) {}

    /// Whether to end early, and to save what was learnt; asked before every step, and before the last examination.
    fn ends(&mut self) -> bool {
        false
    }

    /// Everything is saved.
    fn saved(&mut self) {}

    /// What to do about an adapter that could not be saved. May take its time.
    fn save_failed(&mut self, _error: &Error) -> Wish {
        Wish::GiveUp
    }
}

impl Watch for () {}

/// What to do about a failed save.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Try again.
    TryAgain,
    /// Try again in another folder.
    Folder(PathBuf),
    /// Try once more, and then drop what was learnt.
    GiveUp,
}
