//! Products of many tokens with many columns of r, which cuBLASLt does at nearly the memory's rate, whatever r.

use super::{grad::launch_sums, transposed::transpose};
use crate::{
    buffer::{Mat, MatMut},
    cuda::{
        device::Cuda,
        launch::{
            dim,
            gemm::{BlasProduct, Gemm, lora_linear::rows_below},
            is_aligned,
        },
        params::{LORA_LINEAR_FACTORS, LoraDownParams, LoraWeightGradParams, Matrix, MatrixMut, TransposeParams},
        scratch::Slot,
    },
    element::{DType, Float},
    error::{Error, Result},
    ops::LoraPart,
};
use core::ffi::c_void;

const OP: &str = "lora";

/// May it be a product of 16-bit matrices whose rows begin at 16 bytes?
fn is_even(dtype: DType, lens: &[u32]) -> bool {
    dtype != DType::F32 && lens.iter().all(|len| *len > 0 && len.is_multiple_of(8))
}

/// Whether pieces, where they begin and how long they are, lie one behind the other.
fn adjoin(pieces: impl IntoIterator<Item = (usize, usize)>) -> bool {
    let mut end = None;
    pieces.into_iter().all(|(start, len)| end.replace(start + len).is_none_or(|end| end == start))
}

/// Whether `xa` of so many columns is a product: on an H200 from then on it wins, with A of several adapters to be put one
/// below the other before.
fn suits_down(n: usize, columns: usize) -> bool {
    columns >= 32 && n * columns >= 64 * 1024
}

