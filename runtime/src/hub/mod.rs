//! Names to folders: a path, the embedded model, or a name on the Hugging Face hub, such as `Qwen/Qwen3-8B` or
//! `Qwen/Qwen3-8B@revision`.
//!
//! A path that exists counts before a name. What the hub's cache holds whole is taken from there, without a look at the
//! network; what it lacks is downloaded into it. The cache is that of Python's `huggingface_hub`, so each finds what the
//! other has downloaded. The environment has its variables, too: `HF_HOME`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE`, `HF_ENDPOINT`
//! and `HF_TOKEN`.

#[cfg(feature = "hub")]
mod blob;
mod cache;
mod destination;
#[cfg(feature = "hub")]
mod download;
mod environment;
mod name;
#[cfg(feature = "hub")]
mod push;
#[cfg(feature = "hub")]
mod remote;

pub use destination::Destination;
pub use environment::Environment;

use crate::embedded::{self, EMBEDDED};
use crate::error::{Error, Result};
use cache::Repo;
use name::Name;
use std::path::{Path, PathBuf};

/// The folder of a model: [`EMBEDDED`], a path, or a name on the hub.
///
/// # Errors
/// It is neither here nor to be had.
pub fn model(name: &str) -> Result<PathBuf> {
    if name == EMBEDDED { Ok(embedded::model()) } else { find(Path::new(name), Kind::Model) }
}

/// The folder of an adapter: a path, or a name on the hub.
///
/// # Errors
/// It is neither here nor to be had.
pub fn adapter(path: &Path) -> Result<PathBuf> {
    find(path, Kind::Adapter)
}

/// How PEFT writes a model's name: without the revision, which is another key.
pub(crate) fn as_peft(name: &str) -> (String, Option<String>) {
    let on_hub = if Path::new(name).exists() { None } else { Name::parse(name) };
    let parts = on_hub.map(|on_hub| (on_hub.repo(), name.contains('@').then_some(on_hub.revision)));
    parts.unwrap_or_else(|| (name.to_owned(), None))
}

/// What is wanted of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Model,
    Adapter,
}

fn find(path: &Path, kind: Kind) -> Result<PathBuf> {
    if path.exists() {
        return Ok(path.to_owned());
    }
    let text = path.to_string_lossy();
    let missing = |reason: String| Error::Nowhere { name: text.to_string(), reason };
    let name = Name::parse(&text).ok_or_else(|| missing("a name there is OWNER/NAME or OWNER/NAME@REVISION".into()))?;
    found(&name, kind, &Environment::read()).map_err(missing)
}

/// In the cache, or else downloaded into it.
fn found(name: &Name, kind: Kind, environment: &Environment) -> std::result::Result<PathBuf, String> {
    let repo = Repo::new(&environment.cache, name);
    match repo.whole_snapshot(&name.revision, kind) {
        Some(snapshot) => Ok(snapshot),
        None if environment.offline => {
            let cache = environment.cache.display();
            Err(format!("HF_HUB_OFFLINE is set, and its cache, {cache}, does not hold all of it"))
        }
        None => download(name, kind, &repo, environment),
    }
}

#[cfg(feature = "hub")]
use download::download;

#[cfg(not(feature = "hub"))]
fn download(name: &Name, _: Kind, repo: &Repo, _: &Environment) -> std::result::Result<PathBuf, String> {
    let (folder, name) = (repo.dir.display(), name.repo());
    let built = "this program was built without the feature `hub`";
    Err(format!("{folder} does not hold all of it, and {built}: `hf download {name}` fetches it"))
}
