//! A file from the hub, in as many requests as it takes, checked.

use super::remote::{Failed, File, Hash, Remote};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use tracing::info;
use ureq::http::{StatusCode, header};

/// Requests in a row that bring nothing before there is no hope; the pauses between them grow.
pub(super) const TRIES: u32 = 5;
pub(super) const PAUSE: Duration = Duration::from_millis(500);

/// Downloads a file into the folder of blobs, unless it is there; gives its place. What an earlier try left is gone on from.
/// `shown` hears how many bytes there are.
pub(super) fn fetch(
    remote: &Remote<'_>,
    commit: &str,
    file: &File,
    blobs: &Path,
    shown: &dyn Fn(u64),
) -> Result<PathBuf, String> {
    let blob = blobs.join(file.hash.text());
    let failed = |e: io::Error| format!("cannot write `{}`: {e}", blob.display());
    let there = || blob.metadata().is_ok_and(|metadata| metadata.len() == file.bytes);
    if there() {
        return Ok(blob);
    }
    fs::create_dir_all(blobs).map_err(failed)?;
    let incomplete = blobs.join(format!("{}.incomplete", file.hash.text()));
    let began = Instant::now();
    let mut part = Part::open(&incomplete).map_err(failed)?;
    if there() {
        // Another program had the lock, and what it left is a new file.
        return fs::remove_file(&incomplete).map(|()| blob.clone()).map_err(failed);
    }
    let mut whole = part.complete(remote, commit, file, shown);
    if whole.as_ref().is_ok_and(|damage| damage.is_some()) {
        part.clear().map_err(failed)?;
        whole = part.complete(remote, commit, file, shown);
    }
    if let Some(damage) = whole? {
        part.clear().map_err(failed)?;
        return Err(damage);
    }
    part.disk.sync_all().and_then(|()| fs::rename(&incomplete, &blob)).map_err(failed)?;
    info!(bytes = file.bytes, took = ?began.elapsed(), "{} was downloaded, and its checksum is right", file.name);
    Ok(blob)
}

/// The beginning of a file.
struct Part {
    /// Locked against other programs.
    disk: fs::File,
    bytes: u64,
}

impl Part {
    /// As it was left, or empty.
    fn open(path: &Path) -> io::Result<Self> {
        loop {
            let disk = OpenOptions::new().read(true).append(true).create(true).open(path)?;
            match disk.lock() {
                // Some file systems of networks have no locks.
                Err(e) if e.kind() != io::ErrorKind::Unsupported => return Err(e),
                _ => {}
            }
            // Whoever had the lock may have given the file its name meanwhile.
            if path.metadata().is_ok_and(|there| same(&there, &disk)) {
                let bytes = disk.metadata()?.len();
                return Ok(Part { disk, bytes });
            }
        }
    }

    fn clear(&mut self) -> io::Result<()> {
        self.disk.set_len(0)?;
        self.bytes = 0;
        Ok(())
    }

    /// Fetches what is missing; gives what is wrong with the whole, if something is.
    fn complete(
        &mut self,
        remote: &Remote<'_>,
        commit: &str,
        file: &File,
        shown: &dyn Fn(u64),
    ) -> Result<Option<String>, String> {
        let mut tries = 0;
        while self.bytes < file.bytes {
            let before = self.bytes;
            let Err(Failed { reason, passing, .. }) = self.go_on(remote, commit, file, shown) else { continue };
            tries = if self.bytes > before { 0 } else { tries + 1 };
            if !passing || tries == TRIES {
                let kept = "what has come is kept, and the same command goes on from there";
                return Err(format!("{reason}; {} of {} bytes have come; {kept}", self.bytes, file.bytes));
            }
            thread::sleep(PAUSE * tries);
        }
        let found = self.hash(file).map_err(|e| format!("cannot read what has come of {}: {e}", file.name))?;
        let wanted = file.hash.text();
        let damage = || format!("{} comes damaged: its hash is {found}, and the hub says {wanted}", file.name);
        Ok((found != wanted).then(damage))
    }

    /// One request.
    fn go_on(&mut self, remote: &Remote<'_>, commit: &str, file: &File, shown: &dyn Fn(u64)) -> Result<(), Failed> {
        let response = remote.file(commit, file, self.bytes)?;
        let disk = |e: io::Error| Failed::lasting(format!("cannot write what comes of {}: {e}", file.name));
        if self.bytes > 0 && !continues(&response, self.bytes) {
            self.clear().map_err(disk)?;
        }
        let mut body = response.into_body().into_reader().take(file.bytes - self.bytes);
        let mut buffer = vec![0; 1 << 16];
        loop {
            let got = body.read(&mut buffer);
            let got = got.map_err(|e| Failed::passing(format!("{} breaks off: {e}", file.name)))?;
            if got == 0 && self.bytes < file.bytes {
                return Err(Failed::passing(format!("{} breaks off", file.name)));
            }
            if got == 0 {
                return Ok(());
            }
            self.disk.write_all(&buffer[..got]).map_err(disk)?;
            self.bytes += got as u64;
            shown(self.bytes);
        }
    }

    fn hash(&mut self, file: &File) -> io::Result<String> {
        self.disk.rewind()?;
        match &file.hash {
            Hash::Sha256(_) => hash(Sha256::new(), &mut self.disk),
            Hash::Git(_) => hash(Sha1::new_with_prefix(format!("blob {}\0", self.bytes)), &mut self.disk),
        }
    }
}

/// In hexadecimal digits.
pub(super) fn hash(mut hasher: impl Digest, disk: &mut fs::File) -> io::Result<String> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match disk.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            got => hasher.update(&buffer[..got]),
        }
    }
}

/// Whether what comes begins at this byte.
fn continues(response: &ureq::http::Response<ureq::Body>, at: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
    let begins = range.is_some_and(|range| range.starts_with(&format!("bytes {at}-")));
    response.status() == StatusCode::PARTIAL_CONTENT && begins
}

#[cfg(unix)]
fn same(there: &fs::Metadata, disk: &fs::File) -> bool {
    use std::os::unix::fs::MetadataExt;
    disk.metadata().is_ok_and(|open| (open.dev(), open.ino()) == (there.dev(), there.ino()))
}

/// What was renamed is not at its path any more.
#[cfg(not(unix))]
fn same(_: &fs::Metadata, _: &fs::File) -> bool {
    true
}
