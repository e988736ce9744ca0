//! Products that take adapters along: `[x | xa]` with `[W | scale B]`, and `[d_out | d_xa]` with `W` above `A`.

use super::operands::{self, Beside, Factors};
use crate::{
    cuda::{
        device::Cuda,
        launch::{
            dequantize::launch_dequantize,
            dim,
            gemm::{
                Gemm,
                linear::{Dense, dense},
                linear4::{part_of, rows_at_a_time, rows_of},
                linear4_wgmma::{self, More},
                lora::Sums,
            },
            is_aligned, weight4,
        },
        params::{DequantizeParams, LORA_LINEAR_FACTORS, LoraLinearCopyParams, Matrix, MatrixMut},
        scratch::Slot,
    },
    element::{DType, Float},
    error::Result,
    frozen::FrozenWeight,
    ops::{LORA_ROOM, LoraPart},
    quant::Weight4,
};
use core::ffi::c_void;
use std::ops::Range;

/// What a product takes beside the weight.
pub(super) struct Operands {
    /// x or `d_out`, with so much room behind its columns.
    pub(super) x: MatrixMut,
    pub(super) room: usize,
    /// `xa` or `d_xa`, of so many columns.
    pub(super) xa: MatrixMut,
    pub(super) xa_columns: usize,
}

/// How the product comes to B beside the weight, or A below it.
enum Way<'a> {
    /// They are decoded and taken along in the kernel.
    Inside(Weight4<'a, Cuda>),
    /// The weight is decoded to scratch, where they go as well.
    Decoded(Weight4<'a, Cuda>),
    /// They go into the room around a dense weight.
    Around(MatrixMut),
}

/// Adapters that one product takes along.
pub(super) struct Stack<'a, T: Float> {
    weight: FrozenWeight<'a, Cuda, T>,
    parts: &'a [LoraPart<'a, Cuda, T>],
    operands: Operands,
    /// The columns of xa.
    span: Range<usize>,
    /// As many as a product takes, zeros behind them.
    columns: usize,
}

