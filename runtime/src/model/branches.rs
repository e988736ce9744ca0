//! The losses of several continuations of each prompt.

use super::{activations::Activations, context::ForwardContext, loss::LossBuffers, qwen3::Qwen3};
use crate::{
    batch::{Branches, batches_of_branches},
    error::Result,
};
use halfbyte::{Backend, Float};

/// The loss in nats of every token of every option of each prompt; as many tokens at once as `acts` and `buffers` have
/// room for.
pub(crate) fn branch_losses<B: Backend, T: Float>(
    model: &Qwen3<B, T>,
    ctx: ForwardContext<'_, B, T>,
    acts: &mut Activations<B, T>,
    buffers: &mut LossBuffers<B, T>,
    all: &[Branches],
) -> Result<Vec<Vec<Vec<f32>>>> {
    all.iter().try_for_each(Branches::expect_tokens)?;
    let mut losses = Vec::new();
    for batch in batches_of_branches(all, acts.capacity)? {
        losses.extend(model.target_losses(ctx, acts, buffers, &batch)?);
    }
    let mut rest = losses.into_iter();
    let mut of_option = |option: &Vec<u32>| rest.by_ref().take(option.len()).collect();
    Ok(all.iter().map(|branches| branches.options.iter().map(&mut of_option).collect()).collect())
}

/// The log-likelihood of tokens with these losses.
pub(crate) fn log_likelihood(losses: &[f32]) -> f64 {
    -losses.iter().map(|&loss| f64::from(loss)).sum::<f64>()
}
