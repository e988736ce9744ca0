use super::{dim, elementwise};
use crate::{
    cuda::{device::Cuda, kernel::Kernel, params::NoiseParams},
    element::Float,
    error::Result,
    ops::Noise,
};

const NOISE: Kernel<NoiseParams> = Kernel::new("noise", "noise");

pub(in crate::cuda) fn noise<T: Float>(cuda: &Cuda, mut op: Noise<'_, Cuda, T>) -> Result<()> {
    let [n, d] = op.x.shape();
    let Noise { bound, seed, stream, .. } = op;
    let params = NoiseParams { x: op.x.matrix(), seed, stream, n: dim(n), d: dim(d), bound };
    // SAFETY: `Noise::verify` checked the shape that `params.n` and `params.d` are.
    unsafe { cuda.launch(&NOISE, T::DTYPE.suffix(), params, elementwise("noise", [n, d])?) }
}
