use super::dim;
use crate::{
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        params::{CROSS_ENTROPY_PACK_BYTES, CROSS_ENTROPY_STATIC_BYTES, CROSS_ENTROPY_THREADS, CrossEntropyParams},
    },
    element::Float,
    error::Result,
    ops::CrossEntropy,
};

const CROSS_ENTROPY: Kernel<CrossEntropyParams> = Kernel::new("cross_entropy", "cross_entropy");
const PACK: usize = CROSS_ENTROPY_PACK_BYTES as usize;

pub(in crate::cuda) fn cross_entropy<T: Float>(cuda: &Cuda, mut op: CrossEntropy<'_, Cuda, T>) -> Result<()> {
    let [n, vocab] = op.logits.shape();
    // What waits in shared memory is not read a second time; without a gradient nothing is.
    let room = cuda.max_shared.saturating_sub(CROSS_ENTROPY_STATIC_BYTES as usize) / PACK;
    let cached = if op.grad_scale.is_some() { room.min(vocab * size_of::<T>() / PACK) } else { 0 };
    let params = CrossEntropyParams {
        logits: op.logits.matrix(),
        labels: op.labels.ptr() as _,
        losses: op.losses.ptr() as _,
        n: dim(n),
        vocab: dim(vocab),
        with_grad: op.grad_scale.is_some().into(),
        cached: dim(cached),
        grad_scale: op.grad_scale.unwrap_or(0.0),
    };
    let config = LaunchConfig { grid: [dim(n), 1, 1], threads: CROSS_ENTROPY_THREADS, shared: dim(cached * PACK) };
    // SAFETY: `CrossEntropy::verify` checked every shape against `params.n` and `params.vocab`; there is shared memory
    // for `params.cached` packs.
    unsafe { cuda.launch(&CROSS_ENTROPY, T::DTYPE.suffix(), params, config) }
}
