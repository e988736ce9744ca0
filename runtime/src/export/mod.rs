//! The way out: a checkpoint with an adapter merged into it.
//!
//! ```no_run
//! use halfbyte_runtime::export::{AdapterSettings, MergeSettings};
//!
//! let settings = MergeSettings::new(AdapterSettings::one("adapter"), "merged");
//! if let Some(report) = settings.run(&mut ())? {
//!     println!("{report}");
//! }
//! # Ok::<(), halfbyte_runtime::Error>(())
//! ```

mod combine;
mod merge;
mod merged;
mod settings;
mod watch;

pub use combine::{Combination, MajoritySign, Ties, Weighted, combine};
pub use merge::{FourBits, MergeReport};
pub use settings::{AdapterSettings, MergeSettings};
pub use watch::Watch;
