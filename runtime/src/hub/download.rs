//! From the hub into its cache: which files, in which order.

use super::cache::{INDEX, Repo, WEIGHTS, shards};
use super::environment::Environment;
use super::name::Name;
use super::remote::{File, Listing, Remote};
use super::{Kind, blob};
use crate::files;
use crate::screen::{Stream, bars};
use halfbyte::Size;
use indicatif::{ProgressBar, ProgressStyle};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Downloads what is missing of a revision; gives its folder.
pub(super) fn download(name: &Name, kind: Kind, repo: &Repo, environment: &Environment) -> Result<PathBuf, String> {
    let remote = Remote::new(name, environment);
    let listing = remote.listing()?;
    note(&format!(
        "downloading {} ({:.12}) from {} into {}",
        name.repo(),
        listing.sha,
        environment.endpoint,
        repo.dir.display()
    ));
    let download = Download { remote, repo, snapshot: repo.snapshot(&listing.sha), listing };
    download.small_files(kind)?.iter().try_for_each(|file| download.fetch(file, &|_| {}))?;
    download.fetch_all(&download.weights(kind)?)?;
    if name.revision != download.listing.sha {
        let reference = repo.reference(&name.revision);
        let written = make_folder(&reference)
            .and_then(|()| files::write_bytes(&reference, download.listing.sha.as_bytes()).map_err(|e| e.to_string()));
        written?;
    }
    Ok(download.snapshot)
}

struct Download<'a> {
    remote: Remote<'a>,
    repo: &'a Repo,
    listing: Listing,
    snapshot: PathBuf,
}

impl Download<'_> {
    /// Those that the repository has; it must have the needed ones.
    fn small_files(&self, kind: Kind) -> Result<Vec<File>, String> {
        for name in kind.needed_files() {
            self.listing.file(name)?.ok_or_else(|| format!("it has no {name} there"))?;
        }
        kind.small_files().iter().filter_map(|name| self.listing.file(name).transpose()).collect()
    }

    /// The files of the weights; an index is fetched, for it names them.
    fn weights(&self, kind: Kind) -> Result<Vec<File>, String> {
        let one = if kind == Kind::Adapter { "adapter_model.safetensors" } else { WEIGHTS };
        if let Some(file) = self.listing.file(one)? {
            return Ok(vec![file]);
        }
        let index = if kind == Kind::Model { self.listing.file(INDEX)? } else { None };
        let index =
            index.ok_or_else(|| format!("it has no {one} there; pickled .bin files, GGUF and others are not read"))?;
        self.fetch(&index, &|_| {})?;
        let missing = |name: &String| format!("{INDEX} names {name}, which is not there");
        let names = shards(&self.snapshot.join(INDEX))?;
        names.iter().map(|name| self.listing.file(name)?.ok_or_else(|| missing(name))).collect()
    }

    /// With a bar on a terminal, else a line for each.
    fn fetch_all(&self, all: &[File]) -> Result<(), String> {
        let total = all.iter().fold(0, |sum: u64, file| sum.saturating_add(file.bytes));
        let bar = ProgressBar::with_draw_target(Some(total), bars());
        let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let mut before = 0_u64;
        for file in all {
            self.fetch(file, &|bytes| bar.set_position(bytes.saturating_add(before)))?;
            before = before.saturating_add(file.bytes);
            bar.set_position(before);
            if bar.is_hidden() {
                note(&format!("{}: {}", file.name, Size(file.bytes)));
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// One file, into the blobs and, as a link to there, into the snapshot.
    fn fetch(&self, file: &File, shown: &dyn Fn(u64)) -> Result<(), String> {
        let link = self.snapshot.join(&file.name);
        if link.is_file() {
            return Ok(());
        }
        let blob = blob::fetch(&self.remote, &self.listing.sha, file, &self.repo.dir.join("blobs"), shown)?;
        make_folder(&link)?;
        match link_to(&blob, &link) {
            Err(e) if !link.is_file() => Err(format!("cannot link `{}`: {e}", link.display())),
            _ => Ok(()),
        }
    }
}

/// That of a file which is to come.
fn make_folder(file: &Path) -> Result<(), String> {
    let folder = file.parent().unwrap_or(file);
    fs::create_dir_all(folder).map_err(|e| format!("cannot make the folder `{}`: {e}", folder.display()))
}

/// As short as `huggingface_hub`'s, so that the cache can be moved.
#[cfg(unix)]
fn link_to(blob: &Path, link: &Path) -> io::Result<()> {
    let name = blob.file_name().unwrap_or_default();
    std::os::unix::fs::symlink(Path::new("../../blobs").join(name), link)
}

/// Not everybody may make symbolic links there.
#[cfg(not(unix))]
fn link_to(blob: &Path, link: &Path) -> io::Result<()> {
    fs::hard_link(blob, link)
}

/// To whoever waits.
fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{}", Stream::Err.fit(text));
}
