//! The small model and the texts that come with the source.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// The model that comes with the source: 5.8 million weights, for trying things out.
pub const EMBEDDED: &str = "embedded";

/// In the checkout, or under `HALFBYTE_ROOT` on machines that only have the binaries.
fn assets() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let checkout = || package.parent().unwrap_or(package).to_owned();
    let root = std::env::var_os("HALFBYTE_ROOT").map_or_else(checkout, PathBuf::from);
    root.join("examples/assets")
}

fn asset(path: &str) -> Result<PathBuf> {
    let (dir, hint) = (assets(), "set HALFBYTE_ROOT to a checkout of halfbyte, or name a model and data of your own");
    let found = dir.join(path);
    if found.exists() { Ok(found) } else { Err(Error::MissingFile { dir, wanted: path.into(), hint }) }
}

/// The folder of a model: [`EMBEDDED`] or a path.
///
/// # Errors
/// The embedded model is not where it was built.
pub fn resolve(model_name: &str) -> Result<PathBuf> {
    if model_name == EMBEDDED { asset("tiny-qwen3") } else { Ok(model_name.into()) }
}

/// A file about the invented town.
///
/// # Errors
/// It is not where it was built.
pub fn town(file: &str) -> Result<PathBuf> {
    asset(&format!("town/{file}"))
}
