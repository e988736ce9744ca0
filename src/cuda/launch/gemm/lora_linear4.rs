//! One or two tokens: `norm_linear4.rs`, without a norm. Up to [`SEPARATE_TOKENS`] a product and its adapters are ops of
//! their own. For more, the weight is decoded to scratch in any case: with B beside it, or A below it, one product has
//! all.

use super::{
    Gemm,
    linear::{self, Dense},
    linear4::{linear4, linear4_grad, part_of, rows_at_a_time, rows_of},
    linear4_wgmma::{self, More},
    lora::{LoraGrads, lora_down, swiglu_down},
    norm_linear4::{Fused, adapters},
};
use crate::{
    buffer::{MatMut, View},
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        launch::{dequantize::launch_dequantize, dim, grid, is_aligned, rms_norm, swiglu, weight4},
        params::{
            DequantizeParams, LORA_LINEAR4_FACTORS, LORA_LINEAR4_THREADS, LoraLinear4CopyParams, LoraLinear4Factor,
            LoraLinear4FactorsParams, LoraLinear4Params, Matrix, MatrixMut,
        },
        scratch::Slot,
    },
    element::{DType, Float},
    error::Result,
    ops::{
        LORA_ROOM, Linear4, Linear4Grad, LoraInput, LoraLinear4, LoraLinear4Grad, LoraPart, RmsNormGrad, Swiglu,
        SwigluGrad,
    },
    quant::Weight4,
};
use core::ffi::c_void;
use std::ops::Range;

/// Adapters of more tokens are part of the product: inside `linear4_wgmma.rs`, which takes B or A as they are, or where
/// the weight is decoded to scratch.
const SEPARATE_TOKENS: usize = 16;
/// Up to so many, decoding first takes longer than adapters of their own.
const DECODED_TOKENS: usize = 1024;
/// The same of the gradient: at 512 tokens one product that decodes before took 2 % off a step.
const DECODED_GRAD_TOKENS: usize = 256;

const BESIDE: Kernel<LoraLinear4Params> = Kernel::new("lora_linear4", "lora_linear4_beside");
const BELOW: Kernel<LoraLinear4Params> = Kernel::new("lora_linear4", "lora_linear4_below");

type Factors = [LoraLinear4Factor; LORA_LINEAR4_FACTORS as usize];

/// One product that takes adapters along.
struct Stack<'a, T: Float> {
    weight: Weight4<'a, Cuda>,
    parts: &'a [LoraPart<'a, Cuda, T>],
    /// The columns of xa.
    span: Range<usize>,
    /// As many as a product takes, zeros behind them.
    columns: usize,
}

impl<'a, T: Float> Stack<'a, T> {
    /// None: the adapters are better, as for up to `separate` tokens, or must be, added by their own ops. `room` is the
    /// operand's, for columns of `xa`, which has so many.
    fn new(
        n: usize,
        separate: usize,
        weight: Weight4<'a, Cuda>,
        parts: &'a [LoraPart<'a, Cuda, T>],
        room: usize,
        xa_columns: usize,
        operands: [Matrix; 2],
    ) -> Option<Self> {
        let span = LoraPart::span(parts);
        let span = span.start..span.end.next_multiple_of(8);
        let columns = span.len().next_multiple_of(LORA_ROOM);
        let aligned = operands.iter().all(|matrix| matrix.is_aligned(T::DTYPE, 16));
        let factors = |view: View<'_, Cuda, T>| is_aligned(view.ptr() as _, 0, 16);
        let fits = n > separate
            && T::DTYPE != DType::F32
            && (1..=LORA_LINEAR4_FACTORS as usize).contains(&parts.len())
            && parts.iter().all(|part| factors(part.a))
            && columns <= room
            && span.end <= xa_columns
            && [weight.rows, weight.cols, span.start, span.len()].iter().all(|len| len.is_multiple_of(8))
            && is_aligned(weight.codes.ptr() as _, 0, 16)
            && aligned;
        fits.then_some(Stack { weight, parts, span, columns })
    }

    /// The factors that `of` picks, and where they belong.
    fn factors(&self, of: impl Fn(&LoraPart<'_, Cuda, T>) -> u64) -> (Factors, u32) {
        let mut factors = [LoraLinear4Factor::NONE; LORA_LINEAR4_FACTORS as usize];
        for (factor, part) in factors.iter_mut().zip(self.parts) {
            *factor = LoraLinear4Factor::new(of(part) as _, part, self.span.start);
        }
        (factors, dim(self.parts.len()))
    }

    /// Decodes rows of the weight to `out`.
    ///
    /// # Safety
    /// `out` has room for them.
    unsafe fn decode(&self, cuda: &Cuda, rows: Range<usize>, out: MatrixMut) -> Result<()> {
        let params = DequantizeParams { weight: weight4(&rows_of(&self.weight, rows)), out };
        // SAFETY: `out` has room, as this function's contract says; `new` checked columns and alignment.
        unsafe { launch_dequantize(cuda, T::DTYPE, params) }
    }
}

