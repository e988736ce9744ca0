//! Products with a weight, dense or 4-bit: what both have in common. `plan.rs` has the grids of the kernels that both
//! have; `linear.rs` and `linear4.rs` choose among these and their own, `gemv.rs` and `linear4_wgmma.rs`.

mod gemv;
pub(in crate::cuda) mod linear;
pub(in crate::cuda) mod linear4;
mod linear4_plan;
mod linear4_wgmma;
pub(in crate::cuda) mod lora;
pub(in crate::cuda) mod lora_linear;
pub(in crate::cuda) mod norm_linear4;
mod plan;
pub(in crate::cuda) mod screen;
pub(in crate::cuda) mod weight_grad;

use super::{grid, suffix_out};
use crate::{
    buffer::{Mat, MatMut},
    cuda::{
        blas::{self, BlasPointers, BlasShape},
        device::Cuda,
        params::{self, Matrix, MatrixMut},
        scratch::Slot,
    },
    element::{DType, Float},
    error::Result,
};

/// The most tokens of the kernels that read the weight once, as operand A.
const SKINNY_TOKENS: usize = params::GEMM_SKINNY_TOKENS as usize;
/// Rows of the weight that a warp of these kernels takes at a time.
const SKINNY_ROWS: usize = params::GEMM_SKINNY_ROWS as usize;

/// `out (+)= x B`: `x` `[n, k]`, `out` `[n, m]`, `B` the transpose of a weight `[m, k]`; in a gradient a weight `[k, m]`.
#[derive(Clone, Copy)]
struct Gemm {
    /// For errors.
    op: &'static str,
    grad: bool,
    n: usize,
    m: usize,
    k: usize,
    x: Matrix,
    out: MatrixMut,
    input: DType,
    output: DType,
    accumulate: bool,
}

impl Gemm {
    fn new<T: Float, O: Float>(
        op: &'static str,
        grad: bool,
        x: &Mat<'_, Cuda, T>,
        out: &mut MatMut<'_, Cuda, O>,
        accumulate: bool,
    ) -> Self {
        let ([n, k], [_, m]) = (x.shape(), out.shape());
        Gemm { op, grad, n, m, k, x: x.matrix(), out: out.matrix(), input: T::DTYPE, output: O::DTYPE, accumulate }
    }

    /// `tiles` blocks in the first dimension of a grid.
    fn grid(&self, tiles: usize) -> Result<u32> {
        grid(self.op, &[self.n, self.m, self.k], tiles)
    }

    /// Rows and columns of the weight.
    fn weight_shape(&self) -> (usize, usize) {
        if self.grad { (self.k, self.m) } else { (self.m, self.k) }
    }

    fn suffix(&self) -> &'static str {
        suffix_out(self.input, self.output)
    }

    /// May the tensor cores' kernels read `x`?
    fn x_fits_tensor_cores(&self) -> bool {
        self.k > 0 && self.input != DType::F32 && self.x.is_aligned(self.input, 16)
    }

    /// Forward, for so few tokens that they are one operand B?
    fn is_skinny(&self) -> bool {
        !self.grad && self.n <= SKINNY_TOKENS
    }
}

/// Queues a product with a dense weight of its input type. False: cuBLASLt is not installed, or does not take it.
///
/// # Safety
/// As for [`plan::GemmPlan::run`].
unsafe fn run_blas(cuda: &Cuda, gemm: &Gemm, weight: Matrix) -> Result<bool> {
    let Some(product) = BlasProduct::new(gemm, weight) else { return Ok(false) };
    if !cuda.blas.is_open()? {
        return Ok(false);
    }
    // SAFETY: the matrices are as this function's contract says.
    unsafe { product.run(cuda) }
}

/// A product as cuBLASLt takes it.
#[derive(Clone, Copy)]
struct BlasProduct {
    shape: BlasShape,
    pointers: BlasPointers,
    scale: f32,
}

impl BlasProduct {
    /// None where a matrix is not aligned, or has nothing in it.
    fn new(gemm: &Gemm, weight: Matrix) -> Option<Self> {
        let (rows, cols) = gemm.weight_shape();
        let aligned = gemm.x.is_aligned(gemm.input, 16)
            && gemm.out.is_aligned(gemm.output, 16)
            && weight.is_aligned(gemm.input, 16);
        let shape = BlasShape {
            grad: gemm.grad,
            x_transposed: false,
            accumulate: gemm.accumulate,
            n: gemm.n,
            m: gemm.m,
            k: gemm.k,
            x_stride: gemm.x.stride as usize,
            weight_stride: weight.stride as usize,
            out_stride: gemm.out.stride as usize,
            input: gemm.input,
            output: gemm.output,
        };
        let pointers = BlasPointers { x: gemm.x.ptr, weight: weight.ptr, out: gemm.out.ptr };
        let fits = aligned && ![gemm.n, rows, cols].contains(&0);
        fits.then_some(BlasProduct { shape, pointers, scale: 1.0 })
    }

    /// Queues it. False: cuBLASLt is not open, or does not take it.
    ///
    /// # Safety
    /// The matrices are live and as large as the shape says.
    unsafe fn run(&self, cuda: &Cuda) -> Result<bool> {
        let workspace = cuda.scratch(Slot::Blas, blas::WORKSPACE)?;
        // SAFETY: the matrices are as this function's contract says. Scratch is the op's alone until the next op is queued,
        // which is this thread's doing while it has its turn, and with the turn came the context.
        unsafe { cuda.blas.multiply(&cuda.queue.stream, &self.shape, self.pointers, self.scale, workspace) }
    }
}
