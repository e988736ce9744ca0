//! What the examples share.
#![allow(dead_code, unused_macros, unused_imports, reason = "each example uses its part")]

mod export;
pub mod output;
mod signals;
pub mod speed;

pub use export::Shown;
pub(crate) use output::{note, say};
pub use output::{progress_bar, start, start_with};
pub use signals::{Signals, asks_to_retry, exit_code};
