use super::elementwise;
use crate::{
    cuda::{device::Cuda, kernel::Kernel, params::CastParams},
    element::{
        DType::{Bf16, F16, F32},
        Float,
    },
    error::Result,
    ops::Cast,
};

const CAST: Kernel<CastParams> = Kernel::new("cast", "cast");

pub(in crate::cuda) fn cast<S: Float, T: Float>(cuda: &Cuda, mut op: Cast<'_, Cuda, S, T>) -> Result<()> {
    let len = op.x.len();
    let suffix = match (S::DTYPE, T::DTYPE) {
        (Bf16, Bf16) => "bf16_bf16",
        (Bf16, F16) => "bf16_f16",
        (Bf16, F32) => "bf16_f32",
        (F16, Bf16) => "f16_bf16",
        (F16, F16) => "f16_f16",
        (F16, F32) => "f16_f32",
        (F32, Bf16) => "f32_bf16",
        (F32, F16) => "f32_f16",
        (F32, F32) => "f32_f32",
    };
    let params = CastParams { x: op.x.ptr() as _, out: op.out.ptr() as _, len: len as u64 };
    // SAFETY: `Cast::verify` checked that both vectors are `params.len` long.
    unsafe { cuda.launch(&CAST, suffix, params, elementwise("cast", [1, len])?) }
}