impl<'a, T: Float> Stack<'a, T> {
    /// None: the adapters must be added by ops of their own.
    pub(super) fn new(
        weight: FrozenWeight<'a, Cuda, T>,
        parts: &'a [LoraPart<'a, Cuda, T>],
        operands: Operands,
    ) -> Option<Self> {
        let span = LoraPart::span(parts);
        let span = span.start..span.end.next_multiple_of(8);
        let (columns, [rows, cols]) = (span.len().next_multiple_of(LORA_ROOM), weight.shape());
        let weight_fits = match &weight {
            FrozenWeight::Quantized(weight) => is_aligned(weight.codes.ptr() as _, 0, 16),
            FrozenWeight::Dense(weight) => columns <= weight.room() && weight.mat().matrix().is_aligned(T::DTYPE, 16),
        };
        let fits = T::DTYPE != DType::F32
            && (1..=LORA_LINEAR_FACTORS as usize).contains(&parts.len())
            && parts.iter().all(|part| is_aligned(part.a.ptr() as _, 0, 16))
            && columns <= operands.room
            && span.end <= operands.xa_columns
            && [rows, cols, span.start, span.len()].iter().all(|len| len.is_multiple_of(8))
            && weight_fits
            && [operands.x, operands.xa].iter().all(|matrix| matrix.is_aligned(T::DTYPE, 16));
        fits.then_some(Stack { weight, parts, operands, span, columns })
    }

    /// Of a weight alone, whose adapters are added by ops of their own: for what a gradient's product waits for beside it. None:
    /// the product, too, must be an op of its own.
    pub(super) fn alone(weight: FrozenWeight<'a, Cuda, T>) -> Option<Self> {
        let FrozenWeight::Quantized(codes) = &weight else { return None };
        let even = weight.shape().iter().all(|len| len.is_multiple_of(8));
        let fits = T::DTYPE != DType::F32 && even && is_aligned(codes.codes.ptr() as _, 0, 16);
        let nothing = MatrixMut::NONE;
        let operands = Operands { x: nothing, room: 0, xa: nothing, xa_columns: 0 };
        fits.then_some(Stack { weight, parts: &[], operands, span: 0..0, columns: 0 })
    }

    /// The way that suits a product of the weight; none where ops of their own are better. Weights are decoded first for
    /// more than so many tokens.
    pub(super) fn with_way(self, cuda: &Cuda, gemm: &Gemm, decoded: usize) -> Result<Option<Whole<'a, T>>> {
        let way = match self.weight {
            FrozenWeight::Dense(weight) => {
                let Matrix { ptr, stride } = weight.mat().matrix();
                Way::Around(MatrixMut { ptr: ptr.cast_mut(), stride })
            }
            FrozenWeight::Quantized(weight)
                if More::fits(gemm, &weight) && linear4_wgmma::fits(cuda, gemm, &weight)? =>
            {
                match self.parts {
                    [] => return Ok(None),
                    _ => Way::Inside(weight),
                }
            }
            FrozenWeight::Quantized(weight) if gemm.n > decoded => Way::Decoded(weight),
            FrozenWeight::Quantized(_) => return Ok(None),
        };
        Ok(Some(Whole { stack: self, way }))
    }

    fn factors(&self) -> Factors<'a, T> {
        Factors { parts: self.parts, first: self.span.start }
    }

    /// Of these rows of the weight, which is decoded if `decode` says so, all scaled B, one beside the other, to `out`; and
    /// `xa` to its place.
    ///
    /// # Safety
    /// `out` and that of `decode` have room for them; what `xa` names is live.
    unsafe fn columns_beside(
        &self,
        cuda: &Cuda,
        xa: LoraLinearCopyParams,
        rows: Range<usize>,
        out: MatrixMut,
        decode: DequantizeParams,
    ) -> Result<()> {
        let factors = self.factors().beside(rows, self.columns, out);
        // SAFETY: `out` has room, as this function's contract says; of the factors `LoraLinear::verify` checked the
        // shapes.
        unsafe { operands::beside::<T>(cuda, xa, factors, decode) }
    }

    /// All A, one below the other, to `out`; `d_xa` to its place, and the weight likewise.
    ///
    /// # Safety
    /// As for [`Stack::columns_beside`]; parts of sums are there.
    unsafe fn rows_below(&self, cuda: &Cuda, d_xa: Beside, out: MatrixMut, decode: DequantizeParams) -> Result<()> {
        let factors = self.factors().below([self.columns, self.weight.shape()[1]], out);
        // SAFETY: this function's contract is its; of the factors `LoraLinearGrad::verify` checked the shapes.
        unsafe { operands::below::<T>(cuda, d_xa, factors, decode) }
    }

    /// The columns of `xa`, which go behind the first `cols` columns of the operand, of `n` rows.
    fn xa_beside(&self, [n, cols]: [usize; 2]) -> LoraLinearCopyParams {
        let Stack { operands: Operands { x, xa, .. }, span, columns, .. } = self;
        let xa = behind(*xa, span.start, T::DTYPE).as_const();
        let out = behind(*x, cols, T::DTYPE);
        LoraLinearCopyParams { x: xa, out, rows: dim(n), used: dim(span.len()), cols: dim(*columns) }
    }

    /// The same of `d_xa`, some of whose sums are left to do: where these are all of its columns, they go there at once. A
    /// weight alone has no such place.
    ///
    /// # Safety
    /// As for [`Sums::launch`].
    unsafe fn d_xa_beside(&self, cuda: &Cuda, sums: Option<Sums>, [n, cols]: [usize; 2]) -> Result<Beside> {
        let all = self.xa_beside([n, cols]);
        match sums {
            Some(sums) if self.parts.is_empty() => {
                Ok(Beside { xa: LoraLinearCopyParams::NONE, sums: Some(sums.beside(|_| MatrixMut::NONE)) })
            }
            Some(sums) if sums.columns() == self.span.len() => {
                let place = |d_xa: MatrixMut| {
                    let at = d_xa.ptr.addr() - all.x.ptr.addr();
                    MatrixMut { ptr: all.out.ptr.wrapping_byte_add(at), ..all.out }
                };
                let out = behind(all.out, self.span.len(), T::DTYPE);
                let zeros = LoraLinearCopyParams { out, used: 0, cols: all.cols - all.used, ..all };
                Ok(Beside { xa: zeros, sums: Some(sums.beside(place)) })
            }
            // SAFETY: this function's contract is its.
            Some(sums) => unsafe { sums.launch::<T>(cuda) }.map(|()| Beside { xa: all, sums: None }),
            None => Ok(Beside { xa: all, sums: None }),
        }
    }
}

