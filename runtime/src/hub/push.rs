//! The requests that send files to the hub: large ones to its store, then all of them in one commit.

use super::blob::{PAUSE, TRIES, hash};
use super::environment::Environment;
use super::name::Name;
use super::remote::{Failed, Listing, Remote};
use crate::screen::bars;
use base64::{Engine, engine::general_purpose::STANDARD};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;
use std::thread;

/// What the hub looks at to tell large files from small ones.
const SAMPLE: u64 = 512;

/// Refuses a repository that has one of these files.
pub(super) fn expect_free(name: &Name, environment: &Environment, files: &[&str]) -> Result<(), String> {
    Remote::new(name, environment).listing_if_any()?.map_or(Ok(()), |listing| free(&listing, files))
}

fn free(listing: &Listing, files: &[&str]) -> Result<(), String> {
    let there: Vec<_> = files.iter().copied().filter(|file| listing.has(file)).collect();
    let taken = || format!("it has {} already; choose another name, or pass --overwrite", there.join(", "));
    if there.is_empty() { Ok(()) } else { Err(taken()) }
}

/// Sends files of a folder in one commit, into a new repository, which is private, where there is none of this name. Those that
/// are there are replaced only where `overwrite` is set. Gives the commit.
pub(super) fn push(
    name: &Name,
    environment: &Environment,
    dir: &Path,
    names: &[&str],
    overwrite: bool,
) -> Result<String, String> {
    let remote = Remote::new(name, environment);
    let files = names.iter().map(|file| Sent::open(dir, file)).collect::<Result<Vec<_>, _>>()?;
    let listing = remote.listing_if_any()?;
    match &listing {
        Some(listing) if !overwrite => free(listing, names)?,
        Some(_) => {}
        None => remote.create()?,
    }
    let large = remote.large(&files)?;
    let (large, small): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| large.contains(&file.name));
    remote.store(&large)?;
    remote.commit(listing.as_ref(), &small, &large)
}

/// A file that is to be sent.
struct Sent {
    name: String,
    file: File,
    bytes: u64,
    sha256: String,
    sample: Vec<u8>,
}

impl Sent {
    fn open(dir: &Path, name: &str) -> Result<Self, String> {
        let path = dir.join(name);
        let read = || -> io::Result<Self> {
            let mut file = File::open(&path)?;
            let mut sample = Vec::new();
            file.by_ref().take(SAMPLE).read_to_end(&mut sample)?;
            file.rewind()?;
            let (bytes, sha256) = (file.metadata()?.len(), hash(Sha256::new(), &mut file)?);
            Ok(Sent { name: name.to_owned(), file, bytes, sha256, sample })
        };
        read().map_err(|e| format!("cannot read `{}`: {e}", path.display()))
    }

    fn content(&self) -> Result<Vec<u8>, String> {
        let mut content = Vec::new();
        let read = (&self.file).rewind().and_then(|()| (&self.file).read_to_end(&mut content));
        read.map(|_| content).map_err(|e| format!("cannot read {}: {e}", self.name))
    }
}

