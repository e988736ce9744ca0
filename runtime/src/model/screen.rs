//! The output head in 8 bits beside the head itself: for decoding that needs only the largest logits.

use super::{context::ForwardContext, decode::SampleOptions, qwen3::Qwen3, weights::Weight};
use crate::{config::Qwen3Config, error::Result};
use halfbyte::{
    Backend, Buf, Float, Mat, MatMut,
    ops::{LinearMax, Op, Screen},
};

/// Of more of the largest logits too many others must be computed.
const MOST_LOGITS: usize = 64;

/// Of the memory that is free, the share that it may take: it is not worth a shorter prompt.
const SHARE: usize = 4;

/// What [`LinearMax`] reads in the head's place.
pub(crate) struct HeadScreen<B: Backend> {
    /// `[vocab, hidden]`
    codes: Buf<B, i8>,
    /// `[3, vocab]`
    bounds: Buf<B, f32>,
}

impl SampleOptions {
    /// How many of the largest logits matter, where these are few, of so few sequences that it pays to look for them alone;
    /// `most`: [`Backend::most_screened`].
    pub(crate) fn screens(&self, n_seqs: usize, most: usize) -> Option<usize> {
        let k = if self.temperature == 0.0 { 1 } else { self.top_k };
        (n_seqs <= most && (1..=MOST_LOGITS).contains(&k) && self.repetition_penalty == 1.0).then_some(k)
    }
}

impl Qwen3Config {
    /// Bytes of the head in 8 bits.
    pub(crate) fn screen_bytes(&self) -> usize {
        self.vocab_size * (self.hidden_size + 3 * size_of::<f32>())
    }
}

impl<B: Backend, T: Float> Qwen3<B, T> {
    /// The head that [`Self::head_forward`] multiplies with, where it is the model's own, dense, and all of it.
    fn dense_head(&self, ctx: ForwardContext<'_, B, T>) -> Option<Mat<'_, B, T>> {
        let tied = self.head.is_none();
        match &self.head {
            _ if ctx.adapter.is_some_and(|adapter| adapter.layout.changes_head(tied)) => None,
            Some(Weight::Quantized(_)) => None,
            Some(Weight::Dense(head)) => Some(head.weight().mat()),
            None => Some(self.as_table(self.embedding.view())),
        }
    }

    /// Makes what decoders of a few sequences that want only the largest logits look at in the head's place from then on, if the
    /// model has none, the head is its own and dense, and there is memory in plenty. They choose the same tokens (`docs/head.md`).
    ///
    /// # Errors
    /// The device refuses.
    pub fn screen_head(&self, ctx: ForwardContext<'_, B, T>) -> Result<()> {
        let (backend, [vocab, hidden]) = (ctx.backend, [self.config.vocab_size, self.config.hidden_size]);
        let room = backend.free_memory().is_none_or(|free| free / SHARE >= self.config.screen_bytes());
        let Some(weight) = self.dense_head(ctx).filter(|_| room && self.screen.get().is_none()) else { return Ok(()) };
        let (mut codes, mut bounds) = (backend.zeros(vocab * hidden)?, backend.zeros(3 * vocab)?);
        Screen { weight, codes: codes.view_mut(), bounds: bounds.mat_mut(3, vocab) }.run(backend)?;
        let _ = self.screen.set(HeadScreen { codes, bounds }); // another thread's is the same
        Ok(())
    }

    /// The `k` largest of the first logits of each row, and perhaps others, as [`Self::head_forward`] gives them; minus infinity
    /// for the rest. `out` is `[n, n_vocab]`. False, and nothing done, where there is nothing to look at in the head's place.
    pub(super) fn largest_logits(
        &self,
        ctx: ForwardContext<'_, B, T>,
        x: Mat<'_, B, T>,
        k: usize,
        out: MatMut<'_, B, f32>,
    ) -> Result<bool> {
        let (Some(screen), Some(head)) = (self.screen.get(), self.dense_head(ctx)) else { return Ok(false) };
        let (n, vocab) = (out.shape()[1], self.config.vocab_size);
        let elements = 0..n * self.config.hidden_size;
        let bounds = screen.bounds.mat(3, vocab).columns(0..n);
        LinearMax { x, weight: head.rows(0..n), codes: screen.codes.at(elements), bounds, k, out }.run(ctx.backend)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkpoint::Checkpoint,
        embedded,
        model::{Base, CacheType, Decoder},
        tokenizer::Tokenizer,
    };
    use halfbyte::{Cpu, quant::Format};

    /// The embedded model's own words, with a head that is looked at whole and without.
    #[test]
    fn the_same_tokens_are_chosen() {
        let (cpu, dir) = (Cpu::new(), embedded::model());
        let (config, tokenizer) = (Qwen3Config::open(&dir).unwrap(), Tokenizer::open(&dir).unwrap());
        let files = Checkpoint::open(&dir).unwrap();
        let base = Base::Quantized { format: Format::Nf4, block_size: 64, double_quant: true };
        let model = Qwen3::<Cpu, half::bf16>::load(&cpu, &files, &config, base).unwrap();
        let ctx = ForwardContext::new(&cpu, None);
        let sampled = SampleOptions { temperature: 0.7, top_k: 20, top_p: 0.8, ..SampleOptions::GREEDY };
        let write = |(n, options): (usize, SampleOptions)| {
            let prompts = ["The mayor", "A goat", "On Sundays"].map(|prompt| tokenizer.encode(prompt).unwrap());
            let n_vocab = tokenizer.vocab_size();
            let mut decoder = Decoder::new(&model, ctx, n, 120, n_vocab, options, CacheType::Plain).unwrap();
            let mut tokens = decoder.prefill(&prompts[..n]).unwrap();
            (0..100).for_each(|_| tokens.extend(decoder.step().unwrap()));
            tokens
        };
        let texts = [1, 3].into_iter().flat_map(|n| [SampleOptions::GREEDY, sampled].map(|options| (n, options)));
        let plain: Vec<_> = texts.clone().map(write).collect();
        model.screen_head(ctx).unwrap();
        assert!(model.screen.get().is_some());
        assert_eq!(texts.map(write).collect::<Vec<_>>(), plain);
    }
}