/// A product with adapters, and its way.
pub(super) struct Whole<'a, T: Float> {
    stack: Stack<'a, T>,
    way: Way<'a>,
}

impl<T: Float> Whole<'_, T> {
    /// `out (+)= [x | xa] [W | scale B]ᵀ`, where `gemm` is the product with the weight; `xa` is there.
    ///
    /// # Safety
    /// The op's matrices are live and as large as its dimensions say.
    pub(super) unsafe fn forward(&self, cuda: &Cuda, gemm: &Gemm) -> Result<()> {
        let Whole { stack, way } = self;
        let [rows, inputs] = stack.weight.shape();
        let xa = stack.xa_beside([gemm.n, inputs]);
        let gemm = &Gemm { k: inputs + stack.columns, ..*gemm };
        // SAFETY: this function's contract is theirs; the room around a dense weight has the stack's columns (`Stack::new`),
        // and ops alone use it, one after the other.
        unsafe {
            match way {
                Way::Inside(weight) => stack.forward_inside(cuda, weight, xa, gemm),
                Way::Decoded(weight) => stack.forward_decoded(cuda, weight, xa, gemm),
                Way::Around(weight) => {
                    let out = behind(*weight, inputs, T::DTYPE);
                    stack.columns_beside(cuda, xa, 0..rows, out, DequantizeParams::NONE)?;
                    dense(cuda, gemm, Dense::new(weight.as_const()))
                }
            }
        }
    }

    /// `d_x = [d_out | d_xa] · (W above A)`, likewise; `sums` are left to do, of `d_xa` and what comes with it.
    ///
    /// # Safety
    /// As for [`Whole::forward`] and [`Sums::launch`].
    pub(super) unsafe fn backward(&self, cuda: &Cuda, gemm: &Gemm, sums: Option<Sums>) -> Result<()> {
        let Whole { stack, way } = self;
        let [rows, _] = stack.weight.shape();
        // SAFETY: as in `forward`; the rest is this function's contract.
        unsafe {
            let d_xa = stack.d_xa_beside(cuda, sums, [gemm.n, rows])?;
            let gemm = &Gemm { k: rows + stack.columns, ..*gemm };
            match way {
                Way::Inside(weight) => stack.backward_inside(cuda, weight, d_xa, gemm),
                Way::Decoded(weight) => stack.backward_decoded(cuda, weight, d_xa, gemm),
                Way::Around(weight) => {
                    let out = behind(*weight, rows * weight.stride as usize, T::DTYPE);
                    stack.rows_below(cuda, d_xa, out, DequantizeParams::NONE)?;
                    dense(cuda, gemm, Dense::new(weight.as_const()))
                }
            }
        }
    }
}

