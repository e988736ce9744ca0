//! What an index keeps of a passage.

use tantivy::schema::{Field, IndexRecordOption, NumericOptions, STORED, Schema, TextFieldIndexing, TextOptions};

/// The names of [`Bigrams`](super::terms::Bigrams) in an index: of hiragana, and of all else.
pub(super) const HIRAGANA: &str = "hiragana";
pub(super) const TERMS: &str = "terms";

/// What is kept of a passage.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields {
    /// Title and text, to be found by: hiragana, and all else. Each has a length of its own in BM25.
    pub hiragana: Field,
    pub terms: Field,
    pub text: Field,
    pub source: Field,
    pub title: Field,
    pub id: Field,
    pub part: Field,
}

impl Fields {
    pub fn schema() -> (Schema, Self) {
        let mut schema = Schema::builder();
        let found_by = |tokenizer| {
            let indexing = TextFieldIndexing::default().set_tokenizer(tokenizer);
            TextOptions::default().set_indexing_options(indexing.set_index_option(IndexRecordOption::WithFreqs))
        };
        let fields = Self {
            hiragana: schema.add_text_field("hiragana", found_by(HIRAGANA)),
            terms: schema.add_text_field("terms", found_by(TERMS)),
            text: schema.add_text_field("text", STORED),
            source: schema.add_text_field("source", STORED),
            title: schema.add_text_field("title", STORED),
            id: schema.add_text_field("id", STORED),
            part: schema.add_u64_field("part", NumericOptions::default().set_stored()),
        };
        (schema.build(), fields)
    }
}
