use super::{Cuda, Kernel, LaunchConfig, dim};
use crate::{Error, Float, Result, cuda::params::WeightGradParams, ops::WeightGrad};

const TENSOR: Kernel<WeightGradParams> = Kernel::new("weight_grad", "weight_grad_tensor");
const ANY: Kernel<WeightGradParams> = Kernel::new("weight_grad", "weight_grad_any");
const THREADS: u32 = 256;

pub(in crate::cuda) fn weight_grad<T: Float>(cuda: &Cuda, mut op: WeightGrad<'_, Cuda, T>) -> Result<()> {
    /// Four stages of 32 tokens by 128 + 128 columns of two bytes, as in the kernel.
    const SHARED: u32 = 4 * 32 * 256 * 2;
    let ([n, cols], rows) = (op.x.shape(), op.d_out.shape()[1]);
    let params = WeightGradParams {
        x: op.x.ptr(),
        d_out: op.d_out.ptr(),
        d_weight: op.d_weight.ptr() as _,
        n: dim(n),
        rows: dim(rows),
        cols: dim(cols),
        x_stride: dim(op.x.stride),
        d_out_stride: dim(op.d_out.stride),
    };
    let packed =
        |stride: usize, ptr: *const core::ffi::c_void| stride.is_multiple_of(8) && (ptr as usize).is_multiple_of(16);
    let tensor = size_of::<T>() == 2
        && rows.is_multiple_of(8)
        && cols.is_multiple_of(8)
        && packed(op.x.stride, params.x)
        && packed(op.d_out.stride, params.d_out)
        && (params.d_weight as usize).is_multiple_of(8);
    let (kernel, side, shared) = if tensor { (&TENSOR, 128, SHARED) } else { (&ANY, 64, 0) };
    let blocks = i32::try_from(rows.div_ceil(side) * cols.div_ceil(side)).map_err(|_| Error::Value {
        op: "weight_grad",
        arg: "the weight",
        got: format!("{rows} x {cols}"),
        want: "it must have fewer than 2^31 tiles",
    })?;
    let shape = LaunchConfig { grid: [blocks.unsigned_abs(), 1, 1], threads: THREADS, shared };
    // SAFETY: `WeightGrad::verify` checked every shape; the tensor kernel's conditions on alignment were checked above.
    unsafe { cuda.launch(kernel, T::DTYPE.suffix(), params, shape) }
}