/// All of `xa` from one read of `x`, with all A as one matrix, copied where they do not lie one behind the other. False: not
/// so.
///
/// # Safety
/// The op that these are parts of was verified, and what it names is live.
pub(super) unsafe fn down<T: Float>(
    cuda: &Cuda,
    x: Mat<'_, Cuda, T>,
    parts: &[LoraPart<'_, Cuda, T>],
    xa: &mut MatMut<'_, Cuda, T>,
) -> Result<bool> {
    let ([n, inputs], span) = (x.shape(), LoraPart::span(parts));
    let fits = parts.iter().all(|part| part.dropout.is_none() && is_aligned(part.a.ptr() as _, 0, 16))
        && (1..=LORA_LINEAR_FACTORS as usize).contains(&parts.len())
        && suits_down(n, span.len())
        && is_even(T::DTYPE, &[span.len(), inputs].map(dim));
    if !fits {
        return Ok(false);
    }
    let row = inputs * T::DTYPE.bytes();
    let in_place = adjoin(parts.iter().map(|part| (part.xa.start, part.xa.len())))
        && adjoin(parts.iter().map(|part| (part.a.ptr() as usize, part.xa.len() * row)));
    let a = match in_place {
        true => parts[0].a.ptr() as *mut c_void,
        false => cuda.scratch::<u8>(Slot::Weight, span.len() * row)?.cast(),
    };
    let a = MatrixMut { ptr: a, stride: dim(inputs) };
    let gemm = Gemm::new(OP, false, &x, &mut xa.reborrow().columns(span.clone()), false);
    let Some(product) = BlasProduct::new(&gemm, a.as_const()) else { return Ok(false) };
    if !cuda.blas.takes(&product.shape)? {
        return Ok(false);
    }
    // SAFETY: the scratch has a row for each column of the span; the rest is this function's contract.
    unsafe {
        if !in_place {
            rows_below(cuda, parts, span.start, [span.len(), inputs], a)?;
        }
        product.run(cuda)
    }
}

/// `d_xa` and `d_b`, two products, and the transposed copy of the former.
#[derive(Clone, Copy)]
pub(super) struct OfOutput {
    d_xa: BlasProduct,
    d_b: BlasProduct,
    pub(super) transpose: TransposeParams,
}

impl OfOutput {
    /// From so many tokens on they win for each stack of a layer.
    const TOKENS: u32 = 1024;

    /// None: not so. `b` is `[out, r]`.
    pub(super) fn new(
        cuda: &Cuda,
        dtype: DType,
        p: &LoraDownParams,
        d_b: &LoraWeightGradParams,
        b: *const c_void,
    ) -> Result<Option<Self>> {
        if p.n < Self::TOKENS || !is_even(dtype, &[p.r, p.cols]) {
            return Ok(None);
        }
        let [n, m, k] = [p.n, p.r, p.cols].map(|len| len as usize);
        let gemm =
            Gemm { op: OP, grad: true, n, m, k, x: p.x, out: p.out, input: dtype, output: dtype, accumulate: false };
        let products = BlasProduct::new(&gemm, Matrix { ptr: b, stride: p.r }).zip(of_factor(dtype, d_b));
        let Some((d_xa, d_b)) = products else { return Ok(None) };
        if !(cuda.blas.takes(&d_xa.shape)? && cuda.blas.takes(&d_b.shape)?) {
            return Ok(None);
        }
        let transpose = transpose(p.out.as_const(), [n, m], p.out_t);
        Ok(Some(OfOutput { d_xa: BlasProduct { scale: p.scale, ..d_xa }, d_b, transpose }))
    }

    /// # Safety
    /// What it was made of is live and as large as it says.
    pub(super) unsafe fn run_d_xa(&self, cuda: &Cuda) -> Result<()> {
        // SAFETY: this function's contract is its.
        unsafe { run_taken(cuda, &self.d_xa) }
    }

    /// # Safety
    /// As for [`OfOutput::run_d_xa`].
    pub(super) unsafe fn run_d_b(&self, cuda: &Cuda) -> Result<()> {
        // SAFETY: as in `run_d_xa`.
        unsafe { run_taken(cuda, &self.d_b) }
    }
}

/// Queues a product that cuBLASLt has said to take.
///
/// # Safety
/// As for [`BlasProduct::run`].
unsafe fn run_taken(cuda: &Cuda, product: &BlasProduct) -> Result<()> {
    // SAFETY: this function's contract is its.
    match unsafe { product.run(cuda) }? {
        true => Ok(()),
        false => Err(Error::Cuda { what: "a product of an adapter", reason: "cuBLASLt took it a moment ago".into() }),
    }
}

/// The gradient of a factor, which is added to: a sum over tokens.
fn of_factor(dtype: DType, p: &LoraWeightGradParams) -> Option<BlasProduct> {
    let (x, weight, n, m) = if p.transposed != 0 { (p.x, p.xa, p.cols, p.r) } else { (p.xa, p.x, p.r, p.cols) };
    let out = MatrixMut { ptr: p.out.cast(), stride: m };
    let [n, m, k] = [n, m, p.n].map(|len| len as usize);
    let gemm = Gemm { op: OP, grad: true, n, m, k, x, out, input: dtype, output: DType::F32, accumulate: true };
    let mut product = BlasProduct::new(&gemm, weight)?;
    (product.shape.x_transposed, product.scale) = (true, p.scale);
    Some(product)
}

/// Whether gradients of A of so many columns are one product: fewer where it adds to all of them, and no launch has to.
fn suits_d_a(n: u32, columns: u32, in_place: bool) -> bool {
    if in_place { columns >= 32 && n >= 1024 } else { columns >= 48 && n >= 512 }
}

/// The gradients of A of adapters of one input, of which `d_xa` are columns of one matrix, from one read of the input. False:
/// not so.
///
/// # Safety
/// `d_a` was made of ops that were verified; what it names is live.
pub(super) unsafe fn d_a<T: Float>(cuda: &Cuda, d_a: &[LoraWeightGradParams]) -> Result<bool> {
    let in_place = adjoin(d_a.iter().map(|p| (p.xa.ptr.addr(), p.r as usize * T::DTYPE.bytes())))
        && adjoin(d_a.iter().map(|p| (p.out.addr(), p.r as usize * p.cols as usize * size_of::<f32>())))
        && d_a.iter().all(|p| p.scale == d_a[0].scale);
    let Some(all) = all_columns::<T>(d_a, in_place) else { return Ok(false) };
    let first = all.xa.ptr.addr();
    let (out, scale) = match in_place {
        true => (all.out, all.scale),
        false => (cuda.scratch::<f32>(Slot::Partial, all.r as usize * all.cols as usize)?, 1.0),
    };
    let Some(mut product) = of_factor(T::DTYPE, &LoraWeightGradParams { out, scale, ..all }) else { return Ok(false) };
    product.shape.accumulate = in_place;
    if !cuda.blas.takes(&product.shape)? {
        return Ok(false);
    }
    // SAFETY: this function's contract is its, and the gradients, or the scratch, have a row for each column.
    unsafe { run_taken(cuda, &product)? };
    if in_place {
        return Ok(true);
    }
    let part = |p: &LoraWeightGradParams| {
        let row = (p.xa.ptr.addr() - first) / T::DTYPE.bytes();
        LoraWeightGradParams { partial: out.wrapping_add(row * p.cols as usize), splits: 1, ..*p }
    };
    // SAFETY: this function's contract is its; what was multiplied are sums of one part each.
    unsafe { launch_sums(cuda, &d_a.iter().map(part).collect::<Vec<_>>()) }.map(|()| true)
}

/// All of them as one, from the first column of `d_xa` to the last, where that suits.
fn all_columns<T: Float>(d_a: &[LoraWeightGradParams], in_place: bool) -> Option<LoraWeightGradParams> {
    let end = |p: &LoraWeightGradParams| p.xa.ptr.wrapping_byte_add(p.r as usize * T::DTYPE.bytes());
    let first = d_a.iter().min_by_key(|p| p.xa.ptr)?;
    let end = d_a.iter().map(end).max()?;
    let columns = dim((end.addr() - first.xa.ptr.addr()) / T::DTYPE.bytes());
    let fits = d_a.iter().all(|p| p.dropout.threshold == 0)
        && suits_d_a(first.n, columns, in_place)
        && is_even(T::DTYPE, &[columns, first.cols]);
    fits.then_some(LoraWeightGradParams { r: columns, ..*first })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_adjoin_where_none_is_between() {
        assert!(adjoin([]) && adjoin([(3, 4)]) && adjoin([(3, 4), (7, 2), (9, 0)]));
        assert!(!adjoin([(3, 4), (8, 2)]) && !adjoin([(7, 2), (3, 4)]));
    }

    #[test]
    fn products_are_taken_where_they_were_measured_to_win() {
        let down = |columns| [512, 1024, 2048].map(|n| suits_down(n, columns));
        assert_eq!(down(16), [false; 3]);
        assert_eq!(down(48), [false, false, true]);
        assert_eq!(down(64), [false, true, true]);
        assert_eq!(down(192), [true; 3]);
        assert_eq!([16, 32, 48, 192].map(|columns| suits_d_a(8192, columns, false)), [false, false, true, true]);
        assert_eq!([16, 32].map(|columns| suits_d_a(8192, columns, true)), [false, true]);
        assert!(!suits_d_a(256, 192, true) && !suits_d_a(256, 192, false));
    }
}
