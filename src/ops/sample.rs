use super::check::{Check, Op};
use crate::{
    buffer::{MatMut, Storage, ViewMut},
    error::Result,
};

/// Chooses the next token of each sequence and moves the sequence on.
///
/// For sequence `b` with `p = positions[b]` (the position whose logits these are), in this order, as transformers does:
/// 1. ids from `n_vocab` on are never chosen;
/// 2. repetition: the logit of each distinct token of `history[b, 0 ..= p]` is divided by `repetition_penalty` where
///    positive, multiplied where negative;
/// 3. `temperature` 0 takes the largest logit (the lowest id among equals); otherwise logits are divided by it;
/// 4. `top_k` > 0 keeps the `top_k` largest (and those equal to the last of them);
/// 5. `top_p` < 1 keeps the smallest set of the most likely tokens whose probability (among those kept so far) reaches
///    `top_p`, equal ones at the border included;
/// 6. `min_p` > 0 keeps the tokens at least `min_p` times as likely as the likeliest;
/// 7. among the kept, in order of id, the first whose cumulative probability exceeds
///    `uniform(philox([p, b, 0, 0], seed)[0])`.
///
/// Then `tokens[b]` becomes the choice, `history[b, p + 1]` too (if it fits), and `positions[b]` becomes `p + 1`.
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// // The likeliest of three tokens, after a sequence of one.
/// let (mut logits, mut history) = (cpu.upload(&[0_f32, 2.0, 1.0])?, cpu.upload(&[2, 0])?);
/// let (mut positions, mut tokens) = (cpu.upload(&[0])?, cpu.zeros(1)?);
/// Sample {
///     logits: logits.mat_mut(1, 3),
///     n_vocab: 3,
///     temperature: 0.0,
///     top_k: 0,
///     top_p: 1.0,
///     min_p: 0.0,
///     repetition_penalty: 1.0,
///     seed: 0,
///     history: history.view_mut(),
///     positions: positions.view_mut(),
///     tokens: tokens.view_mut(),
/// }
/// .run(&cpu)?;
/// assert_eq!((tokens.to_vec(&cpu)?, positions.to_vec(&cpu)?), (vec![1], vec![1]));
/// assert_eq!(history.to_vec(&cpu)?, [2, 1]);
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct Sample<'a, B: Storage> {
    /// `[n_seqs, columns]`; overwritten.
    pub logits: MatMut<'a, B, f32>,
    /// Tokens that exist; columns beyond are padding.
    pub n_vocab: usize,
    /// 0 is greedy.
    pub temperature: f32,
    /// 0 is off.
    pub top_k: usize,
    /// 1 is off.
    pub top_p: f32,
    /// 0 is off.
    pub min_p: f32,
    /// 1 is off.
    pub repetition_penalty: f32,
    /// Of the random numbers.
    pub seed: u64,
    /// `[n_seqs, capacity]`: the tokens so far.
    pub history: ViewMut<'a, B, u32>,
    /// `[n_seqs]`: the position just computed, then the next one.
    pub positions: ViewMut<'a, B, u32>,
    /// `[n_seqs]`.
    pub tokens: ViewMut<'a, B, u32>,
}

impl<B: Storage> Op<B> for Sample<'_, B> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let [n, columns] = self.logits.shape();
        check.mat_mut("logits", &self.logits, [n, columns])?;
        let vocab = (1..=columns).contains(&self.n_vocab);
        check.value(vocab, "n_vocab", self.n_vocab, "it must be from 1 to the number of logits")?;
        let temperature = self.temperature >= 0.0 && self.temperature.is_finite();
        check.value(temperature, "temperature", self.temperature, "it must be 0 (greedy) or a positive number")?;
        check.value(self.top_p > 0.0 && self.top_p <= 1.0, "top_p", self.top_p, "it must be above 0 and at most 1")?;
        check.value((0.0..=1.0).contains(&self.min_p), "min_p", self.min_p, "it must be from 0 to 1")?;
        let penalty = self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite();
        check.value(penalty, "repetition_penalty", self.repetition_penalty, "it must be a positive number")?;
        check.view_mut("history", &self.history)?;
        let history = n > 0 && self.history.len().is_multiple_of(n) && self.history.len() >= n;
        check.value(history, "history", self.history.len(), "it must hold the same capacity for each sequence")?;
        check.dims(&[self.history.len() / n])?;
        check.len_mut("positions", &self.positions, n)?;
        check.len_mut("tokens", &self.tokens, n)
    }
}
