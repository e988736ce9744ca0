//! Samples of token ids, and batches of them as the model takes them: packed, without padding.

use crate::config::Qwen3Config;
use crate::error::{Error, Result};
use std::ops::Range;

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
    /// Without targets.
    pub(crate) fn untrained(ids: &[u32]) -> Self {
        Sample { ids: ids.to_vec(), mask: vec![false; ids.len()] }
    }

    /// Adds tokens, all trained or none.
    pub(crate) fn push(&mut self, ids: &[u32], trained: bool) {
        self.ids.extend(ids);
        self.mask.resize(self.ids.len(), trained);
    }

    /// Gives back memory that was taken in advance.
    pub(crate) fn shrink(&mut self) {
        self.ids.shrink_to_fit();
        self.mask.shrink_to_fit();
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

/// A prompt, and options that may follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branches {
    /// Token ids that all options follow.
    pub prompt: Vec<u32>,
    /// Of each option; none is empty.
    pub options: Vec<Vec<u32>>,
}

impl Branches {
    /// Refuses what has nothing to score, or nothing before it to score it by.
    pub(crate) fn expect_tokens(&self) -> Result<()> {
        match self.options.iter().position(Vec::is_empty) {
            Some(i) => Err(Error::setting("option", i + 1, "it must have a token")),
            None if self.prompt.is_empty() => {
                Err(Error::setting("a prompt", "empty", "an option needs a token before it"))
            }
            None => Ok(()),
        }
    }

    /// Prompt and longest option, in tokens: the positions that they take.
    pub fn longest(&self) -> usize {
        self.prompt.len() + self.options.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// Tokens that the model computes: of the prompt once, but its last with each option, which it predicts.
    pub fn n_tokens(&self) -> usize {
        let (shared, last) = self.parts();
        shared.len() + self.options.iter().map(|option| last.len() + option.len()).sum::<usize>()
    }

    /// What is computed once, and what is computed with each option.
    fn parts(&self) -> (&[u32], &[u32]) {
        self.prompt.split_at(self.prompt.len().saturating_sub(1))
    }
}

/// Sequences laid end to end without padding; each attends to itself, and to what it goes on from.
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
    /// `[n_sequences]` what each sequence goes on from: tokens of this batch, or rows of a cache; or nothing, where none
    /// does.
    pub prefixes: Vec<Range<u32>>,
}

impl Batch {
    /// Lays `samples` end to end.
    pub fn new<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Self {
        let mut batch = Self::empty();
        for sample in samples {
            batch.push(sample);
        }
        batch
    }

    /// Without a sequence.
    pub(crate) fn empty() -> Self {
        Self { cu_seqlens: vec![0], ..Self::default() }
    }

    /// Prompts end to end, without targets.
    pub fn of_prompts(prompts: &[Vec<u32>]) -> Self {
        Self::new(&prompts.iter().map(|ids| Sample::untrained(ids)).collect::<Vec<_>>())
    }

    /// Prompts with their options; a prompt is computed once for all of its own. The targets are the options' tokens.
    pub fn of_branches<'a>(all: impl IntoIterator<Item = &'a Branches>) -> Self {
        let mut batch = Self::empty();
        for branches in all {
            let (shared, last) = branches.parts();
            let start = batch.ids.len() as u32;
            if !shared.is_empty() {
                batch.push_after(start..start, &Sample::untrained(shared));
            }
            for option in &branches.options {
                let mut sample = Sample::untrained(last);
                sample.push(option, true);
                batch.push_after(start..start + shared.len() as u32, &sample);
            }
        }
        batch
    }

    /// Adds a sequence that goes on from tokens of this batch, or of a cache.
    pub(crate) fn push_after(&mut self, prefix: Range<u32>, sample: &Sample) {
        let first = self.ids.len();
        self.push(sample);
        self.positions[first..].iter_mut().for_each(|position| *position += prefix.len() as u32);
        self.prefixes.push(prefix);
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
        let n_seqs = self.cu_seqlens.len().saturating_sub(1);
        if ![0, n_seqs].contains(&self.prefixes.len()) {
            let want = format!("there must be none, or one for each of {n_seqs} sequences");
            return Err(Error::setting("the number of prefixes", self.prefixes.len(), want));
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
    Ok(fitting(samples, |sample| sample.ids.len(), capacity)?.into_iter().map(Batch::new).collect())
}

/// Prompts with their options in their order, as many to a batch as fit `capacity` tokens.
///
/// # Errors
/// A prompt with its options does not fit.
pub fn batches_of_branches(all: &[Branches], capacity: usize) -> Result<Vec<Batch>> {
    Ok(fitting(all, Branches::n_tokens, capacity)?.into_iter().map(Batch::of_branches).collect())
}

/// Neighbours, as many together as fit `capacity` tokens.
fn fitting<T>(items: &[T], n_tokens: impl Fn(&T) -> usize, capacity: usize) -> Result<Vec<&[T]>> {
    let mut parts = Vec::new();
    let mut rest = items;
    while let Some(first) = rest.first() {
        let (mut n, mut tokens) = (1, n_tokens(first));
        if tokens > capacity {
            let want = format!("at most {capacity} tokens fit; raise --max-seq-length or --batch-size");
            return Err(Error::setting("a sample's length", tokens, want));
        }
        while rest.get(n).is_some_and(|next| tokens + n_tokens(next) <= capacity) {
            tokens += n_tokens(&rest[n]);
            n += 1;
        }
        let (part, others) = rest.split_at(n);
        parts.push(part);
        rest = others;
    }
    Ok(parts)
}
