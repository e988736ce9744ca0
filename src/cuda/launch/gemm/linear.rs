//! | tokens | alignment | kernel |
//! |---|---|---|
//! | up to 16, forward | 16 bytes, bf16 or f16 | `few`: reads the weight once, straight into the tensor cores |
//! | more, or a gradient | the same | cuBLASLt; `tensor` where it is not installed |
//! | up to 8, forward | any, and f32 | `any_rows`: one warp for each output |
//! | more, or a gradient | any, and f32 | `any`: FMA |

use super::{Cuda, FEW, Kernel, Kernels, LaunchConfig, Plan, Product, dim, is_aligned};
use crate::{
    DType, Float, Result,
    cuda::params::LinearParams,
    ops::{Linear, LinearGrad},
};
use core::ffi::c_void;

const fn kernel(name: &'static str) -> Kernel<LinearParams> {
    Kernel::new("linear", name)
}

const FEW8: Kernel<LinearParams> = kernel("linear_few8");
const FEW16: Kernel<LinearParams> = kernel("linear_few16");
const FORWARD: Kernels<LinearParams> = Kernels {
    any: kernel("linear_any"),
    any_rows: kernel("linear_any_rows"),
    tensor: [kernel("linear_tensor32"), kernel("linear_tensor64"), kernel("linear_tensor128")],
    weight_stages: 3,
};
const GRAD: Kernels<LinearParams> = Kernels {
    any: kernel("linear_grad_any"),
    any_rows: kernel("linear_any_rows"),
    tensor: [kernel("linear_grad_tensor32"), kernel("linear_grad_tensor64"), kernel("linear_grad_tensor128")],
    weight_stages: 3,
};

pub(in crate::cuda) fn linear<T: Float, O: Float>(cuda: &Cuda, mut op: Linear<'_, Cuda, T, O>) -> Result<()> {
    let product = Product::new(false, &op.x, &mut op.out, op.accumulate);
    // SAFETY: `Linear::verify` checked the shapes of `x`, `out` and the weight against each other.
    unsafe { dense(cuda, &product, op.weight.ptr() as _) }
}

pub(in crate::cuda) fn linear_grad<T: Float>(cuda: &Cuda, mut op: LinearGrad<'_, Cuda, T>) -> Result<()> {
    let product = Product::new(true, &op.d_out, &mut op.d_x, op.accumulate);
    // SAFETY: `LinearGrad::verify` checked the shapes of `d_out`, `d_x` and the weight against each other.
    unsafe { dense(cuda, &product, op.weight.ptr() as _) }
}

/// Queues a product with a dense weight of the input type.
///
/// # Safety
/// `product` and `weight` point to live memory, as long as the product's dimensions say.
pub(super) unsafe fn dense(cuda: &Cuda, product: &Product, weight: *const c_void) -> Result<()> {
    let (_, cols) = weight_shape(product);
    let kernels = if product.grad { &GRAD } else { &FORWARD };
    if product.k == 0 || !product.x_is_aligned() || !is_aligned(weight, cols, product.input) {
        // SAFETY: the caller's word.
        return unsafe { planned(cuda, product, weight, product.plan_any(cuda, kernels)) };
    }
    if !product.grad && product.n <= FEW {
        // SAFETY: the caller's word.
        return unsafe { few(cuda, product, weight) };
    }
    // SAFETY: the caller's word.
    if unsafe { cuda.blas(product, weight) }? {
        return Ok(());
    }
    // SAFETY: the caller's word.
    unsafe { planned(cuda, product, weight, product.plan_tensor(cuda, kernels)) }
}

/// Rows and columns of the weight.
fn weight_shape(product: &Product) -> (usize, usize) {
    if product.grad { (product.k, product.m) } else { (product.m, product.k) }
}

fn params(product: &Product, weight: *const c_void) -> LinearParams {
    let (rows, cols) = weight_shape(product);
    LinearParams {
        x: product.x,
        weight,
        out: product.out,
        partial: std::ptr::null_mut(),
        n: dim(product.n),
        rows: dim(rows),
        cols: dim(cols),
        x_stride: dim(product.x_stride),
        out_stride: dim(product.out_stride),
        accumulate: product.accumulate.into(),
        splits: 1,
    }
}

/// # Safety
/// As for [`dense`].
unsafe fn planned(cuda: &Cuda, product: &Product, weight: *const c_void, plan: Plan<'_, LinearParams>) -> Result<()> {
    let partial = product.partial(cuda, plan.splits)?;
    let params = LinearParams { partial, splits: dim(plan.splits), ..params(product, weight) };
    // SAFETY: the caller's word; `partial` is `[splits, n, m]`.
    unsafe {
        cuda.launch(plan.kernel, product.suffix(), params, plan.shape)?;
        product.add_parts(cuda, partial, plan.splits)
    }
}

/// # Safety
/// As for [`dense`].
unsafe fn few(cuda: &Cuda, product: &Product, weight: *const c_void) -> Result<()> {
    const THREADS: u32 = 256;
    debug_assert!(product.input != DType::F32);
    // CTAs that fit on a multiprocessor, by registers.
    let (kernel, ctas) = if product.n <= 8 { (&FEW8, 3) } else { (&FEW16, 2) };
    let blocks = if product.n == 0 { 0 } else { product.m.div_ceil(16).min(cuda.n_sms as usize * ctas) };
    let shape = LaunchConfig::new(dim(blocks), THREADS);
    // SAFETY: the caller's word.
    unsafe { cuda.launch(kernel, product.suffix(), params(product, weight), shape) }
}