impl<T: Float> Stack<'_, T> {
    /// Of these rows of the weight all scaled B, one beside the other, and zeros where there is none, to `out`; and `xa`
    /// to its place.
    ///
    /// # Safety
    /// `out` has room for them; what `xa` names is live.
    unsafe fn columns_beside(
        &self,
        cuda: &Cuda,
        xa: LoraLinear4CopyParams,
        rows: Range<usize>,
        out: MatrixMut,
    ) -> Result<()> {
        let (factors, count) = self.factors(|part| part.b.ptr());
        let (first_row, n, cols) = (dim(rows.start), dim(rows.len()), dim(self.columns));
        let factors = LoraLinear4FactorsParams { factors, count, out, first_row, rows: n, cols };
        // SAFETY: `out` has room, as this function's contract says; of the factors `LoraLinear4::verify` checked the
        // shapes.
        unsafe { launch::<T>(cuda, &BESIDE, LoraLinear4Params { xa, factors }) }
    }

    /// All A, one below the other, and zeros where there is none, to `out`; and `xa` to its place.
    ///
    /// # Safety
    /// As for [`Stack::columns_beside`].
    unsafe fn rows_below(&self, cuda: &Cuda, xa: LoraLinear4CopyParams, out: MatrixMut) -> Result<()> {
        let (factors, count) = self.factors(|part| part.a.ptr());
        let (rows, cols) = (dim(self.columns), dim(self.weight.cols));
        let factors = LoraLinear4FactorsParams { factors, count, out, first_row: 0, rows, cols };
        // SAFETY: `out` has room, as this function's contract says; of the factors `LoraLinear4Grad::verify` checked the
        // shapes.
        unsafe { launch::<T>(cuda, &BELOW, LoraLinear4Params { xa, factors }) }
    }

    /// The stack's columns of `xa`, which go behind the first `cols` columns of `operand`, of `n` rows.
    fn beside(&self, xa: Matrix, operand: MatrixMut, [n, cols]: [usize; 2]) -> LoraLinear4CopyParams {
        let Stack { span, columns, .. } = self;
        let x = Matrix { ptr: xa.ptr.wrapping_byte_add(span.start * T::DTYPE.bytes()), ..xa };
        let out = behind(operand, cols, T::DTYPE);
        LoraLinear4CopyParams { x, out, rows: dim(n), used: dim(span.len()), cols: dim(*columns) }
    }
}

/// Queues what brings both operands together, 8 elements a thread.
///
/// # Safety
/// The matrices and factors in `params` are live and as large as it says, aligned to 16 bytes.
unsafe fn launch<T: Float>(cuda: &Cuda, kernel: &Kernel<LoraLinear4Params>, params: LoraLinear4Params) -> Result<()> {
    let LoraLinear4Params { xa, factors } = &params;
    let [xa, factors] = [[xa.rows, xa.cols], [factors.rows, factors.cols]].map(|shape| shape.map(|len| len as usize));
    let most = if xa[0] * xa[1] > factors[0] * factors[1] { xa } else { factors };
    let blocks = grid("lora_linear4", &most, (most[0] * most[1] / 8).div_ceil(LORA_LINEAR4_THREADS as usize))?;
    let config = LaunchConfig { grid: [blocks, 2, 1], threads: LORA_LINEAR4_THREADS, shared: 0 };
    // SAFETY: this function's contract is that of `Cuda::launch`.
    unsafe { cuda.launch(kernel, T::DTYPE.suffix(), params, config) }
}

