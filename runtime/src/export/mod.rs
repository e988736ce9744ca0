//! The way out: a checkpoint with an adapter merged into it, and files for llama.cpp.
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
mod gguf;
mod merge;
mod merged;
mod settings;
mod watch;

pub use combine::{Combination, MajoritySign, Ties, Weighted, combine};
pub use gguf::{GgufReport, GgufType, TensorType};
pub use merge::{FourBits, MergeReport};
pub use settings::{AdapterSettings, GgufSettings, MergeSettings};
pub use watch::Watch;
