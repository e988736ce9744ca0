//! Samples that were made before, kept by the content of what they were made from.
//!
//! A file of the cache has a header, each sample as its length, ids and mask (a byte each), and SHA-256 of all that. It is
//! written whole or not at all; one that is damaged is made again.

use std::collections::BTreeMap;
use std::env;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use halfbyte::host;
use sha2::{Digest, Sha256};

use super::source::{DataFile, extension};
use super::{DataOptions, Part};
use crate::batch::Sample;
use crate::chat::ChatTemplate;
use crate::error::{Error, Result};
use crate::files::{self, OutputFolder, open, write_atomic};
use crate::settings::{DataFormat, Value as _};
use crate::tokenizer::Tokenizer;

/// Changes when the same files are to be read to other samples, or samples are kept in another form.
const VERSION: &str = concat!("halfbyte tokens 1 ", env!("CARGO_PKG_VERSION"), "\n");

/// What the cache had of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cached {
    /// Nothing, and it was not asked.
    No,
    /// All samples.
    Read,
    /// Nothing; it has them now.
    Written,
    /// Nothing, and they could not be written, for this reason.
    Failed(String),
}

/// The folder of the cache: `HALFBYTE_CACHE`, or `halfbyte` in `XDG_CACHE_HOME` or `~/.cache`.
pub fn cache_folder() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // As its specification demands, a relative path there is none.
    let xdg = || set("XDG_CACHE_HOME").filter(|path| path.is_absolute());
    let home = || set("HOME").map(|home| home.join(".cache"));
    set("HALFBYTE_CACHE").or_else(|| xdg().or_else(home).map(|folder| folder.join("halfbyte")))
}

/// A place in the cache.
pub(super) struct Entry {
    folder: PathBuf,
    path: PathBuf,
}

impl Entry {
    /// The place of a file's samples; none where they depend on the time.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn of(
        folder: &Path,
        path: &Path,
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
        options: &DataOptions,
    ) -> Result<Option<Self>> {
        let template = match template.map(ChatTemplate::identity) {
            Some(None) => return Ok(None),
            Some(identity) => identity,
            None => None,
        };
        let of_tokenizer = hash_of(tokenizer.path())?;
        let parts = [VERSION.into(), format!("{options:?} {:?} {template:?}", tokenizer.eos_id()), extension(path)];
        let mut hash = Sha256::new();
        // Each ends where the next begins.
        for part in &parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.update(of_tokenizer);
        hash.update(hash_of(path)?);
        let name: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let folder = folder.join("tokens");
        Ok(Some(Entry { path: folder.join(name), folder }))
    }

    /// Adds what is kept; nothing, where nothing is or it is damaged.
    pub fn load(&self, part: &mut Part, samples: &mut Vec<Sample>) -> bool {
        let first = samples.len();
        // What is damaged is made again, whatever is wrong with it.
        let loaded = self.path.is_file() && self.read(part, samples).is_ok();
        if !loaded {
            samples.truncate(first);
            *part = Part::new(DataFile { path: part.path.clone(), weight: part.weight });
        }
        loaded
    }

    fn read(&self, part: &mut Part, samples: &mut Vec<Sample>) -> Result<()> {
        let failed = |e| Error::io("read", &self.path)(e);
        let file = open(&self.path)?;
        let room = usize::try_from(file.len().map_err(failed)?).unwrap_or(usize::MAX);
        // A token takes 5 bytes there and here, and a short sample as much again.
        host::check(room.saturating_mul(2))?;
        let mut source = Hashed { inner: BufReader::with_capacity(1 << 20, file), hash: Sha256::new() };
        read_part(&mut source, part, samples, room).map_err(failed)?;
        let wanted = source.hash.finalize();
        let mut found = [0; 32];
        source.inner.read_exact(&mut found).map_err(failed)?;
        if wanted[..] == found { Ok(()) } else { Err(failed(damaged())) }
    }

    /// Keeps the samples of a file.
    pub fn store(&self, part: &Part, samples: &[Sample]) -> Cached {
        let store = || -> Result<()> {
            // Also removes what killed runs left.
            let _folder = OutputFolder::claim(&self.folder)?;
            write_atomic(&self.path, |w| {
                let mut sink = Hashed { inner: w, hash: Sha256::new() };
                let written = write_part(&mut sink, part, samples).and_then(|()| {
                    let hash = sink.hash.finalize();
                    sink.inner.write_all(&hash)
                });
                written.map_err(Error::io("write", &self.path))
            })
        };
        store().map_or_else(|e| Cached::Failed(e.to_string()), |()| Cached::Written)
    }
}

