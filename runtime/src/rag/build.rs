//! Writing an index: segments in memory, in parallel and each in the order of its texts, merged into one.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use tantivy::directory::{Directory, RamDirectory};
use tantivy::indexer::merge_indices;
use tantivy::tokenizer::TokenizerManager;
use tantivy::{SingleSegmentIndexWriter, TantivyDocument};

use super::chunk::chunks;
use super::manifest::{Info, MANIFEST, Manifest};
use super::schema::{Fields, HIRAGANA, TERMS};
use super::source::{Document, read_documents};
use super::terms::Bigrams;
use crate::error::{Error, Result};
use crate::files::{OutputFolder, stage};
use crate::settings::RetrievalSettings;

/// Bytes of text that become one segment.
const SEGMENT_BYTES: usize = 8 << 20;
/// What tantivy sizes its first tables by.
const SEGMENT_MEMORY: usize = 64 << 20;
/// Makes an index of `sources` in the new or empty folder `dir`.
pub(super) fn build(dir: &Path, sources: &[PathBuf], settings: &RetrievalSettings) -> Result<()> {
    settings.check()?;
    let folder = OutputFolder::claim(dir)?;
    refuse_contents(dir)?;
    let documents = read_documents(sources)?;
    let index = Built::new(&documents, settings).map_err(|e| {
        let reason = format!("the texts cannot be indexed: {e}");
        Error::Data { path: dir.to_owned(), reason }
    })?;
    let info = Info {
        n_documents: documents.len(),
        n_passages: index.n_passages,
        text_bytes: documents.iter().map(|document| document.text.len() as u64).sum(),
        chunk_size: settings.chunk_size,
        chunk_overlap: settings.chunk_overlap,
    };
    index.save(&folder, info)
}

fn refuse_contents(dir: &Path) -> Result<()> {
    let failed = |action| Error::io(action, dir);
    match fs::read_dir(dir).map_err(failed("read the folder"))?.next() {
        None => Ok(()),
        Some(_) => {
            let reason = "it is not empty; choose a new folder, or remove it first";
            Err(failed("write an index into")(io::Error::new(io::ErrorKind::AlreadyExists, reason)))
        }
    }
}

/// An index in memory.
struct Built {
    files: RamDirectory,
    names: BTreeSet<PathBuf>,
    n_passages: usize,
}

impl Built {
    fn new(documents: &[Document], settings: &RetrievalSettings) -> tantivy::Result<Self> {
        let segments: tantivy::Result<Vec<_>> =
            groups(documents).into_par_iter().map(|group| segment(group, settings)).collect();
        let files = RamDirectory::create();
        let index = merge_indices(&segments?, files.clone())?;
        let n_passages = index.reader()?.searcher().num_docs() as usize;
        let names = index.directory().list_managed_files().into_iter().collect();
        Ok(Self { files, names, n_passages })
    }

    fn save(&self, folder: &OutputFolder, info: Info) -> Result<()> {
        let mut manifest = Manifest::new(info);
        let mut contents = Vec::new();
        for name in &self.names {
            let bytes = self.bytes(name).map_err(Error::io("read the new", name))?;
            manifest.add(&name.to_string_lossy(), &bytes);
            contents.push((name, bytes));
        }
        folder.expect_space(manifest.total())?;
        let mut staged = Vec::new();
        for (name, bytes) in contents {
            let path = folder.path().join(name);
            staged.push(stage(&path, |w| w.write_all(&bytes).map_err(Error::io("write", &path)))?);
        }
        let path = folder.path().join(MANIFEST);
        staged.push(stage(&path, |w| serde_json::to_writer(w, &manifest).map_err(Error::json(&path)))?);
        let mut transaction = folder.transaction();
        staged.iter_mut().for_each(|file| transaction.add(file));
        transaction.commit()
    }

    fn bytes(&self, name: &Path) -> io::Result<tantivy::directory::OwnedBytes> {
        self.files.get_file_handle(name).map_err(io::Error::other).and_then(|file| file.read_bytes(0..file.len()))
    }
}

/// Documents in order, in groups of about [`SEGMENT_BYTES`].
fn groups(mut documents: &[Document]) -> Vec<&[Document]> {
    let mut groups = Vec::new();
    while !documents.is_empty() {
        let mut bytes = 0;
        let full = documents.iter().position(|document| {
            bytes += document.text.len();
            bytes >= SEGMENT_BYTES
        });
        let (group, rest) = documents.split_at(full.map_or(documents.len(), |last| last + 1));
        groups.push(group);
        documents = rest;
    }
    groups
}

fn segment(documents: &[Document], settings: &RetrievalSettings) -> tantivy::Result<tantivy::Index> {
    let (schema, fields) = Fields::schema();
    let tokenizers = TokenizerManager::default();
    tokenizers.register(TERMS, Bigrams { hiragana: false });
    tokenizers.register(HIRAGANA, Bigrams { hiragana: true });
    let builder = tantivy::Index::builder().schema(schema).tokenizers(tokenizers);
    let mut writer: SingleSegmentIndexWriter =
        builder.single_segment_index_writer(RamDirectory::create(), SEGMENT_MEMORY)?;
    for document in documents {
        for (part, range) in chunks(&document.text, settings).into_iter().enumerate() {
            writer.add_document(passage(&fields, document, &document.text[range], part))?;
        }
    }
    writer.finalize()
}

fn passage(fields: &Fields, document: &Document, text: &str, part: usize) -> TantivyDocument {
    let mut passage = TantivyDocument::new();
    for field in [fields.terms, fields.hiragana] {
        document.title.iter().for_each(|title| passage.add_text(field, title));
        passage.add_text(field, text);
    }
    passage.add_text(fields.text, text);
    passage.add_text(fields.source, &document.source);
    passage.add_u64(fields.part, part as u64);
    if let Some(title) = &document.title {
        passage.add_text(fields.title, title);
    }
    if let Some(id) = &document.id {
        passage.add_text(fields.id, id);
    }
    passage
}
