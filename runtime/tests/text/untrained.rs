use half::bf16;
use halfbyte::rng::{philox, uniform};
use halfbyte_runtime::batch::Sample;
use halfbyte_runtime::checkpoint::{Checkpoint, Dtype, Tensor, write_file};
use halfbyte_runtime::config::Qwen3Config;
use halfbyte_runtime::lora::{LoraConfig, Targets, TrainableTokens};
use halfbyte_runtime::model::{UntrainedToken, untrained_note, untrained_tokens};
use halfbyte_runtime::tokenizer::Tokenizer;
use halfbyte_runtime::train::data::{DataOptions, Dataset};

use crate::tiny_model;

const HIDDEN: usize = 64;
/// Of the tiny tokenizer.
const VOCAB: usize = 4096;
/// Of a table that is padded.
const PADDED: usize = 4160;

/// A text that is trained whole.
fn trained(ids: &[u32]) -> Sample {
    Sample { ids: ids.to_vec(), mask: vec![true; ids.len()] }
}

/// An adapter that leaves embedding and head alone.
fn lora() -> LoraConfig {
    LoraConfig::new(8, 16.0, Targets::AllLinear)
}

/// A uniform number in ±1.
fn random(row: usize, column: usize, stream: u32) -> f32 {
    2.0 * uniform(philox([row as u32, column as u32, stream, 0], 9)[0]) - 1.0
}

/// A table of random rows but where `row` gives another.
fn table(rows: usize, stream: u32, row: impl Fn(usize, usize) -> Option<f32>) -> Vec<f32> {
    let at = |i: usize| (i / HIDDEN, i % HIDDEN);
    (0..rows * HIDDEN).map(at).map(|(r, c)| row(r, c).unwrap_or_else(|| random(r, c, stream))).collect()
}

/// A checkpoint of an embedding and perhaps a head, with the tiny tokenizer.
struct Crafted {
    folder: tempfile::TempDir,
    config: Qwen3Config,
}

impl Crafted {
    fn new(embedding: &[f32], head: Option<&[f32]>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bytes = |table: &[f32]| table.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect::<Vec<_>>();
        let shape = [embedding.len() / HIDDEN, HIDDEN];
        let data = [Some(embedding), head].map(|table| table.map(bytes));
        let names = ["model.embed_tokens.weight", "lm_head.weight"];
        let tensors = names.iter().zip(&data).filter_map(|(name, data)| {
            Some(Tensor { name, dtype: Dtype::BF16, shape: &shape, data: data.as_deref()? })
        });
        write_file(&folder.path().join("model.safetensors"), &tensors.collect::<Vec<_>>()).unwrap();
        let mut config = Qwen3Config::open(&tiny_model()).unwrap();
        (config.vocab_size, config.hidden_size) = (shape[0], HIDDEN);
        config.tie_word_embeddings = head.is_none();
        Crafted { folder, config }
    }

    fn files(&self) -> Checkpoint {
        Checkpoint::open(self.folder.path()).unwrap()
    }

    fn found(&self, samples: &[Sample]) -> Vec<UntrainedToken> {
        self.found_under(&lora(), samples)
    }

    fn found_under(&self, lora: &LoraConfig, samples: &[Sample]) -> Vec<UntrainedToken> {
        let tokenizer = Tokenizer::open(tiny_model()).unwrap();
        untrained_tokens(&self.files(), &self.config, &tokenizer, samples, lora).unwrap()
    }

    fn note(&self, samples: &[Sample]) -> Option<String> {
        let tokenizer = Tokenizer::open(tiny_model()).unwrap();
        untrained_note(&self.files(), &self.config, &tokenizer, samples, &lora()).unwrap()
    }
}

fn ids(found: &[UntrainedToken]) -> Vec<u32> {
    found.iter().map(|token| token.id).collect()
}

