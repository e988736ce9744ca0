//! Tokens that a run trains or writes although the base never learnt them.
//!
//! A row that no text uses is not noise. In an embedding of its own it only decays, towards zero; in a head, tied or not,
//! every token pushes it down, the same way as all its kind: unused rows form one tight cloud, far from the others (Land and
//! Bartolo 2024, arXiv:2405.05417). Where a tokenizer grew, new rows may all be the mean of the others. Such a row is
//! frozen under LoRA of the layers, and the layers below can hardly tell its token from the others of the cloud.

use super::load::head_is_separate;
use crate::{
    batch::Sample,
    checkpoint::{self, Checkpoint, TensorRef},
    config::{Module, Qwen3Config},
    error::Result,
    lora::{self, LoraConfig, TrainableTokens},
    tokenizer::Tokenizer,
};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// A token whose rows look untrained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UntrainedToken {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub text: String,
    /// How often it is a target.
    pub n_targets: usize,
    /// Whether its row of the embedding looks untrained.
    pub embedding: bool,
    /// Whether its row of the output head does; that of the embedding where they are one.
    pub head: bool,
}

/// The tokens that a run on `samples` trains or writes and whose rows look untrained and stay so under `lora`, those that
/// are trained most first.
///
/// Looked at are the targets, special tokens that are read, as a chat template writes them, and, where no end token is a
/// target, the first of them. A table in 4 bits is passed over.
///
/// # Errors
/// A table is missing or of another shape than the model's.
pub fn untrained_tokens(
    files: &Checkpoint,
    config: &Qwen3Config,
    tokenizer: &Tokenizer,
    samples: &[Sample],
    lora: &LoraConfig,
) -> Result<Vec<UntrainedToken>> {
    let (trained, targets) = (lora.tokens(config)?, lora.resolve(config)?);
    let adapts = |module| targets.iter().any(|target| target.module == module);
    let (adapts_embedding, adapts_head) = (adapts(Module::Embedding), adapts(Module::LmHead));
    let open = |table| Table::open(files, config, tokenizer, table, &trained);
    let (embedding, separate) = (open(lora::Table::Embedding)?, head_is_separate(files, config)?);
    let head = if separate && !lora.save_lm_head { open(lora::Table::Head)? } else { None };
    let uses: Vec<_> = uses(tokenizer, samples).into_iter().collect();
    let judge = |&(id, Use { n_targets, written }): &(u32, Use)| -> Result<Option<UntrainedToken>> {
        let untrained = |table: &Option<Table>| table.as_ref().map_or(Ok(false), |table| table.is_untrained(id));
        let in_embedding = untrained(&embedding)?;
        let in_head = written && !adapts_head && if separate { untrained(&head)? } else { in_embedding };
        let in_embedding = in_embedding && !adapts_embedding;
        let text = || tokenizer.decode(&[id], false);
        Ok((in_embedding || in_head).then(|| UntrainedToken {
            id,
            text: text(),
            n_targets,
            embedding: in_embedding,
            head: in_head,
        }))
    };
    let judged: Vec<Option<_>> = uses.par_iter().map(judge).collect::<Result<_>>()?;
    let mut found: Vec<_> = judged.into_iter().flatten().collect();
    found.sort_by_key(|token| (std::cmp::Reverse(token.n_targets), token.id));
    Ok(found)
}

/// Tokens that a note names; more are counted.
const NAMED: usize = 8;

/// What the user should know about [`untrained_tokens`], and do about them.
///
/// # Errors
/// As for [`untrained_tokens`].
pub fn untrained_note(
    files: &Checkpoint,
    config: &Qwen3Config,
    tokenizer: &Tokenizer,
    samples: &[Sample],
    lora: &LoraConfig,
) -> Result<Option<String>> {
    let found = untrained_tokens(files, config, tokenizer, samples, lora)?;
    if found.is_empty() {
        return Ok(None);
    }
    let mut named: Vec<_> = found.iter().take(NAMED).map(ToString::to_string).collect();
    if found.len() > NAMED {
        named.push(format!("and {} more", found.len() - NAMED));
    }
    Ok(Some(format!(
        "`{}` never learnt tokens that are to be trained or written: {}. LoRA leaves their rows as they are, so that they \
         are hardly told from other unused ones. {}",
        files.dir().display(),
        named.join("; "),
        advice(&found, head_is_separate(files, config)?),
    )))
}

