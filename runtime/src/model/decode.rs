//! Generating tokens: the prompt, and one step for all sequences.

use super::{
    activations::Activations,
    attention::Attend,
    cache::{Before, CacheSlots, CacheType, KvCache},
    context::ForwardContext,
    ends::Chunk,
    keep::Keep,
    qwen3::Qwen3,
    rows::{self, Rows},
};
use crate::{
    batch::{self, Batch},
    error::{Error, Result},
    options,
};
use halfbyte::{
    Backend, Buf, Count, Float, host,
    ops::{GatherRows, Op, Sample},
};
use std::ops::Range;

/// Tokens of prompts that are run at once: enough to keep a GPU at its work.
pub(crate) const PREFILL_TOKENS: usize = 4096;

/// How the next token is chosen; see [`halfbyte::ops::Sample`] for the exact meaning.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleOptions {
    /// 0 takes the most probable token.
    pub temperature: f32,
    /// 0 is off.
    pub top_k: usize,
    /// 1 is off.
    pub top_p: f32,
    /// 0 is off.
    pub min_p: f32,
    /// 1 is off.
    pub repetition_penalty: f32,
    /// Same seed, same text.
    pub seed: u64,
}

impl SampleOptions {
    /// Always the most probable token.
    pub const GREEDY: Self =
        SampleOptions { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 };

    /// Refuses what is out of range.
    fn check(&self) -> Result<()> {
        options::TEMPERATURE.check(self.temperature)?;
        options::TOP_K.check(self.top_k)?;
        options::TOP_P.check(self.top_p)?;
        options::MIN_P.check(self.min_p)?;
        options::REPETITION_PENALTY.check(self.repetition_penalty)
    }
}

/// Generates for a fixed number of sequences up to a fixed length; all memory but a prompt's is allocated at the start.
pub struct Decoder<'m, B: Backend, T: Float> {
    model: &'m Qwen3<B, T>,
    ctx: ForwardContext<'m, B, T>,
    options: SampleOptions,
    /// Tokens that exist: ids from here on are never chosen.
    n_vocab: usize,
    n_seqs: usize,
    /// Where the next step puts the token of the longest sequence; 0 before there is a prompt.
    position: usize,
    cache: KvCache<B, T>,
    /// The tokens in hand are those to run next, one of each sequence.
    acts: Activations<B, T>,
    /// `[n_seqs, capacity]`: the tokens so far.
    history: Buf<B, u32>,
    /// `[n_seqs, vocab]`
    logits: Rows<B, f32>,
    graph: B::Graph,
}

impl<'m, B: Backend, T: Float> Decoder<'m, B, T> {
    /// Memory for `n_seqs` sequences of up to `capacity` tokens each. `n_vocab` is the number of tokens that the
    /// tokeniser knows.
    ///
    /// # Errors
    /// An option is out of range, `capacity` is beyond the model's positions, or the device has too little memory.
    pub fn new(
        model: &'m Qwen3<B, T>,
        ctx: ForwardContext<'m, B, T>,
        n_seqs: usize,
        capacity: usize,
        n_vocab: usize,
        options: SampleOptions,
        kind: CacheType,
    ) -> Result<Self> {
        options.check()?;
        let config = &model.config;
        if capacity > config.positions() {
            let want = format!("the model has {} positions", config.positions());
            return Err(Error::setting("prompt and new tokens together", capacity, want));
        }
        let what = || format!("{} of up to {}", Count(n_seqs, "sequence"), Count(capacity, "token"));
        let n_vocab = n_vocab.min(config.vocab_size);
        let allocate = || {
            let backend = ctx.backend;
            let mut acts = Activations::new(ctx, model, n_seqs, Keep::Nothing)?;
            acts.tokens.n = n_seqs;
            Ok(Decoder {
                model,
                ctx,
                options,
                n_vocab,
                n_seqs,
                position: 0,
                cache: KvCache::new(backend, config, n_seqs, capacity, kind)?,
                acts,
                history: rows::zeros(backend, &[n_seqs, capacity])?,
                logits: Rows::new(backend, n_seqs, config.vocab_size)?,
                graph: B::Graph::default(),
            })
        };
        allocate().map_err(Error::memory_for(what, "lower --max-new-tokens, or shorten the prompt"))
    }

