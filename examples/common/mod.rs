//! What the examples share.
#![allow(dead_code, unused_macros, unused_imports, reason = "each example uses its part")]

pub mod output;
mod ranged;
mod signals;

pub use output::start;
pub(crate) use output::{note, say};
pub use ranged::within;
pub use signals::{Signals, asks_to_retry, exit_code};

use std::path::PathBuf;

/// The embedded model and data.
pub struct Assets(PathBuf);

impl Assets {
    /// In the checkout, or under `HALFBYTE_ROOT` on machines that only have the binaries.
    pub fn find() -> Self {
        let root = std::env::var_os("HALFBYTE_ROOT").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        Assets(PathBuf::from(root).join("examples/assets"))
    }

    /// The small Qwen3.
    pub fn model(&self) -> PathBuf {
        self.0.join("tiny-qwen3")
    }

    /// A file about the invented town.
    pub fn town(&self, file: &str) -> PathBuf {
        self.0.join("town").join(file)
    }
}

/// Python users write True and False.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err("it must be true or false".into()),
    }
}