impl Remote<'_> {
    fn create(&self) -> Result<(), String> {
        let Name { owner, name, .. } = self.name;
        let body = json!({"name": name, "organization": owner, "type": "model", "visibility": "private"});
        self.ask(&self.address("/api/repos/create"), JSON, &body.to_string()).map(drop)
    }

    /// The files that the hub calls large.
    fn large(&self, files: &[Sent]) -> Result<BTreeSet<String>, String> {
        let url = self.address(&format!("/api/models/{}/preupload/main", self.name.repo()));
        let told =
            |file: &Sent| json!({"path": file.name, "size": file.bytes, "sample": STANDARD.encode(&file.sample)});
        let body = json!({"files": files.iter().map(told).collect::<Vec<_>>()});
        let answer = self.ask(&url, JSON, &body.to_string())?;
        let modes = answer["files"].as_array().ok_or_else(|| format!("{url} does not say which files are large"))?;
        let large = modes.iter().filter(|mode| mode["uploadMode"] == "lfs");
        Ok(large.filter_map(|mode| mode["path"].as_str().map(str::to_owned)).collect())
    }

    /// Sends large files to where the hub says, but those that it has.
    fn store(&self, files: &[Sent]) -> Result<(), String> {
        if files.is_empty() {
            return Ok(());
        }
        let url = self.address(&format!("/{}.git/info/lfs/objects/batch", self.name.repo()));
        let objects: Vec<_> = files.iter().map(|file| json!({"oid": file.sha256, "size": file.bytes})).collect();
        let body = json!({"operation": "upload", "transfers": ["basic"], "hash_algo": "sha256", "objects": objects});
        let answer = self.ask(&url, LFS, &body.to_string())?;
        let bar = ProgressBar::with_draw_target(Some(files.iter().map(|file| file.bytes).sum()), bars());
        let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let mut before = 0;
        for file in files {
            let told = answer["objects"].as_array().into_iter().flatten().find(|told| told["oid"] == *file.sha256);
            let told = told.ok_or_else(|| format!("{url} does not say where {} goes", file.name))?;
            self.store_one(file, told, &bar, before)?;
            before += file.bytes;
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn store_one(&self, file: &Sent, told: &Value, bar: &ProgressBar, before: u64) -> Result<(), String> {
        if let Some(error) = told["error"]["message"].as_str() {
            return Err(format!("the hub does not take {}: {error}", file.name));
        }
        // What it has needs no sending.
        let Some(action) = told["actions"]["upload"].as_object() else { return Ok(()) };
        let href = action.get("href").and_then(Value::as_str);
        let href = href.filter(|_| action.get("header").is_none_or(|header| header["chunk_size"].is_null()));
        let href = href.ok_or_else(|| format!("the hub wants {} in parts: `hf upload` sends it so", file.name))?;
        let mut tries = 0;
        loop {
            bar.set_position(before);
            let sent = (&file.file).rewind().map_err(|e| Failed::lasting(format!("cannot read {}: {e}", file.name)));
            match sent.and_then(|()| self.put(href, &mut bar.wrap_read(&file.file), file.bytes)) {
                Ok(()) => break,
                Err(failed) if !failed.passing || tries + 1 == TRIES => return Err(failed.reason),
                Err(_) => tries += 1,
            }
            thread::sleep(PAUSE * tries);
        }
        let verify = told["actions"]["verify"]["href"].as_str();
        // Nobody else gets the token.
        let verify = verify.filter(|url| url.starts_with(&self.address("/")));
        let body = json!({"oid": file.sha256, "size": file.bytes}).to_string();
        verify.map_or(Ok(()), |url| self.ask(url, JSON, &body).map(drop))
    }

    /// One commit on top of what was listed; refused by the hub where something was added since. Gives it.
    fn commit(&self, on: Option<&Listing>, small: &[Sent], large: &[Sent]) -> Result<String, String> {
        let url = self.address(&format!("/api/models/{}/commit/main", self.name.repo()));
        let mut header = json!({"summary": "Upload an adapter", "description": ""});
        if let Some(listing) = on {
            header["parentCommit"] = listing.sha.as_str().into();
        }
        let mut lines = json!({"key": "header", "value": header}).to_string() + "\n";
        for file in small {
            let value = json!({"path": file.name, "encoding": "base64", "content": STANDARD.encode(file.content()?)});
            lines += &(json!({"key": "file", "value": value}).to_string() + "\n");
        }
        for file in large {
            let value = json!({"path": file.name, "algo": "sha256", "oid": file.sha256, "size": file.bytes});
            lines += &(json!({"key": "lfsFile", "value": value}).to_string() + "\n");
        }
        let answer = self.ask(&url, "application/x-ndjson", &lines)?;
        let commit = answer["commitOid"].as_str().ok_or_else(|| format!("{url} does not say which commit it made"))?;
        Ok(commit.to_owned())
    }
}

const JSON: &str = "application/json";
const LFS: &str = "application/vnd.git-lfs+json";