/// The tiny model's tokens as a whole text: nothing but them is looked at.
fn of_the_tiny_model(samples: &[Sample]) -> Vec<UntrainedToken> {
    let dir = tiny_model();
    let (files, config) = (Checkpoint::open(&dir).unwrap(), Qwen3Config::open(&dir).unwrap());
    untrained_tokens(&files, &config, &Tokenizer::open(&dir).unwrap(), samples, &lora()).unwrap()
}

#[test]
fn the_tiny_model_knows_what_its_default_run_trains() {
    let tokenizer = Tokenizer::open(tiny_model()).unwrap();
    let options = DataOptions::default().max_seq_length(512);
    let path = tiny_model().join("../town/train.jsonl");
    let data = Dataset::read(path, &tokenizer, None, &options).unwrap();
    assert!(data.samples.iter().all(|sample| sample.ids.last() == tokenizer.eos_id().as_ref()));
    assert_eq!(of_the_tiny_model(&data.samples), []);
    assert_eq!(of_the_tiny_model(&[]), [], "nor is its other end token looked at where nothing ends with it");
}

#[test]
fn the_tiny_model_never_learnt_chat_markers_and_bytes_that_its_books_have_not() {
    let all: Vec<u32> = (0..VOCAB as u32).collect();
    let found = of_the_tiny_model(&[trained(&all)]);
    // Where the distances from unused rows have a gap, from 0.17 to 0.53: 99 rows.
    assert_eq!(found.len(), 99);
    let markers = [4092, 4093, 4094, 4095];
    assert!(markers.iter().all(|id| ids(&found).contains(id)));
    assert!(!ids(&found).contains(&4091), "documents end with it");
    let chat = [4092, 50, 4093, 4092, 51, 4093];
    let found = of_the_tiny_model(&[Sample { ids: chat.to_vec(), mask: vec![false, false, false, false, true, true] }]);
    assert_eq!(ids(&found), [4093, 4092], "trained ones first, then markers that are only read");
    assert_eq!((found[0].n_targets, found[0].head, found[1].n_targets, found[1].head), (1, true, 0, false));
}

/// Rows beyond the tokenizer's vocabulary are around one vector, and so is that of one token.
#[test]
fn a_tied_row_like_those_beyond_the_vocabulary_is_found() {
    let unused = |r: usize, c: usize| random(0, c, 7) + 0.05 * random(r, c, 8);
    let embedding = table(PADDED, 1, |r, c| (r == 777 || r >= VOCAB).then(|| unused(r, c)));
    let found = Crafted::new(&embedding, None).found(&[trained(&[5, 777, 9, 777, 4091])]);
    let text = Tokenizer::open(tiny_model()).unwrap().decode(&[777], false);
    assert_eq!(found, [UntrainedToken { id: 777, text, n_targets: 2, embedding: true, head: true }]);
}

