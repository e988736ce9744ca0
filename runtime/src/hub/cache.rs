//! The hub's cache, as `huggingface_hub` lays it out: `models--OWNER--NAME/` has `blobs/`, named by what the hub knows them
//! by, `snapshots/COMMIT/`, whose files are links to blobs, and `refs/`, which commit a branch or a tag was.

use super::Kind;
use super::name::{Name, is_word};
use crate::{files, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub(super) const WEIGHTS: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// The folder of a repository.
pub(super) struct Repo {
    pub dir: PathBuf,
}

impl Repo {
    pub fn new(cache: &Path, name: &Name) -> Self {
        Repo { dir: cache.join(format!("models--{}--{}", name.owner, name.name)) }
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.dir.join("snapshots").join(commit)
    }

    pub fn reference(&self, revision: &str) -> PathBuf {
        self.dir.join("refs").join(revision)
    }

    /// The folder of this revision, if all that is wanted is there.
    pub fn whole_snapshot(&self, revision: &str, kind: Kind) -> Option<PathBuf> {
        let commit = files::read_to_string(&self.reference(revision)).map(|commit| commit.trim().to_owned());
        let commit = commit.unwrap_or_else(|_| revision.to_owned());
        let snapshot = self.snapshot(&commit);
        (is_word(&commit) && kind.is_whole(&snapshot)).then_some(snapshot)
    }
}

impl Kind {
    /// The files that this crate reads, but for weights, where a repository has them.
    pub fn small_files(self) -> &'static [&'static str] {
        match self {
            Kind::Model => &[
                "config.json",
                "tokenizer.json",
                "generation_config.json",
                "tokenizer_config.json",
                "special_tokens_map.json",
                "added_tokens.json",
                "chat_template.jinja",
            ],
            Kind::Adapter => &["adapter_config.json"],
        }
    }

    /// Those that must be there.
    pub fn needed_files(self) -> &'static [&'static str] {
        match self {
            Kind::Model => &self.small_files()[..2],
            Kind::Adapter => self.small_files(),
        }
    }

    /// Weights come last, so where they are the rest is, too, if the hub has it.
    fn is_whole(self, dir: &Path) -> bool {
        let has = |name: &str| dir.join(name).is_file();
        let weights = || match self {
            Kind::Adapter => has("adapter_model.safetensors"),
            Kind::Model if has(WEIGHTS) => true,
            Kind::Model => shards(&dir.join(INDEX)).is_ok_and(|names| names.iter().all(|name| has(name))),
        };
        self.needed_files().iter().all(|name| has(name)) && weights()
    }
}

/// The files that an index names.
pub(super) fn shards(index: &Path) -> Result<BTreeSet<String>, String> {
    let damaged = |reason: String| format!("{}: {reason}", index.display());
    let value = json::parse(&files::read(index).map_err(|e| e.to_string())?).map_err(|e| damaged(e.to_string()))?;
    let map = value["weight_map"].as_object().filter(|map| !map.is_empty());
    let map = map.ok_or_else(|| damaged("it has no weight_map".into()))?;
    let name = |name: &serde_json::Value| name.as_str().filter(|name| is_word(name)).map(str::to_owned);
    map.values().map(name).collect::<Option<_>>().ok_or_else(|| damaged("its weight_map names what is no file".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_names_files_beside_it_only() {
        let folder = tempfile::tempdir().unwrap();
        let index = folder.path().join(INDEX);
        let read = |text: &str| {
            std::fs::write(&index, text).unwrap();
            shards(&index)
        };
        let both = read(r#"{"weight_map": {"x": "b.safetensors", "y": "a.safetensors", "z": "b.safetensors"}}"#);
        assert_eq!(both.unwrap().into_iter().collect::<Vec<_>>(), ["a.safetensors", "b.safetensors"]);
        for text in
            ["{", "{}", r#"{"weight_map": {}}"#, r#"{"weight_map": {"x": "../a"}}"#, r#"{"weight_map": {"x": 1}}"#]
        {
            assert!(read(text).unwrap_err().contains(INDEX), "{text}");
        }
    }
}