fn hash_of(path: &Path) -> Result<[u8; 32]> {
    let failed = |e| Error::io("read", path)(e);
    let (mut file, mut hash) = (files::open(path)?, Sha256::new());
    let mut part = vec![0; 1 << 20];
    loop {
        match file.read(&mut part).map_err(failed)? {
            0 => return Ok(hash.finalize().into()),
            n => hash.update(&part[..n]),
        }
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is damaged")
}

/// What passes is hashed.
struct Hashed<T> {
    inner: T,
    hash: Sha256,
}

impl<R: Read> Hashed<R> {
    fn exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.inner.read_exact(bytes)?;
        self.hash.update(bytes);
        Ok(())
    }

    /// A number that is at most `most`.
    fn number(&mut self, most: usize) -> io::Result<usize> {
        let mut bytes = [0; 8];
        self.exact(&mut bytes)?;
        usize::try_from(u64::from_le_bytes(bytes)).ok().filter(|&number| number <= most).ok_or_else(damaged)
    }
}

impl<W: Write> Hashed<W> {
    fn all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.inner.write_all(bytes)
    }

    fn count(&mut self, number: usize) -> io::Result<()> {
        self.all(&(number as u64).to_le_bytes())
    }
}

fn write_part<W: Write>(sink: &mut Hashed<W>, part: &Part, samples: &[Sample]) -> io::Result<()> {
    sink.all(VERSION.as_bytes())?;
    for number in [part.n_truncated, part.n_skipped, part.formats.len()] {
        sink.count(number)?;
    }
    for (format, n) in &part.formats {
        let name = format.show();
        sink.count(name.len())?;
        sink.all(name.as_bytes())?;
        sink.count(*n)?;
    }
    sink.count(samples.len())?;
    for Sample { ids, mask } in samples {
        sink.count(ids.len())?;
        sink.all(&ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>())?;
        sink.all(&mask.iter().map(|&trained| trained.into()).collect::<Vec<u8>>())?;
    }
    Ok(())
}

/// Reads what [`write_part`] wrote into a file of `room` bytes, which no number in it exceeds.
fn read_part<R: Read>(
    source: &mut Hashed<R>,
    part: &mut Part,
    samples: &mut Vec<Sample>,
    room: usize,
) -> io::Result<()> {
    let mut version = [0; VERSION.len()];
    source.exact(&mut version)?;
    if version != *VERSION.as_bytes() {
        return Err(damaged());
    }
    part.n_truncated = source.number(room)?;
    part.n_skipped = source.number(usize::MAX)?;
    part.formats = read_formats(source)?;
    part.n_samples = source.number(room / 8)?;
    samples.reserve(part.n_samples);
    for _ in 0..part.n_samples {
        let len = source.number(room / 5)?;
        let (mut ids, mut mask) = (vec![0; 4 * len], vec![0; len]);
        source.exact(&mut ids)?;
        source.exact(&mut mask)?;
        let ids = ids.as_chunks().0.iter().map(|&id| u32::from_le_bytes(id)).collect();
        samples.push(Sample { ids, mask: mask.iter().map(|&trained| trained == 1).collect() });
    }
    Ok(())
}

fn read_formats<R: Read>(source: &mut Hashed<R>) -> io::Result<BTreeMap<DataFormat, usize>> {
    let mut formats = BTreeMap::new();
    for _ in 0..source.number(16)? {
        let mut name = vec![0; source.number(64)?];
        source.exact(&mut name)?;
        let format = DataFormat::parse(&String::from_utf8_lossy(&name), None).ok_or_else(damaged)?;
        formats.insert(format, source.number(usize::MAX)?);
    }
    Ok(formats)
}