impl LoraLinear4Factor {
    pub(super) const NONE: Self =
        LoraLinear4Factor { ptr: std::ptr::null(), row: 0, rows: 0, col: 0, r: 0, scale: 0.0 };

    /// A factor of an adapter, for kernels that count columns of xa from `first` on.
    pub(super) fn new<T: Float>(ptr: *const c_void, part: &LoraPart<'_, Cuda, T>, first: usize) -> Self {
        LoraLinear4Factor {
            ptr,
            row: dim(part.out.start),
            rows: dim(part.out.len()),
            col: dim(part.xa.start - first),
            r: dim(part.xa.len()),
            scale: part.scale,
        }
    }
}

/// The columns from `first` on, as kernels take them.
fn behind(matrix: MatrixMut, first: usize, dtype: DType) -> MatrixMut {
    MatrixMut { ptr: matrix.ptr.wrapping_byte_add(first * dtype.bytes()), ..matrix }
}

pub(in crate::cuda) fn lora_linear4<T: Float>(cuda: &Cuda, mut op: LoraLinear4<'_, Cuda, T>) -> Result<()> {
    let ([n, cols], inputs) = (op.x.shape(), op.weight.cols);
    let operands = [op.x.matrix().as_const(), op.xa.matrix().as_const()];
    let stack = Stack::new(n, SEPARATE_TOKENS, op.weight, op.parts, cols - inputs, op.xa.shape()[1], operands);
    let gemm = Gemm::new("lora_linear4", false, &op.x.mat(), &mut op.out, op.accumulate);
    let inside = stack.is_some() && linear4_wgmma::fits(cuda, &gemm, &op.weight)?;
    let stack = stack.filter(|_| inside || n > DECODED_TOKENS);
    let Some(stack) = stack else { return separately(cuda, op) };
    let x = op.x.reborrow().columns(0..inputs);
    match op.gate_up {
        Some(gate_up) => swiglu_down(cuda, Swiglu { gate_up, out: x }, op.parts, &mut op.xa, &mut op.out)?,
        None => lora_down(cuda, x.mat(), op.parts, &mut op.xa, &mut op.out)?,
    }
    let gemm = Gemm { k: inputs + stack.columns, ..gemm };
    let xa = stack.beside(op.xa.matrix().as_const(), op.x.matrix(), [n, inputs]);
    // SAFETY: `LoraLinear4::verify` checked every shape, and `Stack::new` and `fits` what is demanded beyond.
    unsafe { if inside { forward_inside(cuda, &stack, xa, &gemm) } else { forward(cuda, &stack, xa, &gemm) } }
}

/// `out (+)= [x | xa] [W | scale B]ᵀ`, W decoded inside.
///
/// # Safety
/// The matrices are as large as `gemm` says, whose columns of the input are those of the weight and the stack's; `xa` goes
/// there. The product [fits](linear4_wgmma::fits).
unsafe fn forward_inside<T: Float>(
    cuda: &Cuda,
    stack: &Stack<'_, T>,
    xa: LoraLinear4CopyParams,
    gemm: &Gemm,
) -> Result<()> {
    let Stack { weight, columns, .. } = stack;
    let ptr = cuda.scratch::<u8>(Slot::Weight, weight.rows * columns * T::DTYPE.bytes())?.cast::<c_void>();
    // SAFETY: the scratch has the stack's columns; the rest is this function's contract.
    unsafe {
        stack.columns_beside(cuda, xa, 0..weight.rows, MatrixMut { ptr, stride: dim(*columns) })?;
        linear4_wgmma::run(cuda, gemm, weight, Some(More { ptr, k: *columns }))
    }
}