/// An embedding of its own decays, while its head is pushed.
#[test]
fn rows_of_a_separate_embedding_and_head_are_told_apart() {
    let embedding = table(PADDED, 1, |r, c| matches!(r, 100 | 200).then(|| 1e-3 * random(r, c, 2)));
    let unused = |r: usize, c: usize| random(0, c, 7) + 0.05 * random(r, c, 8);
    let head = table(PADDED, 3, |r, c| (r == 200 || r == 300 || r >= VOCAB).then(|| unused(r, c)));
    let crafted = Crafted::new(&embedding, Some(&head));
    let samples = [trained(&[1, 100, 200, 300, 300, 400, 4091])];
    let rows: Vec<_> = crafted.found(&samples).iter().map(|t| (t.id, t.embedding, t.head)).collect();
    assert_eq!(rows, [(300, false, true), (100, true, false), (200, true, true)]);
    let mut whole_head = lora();
    whole_head.save_lm_head = true;
    let rows: Vec<_> = crafted.found_under(&whole_head, &samples).iter().map(|t| (t.id, t.embedding, t.head)).collect();
    assert_eq!(rows, [(100, true, false), (200, true, false)], "a head that is trained whole is no concern");
    let adapted = LoraConfig::new(8, 16.0, Targets::from_text("lm_head,embed_tokens"));
    assert_eq!(crafted.found_under(&adapted, &samples), [], "tables that are adapted are no concern");
    let note = crafted.note(&samples).unwrap();
    assert!(note.contains("300 \"") && note.contains("(head, 2 times a target)"), "{note}");
    assert!(note.contains("(embedding and head, once a target)"), "{note}");
    let rows = r#"--trainable-token-indices '{"embed_tokens":[100,200],"lm_head":[300,200]}'"#;
    assert!(note.contains(rows) && note.contains("--modules-to-save lm_head"), "{note}");
    let mut trained = lora();
    trained.trainable_tokens = TrainableTokens::from_text(r#"{"embed_tokens":[100,200],"lm_head":[300]}"#).unwrap();
    let rows: Vec<_> = crafted.found_under(&trained, &samples).iter().map(|t| (t.id, t.embedding, t.head)).collect();
    assert_eq!(rows, [(200, false, true)], "nor are rows that are trained");
    assert!(!note.contains("400 "), "{note}");
}

/// As transformers' `resize_token_embeddings` makes them.
#[test]
fn new_rows_that_are_the_mean_of_the_others_are_found() {
    let mut embedding = table(VOCAB, 1, |_, _| None);
    for c in 0..HIDDEN {
        let mean = (0..4000).map(|r| embedding[r * HIDDEN + c]).sum::<f32>() / 4000.0;
        (4000..4004).for_each(|r| embedding[r * HIDDEN + c] = mean + 1e-4 * random(r, c, 2));
    }
    let crafted = Crafted::new(&embedding, None);
    assert_eq!(ids(&crafted.found(&[trained(&[1, 4000, 4003, 3999, 4091])])), [4000, 4003]);
    let trained_text = trained(&[1, 4000, 4091]);
    let note = crafted.note(std::slice::from_ref(&trained_text)).unwrap();
    assert!(note.contains("--trainable-token-indices '4000'") && note.contains("eos_token_id"), "{note}");
    assert!(!note.contains("lm_head"), "a tied head cannot be trained alone: {note}");
    let mut trained = lora();
    trained.trainable_tokens = TrainableTokens::Ids(vec![4000]);
    assert_eq!(crafted.found_under(&trained, &[trained_text]), []);
}

#[test]
fn nothing_is_said_of_a_model_of_random_rows() {
    let all: Vec<u32> = (0..VOCAB as u32).collect();
    let (embedding, head) = (table(PADDED, 1, |_, _| None), table(PADDED, 2, |_, _| None));
    assert_eq!(Crafted::new(&embedding, None).note(&[trained(&all)]), None);
    assert_eq!(Crafted::new(&embedding, Some(&head)).note(&[trained(&all)]), None);
    let same = table(PADDED, 1, |_, _| Some(0.5));
    assert_eq!(Crafted::new(&same, None).note(&[trained(&all)]), None, "all rows are one");
}

#[test]
fn an_end_token_that_is_never_a_target_is_looked_at_only_where_none_is() {
    let unused = |r: usize, c: usize| random(0, c, 7) + 0.05 * random(r, c, 8);
    let embedding = table(PADDED, 1, |r, c| (r == 4091 || r >= VOCAB).then(|| unused(r, c)));
    let crafted = Crafted::new(&embedding, None);
    assert_eq!(ids(&crafted.found(&[trained(&[1, 2])])), [4091]);
    assert_eq!(ids(&crafted.found(&[trained(&[1, 2, 4093])])), [] as [u32; 0], "the other one ends it");
    let note = crafted.note(&[trained(&[1, 2])]).unwrap();
    assert!(note.contains("4091 \"<|endoftext|>\" (embedding and head, never a target)"), "{note}");
}

#[test]
fn many_are_counted() {
    let embedding = table(VOCAB, 1, |r, _| (r % 4 == 1).then_some(0.0));
    let samples = [trained(&(0..100).chain([4091]).collect::<Vec<_>>())];
    let note = Crafted::new(&embedding, None).note(&samples).unwrap();
    assert!(note.contains("; and 17 more. "), "25, of which 8 are named: {note}");
}
