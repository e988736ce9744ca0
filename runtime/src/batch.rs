//! Samples of token ids, and batches of them as the model takes them: packed, without padding.

use crate::{Error, Result, config::Qwen3Config};

pub use halfbyte::ops::IGNORE;

/// The token ids of one example.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// `[n_tokens]` token ids.
    pub ids: Vec<u32>,
    /// `[n_tokens]` whether the token is one to predict.
    pub mask: Vec<bool>,
}

impl Sample {
    /// Adds tokens, all trained or none.
    pub(crate) fn push(&mut self, ids: &[u32], trained: bool) {
        self.ids.extend(ids);
        self.mask.resize(self.ids.len(), trained);
    }

    /// Keeps the first `len` tokens.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.ids.truncate(len);
        self.mask.truncate(len);
    }

    /// The number of tokens to predict. The first token never is one, since nothing precedes it.
    pub fn n_targets(&self) -> usize {
        self.mask.iter().skip(1).filter(|&&trained| trained).count()
    }
}

/// Sequences laid end to end without padding; each attends to itself only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// `[n_tokens]` token ids.
    pub ids: Vec<u32>,
    /// `[n_tokens]` positions, counted from 0 in each sequence.
    pub positions: Vec<u32>,
    /// `[n_tokens]` the id that each position should predict, or [`IGNORE`].
    pub labels: Vec<u32>,
    /// `[n_sequences + 1]` where each sequence begins, and the end.
    pub cu_seqlens: Vec<u32>,
    /// The length of the longest sequence, in tokens.
    pub max_len: usize,
}

impl Batch {
    /// Lays `samples` end to end.
    pub fn new<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Self {
        let mut batch = Self { cu_seqlens: vec![0], ..Self::default() };
        for sample in samples {
            batch.push(sample);
        }
        batch
    }

    /// Prompts end to end, without targets.
    pub fn of_prompts(prompts: &[Vec<u32>]) -> Self {
        let samples = prompts.iter().map(|ids| Sample { ids: ids.clone(), mask: vec![false; ids.len()] });
        Self::new(&samples.collect::<Vec<_>>())
    }

    fn push(&mut self, sample: &Sample) {
        let len = sample.ids.len();
        self.ids.extend(&sample.ids);
        self.positions.extend(0..len as u32);
        let next = sample.ids.iter().zip(&sample.mask).skip(1);
        self.labels.extend(next.map(|(&id, &trained)| if trained { id } else { IGNORE }));
        self.labels.resize(self.ids.len(), IGNORE);
        self.cu_seqlens.push(self.ids.len() as u32);
        self.max_len = self.max_len.max(len);
    }

    /// The tokens that have a target, and the targets.
    pub fn targets(&self) -> (Vec<u32>, Vec<u32>) {
        let with_target = self.labels.iter().enumerate().filter(|(_, label)| **label != IGNORE);
        with_target.map(|(i, label)| (i as u32, *label)).unzip()
    }

    /// Refuses what the model has no embedding, no logit or no position for. On the device, other rows would take the
    /// place of such tokens in silence.
    ///
    /// # Errors
    /// Names the first of them, its sequence in this batch and its place there, all counted from 0.
    pub fn check(&self, config: &Qwen3Config) -> Result<()> {
        let (vocab, most) = (config.vocab_size, config.positions());
        let fits = |id: u32| (id as usize) < vocab;
        let want = || format!("the model has {vocab} ids (from 0); take the tokenizer of the same checkpoint");
        if let Some(i) = self.ids.iter().position(|&id| !fits(id)) {
            return Err(Error::setting("a token id", format!("{} ({})", self.ids[i], self.place(i)), want()));
        }
        if let Some(i) = self.labels.iter().position(|&label| label != IGNORE && !fits(label)) {
            return Err(Error::setting("a target", format!("{} ({})", self.labels[i], self.place(i)), want()));
        }
        if let Some(i) = self.positions.iter().position(|&position| position as usize >= most) {
            let got = format!("{} ({})", self.positions[i], self.place(i));
            let want = format!("the model has {most} (from 0); cut the sequence");
            return Err(Error::setting("a token's position", got, want));
        }
        Ok(())
    }

    /// Where token `i` is, for people.
    fn place(&self, i: usize) -> String {
        let sequence = self.cu_seqlens.partition_point(|&start| start as usize <= i).saturating_sub(1);
        let start = self.cu_seqlens.get(sequence).map_or(0, |&start| start as usize);
        format!("token {} of sequence {sequence}", i.saturating_sub(start))
    }

    /// The number of tokens.
    pub fn n_tokens(&self) -> usize {
        self.ids.len()
    }

    /// The number of positions that have a target.
    pub fn n_targets(&self) -> usize {
        self.labels.iter().filter(|&&label| label != IGNORE).count()
    }
}

/// Samples in their order, as many to a batch as fit `capacity` tokens.
///
/// # Errors
/// A sample alone does not fit.
pub fn batches(samples: &[Sample], capacity: usize) -> Result<Vec<Batch>> {
    let mut batches = Vec::new();
    let mut rest = samples;
    while let Some(first) = rest.first() {
        let (mut n, mut tokens) = (1, first.ids.len());
        if tokens > capacity {
            let want = format!("at most {capacity} tokens fit; raise --max-seq-length or --batch-size");
            return Err(Error::setting("a sample's length", tokens, want));
        }
        while rest.get(n).is_some_and(|next| tokens + next.ids.len() <= capacity) {
            tokens += rest[n].ids.len();
            n += 1;
        }
        batches.push(Batch::new(&rest[..n]));
        rest = &rest[n..];
    }
    Ok(batches)
}
