//! What a product that takes adapters along waits for, in one launch: `xa` beside x, or the sums that `d_xa` is made of, B
//! beside the weight, or A below it, and the weight itself, decoded.

use crate::{
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        launch::{dim, grid},
        params::{
            DequantizeParams, LORA_LINEAR_FACTORS, LORA_LINEAR_THREADS, LoraLinearCopyParams, LoraLinearFactor,
            LoraLinearFactorsParams, LoraLinearParams, LoraLinearSumsParams, LoraOutGradSumsParams, Matrix, MatrixMut,
        },
    },
    element::Float,
    error::Result,
    ops::LoraPart,
};
use std::ops::Range;

const BESIDE: Kernel<LoraLinearParams> = Kernel::new("lora_linear", "lora_linear_beside");
const BELOW: Kernel<LoraLinearParams> = Kernel::new("lora_linear", "lora_linear_below");
const SUMS_BELOW: Kernel<LoraLinearSumsParams> = Kernel::new("lora_linear", "lora_linear_sums_below");

impl LoraLinearCopyParams {
    pub(in crate::cuda::launch::gemm) const NONE: Self =
        LoraLinearCopyParams { x: Matrix::NONE, out: MatrixMut::NONE, rows: 0, used: 0, cols: 0 };
}

/// What comes to the place of `xa`.
#[derive(Clone, Copy)]
pub(super) struct Beside {
    /// `xa`, or what is beside sums.
    pub(super) xa: LoraLinearCopyParams,
    /// Sums that `d_xa` is made of, and all their CTAs.
    pub(super) sums: Option<(LoraOutGradSumsParams, u32)>,
}

/// Factors of one stack, one beside the other or one below the other.
pub(super) struct Factors<'a, T: Float> {
    pub(super) parts: &'a [LoraPart<'a, Cuda, T>],
    /// The first column of xa.
    pub(super) first: usize,
}

impl<T: Float> Factors<'_, T> {
    /// Of these rows of the weight all scaled B, one beside the other, in so many columns, with zeros where there is none.
    pub(super) fn beside(&self, rows: Range<usize>, columns: usize, out: MatrixMut) -> LoraLinearFactorsParams {
        let params = self.params(|part| part.b.ptr(), [rows.len(), columns], out);
        LoraLinearFactorsParams { first_row: dim(rows.start), ..params }
    }

    /// `[rows, cols]` of all A, one below the other, and zeros where there is none.
    pub(super) fn below(&self, shape: [usize; 2], out: MatrixMut) -> LoraLinearFactorsParams {
        self.params(|part| part.a.ptr(), shape, out)
    }

    fn params(
        &self,
        of: impl Fn(&LoraPart<'_, Cuda, T>) -> u64,
        [rows, cols]: [usize; 2],
        out: MatrixMut,
    ) -> LoraLinearFactorsParams {
        let mut factors = [LoraLinearFactor::NONE; LORA_LINEAR_FACTORS as usize];
        for (factor, part) in factors.iter_mut().zip(self.parts) {
            *factor = LoraLinearFactor::new(of(part) as _, part, self.first);
        }
        let count = dim(self.parts.len());
        LoraLinearFactorsParams { factors, count, out, first_row: 0, rows: dim(rows), cols: dim(cols) }
    }
}

/// `[rows, cols]` of all A, one below the other, and zeros where there is none, to `out`; columns of `xa` count from `first` on.
///
/// # Safety
/// `out` has room for them; the parts were verified, A has `cols` columns, and there are no more parts than a launch takes.
pub(in crate::cuda::launch::gemm) unsafe fn rows_below<T: Float>(
    cuda: &Cuda,
    parts: &[LoraPart<'_, Cuda, T>],
    first: usize,
    shape: [usize; 2],
    out: MatrixMut,
) -> Result<()> {
    let factors = Factors { parts, first }.below(shape, out);
    let nothing = Beside { xa: LoraLinearCopyParams::NONE, sums: None };
    // SAFETY: this function's contract is its.
    unsafe { below::<T>(cuda, nothing, factors, DequantizeParams::NONE) }
}

/// Queues `xa` to its place, B beside the weight, and the weight.
///
/// # Safety
/// The matrices and factors are live and as large as the parameters say, aligned to 16 bytes, and their columns multiples of 8.
pub(super) unsafe fn beside<T: Float>(
    cuda: &Cuda,
    xa: LoraLinearCopyParams,
    factors: LoraLinearFactorsParams,
    decode: DequantizeParams,
) -> Result<()> {
    let (params, ctas) = operands(xa, factors, decode)?;
    // SAFETY: this function's contract is that of `Cuda::launch`.
    unsafe { cuda.launch(&BESIDE, T::DTYPE.suffix(), params, LaunchConfig::new(ctas, LORA_LINEAR_THREADS)) }
}

/// Queues `d_xa` to its place, A below the weight, and the weight.
///
/// # Safety
/// As for [`beside`]; where there are sums, their parts are there.
pub(super) unsafe fn below<T: Float>(
    cuda: &Cuda,
    d_xa: Beside,
    factors: LoraLinearFactorsParams,
    decode: DequantizeParams,
) -> Result<()> {
    let (operands, ctas) = operands(d_xa.xa, factors, decode)?;
    let config = |ctas| LaunchConfig::new(ctas, LORA_LINEAR_THREADS);
    // SAFETY: this function's contract is that of `Cuda::launch`.
    unsafe {
        match d_xa.sums {
            Some((sums, sums_end)) => {
                let params = LoraLinearSumsParams { sums, sums_end, operands };
                cuda.launch(&SUMS_BELOW, T::DTYPE.suffix(), params, config(sums_end + ctas))
            }
            None => cuda.launch(&BELOW, T::DTYPE.suffix(), operands, config(ctas)),
        }
    }
}

/// The parameters of a launch, and its CTAs.
fn operands(
    xa: LoraLinearCopyParams,
    factors: LoraLinearFactorsParams,
    decode: DequantizeParams,
) -> Result<(LoraLinearParams, u32)> {
    // 8 elements a thread.
    let blocks = |rows: u32, cols: u32| {
        let shape = [rows, cols].map(|len| len as usize);
        grid("lora_linear", &shape, shape.iter().product::<usize>().div_ceil(8 * LORA_LINEAR_THREADS as usize))
    };
    let xa_end = blocks(xa.rows, xa.cols)?;
    let factors_end = xa_end + blocks(factors.rows, factors.cols)?;
    let params = LoraLinearParams { xa, factors, decode, xa_end, factors_end };
    Ok((params, factors_end + decode.blocks()?))
}
