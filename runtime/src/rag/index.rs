use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tantivy::schema::Value;
use tantivy::{DocAddress, ReloadPolicy, Searcher, TantivyDocument, Term};

use super::best::best;
use super::build::build;
use super::manifest::{Info, MANIFEST, Manifest};
use super::schema::Fields;
use super::terms::{is_hiragana, terms};
use crate::error::{Error, Result};
use crate::files;
use crate::options::PASSAGES;
use crate::settings::RetrievalSettings;

/// How much a term of hiragana counts, of any other one: particles and polite endings say little of what is asked.
/// `docs/retrieval.md` has what others would find.
const HIRAGANA_WEIGHT: f32 = 0.1;

/// Passages on the disk, found by their terms.
pub struct Index {
    dir: PathBuf,
    searcher: Searcher,
    fields: Fields,
    info: Info,
}

/// A passage that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Passage {
    /// Its text.
    pub text: String,
    /// Where its document comes from.
    pub source: String,
    /// Its document's title.
    pub title: Option<String>,
    /// Its document's id.
    pub id: Option<String>,
    /// Which of its document's passages it is, from 0.
    pub part: usize,
    /// How well it fits the query, by BM25 (Robertson and Zaragoza, "The probabilistic relevance framework", 2009);
    /// larger is better, and only scores of one query compare.
    pub score: f32,
}

impl Index {
    /// Reads the texts of `sources` ([`read_documents`](super::read_documents)), cuts them ([`chunks`](super::chunks))
    /// and writes an index of their passages into the folder `dir`, which must be new or empty. It is made in memory,
    /// of which it takes about four times the texts' size. The folder holds all of the index or, on an error, nothing.
    ///
    /// # Errors
    /// A text or a setting cannot be used; the folder is not empty or cannot be written; there is too little memory.
    pub fn build(dir: &Path, sources: &[PathBuf], settings: &RetrievalSettings) -> Result<Self> {
        build(dir, sources, settings)?;
        Self::open(dir)
    }

    /// Opens an index, once its files are known to be as they were written. The folder may be read-only.
    ///
    /// # Errors
    /// There is no index in the folder, or it is damaged or of another version.
    pub fn open(dir: &Path) -> Result<Self> {
        let (info, files) = files::read_together(dir, &[MANIFEST], || {
            let manifest = Manifest::read(dir)?;
            let files = manifest.open(dir)?;
            Ok((manifest.info, files))
        })?;
        let damaged = |reason: String| Error::Corrupt { path: dir.to_owned(), format: "index", reason };
        let index = tantivy::Index::open(files).map_err(|e| damaged(e.to_string()))?;
        let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into();
        let searcher = reader.map_err(|e: tantivy::TantivyError| damaged(e.to_string()))?.searcher();
        let (schema, fields) = Fields::schema();
        if index.schema() != schema || searcher.num_docs() != info.n_passages as u64 {
            return Err(damaged(format!("{MANIFEST} does not fit the other files")));
        }
        Ok(Self { dir: dir.to_owned(), searcher, fields, info })
    }

    /// What it holds.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// The `k` best passages for a query, the best first, of equals the one whose text came first; fewer where fewer
    /// share a term with it.
    ///
    /// # Errors
    /// `k` is out of its range, or the index is damaged.
    pub fn search(&self, query: &str, k: usize) -> Result<Vec<Passage>> {
        PASSAGES.check(k)?;
        let found = best(&self.searcher, &self.terms(query), k);
        let passages: tantivy::Result<Vec<_>> =
            found.and_then(|found| found.into_iter().map(|(score, at)| self.passage(score, at)).collect());
        passages.map_err(|e| Error::Corrupt { path: self.dir.clone(), format: "index", reason: e.to_string() })
    }

    /// The terms with their weights; one that is there n times counts n times.
    fn terms(&self, text: &str) -> Vec<(Term, f32)> {
        let mut counts = BTreeMap::<String, f32>::new();
        for term in terms(text) {
            *counts.entry(term).or_default() += if is_hiragana(&term) { HIRAGANA_WEIGHT } else { 1.0 };
        }
        let one = |(term, weight): (String, f32)| {
            let field = if is_hiragana(&term) { self.fields.hiragana } else { self.fields.terms };
            (Term::from_field_text(field, &term), weight)
        };
        counts.into_iter().map(one).collect()
    }

    fn passage(&self, score: f32, at: DocAddress) -> tantivy::Result<Passage> {
        let stored: TantivyDocument = self.searcher.doc(at)?;
        let text = |field| Some(stored.get_first(field)?.as_str()?.to_owned());
        Ok(Passage {
            text: text(self.fields.text).unwrap_or_default(),
            source: text(self.fields.source).unwrap_or_default(),
            title: text(self.fields.title),
            id: text(self.fields.id),
            part: stored.get_first(self.fields.part).and_then(|part| part.as_u64()).unwrap_or_default() as usize,
            score,
        })
    }
}
