//! What the examples share.
#![allow(dead_code, unused_macros, unused_imports, reason = "each example uses its part")]

pub mod output;
mod ranged;
mod signals;

pub(crate) use output::{note, say};
pub use output::{start, start_with};
pub use ranged::within;
pub use signals::{Signals, asks_to_retry, exit_code};

use std::path::PathBuf;

/// The embedded model and data.
pub struct Assets(PathBuf);

impl Assets {
    /// In the checkout, or under `HALFBYTE_ROOT` on machines that only have the binaries.
    pub fn find() -> Self {
        let of_root = |root| PathBuf::from(root).join("examples");
        let examples = std::env::var_os("HALFBYTE_ROOT").map_or(env!("CARGO_MANIFEST_DIR").into(), of_root);
        Assets(examples.join("assets"))
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
