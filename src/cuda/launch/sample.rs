use super::dim;
use crate::{
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        params::{SAMPLE_CTAS, SAMPLE_SHARED_TOP_K, SAMPLE_THREADS, SampleParams},
        scratch::Slot,
    },
    error::Result,
    ops::Sample,
};
use std::ptr::null_mut;

const SAMPLE: Kernel<SampleParams> = Kernel::new("sample", "sample");
/// Several CTAs for each sequence: for the largest logit, and for small top-k.
const SAMPLE_GREEDY: Kernel<SampleParams> = Kernel::new("sample", "sample_greedy");
const SAMPLE_TOP_K: Kernel<SampleParams> = Kernel::new("sample", "sample_top_k");

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
    let (kernel, ctas) = match shared_kernel(&params).filter(|_| pays(cuda, n_seqs)) {
        Some(kernel) if cuda.has(kernel, "")? => (kernel, SAMPLE_CTAS),
        _ => (&SAMPLE, 1),
    };
    // SAFETY: `Sample::verify` checked every length; the kernels look at no token from `vocab` on and at no position
    // from `capacity` on.
    unsafe { cuda.launch(kernel, "", params, LaunchConfig::new(dim(n_seqs) * ctas, SAMPLE_THREADS)) }
}

/// The kernel of several CTAs for each sequence, if there is one for such a choice.
fn shared_kernel(params: &SampleParams) -> Option<&'static Kernel<SampleParams>> {
    match params {
        _ if !params.seen.is_null() => None,
        SampleParams { temperature: 0.0, .. } => Some(&SAMPLE_GREEDY),
        SampleParams { top_k: 1..=SAMPLE_SHARED_TOP_K, .. } => Some(&SAMPLE_TOP_K),
        _ => None,
    }
}

/// Whether several CTAs for each sequence take less time than one: where they are half as many as multiprocessors.
fn pays(cuda: &Cuda, n_seqs: usize) -> bool {
    2 * SAMPLE_CTAS as usize * n_seqs <= cuda.n_sms as usize
}