/// `out (+)= [x | xa] [W | scale B]ᵀ`, W decoded before.
///
/// # Safety
/// As for [`forward_inside`], but for the last sentence.
unsafe fn forward<T: Float>(
    cuda: &Cuda,
    stack: &Stack<'_, T>,
    mut xa: LoraLinear4CopyParams,
    gemm: &Gemm,
) -> Result<()> {
    let weight = &stack.weight;
    let (pitch, step) = (gemm.k, rows_at_a_time(weight, gemm.k, T::DTYPE));
    for first in (0..weight.rows).step_by(step) {
        let rows = first..weight.rows.min(first + step);
        let ptr = cuda.scratch::<u8>(Slot::Weight, rows.len() * pitch * T::DTYPE.bytes())?.cast::<c_void>();
        let scratch = MatrixMut { ptr, stride: dim(pitch) };
        // SAFETY: the scratch has these rows, with room for both; the rest is this function's contract.
        unsafe {
            stack.decode(cuda, rows.clone(), scratch)?;
            stack.columns_beside(cuda, xa, rows.clone(), behind(scratch, weight.cols, T::DTYPE))?;
            linear::dense(cuda, &part_of(gemm, rows), Dense::new(ptr))?;
        }
        xa.rows = 0; // it is there
    }
    Ok(())
}

fn separately<T: Float>(cuda: &Cuda, op: LoraLinear4<'_, Cuda, T>) -> Result<()> {
    let LoraLinear4 { mut x, gate_up, weight, parts, mut xa, mut out, accumulate } = op;
    if let Some(gate_up) = gate_up {
        swiglu::swiglu(cuda, Swiglu { gate_up, out: x.reborrow().columns(0..weight.cols) })?;
    }
    let x = x.mat().columns(0..weight.cols);
    let gemm = Gemm::new("lora_linear4", false, &x, &mut out, accumulate);
    let mut few = Fused { gemm, weight, parts, xa: xa.matrix(), norm: None, gated: None };
    // SAFETY: `LoraLinear4::verify` checked every shape.
    if unsafe { few.run(cuda)? } {
        return Ok(());
    }
    linear4(cuda, Linear4 { x, weight, out: out.reborrow(), accumulate })?;
    adapters(cuda, x, parts, xa, out)
}

pub(in crate::cuda) fn lora_linear4_grad<T: Float>(cuda: &Cuda, op: LoraLinear4Grad<'_, Cuda, T>) -> Result<()> {
    let LoraLinear4Grad { input, xa, weight, parts, factors, mut d_out, mut d_xa, mut d_x } = op;
    let ([n, cols], dropout) = (d_out.shape(), parts.iter().any(|part| part.dropout.is_some()));
    let operands = [d_out.matrix().as_const(), d_xa.matrix().as_const()];
    let stack = Stack::new(n, SEPARATE_TOKENS, weight, parts, cols - weight.rows, xa.shape()[1], operands);
    let Some(x) = input.place(d_x.as_ref()) else { return Ok(()) };
    let own = d_out.mat().columns(0..weight.rows);
    let mut grads = LoraGrads::new(cuda, [x, xa, own], parts, factors, &mut d_xa)?;
    let gemm = d_x.as_mut().map(|d_x| Gemm::new("lora_linear4_grad", true, &d_out.mat(), d_x, false));
    let whole = stack.filter(|_| !dropout).zip(gemm);
    let inside = match &whole {
        Some((_, gemm)) => More::fits(gemm, &weight) && linear4_wgmma::fits(cuda, gemm, &weight)?,
        None => false,
    };
    let whole = whole.filter(|_| inside || n > DECODED_GRAD_TOKENS);
    if let (None, Some(d_x)) = (&whole, &mut d_x) {
        linear4_grad(cuda, Linear4Grad { d_out: own, weight, d_x: d_x.reborrow(), accumulate: false })?;
        grads.add_to(parts, &d_xa.mat(), d_x);
    }
    let kept = matches!(input, LoraInput::Kept(_));
    // SAFETY: `LoraLinear4Grad::verify` checked every shape, and `Stack::new` and `fits` what is demanded beyond; an input
    // that was not kept is there once `through` has made it.
    unsafe {
        grads.d_xa::<T>(cuda)?;
        if kept {
            grads.factors::<T>(cuda)?;
        }
        if let Some((stack, gemm)) = whole {
            let d_xa = stack.beside(d_xa.matrix().as_const(), d_out.matrix(), [n, weight.rows]);
            let backward = if inside { backward_inside } else { backward };
            backward(cuda, &stack, d_xa, &gemm)?;
        }
        grads.d_x::<T>(cuda)?;
        match d_x {
            Some(d_x) if !kept => through(cuda, &grads, input, d_x),
            _ => Ok(()),
        }
    }
}