impl<T: Float> Stack<'_, T> {
    /// W decoded in the kernel.
    ///
    /// # Safety
    /// The matrices are as large as `gemm` says, whose columns of the input are those of the weight and the stack's; `xa` goes
    /// there. The product [fits](linear4_wgmma::fits).
    unsafe fn forward_inside(
        &self,
        cuda: &Cuda,
        weight: &Weight4<'_, Cuda>,
        xa: LoraLinearCopyParams,
        gemm: &Gemm,
    ) -> Result<()> {
        let columns = self.columns;
        let ptr = cuda.scratch::<u8>(Slot::Weight, weight.rows * columns * T::DTYPE.bytes())?.cast::<c_void>();
        // SAFETY: the scratch has the stack's columns; the rest is this function's contract.
        unsafe {
            let out = MatrixMut { ptr, stride: dim(columns) };
            self.columns_beside(cuda, xa, 0..weight.rows, out, DequantizeParams::NONE)?;
            linear4_wgmma::run(cuda, gemm, weight, Some(More { ptr, k: columns }))
        }
    }

    /// W decoded before.
    ///
    /// # Safety
    /// As for [`Stack::forward_inside`], but for the last sentence.
    unsafe fn forward_decoded(
        &self,
        cuda: &Cuda,
        weight: &Weight4<'_, Cuda>,
        mut xa: LoraLinearCopyParams,
        gemm: &Gemm,
    ) -> Result<()> {
        let (pitch, step) = (gemm.k, rows_at_a_time(weight, gemm.k, T::DTYPE));
        for first in (0..weight.rows).step_by(step) {
            let rows = first..weight.rows.min(first + step);
            let ptr = cuda.scratch::<u8>(Slot::Weight, rows.len() * pitch * T::DTYPE.bytes())?.cast::<c_void>();
            let scratch = MatrixMut { ptr, stride: dim(pitch) };
            // SAFETY: the scratch has these rows, with room for both; the rest is this function's contract.
            unsafe {
                let out = behind(scratch, weight.cols, T::DTYPE);
                self.columns_beside(cuda, xa, rows.clone(), out, decoded(weight, rows.clone(), scratch))?;
                dense(cuda, &part_of(gemm, rows), Dense::new(scratch.as_const()))?;
            }
            xa.rows = 0; // it is there
        }
        Ok(())
    }

    /// W decoded in the kernel.
    ///
    /// # Safety
    /// The matrices are as large as `gemm` says; the input's columns are the rows of the weight, then the stack's, where `d_xa`
    /// goes. The product [fits](linear4_wgmma::fits).
    unsafe fn backward_inside(&self, cuda: &Cuda, weight: &Weight4<'_, Cuda>, d_xa: Beside, gemm: &Gemm) -> Result<()> {
        let columns = self.columns;
        let ptr = cuda.scratch::<u8>(Slot::Weight, columns * weight.cols * T::DTYPE.bytes())?.cast::<c_void>();
        // SAFETY: the scratch has the stack's rows; the rest is this function's contract.
        unsafe {
            let out = MatrixMut { ptr, stride: dim(weight.cols) };
            self.rows_below(cuda, d_xa, out, DequantizeParams::NONE)?;
            linear4_wgmma::run(cuda, gemm, weight, Some(More { ptr, k: columns }))
        }
    }

    /// W decoded before.
    ///
    /// # Safety
    /// As for [`Stack::backward_inside`], but for the last sentence.
    unsafe fn backward_decoded(
        &self,
        cuda: &Cuda,
        weight: &Weight4<'_, Cuda>,
        d_xa: Beside,
        gemm: &Gemm,
    ) -> Result<()> {
        let (cols, step) = (weight.cols, rows_at_a_time(weight, weight.cols, T::DTYPE));
        for first in (0..weight.rows).step_by(step) {
            let rows = first..weight.rows.min(first + step);
            let last = rows.end == weight.rows;
            let below = if last { self.columns } else { 0 };
            let bytes = (rows.len() + below) * cols * T::DTYPE.bytes();
            let ptr = cuda.scratch::<u8>(Slot::Weight, bytes)?.cast::<c_void>();
            let scratch = MatrixMut { ptr, stride: dim(cols) };
            let out = behind(scratch, rows.len() * cols, T::DTYPE);
            // SAFETY: the scratch has these rows, and those below them; the rest is this function's contract.
            unsafe {
                let decode = decoded(weight, rows.clone(), scratch);
                match last {
                    true => self.rows_below(cuda, d_xa, out, decode)?,
                    false => launch_dequantize(cuda, T::DTYPE, decode)?,
                }
                dense(cuda, &part_of(gemm, rows.start..rows.end + below), Dense::new(scratch.as_const()))?;
            }
        }
        Ok(())
    }
}

/// Rows of a weight, decoded to `out`.
fn decoded(weight: &Weight4<'_, Cuda>, rows: Range<usize>, out: MatrixMut) -> DequantizeParams {
    DequantizeParams { weight: weight4(&rows_of(weight, rows)), out }
}

/// The elements from `first` on, as kernels take them.
fn behind(matrix: MatrixMut, first: usize, dtype: DType) -> MatrixMut {
    MatrixMut { ptr: matrix.ptr.wrapping_byte_add(first * dtype.bytes()), ..matrix }
}
