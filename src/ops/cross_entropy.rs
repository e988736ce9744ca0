use super::check::{Check, Op};
use crate::{
    buffer::{MatMut, Storage, View, ViewMut},
    element::Float,
    error::Result,
};

/// The label of a row that does not count.
pub const IGNORE: u32 = u32::MAX;

/// `losses[i] = ln sum_c exp(logits[i, c]) - logits[i, labels[i]]`, 0 where the label is [`IGNORE`] (or outside).
///
/// With `grad_scale`, the logits are overwritten by their gradient,
/// `grad_scale · (softmax(logits[i, :]) - onehot(labels[i]))`, zeros in ignored rows.
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// let (mut logits, labels, mut losses) = (cpu.zeros::<f32>(4)?, cpu.upload(&[1, IGNORE])?, cpu.zeros(2)?);
/// let (labels, losses_out) = (labels.view(), losses.view_mut());
/// CrossEntropy { logits: logits.mat_mut(2, 2), labels, losses: losses_out, grad_scale: Some(1.0) }.run(&cpu)?;
/// let near = |got: Vec<f32>, want: [f32; 2]| got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-6);
/// assert!(near(losses.to_vec(&cpu)?, [2_f32.ln(), 0.0]));
/// assert!(near(cpu.download(logits.at(0..2))?, [0.5, -0.5]));
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct CrossEntropy<'a, B: Storage, T: Float> {
    /// `[n, n_vocab]`: logits, then their gradient.
    pub logits: MatMut<'a, B, T>,
    /// `[n]`.
    pub labels: View<'a, B, u32>,
    /// `[n]`, in nats.
    pub losses: ViewMut<'a, B, f32>,
    /// What to multiply the gradient with: loss scale over the number of targets. None: no gradient.
    pub grad_scale: Option<f32>,
}

impl<B: Storage, T: Float> Op<B> for CrossEntropy<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let [n, vocab] = self.logits.shape();
        check.mat_mut("logits", &self.logits, [n, vocab])?;
        check.value(vocab > 0, "the vocabulary", 0, "it must not be empty")?;
        check.len("labels", &self.labels, n)?;
        check.len_mut("losses", &self.losses, n)
    }
}