/// The gradient of what made the input, which is made again in the place of its gradient, and then those of A and B.
///
/// # Safety
/// As for [`LoraGrads::factors`]; `d_x`, which was verified, is where `grads` look for the input.
unsafe fn through<T: Float>(
    cuda: &Cuda,
    grads: &LoraGrads,
    input: LoraInput<'_, Cuda, T>,
    mut d_x: MatMut<'_, Cuda, T>,
) -> Result<()> {
    let (out, d_out) = (d_x.matrix(), d_x.mat());
    // SAFETY: `LoraLinear4Grad::verify` checked every shape; the rest is this function's contract.
    unsafe {
        match input {
            LoraInput::Kept(_) => {}
            LoraInput::Swiglu { mut gate_up } => {
                let op = SwigluGrad { gate_up: gate_up.reborrow(), d_out };
                if grads.factors_through::<T>(cuda, swiglu::grad_params(op, MatrixMut::NONE))? {
                    return Ok(());
                }
                swiglu::swiglu_grad_and_out(cuda, SwigluGrad { gate_up, d_out }, out)?;
            }
            LoraInput::RmsNorm { x, weight, eps, d_x } => {
                let op = RmsNormGrad { x, weight, eps, d_out, d_x, accumulate: true };
                rms_norm::rms_norm_grad_and_out(cuda, op, out)?;
            }
        }
        grads.factors::<T>(cuda)
    }
}

/// `d_x = [d_out | d_xa] · (W above A)`, W decoded inside.
///
/// # Safety
/// The matrices are as large as `gemm` says; the input's columns are the rows of the weight, then the stack's, where `d_xa`
/// goes. The product [fits](linear4_wgmma::fits).
unsafe fn backward_inside<T: Float>(
    cuda: &Cuda,
    stack: &Stack<'_, T>,
    d_xa: LoraLinear4CopyParams,
    gemm: &Gemm,
) -> Result<()> {
    let Stack { weight, columns, .. } = stack;
    let ptr = cuda.scratch::<u8>(Slot::Weight, columns * weight.cols * T::DTYPE.bytes())?.cast::<c_void>();
    let gemm = Gemm { k: weight.rows + columns, ..*gemm };
    // SAFETY: the scratch has the stack's rows; the rest is this function's contract.
    unsafe {
        stack.rows_below(cuda, d_xa, MatrixMut { ptr, stride: dim(weight.cols) })?;
        linear4_wgmma::run(cuda, &gemm, weight, Some(More { ptr, k: *columns }))
    }
}

/// `d_x = [d_out | d_xa] · (W above A)`, W decoded before.
///
/// # Safety
/// As for [`backward_inside`], but for the last sentence.
unsafe fn backward<T: Float>(
    cuda: &Cuda,
    stack: &Stack<'_, T>,
    d_xa: LoraLinear4CopyParams,
    gemm: &Gemm,
) -> Result<()> {
    let Stack { weight, columns, .. } = stack;
    let (cols, step) = (weight.cols, rows_at_a_time(weight, weight.cols, T::DTYPE));
    for first in (0..weight.rows).step_by(step) {
        let rows = first..weight.rows.min(first + step);
        let below = if rows.end == weight.rows { *columns } else { 0 };
        let bytes = (rows.len() + below) * cols * T::DTYPE.bytes();
        let ptr = cuda.scratch::<u8>(Slot::Weight, bytes)?.cast::<c_void>();
        let (scratch, rows_below) = (MatrixMut { ptr, stride: dim(cols) }, rows.len() * cols);
        let out = behind(scratch, rows_below, T::DTYPE);
        // SAFETY: the scratch has these rows, and those below them; the rest is this function's contract.
        unsafe {
            stack.decode(cuda, rows.clone(), scratch)?;
            if below > 0 {
                stack.rows_below(cuda, d_xa, out)?;
            }
            linear::dense(cuda, &part_of(gemm, rows.start..rows.end + below), Dense::new(ptr))?;
        }
    }
    Ok(())
}
