//! Which files are trained on, and how often.

use crate::error::{Error, Result};
use crate::options::DATA_WEIGHT;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// A file, or a folder of them.
#[derive(Clone, Debug, PartialEq)]
pub struct DataFile {
    /// Where it is.
    pub path: PathBuf,
    /// How often an epoch has each of its samples; of a fraction, another part of them in each epoch.
    pub weight: f64,
}

/// Files, in the order of their samples.
#[derive(Clone, Debug, PartialEq)]
pub struct DataFiles(pub Vec<DataFile>);

impl From<PathBuf> for DataFiles {
    fn from(path: PathBuf) -> Self {
        DataFiles(vec![DataFile { path, weight: 1.0 }])
    }
}

impl fmt::Display for DataFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |DataFile { path, weight }: &DataFile| match weight {
            1.0 => path.display().to_string(),
            weight => format!("{}:{weight}", path.display()),
        };
        f.write_str(&self.0.iter().map(show).collect::<Vec<_>>().join(","))
    }
}

impl DataFiles {
    pub(crate) const WANTED: &str = "a file or a folder, or several with commas between, each perhaps with :WEIGHT";

    /// Those of a text such as `a.jsonl,b.jsonl:2`. What is a file's name, commas and colons included, is that file.
    pub fn from_text(text: &str) -> Option<Self> {
        if Path::new(text).exists() {
            return Some(PathBuf::from(text).into());
        }
        text.split(',').map(DataFile::from_text).collect::<Option<_>>().map(DataFiles)
    }

    /// All files, with those of folders in place of these.
    ///
    /// # Errors
    /// A folder cannot be read, or has no data.
    pub(super) fn expand(&self) -> Result<Vec<DataFile>> {
        let mut all = Vec::new();
        for DataFile { path, weight } in &self.0 {
            let paths = if path.is_dir() { within(path)? } else { vec![path.clone()] };
            all.extend(paths.into_iter().map(|path| DataFile { path, weight: *weight }));
        }
        Ok(all)
    }
}

impl DataFile {
    fn from_text(text: &str) -> Option<Self> {
        let plain = || (!text.is_empty()).then(|| DataFile { path: text.into(), weight: 1.0 });
        match text.rsplit_once(':') {
            Some((path, weight)) if !Path::new(text).exists() => match weight.parse::<f64>() {
                Ok(weight) if !path.is_empty() && DATA_WEIGHT.check(weight).is_ok() => {
                    Some(DataFile { path: path.into(), weight })
                }
                // A number that is no weight is no part of a name either.
                Ok(_) => None,
                Err(_) => plain(),
            },
            _ => plain(),
        }
    }
}

/// What packs a file, at the end of its name.
const PACKED: [&str; 3] = ["gz", "zst", "zstd"];

/// The end of a file's name, without what packs it: `jsonl` of `a.jsonl.gz`.
pub(super) fn extension(path: &Path) -> String {
    let end = |path: &Path| path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let outer = end(path);
    if PACKED.contains(&outer.as_str()) { end(Path::new(path.file_stem().unwrap_or_default())) } else { outer }
}

/// The data in a folder and those that it holds, sorted by name. Texts count only where there is nothing else: a README is
/// no sample.
fn within(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    walk(folder, &mut all)?;
    all.sort();
    let is = |names: &'static [&str]| move |path: &&PathBuf| names.contains(&extension(path).as_str());
    let found = [&["jsonl", "ndjson", "json", "parquet"][..], &["txt"]];
    let mut found = found.map(|names| all.iter().filter(is(names)).cloned().collect::<Vec<_>>()).into_iter();
    let reason = "the folder has no .jsonl, .ndjson, .json, .parquet or .txt files, packed or not; name one that has";
    let none = || Error::Data { path: folder.to_owned(), reason: reason.into() };
    found.find(|paths| !paths.is_empty()).ok_or_else(none)
}

fn walk(folder: &Path, all: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("read the folder", folder))? {
        let entry = entry.map_err(Error::io("read the folder", folder))?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let path = entry.path();
        // Not through links, which may lead back.
        if entry.file_type().map_err(Error::io("read", &path))?.is_dir() { walk(&path, all)? } else { all.push(path) }
    }
    Ok(())
}