fn advice(found: &[UntrainedToken], separate: bool) -> String {
    let ids =
        |of: fn(&UntrainedToken) -> bool| found.iter().filter(|&token| of(token)).map(|t| t.id).collect::<Vec<_>>();
    let (embedding, head) = (ids(|token| token.embedding), ids(|token| token.head));
    let whole_head = if separate && !head.is_empty() { ", or the head whole (--modules-to-save lm_head)" } else { "" };
    let rows = match separate {
        false => TrainableTokens::Ids(embedding),
        true => {
            let modules = [("embed_tokens", embedding), ("lm_head", head)];
            let used = modules.into_iter().filter(|(_, ids)| !ids.is_empty());
            TrainableTokens::Modules(used.map(|(name, ids)| (name.to_owned(), ids)).collect())
        }
    };
    let rows = if found.len() > NAMED { "…".to_owned() } else { rows.to_string() };
    format!(
        "Train these rows too (--trainable-token-indices '{rows}'){whole_head}; or take tokens that the base knows: \
         `eos_token_id` of config.json names the one that ends a text"
    )
}

/// How a run uses a token.
#[derive(Clone, Copy, Default)]
struct Use {
    n_targets: usize,
    /// Whether the model is to write it.
    written: bool,
}

fn uses(tokenizer: &Tokenizer, samples: &[Sample]) -> BTreeMap<u32, Use> {
    let mut uses: BTreeMap<u32, Use> = BTreeMap::new();
    for sample in samples {
        for (i, (&id, &trained)) in sample.ids.iter().zip(&sample.mask).enumerate() {
            let token = uses.entry(id).or_default();
            // Nothing precedes the first token, so that it is no target.
            token.n_targets += usize::from(trained && i > 0);
        }
    }
    uses.values_mut().for_each(|token| token.written = token.n_targets > 0);
    let is_special = |id: u32| tokenizer.decode(&[id], true).is_empty();
    uses.retain(|&id, token| token.written || is_special(id));
    // Where no end token is a target, what ends a text is what the base knows.
    if !tokenizer.eos_ids().iter().any(|id| uses.get(id).is_some_and(|token| token.written)) {
        tokenizer.eos_ids().iter().take(1).for_each(|&id| uses.entry(id).or_default().written = true);
    }
    uses
}

/// The embedding or the head, as the checkpoint has it, and where its untrained rows are.
struct Table<'a> {
    tensor: TensorRef<'a>,
    rows: usize,
    /// Tokens whose rows the adapter trains.
    trained: Vec<u32>,
    clouds: Vec<Cloud>,
}

/// Rows this close to a point are taken for untrained.
struct Cloud {
    centre: Vec<f32>,
    /// Squared.
    reach: f32,
}

/// Rows, spread over the table, whose mean and median distances stand for those of all.
const SAMPLED: usize = 4096;

impl<'a> Table<'a> {
    /// None where it is in 4 bits.
    fn open(
        files: &'a Checkpoint,
        config: &Qwen3Config,
        tokenizer: &Tokenizer,
        table: lora::Table,
        trained: &[(lora::Table, Vec<u32>)],
    ) -> Result<Option<Self>> {
        let shape @ [rows, _] = config.shape(Module::LmHead);
        let checkpoint::Weight::Dense(tensor) = files.weight(&table.tensor(), shape)? else { return Ok(None) };
        let trained = trained.iter().filter(|(of, _)| *of == table).flat_map(|(_, ids)| ids).copied().collect();
        let mut table = Table { tensor, rows, trained, clouds: Vec::new() };
        let sampled = table.rows((0..rows).step_by(rows.div_ceil(SAMPLED)))?;
        let (beyond, never) = (table.rows(tokenizer.vocab_size()..rows)?, table.rows(never_used(tokenizer))?);
        let clouds = [Cloud::of_unused(&beyond, &sampled), Cloud::of_unused(&never, &sampled)];
        let zero = vec![0.0; config.hidden_size];
        let points = [Cloud::new(mean(&sampled), 0.0, &sampled), Cloud::new(zero, 0.0, &sampled)];
        table.clouds = clouds.into_iter().chain(points).flatten().collect();
        Ok(Some(table))
    }