    /// Runs the prompts, one for each sequence, and gives the first new token of each. Long ones are run in parts, so
    /// that activations take bounded memory.
    ///
    /// # Errors
    /// A prompt is empty, leaves no room or has a token that the model has not; the device refuses.
    pub fn prefill(&mut self, prompts: &[Vec<u32>]) -> Result<Vec<u32>> {
        self.check(prompts)?;
        self.position = 0;
        let ctx = self.ctx;
        let parts = parts(prompts, PREFILL_TOKENS);
        let most = parts.iter().map(|part| part.iter().map(Piece::len).sum()).max().unwrap_or(0);
        let acts = Activations::new(ctx, self.model, most, Keep::Nothing);
        let what = || format!("{} of prompts at a time", Count(most, "token"));
        let mut acts = acts.map_err(Error::memory_for(what, "shorten the prompt"))?;
        let longest = parts.iter().filter_map(|part| before(part)).map(|before| before.n).max().unwrap_or(0);
        let what = || format!("keys and values of {}", Count(longest, "token"));
        let room = self.cache.begin_prompts(ctx.backend, longest);
        room.map_err(Error::memory_for(what, "shorten the prompt"))?;
        let outcome = parts.iter().try_for_each(|part| self.prefill_part(prompts, part, &mut acts));
        self.cache.end_prompts();
        outcome?;
        self.write_history(prompts)?;
        self.queue_choice()?;
        self.position = prompts.iter().map(Vec::len).max().unwrap_or(0);
        Ok(self.acts.tokens.ids.to_vec(ctx.backend)?)
    }

    /// Runs a part of the prompts; what leaves the last layer at their ends goes where the next token is chosen.
    fn prefill_part(&mut self, prompts: &[Vec<u32>], part: &[Piece], acts: &mut Activations<B, T>) -> Result<()> {
        let backend = self.ctx.backend;
        let mut batch = Batch::empty();
        for Piece { seq, tokens } in part {
            let before = self.cache.rows_before(Before { seq: *seq, n: tokens.start });
            batch.push_after(before, &batch::Sample::untrained(&prompts[*seq][tokens.clone()]));
        }
        acts.take(backend, &self.model.config, &batch)?;
        let seqs = part.iter().flat_map(|piece| std::iter::repeat_n(piece.seq as u32, piece.len()));
        let seqs = backend.upload(&seqs.collect::<Vec<_>>())?;
        let slots = CacheSlots { cache: &mut self.cache, seqs: seqs.view(), before: before(part) };
        self.model.run(self.ctx, acts, &mut Attend::Prefill(slots))?;

        let ended = |(piece, end): (&Piece, &u32)| {
            (piece.tokens.end == prompts[piece.seq].len()).then_some((piece.seq, end - 1))
        };
        let (seqs, ends): (Vec<_>, Vec<_>) = part.iter().zip(&batch.cu_seqlens[1..]).filter_map(ended).unzip();
        let Some(&first) = seqs.first() else { return Ok(()) };
        let rows = backend.upload(&ends)?;
        let table = acts.residual.last().rows(batch.n_tokens());
        let out = self.acts.residual.last_mut().rows_mut(self.n_seqs).rows(first..first + ends.len());
        Ok(GatherRows { table, rows: rows.view(), out }.run(backend)?)
    }

