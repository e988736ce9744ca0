//! A training run, from settings to a saved adapter.
//!
//! ```no_run
//! use halfbyte_runtime::{settings::TrainSettings, train::run::run};
//!
//! let settings = TrainSettings { use_4bit: true, output: "adapter".into(), ..TrainSettings::default() };
//! let outcome = run(&settings, &mut ())?;
//! println!("{} steps", outcome.steps);
//! # Ok::<(), halfbyte_runtime::Error>(())
//! ```

mod examine;
mod force;
mod job;
mod need;
mod prepared;
mod texts;

pub use examine::Examination;
pub use need::Need;
pub use prepared::Prepared;

use super::metrics::Record;
use crate::{Error, Result, settings::TrainSettings};
use halfbyte::MemoryUse;
use std::path::PathBuf;

/// What a program shows of a run, and decides about it. `()` shows nothing.
pub trait Watch {
    /// A line of what the run finds out.
    fn say(&mut self, _line: &str) {}

    /// A line that the user should know.
    fn note(&mut self, _line: &str) {}

    /// The loop over so many steps begins.
    fn begin(&mut self, _total_steps: u64) {}

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

/// What came of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Steps that were done.
    pub steps: u64,
    /// Steps that the settings ask for; a run that was ended early did fewer.
    pub total_steps: u64,
    /// Tokens that it trained on.
    pub n_tokens: u64,
    /// What the model knew before.
    pub before: Examination,
    /// What it knows now; none where the run was ended early.
    pub after: Option<Examination>,
    /// Where the adapter is.
    pub output: PathBuf,
    /// What buffers took.
    pub memory: MemoryUse,
}

/// Trains as the settings say, and saves the adapter.
///
/// # Errors
/// Those of [`Prepared::new`] and [`Prepared::run`].
pub fn run(settings: &TrainSettings, watch: &mut dyn Watch) -> Result<Outcome> {
    Prepared::new(settings)?.run(watch)
}
