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

mod about;
mod begin;
mod examine;
mod fit;
mod force;
mod idle;
mod job;
mod need;
mod options;
mod pace;
mod plan;
mod prepared;
mod preview;
mod prompts;
mod resume;
mod steps;
mod texts;
mod watch;

pub use examine::Examination;
pub use job::Outcome;
pub use need::{Extent, Need};
pub use plan::Plan;
pub use prepared::Prepared;
pub use preview::Marks;
pub use watch::{Watch, Wish};

use crate::error::Result;
use crate::settings::TrainSettings;

/// Trains as the settings say, and saves the adapter.
///
/// # Errors
/// Those of [`Prepared::new`] and [`Prepared::run`].
pub fn run(settings: &TrainSettings, watch: &mut dyn Watch) -> Result<Outcome> {
    Prepared::new(settings)?.run(watch)
}