    fn check(&self, prompts: &[Vec<u32>]) -> Result<()> {
        if prompts.len() != self.n_seqs {
            return Err(Error::setting("the number of prompts", prompts.len(), format!("it must be {}", self.n_seqs)));
        }
        for prompt in prompts {
            if prompt.is_empty() {
                return Err(Error::setting("the prompt", "empty", "it must have at least one token"));
            }
            if prompt.len() >= self.cache.capacity {
                let want = format!("with the new tokens it must fit {} positions", self.cache.capacity);
                return Err(Error::setting("the prompt's length", prompt.len(), want));
            }
        }
        Ok(())
    }

    /// The tokens of the prompts, and the position of the last of each.
    fn write_history(&mut self, prompts: &[Vec<u32>]) -> Result<()> {
        let (backend, capacity) = (self.ctx.backend, self.cache.capacity);
        let mut history = host::zeros(self.history.len())?;
        for (row, prompt) in history.chunks_exact_mut(capacity).zip(prompts) {
            row[..prompt.len()].copy_from_slice(prompt);
        }
        let last: Vec<u32> = prompts.iter().map(|prompt| prompt.len() as u32 - 1).collect();
        backend.write(&history, self.history.view_mut())?;
        Ok(backend.write(&last, self.acts.tokens.positions.view_mut())?)
    }

    /// Runs the tokens chosen last and gives the next of each sequence.
    ///
    /// # Errors
    /// There is no prompt yet, the longest sequence has no room for another token, or the device refuses.
    pub fn step(&mut self) -> Result<Vec<u32>> {
        let (position, capacity) = (self.position, self.cache.capacity);
        if position == 0 {
            return Err(Error::setting("the decoder", "empty", "it must run a prompt before it goes on"));
        }
        if position >= capacity {
            let want = format!("the decoder has room for {capacity} (from 0) of each sequence; make it with more");
            return Err(Error::setting("the position of the next token", position, want));
        }
        let (backend, mut graph) = (self.ctx.backend, std::mem::take(&mut self.graph));
        let outcome = backend.replay(&mut graph, || self.queue_step().map_err(kernel_error));
        self.graph = graph;
        outcome?;
        self.position += 1;
        Ok(self.acts.tokens.ids.to_vec(backend)?)
    }

    fn queue_step(&mut self) -> Result<()> {
        self.model.run(self.ctx, &mut self.acts, &mut Attend::Decode(&mut self.cache))?;
        self.queue_choice()
    }

    /// From what left the last layer to the tokens to run next.
    fn queue_choice(&mut self) -> Result<()> {
        let (model, ctx, n, acts) = (self.model, self.ctx, self.n_seqs, &mut self.acts);
        model.rms_norm(ctx, acts.residual.last().rows(n), &model.norm, acts.normed.rows_mut(n))?;
        let (normed, n_vocab) = (acts.normed.rows(n), self.n_vocab);
        let largest = match self.options.screens(n, ctx.backend.most_screened()) {
            Some(k) => model.largest_logits(ctx, normed, k, self.logits.rows_mut(n).columns(0..n_vocab))?,
            None => false,
        };
        if !largest {
            model.head_forward(ctx, normed, self.logits.rows_mut(n), &mut acts.ends, Chunk(0))?;
        }
        let SampleOptions { temperature, top_k, top_p, min_p, repetition_penalty, seed } = self.options;
        Sample {
            logits: self.logits.rows_mut(n),
            n_vocab,
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            seed,
            history: self.history.view_mut(),
            positions: acts.tokens.positions.view_mut(),
            tokens: acts.tokens.ids.view_mut(),
        }
        .run(ctx.backend)?;
        Ok(())
    }
}

/// Tokens of one prompt.
struct Piece {
    seq: usize,
    tokens: Range<usize>,
}

impl Piece {
    fn len(&self) -> usize {
        self.tokens.len()
    }
}

/// What the first piece of a part goes on from, if it does; all others begin.
fn before(part: &[Piece]) -> Option<Before> {
    let first = part.first().filter(|first| first.tokens.start > 0)?;
    Some(Before { seq: first.seq, n: first.tokens.start })
}

