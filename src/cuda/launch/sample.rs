use super::dim;
use crate::{
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        params::{SAMPLE_THREADS, SampleParams},
        scratch::Slot,
    },
    error::Result,
    ops::Sample,
};
use std::ptr::null_mut;

const SAMPLE: Kernel<SampleParams> = Kernel::new("sample", "sample");

pub(in crate::cuda) fn sample(cuda: &Cuda, mut op: Sample<'_, Cuda>) -> Result<()> {
    let n_seqs = op.logits.shape()[0];
    let seen = if op.repetition_penalty == 1.0 {
        null_mut()
    } else {
        cuda.scratch(Slot::Seen, n_seqs * op.n_vocab.div_ceil(32))?
    };
    let params = SampleParams {
        logits: op.logits.matrix(),
        history: op.history.ptr() as _,
        positions: op.positions.ptr() as _,
        tokens: op.tokens.ptr() as _,
        seen,
        n_seqs: dim(n_seqs),
        vocab: dim(op.n_vocab),
        capacity: dim(op.history.len() / n_seqs),
        // More than all is all.
        top_k: dim(op.top_k.min(op.n_vocab)),
        temperature: op.temperature,
        top_p: op.top_p,
        min_p: op.min_p,
        repetition_penalty: op.repetition_penalty,
        seed: op.seed,
    };
    // SAFETY: `Sample::verify` checked every length; the kernel looks at no token from `vocab` on and at no position
    // from `capacity` on.
    unsafe { cuda.launch(&SAMPLE, "", params, LaunchConfig::new(dim(n_seqs), SAMPLE_THREADS)) }
}