    fn rows(&self, rows: impl IntoIterator<Item = usize>) -> Result<Vec<Vec<f32>>> {
        rows.into_iter().filter(|&i| i < self.rows).map(|i| self.tensor.row(i)).collect()
    }

    fn is_untrained(&self, id: u32) -> Result<bool> {
        if id as usize >= self.rows || self.trained.contains(&id) {
            return Ok(false);
        }
        let row = self.tensor.row(id as usize)?;
        Ok(self.clouds.iter().any(|cloud| distance(&row, &cloud.centre) <= cloud.reach))
    }
}

/// Tokens of single bytes that no UTF-8 has.
fn never_used(tokenizer: &Tokenizer) -> impl Iterator<Item = usize> {
    let bytes = [0xC0, 0xC1].into_iter().chain(0xF5..=0xFF);
    // The byte alphabet writes them as the Latin-1 characters of the same number.
    bytes.filter_map(|byte: u8| Some(tokenizer.token_to_id(&char::from(byte).to_string())? as usize))
}

impl Cloud {
    /// Around rows that are known to be unused; none where they are spread like all others, as in a model that was never
    /// trained, or too few to tell.
    fn of_unused(rows: &[Vec<f32>], sampled: &[Vec<f32>]) -> Option<Self> {
        let centre = mean(rows);
        let radius = rows.iter().map(|row| distance(row, &centre)).sum::<f32>() / rows.len() as f32;
        if rows.len() < 4 { None } else { Self::new(centre, radius, sampled) }
    }

    /// `radius` is the mean squared distance. In many dimensions the distances of one kind of rows differ little, so that
    /// twice the usual one takes in all of them. Others keep at least half of the usual distance of all.
    fn new(centre: Vec<f32>, radius: f32, sampled: &[Vec<f32>]) -> Option<Self> {
        let mut distances: Vec<_> = sampled.iter().map(|row| distance(row, &centre)).collect();
        let middle = distances.len() / 2;
        let (_, &mut usual, _) = distances.select_nth_unstable_by(middle, f32::total_cmp);
        // Rows that should be one are never farther apart than this: the mean is that of a sample, and new rows may have
        // noise.
        let least = usual / 256.0;
        (radius <= usual / 16.0 && usual > 0.0).then(|| Cloud { centre, reach: (4.0 * radius).max(least) })
    }
}

fn mean(rows: &[Vec<f32>]) -> Vec<f32> {
    let mut sum = vec![0.0; rows.first().map_or(0, Vec::len)];
    for row in rows {
        sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
    sum.iter_mut().for_each(|sum| *sum /= rows.len() as f32);
    sum
}

/// Squared; in lanes, so that it is vectorised.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            sums[i] += (a[i] - b[i]) * (a[i] - b[i]);
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| (a - b) * (a - b)).sum();
    sums.iter().sum::<f32>() + rest
}

/// `151645 "<|im_end|>" (row of embedding and head, 144 times a target)`
impl std::fmt::Display for UntrainedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rows = match (self.embedding, self.head) {
            (true, true) => "embedding and head",
            (true, false) => "embedding",
            _ => "head",
        };
        let times = match self.n_targets {
            0 => "never a target".to_owned(),
            1 => "once a target".to_owned(),
            n => format!("{n} times a target"),
        };
        write!(f, "{} {:?} ({rows}, {times})", self.id, self.text)
    }
}