/// Prompts in their order, cut into parts of up to `most` tokens.
fn parts(prompts: &[Vec<u32>], most: usize) -> Vec<Vec<Piece>> {
    let (mut parts, mut part, mut room) = (Vec::new(), Vec::new(), most);
    for (seq, prompt) in prompts.iter().enumerate() {
        let mut done = 0;
        while done < prompt.len() {
            let n = room.min(prompt.len() - done);
            part.push(Piece { seq, tokens: done..done + n });
            (done, room) = (done + n, room - n);
            if room == 0 {
                parts.push(std::mem::take(&mut part));
                room = most;
            }
        }
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}

/// Nothing but ops runs in a step, so nothing but their errors can come out of it.
fn kernel_error(error: Error) -> halfbyte::Error {
    match error {
        Error::Kernel(error) => error,
        other => halfbyte::Error::Cuda { what: "queueing a decode step", reason: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{checkpoint::Checkpoint, config::Qwen3Config, embedded, model::Base, tokenizer::Tokenizer};
    use halfbyte::{Cpu, quant::Format};

    /// Nats of each token after the first 64, each after the true ones before it, and the likeliest token in its place.
    fn read<T: Float>(model: &Qwen3<Cpu, T>, cpu: &Cpu, ids: &[u32], kind: CacheType) -> Vec<(f64, usize)> {
        let (ctx, (prompt, rest)) = (ForwardContext::new(cpu, None), ids.split_at(64));
        let greedy = SampleOptions::GREEDY;
        let mut decoder = Decoder::new(model, ctx, 1, ids.len() + 1, usize::MAX, greedy, kind).unwrap();
        decoder.prefill(&[prompt.to_vec()]).unwrap();
        let mut step = |&id: &u32| {
            let logits = cpu.download(decoder.logits.flat(1)).unwrap();
            let likeliest = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
            let sum: f64 = logits.iter().map(|&x| f64::from(x - logits[likeliest]).exp()).sum();
            cpu.write(&[id], decoder.acts.tokens.ids.view_mut()).unwrap();
            decoder.step().unwrap();
            (f64::from(logits[likeliest] - logits[id as usize]) + sum.ln(), likeliest)
        };
        rest.iter().map(&mut step).collect()
    }

    /// With the embedded model, over the by-laws that it learnt from. `docs/speed.md` has the figures.
    #[test]
    fn eight_bits_cost_next_to_nothing() {
        let (cpu, dir) = (Cpu::new(), embedded::model());
        let (config, tokenizer) = (Qwen3Config::open(&dir).unwrap(), Tokenizer::open(&dir).unwrap());
        let base = Base::Quantized { format: Format::Nf4, block_size: 64, double_quant: true };
        let files = Checkpoint::open(&dir).unwrap();
        let model = Qwen3::<Cpu, f32>::load(&cpu, &files, &config, base).unwrap();
        let text = include_str!("../../assets/town/bylaws.txt");
        let (mut n, mut others, mut plain_nats, mut difference, mut square) = (0, 0, 0.0, 0.0, 0.0);
        for ids in tokenizer.encode(text).unwrap().chunks_exact(1024).take(6) {
            let [plain, int8] = [CacheType::Plain, CacheType::Int8].map(|kind| read(&model, &cpu, ids, kind));
            for ((plain, likeliest), (int8, other)) in plain.into_iter().zip(int8) {
                (n, others) = (n + 1, others + usize::from(likeliest != other));
                plain_nats += plain;
                difference += int8 - plain;
                square += (int8 - plain).powi(2);
            }
        }
        let all = f64::from(n);
        let (plain, mean, root) = (plain_nats / all, difference / all, (square / all).sqrt());
        eprintln!("{n} tokens: {plain:.4} nats, {mean:+.5} in 8 bits, {root:.4} rms; {others} other likeliest tokens");
        assert!(mean.abs() <= 0.01 && root <= 0.1 && others * 50 <= n as usize);
    }
}
