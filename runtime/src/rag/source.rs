//! Texts from files and folders.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use halfbyte::host;
use serde_json::{Map, Value};
use walkdir::WalkDir;

use crate::error::{Error, Result};
use crate::evaluate::questions::read_questions;
use crate::files;

/// The kinds of files that are read out of a folder.
const TEXTS: [&str; 2] = ["txt", "md"];

/// A text to be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The text.
    pub text: String,
    /// Where it comes from: `source` of its line, or its file and line.
    pub source: String,
    /// Its title, which it is found by, too.
    pub title: Option<String>,
    /// Its name among others.
    pub id: Option<String>,
}

/// Reads the texts of each source, in order:
/// - a folder: its `.txt` and `.md` files and those of its folders, sorted by path; other files are left alone
/// - a `.txt` or `.md` file: one text
/// - a `.jsonl` file: on each line an object with `text`, and `title`, `source` and `id` if need be
/// - a `.json` file: the contexts of multiple-choice questions ([`read_questions`]), each once
///
/// Texts without a letter or digit are left out.
///
/// # Errors
/// A file cannot be read or is of another kind; a line cannot be used, which is named; there is no text; there is too
/// little memory for what is read.
pub fn read_documents(sources: &[PathBuf]) -> Result<Vec<Document>> {
    let mut paths = Vec::new();
    for source in sources {
        paths.extend(list(source)?);
    }
    expect_room(&paths)?;
    let mut documents = Vec::new();
    for (path, name) in &paths {
        documents.extend(read(path, name)?);
    }
    documents.retain(|document| document.text.contains(char::is_alphanumeric));
    match sources {
        _ if !documents.is_empty() => Ok(documents),
        [] => Err(Error::setting("the list of texts", "empty", "name a folder or a file to index")),
        [first, ..] => {
            let reason = "there is no text in it; give a folder of .txt and .md files, or a .jsonl file".into();
            Err(Error::Data { path: first.clone(), reason })
        }
    }
}

/// The files of a source, with the names that they have as sources.
fn list(source: &Path) -> Result<Vec<(PathBuf, String)>> {
    if !source.is_dir() {
        return Ok(vec![(source.to_owned(), source.display().to_string())]);
    }
    let mut paths = Vec::new();
    for entry in WalkDir::new(source).follow_links(true).sort_by_file_name() {
        let entry = entry.map_err(|e| {
            let path = e.path().unwrap_or(source).to_owned();
            Error::io("read", &path)(e.into())
        })?;
        if entry.file_type().is_file() && TEXTS.contains(&extension(entry.path()).as_str()) {
            let name = entry.path().strip_prefix(source).unwrap_or(entry.path()).display().to_string();
            paths.push((entry.into_path(), name));
        }
    }
    Ok(paths)
}

/// The extension of a file's name, in lower case.
fn extension(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase()
}

/// An index is made in memory: of the files, their texts and the index, none is much larger than the files.
fn expect_room(paths: &[(PathBuf, String)]) -> Result<()> {
    let mut total = 0_usize;
    for (path, _) in paths {
        let size = fs::metadata(path).map_err(Error::io("read", path))?.len();
        total = total.saturating_add(usize::try_from(size).unwrap_or(usize::MAX));
    }
    let what = || format!("an index of {}", halfbyte::Count(paths.len(), "file"));
    let checked = host::check(total.saturating_mul(4)).map_err(Error::from);
    checked.map_err(Error::memory_for(what, "index a part of them"))
}

fn read(path: &Path, name: &str) -> Result<Vec<Document>> {
    match extension(path).as_str() {
        "jsonl" => read_lines(path, name),
        "json" => read_contexts(path, name),
        e if TEXTS.contains(&e) => {
            let text = text(path)?.trim_start_matches('\u{feff}').to_owned();
            Ok(vec![Document { text, source: name.to_owned(), title: None, id: None }])
        }
        _ => {
            let reason = "it is no text; give a folder, or a .txt, .md, .jsonl or .json file".into();
            Err(Error::Data { path: path.to_owned(), reason })
        }
    }
}

fn text(path: &Path) -> Result<String> {
    String::from_utf8(files::read(path)?).map_err(|e| {
        let line = e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|&&b| b == b'\n').count() + 1;
        Error::Line { path: path.to_owned(), line, reason: "it is not valid UTF-8; save the file as UTF-8".into() }
    })
}

fn read_lines(path: &Path, name: &str) -> Result<Vec<Document>> {
    let text = text(path)?;
    let text = text.trim_start_matches('\u{feff}');
    let lines = text.split('\n').enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parse = |(index, line)| {
        let failed = |reason| Error::Line { path: path.to_owned(), line: index + 1, reason };
        document(line, || format!("{name}, line {}", index + 1)).map_err(failed)
    };
    lines.map(parse).collect()
}

fn document(line: &str, place: impl FnOnce() -> String) -> Result<Document, String> {
    let mut object: Map<String, Value> =
        serde_json::from_str(line).map_err(|e| format!("expected a JSON object such as {{\"text\": \"…\"}}: {e}"))?;
    let mut take = |key: &str| match object.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Number(number)) if key == "id" => Ok(Some(number.to_string())),
        Some(other) => Err(format!("`{key}` is {other}, expected a string")),
    };
    let (text, title, id, source) = (take("text")?, take("title")?, take("id")?, take("source")?);
    let Some(text) = text else {
        return Err(format!("found the keys {:?}, expected `text`", object.keys().collect::<Vec<_>>()));
    };
    Ok(Document { text, title, id, source: source.unwrap_or_else(place) })
}

fn read_contexts(path: &Path, name: &str) -> Result<Vec<Document>> {
    let mut seen = HashSet::new();
    let questions = read_questions(path)?.into_iter().enumerate();
    let first = questions.filter(|(_, question)| seen.insert(question.context.clone()));
    let document = |(i, question): (usize, crate::evaluate::questions::Question)| Document {
        text: question.context,
        source: format!("{name}, sample {i}"),
        title: None,
        id: Some(i.to_string()),
    };
    Ok(first.map(document).collect())
}
