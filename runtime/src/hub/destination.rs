//! Where on the hub an adapter goes.

use super::{environment::Environment, name::Name};
use crate::error::{Error, Result};
use std::path::Path;

/// The files of an adapter that are for others.
const FILES: [&str; 4] = ["adapter_config.json", "adapter_model.safetensors", "README.md", "loss.svg"];

/// A repository on the hub that an adapter may be sent to.
#[derive(Clone, Debug)]
pub struct Destination {
    name: Name,
    environment: Environment,
    overwrite: bool,
}

impl Destination {
    /// Looks whether `OWNER/NAME` can take an adapter: it may be new; one that has such files needs `overwrite`.
    ///
    /// # Errors
    /// It has, there is no token, or the hub does not answer.
    pub fn open(text: &str, overwrite: bool) -> Result<Self> {
        let refused = |reason: &str| Error::Push { name: text.to_owned(), reason: reason.to_owned() };
        let name = Name::parse(text).filter(|_| !text.contains('@'));
        let name = name.ok_or_else(|| refused("a name there is OWNER/NAME"))?;
        let environment = Environment::read();
        if environment.offline {
            return Err(refused("HF_HUB_OFFLINE is set"));
        }
        if !environment.has_token() {
            return Err(refused("it takes a token that may write: set HF_TOKEN, or `hf auth login`"));
        }
        let kept: &[&str] = if overwrite { &[] } else { &FILES };
        expect_free(&name, &environment, kept).map_err(|reason| refused(&reason))?;
        Ok(Destination { name, environment, overwrite })
    }

    /// Sends the adapter in a folder, with its model card, in one commit; gives its address. A repository that is not there
    /// is made, and is private.
    ///
    /// # Errors
    /// The hub refuses it, or somebody else has put such files there meanwhile.
    pub fn send(&self, dir: &Path) -> Result<String> {
        let files: Vec<_> = FILES.into_iter().filter(|file| dir.join(file).exists()).collect();
        let sent = push(&self.name, &self.environment, dir, &files, self.overwrite);
        let commit = sent.map_err(|reason| {
            let reason = format!("{reason}; the adapter is in `{}`", dir.display());
            Error::Push { name: self.name.repo(), reason }
        })?;
        Ok(format!("{}/{}/tree/{commit}", self.environment.endpoint, self.name.repo()))
    }
}

#[cfg(feature = "hub")]
use super::push::{expect_free, push};

#[cfg(not(feature = "hub"))]
const BUILT: &str = "this program was built without the feature `hub`: `hf upload` sends it";

#[cfg(not(feature = "hub"))]
fn expect_free(_: &Name, _: &Environment, _: &[&str]) -> std::result::Result<(), String> {
    Err(BUILT.into())
}

#[cfg(not(feature = "hub"))]
fn push(_: &Name, _: &Environment, _: &Path, _: &[&str], _: bool) -> std::result::Result<String, String> {
    Err(BUILT.into())
}
