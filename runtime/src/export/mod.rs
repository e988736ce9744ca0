//! The way out: a checkpoint with an adapter merged into it, one in 4 bits for vLLM, and files for llama.cpp.
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
mod compressed;
mod gguf;
mod merge;
mod merged;
mod settings;
mod watch;

pub use combine::{Combination, MajoritySign, Ties, Weighted, combine};
pub use compressed::CompressedReport;
pub use gguf::{GgufReport, GgufType, TensorType};
pub use merge::{FourBits, MergeReport};
pub(crate) use settings::refuse_idle;
pub use settings::{AdapterSettings, CompressedSettings, GgufSettings, MergeSettings};
pub use watch::Watch;
