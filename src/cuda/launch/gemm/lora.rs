use super::{Cuda, Kernel, LaunchConfig, dim};
use crate::{
    Element, Error, Float, Mat, MatMut, Result,
    cuda::{
        params::{
            DropoutParams, LoraDownParams, LoraFewParams, LoraTransposeParams, LoraUpParams, LoraWeightGradParams,
            TransposeParams,
        },
        scratch::Slot,
    },
    ops::{Dropout, Lora, LoraGrad},
};
use core::ffi::c_void;
use std::ptr::{null, null_mut};

const fn kernel<P>(name: &'static str) -> Kernel<P> {
    Kernel::new("lora", name)
}

const TRANSPOSE: Kernel<LoraTransposeParams> = Kernel::new("lora_grad", "lora_transpose");
const DOWN_ANY: Kernel<LoraDownParams> = kernel("lora_down_any");
/// By columns of r (8, 16, 32); without and with dropout.
const DOWN: [[Kernel<LoraDownParams>; 2]; 3] = [
    [kernel("lora_down8"), kernel("lora_down8_drop")],
    [kernel("lora_down16"), kernel("lora_down16_drop")],
    [kernel("lora_down32"), kernel("lora_down32_drop")],
];
const DOWN_FEW: [[Kernel<LoraDownParams>; 2]; 3] = [
    [kernel("lora_down_few8"), kernel("lora_down_few8_drop")],
    [kernel("lora_down_few16"), kernel("lora_down_few16_drop")],
    [kernel("lora_down_few32"), kernel("lora_down_few32_drop")],
];
const UP_ANY: Kernel<LoraUpParams> = kernel("lora_up_any");
/// By the most of r that is in registers (16, 32, 64).
const UP: [[Kernel<LoraUpParams>; 2]; 3] = [
    [kernel("lora_up16"), kernel("lora_up16_drop")],
    [kernel("lora_up32"), kernel("lora_up32_drop")],
    [kernel("lora_up64"), kernel("lora_up64_drop")],
];
/// By columns of r (16, 32, 64).
const FEW: [Kernel<LoraFewParams>; 3] = [kernel("lora_few16"), kernel("lora_few32"), kernel("lora_few64")];
const WEIGHT_GRAD_ANY: Kernel<LoraWeightGradParams> = Kernel::new("lora_grad", "lora_weight_grad_any");
/// By columns of r (16, 32).
const WEIGHT_GRAD: [[Kernel<LoraWeightGradParams>; 2]; 2] = [
    [Kernel::new("lora_grad", "lora_weight_grad16"), Kernel::new("lora_grad", "lora_weight_grad16_drop")],
    [Kernel::new("lora_grad", "lora_weight_grad32"), Kernel::new("lora_grad", "lora_weight_grad32_drop")],
];
const WEIGHT_GRAD_SUM: Kernel<LoraWeightGradParams> = Kernel::new("lora_grad", "lora_weight_grad_sum");

const THREADS: u32 = 256;

/// Blocks in one dimension.
fn grid(blocks: usize) -> Result<u32> {
    i32::try_from(blocks).map(i32::unsigned_abs).map_err(|_| Error::Value {
        op: "lora",
        arg: "the matrices",
        got: format!("{blocks} tiles"),
        want: "there must be fewer than 2^31",
    })
}

fn aligned(ptr: *const c_void, bytes: usize) -> bool {
    (ptr as usize).is_multiple_of(bytes)
}

/// The mask, and what is left to multiply with.
fn dropout_params(dropout: Option<Dropout>) -> (DropoutParams, f32) {
    match dropout {
        Some(d) => (DropoutParams { seed: d.seed, stream: d.stream, threshold: d.threshold() }, d.scale()),
        None => (DropoutParams { seed: 0, stream: 0, threshold: 0 }, 1.0),
    }
}

/// May the tensor cores' form of `lora_down` be used?
fn packed_down<T>(p: &LoraDownParams) -> bool {
    size_of::<T>() == 2
        && p.cols.is_multiple_of(8)
        && p.x_stride.is_multiple_of(8)
        && aligned(p.x, 16)
        && aligned(p.a, 16)
        && u32::try_from(p.r as usize * p.cols as usize).is_ok()
}

/// May the tensor cores' form of `lora_up` be used?
fn packed_up<T>(p: &LoraUpParams) -> bool {
    size_of::<T>() == 2
        && p.cols.is_multiple_of(8)
        && p.r.is_multiple_of(4)
        && p.xa_stride.is_multiple_of(4)
        && p.out_stride.is_multiple_of(8)
        && aligned(p.xa, 8)
        && aligned(p.b, 8)
        && aligned(p.out, 16)
}

impl Cuda {
    /// # Safety
    /// As for [`Cuda::launch`].
    unsafe fn lora_down<T: Float>(&self, p: LoraDownParams) -> Result<()> {
        let rows = p.n.max(p.out_t_stride) as usize;
        if !packed_down::<T>(&p) {
            let shape =
                LaunchConfig { grid: [grid(rows.div_ceil(8))?, p.r.div_ceil(8), 1], threads: THREADS, shared: 0 };
            // SAFETY: the caller's word.
            return unsafe { self.launch(&DOWN_ANY, T::DTYPE.suffix(), p, shape) };
        }
        let size = [8, 16].iter().position(|&width| p.r <= width).unwrap_or(2);
        let width = 8 << size;
        // Few tokens: half the rows and twice the warps for each CTA.
        let few = rows <= 16 * self.n_sms as usize;
        let (kernels, tile, warps) = if few { (&DOWN_FEW, 16, 16) } else { (&DOWN, 32, 8) };
        let blocks = rows.div_ceil(tile) * p.r.div_ceil(width) as usize;
        let shared = dim(warps * tile * size_of::<f32>()) * width;
        let shape = LaunchConfig { grid: [grid(blocks)?, 1, 1], threads: 32 * dim(warps), shared };
        let kernel = &kernels[size][usize::from(p.dropout.threshold != 0)];
        // SAFETY: the caller's word; the kernel's conditions on alignment were checked above.
        unsafe { self.launch(kernel, T::DTYPE.suffix(), p, shape) }
    }

    /// # Safety
    /// As for [`Cuda::launch`].
    unsafe fn lora_up<T: Float>(&self, p: LoraUpParams) -> Result<()> {
        /// Tokens of a CTA, as in the kernel.
        const TOKENS: usize = 64;
        let across = (p.cols as usize).div_ceil(256);
        if !packed_up::<T>(&p) {
            let shape = LaunchConfig::new(grid(p.n as usize * across)?, THREADS);
            // SAFETY: the caller's word.
            return unsafe { self.launch(&UP_ANY, T::DTYPE.suffix(), p, shape) };
        }
        let size = [16, 32].iter().position(|&depth| p.r <= depth).unwrap_or(2);
        let kernel = &UP[size][usize::from(p.dropout.threshold != 0)];
        let shape = LaunchConfig::new(grid((p.n as usize).div_ceil(TOKENS) * across)?, THREADS);
        // SAFETY: the caller's word; the kernel's conditions on alignment were checked above.
        unsafe { self.launch(kernel, T::DTYPE.suffix(), p, shape) }
    }

    /// Both in one launch, where there are few tokens and CTAs can see each other's memory; false: nothing was launched.
    ///
    /// # Safety
    /// As for [`Cuda::launch`].
    unsafe fn lora_few<T: Float>(&self, p: LoraFewParams) -> Result<bool> {
        /// CTAs and warps of a cluster, which takes 16 tokens.
        const CLUSTER: usize = 8;
        const WARPS: u32 = 8;
        const TOKENS: usize = 16;
        let n = p.down.n as usize;
        let fits = n <= TOKENS * self.n_sms as usize / CLUSTER
            && p.down.r <= 64
            && p.down.dropout.threshold == 0
            && packed_down::<T>(&p.down)
            && packed_up::<T>(&p.up);
        let size = [16, 32].iter().position(|&width| p.down.r <= width).unwrap_or(2);
        if !fits || !self.has(&FEW[size], T::DTYPE.suffix())? {
            return Ok(false);
        }
        // f32 for each warp and the CTA, and xa rounded.
        let shared = (16 << size) * TOKENS as u32 * ((WARPS + 1) * 4 + size_of::<T>() as u32);
        let blocks = grid(n.div_ceil(TOKENS) * CLUSTER)?;
        let shape = LaunchConfig { grid: [blocks, 1, 1], threads: 32 * WARPS, shared };
        // SAFETY: the caller's word; the kernel's conditions were checked above.
        unsafe { self.launch(&FEW[size], T::DTYPE.suffix(), p, shape) }?;
        Ok(true)
    }

    /// How many parts to cut the tokens into, so that `tiles` CTAs for each part fill the multiprocessors evenly.
    fn splits(&self, tiles: usize, n: usize) -> usize {
        /// CTAs that a multiprocessor runs at once.
        const RESIDENT: usize = 2;
        /// Tokens that are worth a CTA.
        const TOKENS: usize = 128;
        let slots = RESIDENT * self.n_sms as usize;
        let fill = |waves: &usize| (waves * slots / tiles * tiles) * 100 / (waves * slots);
        let waves = (1..=4).rev().max_by_key(fill).unwrap_or(1);
        (waves * slots / tiles).clamp(1, n.div_ceil(TOKENS))
    }

    /// # Safety
    /// As for [`Cuda::launch`]; the fields `partial`, `splits` and `split_len` are set here.
    unsafe fn lora_weight_grad<T: Float>(&self, mut p: LoraWeightGradParams) -> Result<()> {
        let (n, cols, r) = (p.n as usize, p.cols as usize, p.r as usize);
        let tensor = size_of::<T>() == 2
            && cols.is_multiple_of(8)
            && p.x_stride.is_multiple_of(8)
            && p.xa_t_stride.is_multiple_of(4)
            && aligned(p.x, 16)
            && aligned(p.xa_t, 8)
            && r <= 256;
        if cols == 0 {
            return Ok(());
        }
        let tiles = cols.div_ceil(if tensor { 64 } else { THREADS as usize });
        let splits = self.splits(tiles, n);
        // Whole runs of 16 tokens.
        let split_len = n.div_ceil(splits).next_multiple_of(16);
        (p.splits, p.split_len) = (dim(n.div_ceil(split_len)), dim(split_len));
        p.partial = self.scratch(Slot::Partial, p.splits as usize * r * cols)?;
        let mut shape = LaunchConfig { grid: [dim(tiles), p.splits, 1], threads: THREADS, shared: 0 };
        let sum = LaunchConfig::new(grid((r * cols).div_ceil(THREADS as usize))?, THREADS);
        let kernel = if tensor {
            let size = usize::from(r > 16);
            let width = 16 << size;
            let chunks = r.div_ceil(width).next_power_of_two();
            // Where every warp has columns of r of its own there is nothing to hand over.
            shape.shared = if chunks < 8 { dim(chunks * width * 64 * size_of::<f32>()) } else { 0 };
            &WEIGHT_GRAD[size][usize::from(p.dropout.threshold != 0)]
        } else {
            shape.grid[2] = p.r.div_ceil(8);
            &WEIGHT_GRAD_ANY
        };
        // SAFETY: the caller's word; the kernel's conditions on alignment were checked above.
        unsafe {
            self.launch(kernel, T::DTYPE.suffix(), p, shape)?;
            self.launch(&WEIGHT_GRAD_SUM, "", p, sum)
        }
    }
}

pub(in crate::cuda) fn lora<T: Float>(cuda: &Cuda, mut op: Lora<'_, Cuda, T>) -> Result<()> {
    let ([n, k], [_, r], [_, out]) = (op.x.shape(), op.xa.shape(), op.out.shape());
    if r == 0 {
        return Ok(());
    }
    let (dropout, keep_scale) = dropout_params(op.dropout);
    let down = LoraDownParams {
        x: op.x.ptr(),
        a: op.a.ptr() as _,
        out: op.xa.ptr(),
        out_t: null_mut(),
        n: dim(n),
        cols: dim(k),
        r: dim(r),
        x_stride: dim(op.x.stride),
        out_stride: dim(op.xa.stride),
        out_t_stride: 0,
        scale: keep_scale,
        dropout,
    };
    let up = LoraUpParams {
        xa: op.xa.ptr(),
        b: op.b.ptr() as _,
        out: op.out.ptr(),
        n: dim(n),
        cols: dim(out),
        r: dim(r),
        xa_stride: dim(op.xa.stride),
        out_stride: dim(op.out.stride),
        scale: op.scale,
        dropout: dropout_params(None).0,
    };
    // SAFETY: `Lora::verify` checked every shape.
    unsafe {
        if cuda.lora_few::<T>(LoraFewParams { down, up })? {
            return Ok(());
        }
        cuda.lora_down::<T>(down)?;
        cuda.lora_up::<T>(up)
    }
}

/// Scratch of the backward pass: what the kernels read transposed.
struct Transposed {
    /// `[in, r]`.
    a: *mut c_void,
    /// `[r, out]`.
    b: *mut c_void,
    /// `[r, n_padded]`.
    xa: *mut c_void,
    /// `[r, n_padded]`.
    d_xa: *mut c_void,
    /// Tokens, up to whole tiles.
    n_padded: usize,
}

impl Transposed {
    fn new<T: Element>(cuda: &Cuda, n: usize, k: usize, r: usize, out: usize) -> Result<Self> {
        let n_padded = n.next_multiple_of(32);
        let lens = [k * r, r * out, r * n_padded, r * n_padded].map(|len| (len * size_of::<T>()).next_multiple_of(256));
        let start = cuda.scratch::<u8>(Slot::Adapter, lens.iter().sum())?;
        let at = |i: usize| start.wrapping_add(lens[..i].iter().sum()).cast();
        Ok(Transposed { a: at(0), b: at(1), xa: at(2), d_xa: at(3), n_padded })
    }
}

/// `x` `[rows, cols]` to `out` `[cols, out_stride]`.
fn transpose(
    x: *const c_void,
    stride: usize,
    [rows, cols]: [usize; 2],
    out: *mut c_void,
    out_stride: usize,
) -> TransposeParams {
    TransposeParams { x, out, rows: dim(rows), cols: dim(cols), x_stride: dim(stride), out_stride: dim(out_stride) }
}

/// # Safety
/// As for [`Cuda::launch`].
unsafe fn launch_transposes<T: Float>(cuda: &Cuda, matrices: [TransposeParams; 3]) -> Result<()> {
    let tiles = matrices.iter().map(|m| m.cols.div_ceil(32) as usize * m.out_stride.div_ceil(32) as usize);
    let blocks = tiles.max().unwrap_or(0).min(1024);
    let shape = LaunchConfig { grid: [dim(blocks), 3, 1], threads: THREADS, shared: 0 };
    // SAFETY: the caller's word.
    unsafe { cuda.launch(&TRANSPOSE, T::DTYPE.suffix(), LoraTransposeParams { matrices }, shape) }
}

/// `d_xa`, also transposed.
fn d_xa_params<T: Float>(op: &mut LoraGrad<'_, Cuda, T>, scratch: &Transposed) -> LoraDownParams {
    let [n, out] = op.d_out.shape();
    LoraDownParams {
        x: op.d_out.ptr(),
        a: scratch.b,
        out: op.d_xa.ptr(),
        out_t: scratch.d_xa,
        n: dim(n),
        cols: dim(out),
        r: dim(op.xa.shape()[1]),
        x_stride: dim(op.d_out.stride),
        out_stride: dim(op.d_xa.stride),
        out_t_stride: dim(scratch.n_padded),
        scale: op.scale,
        dropout: dropout_params(None).0,
    }
}

/// The gradient of a factor: the sum over tokens of `xaᵀ · drop(x)`.
fn factor_params<T: Float>(
    x: &Mat<'_, Cuda, T>,
    xa: &Mat<'_, Cuda, T>,
    [xa_t, out]: [*mut c_void; 2],
    n_padded: usize,
    dropout: Option<Dropout>,
) -> LoraWeightGradParams {
    let (dropout, keep_scale) = dropout_params(dropout);
    LoraWeightGradParams {
        x: x.ptr(),
        xa: xa.ptr(),
        xa_t,
        partial: null_mut(),
        out: out.cast(),
        n: dim(x.shape()[0]),
        cols: dim(x.shape()[1]),
        r: dim(xa.shape()[1]),
        x_stride: dim(x.stride),
        xa_stride: dim(xa.stride),
        xa_t_stride: dim(n_padded),
        splits: 0,
        split_len: 0,
        transposed: 0,
        scale: keep_scale,
        dropout,
    }
}

/// `d_x += drop(d_xa · A)`.
fn d_x_params<T: Float>(
    d_xa: &Mat<'_, Cuda, T>,
    mut d_x: MatMut<'_, Cuda, T>,
    a_t: *const c_void,
    dropout: Option<Dropout>,
) -> LoraUpParams {
    let (dropout, keep_scale) = dropout_params(dropout);
    LoraUpParams {
        xa: d_xa.ptr(),
        b: a_t,
        out: d_x.ptr(),
        n: dim(d_x.shape()[0]),
        cols: dim(d_x.shape()[1]),
        r: dim(d_xa.shape()[1]),
        xa_stride: dim(d_xa.stride),
        out_stride: dim(d_x.stride),
        scale: keep_scale,
        dropout,
    }
}

pub(in crate::cuda) fn lora_grad<T: Float>(cuda: &Cuda, mut op: LoraGrad<'_, Cuda, T>) -> Result<()> {
    let ([n, k], [_, r], [_, out]) = (op.x.shape(), op.xa.shape(), op.d_out.shape());
    if n == 0 || r == 0 {
        return Ok(());
    }
    let scratch = Transposed::new::<T>(cuda, n, k, r, out)?;
    let a = match op.d_x {
        Some(_) => transpose(op.a.ptr() as _, k, [r, k], scratch.a, r),
        None => transpose(null(), 0, [0, 0], null_mut(), 0),
    };
    let b = transpose(op.b.ptr() as _, r, [out, r], scratch.b, out);
    let xa = transpose(op.xa.ptr(), op.xa.stride, [n, r], scratch.xa, scratch.n_padded);
    let down = d_xa_params(&mut op, &scratch);
    let d_b = [scratch.xa, op.d_b.ptr() as _];
    let d_b = LoraWeightGradParams {
        transposed: 1,
        scale: op.scale,
        ..factor_params(&op.d_out, &op.xa, d_b, scratch.n_padded, None)
    };
    let d_a = [scratch.d_xa, op.d_a.ptr() as _];
    let d_a = factor_params(&op.x, &op.d_xa.mat(), d_a, scratch.n_padded, op.dropout);
    // SAFETY: `LoraGrad::verify` checked every shape, and `Transposed` has room for what is written to it.
    unsafe {
        launch_transposes::<T>(cuda, [a, b, xa])?;
        cuda.lora_down::<T>(down)?;
        cuda.lora_weight_grad::<T>(d_b)?;
        cuda.lora_weight_grad::<T>(d_a)?;
    }
    match op.d_x {
        // SAFETY: as above.
        Some(d_x) => unsafe { cuda.lora_up::<T>(d_x_params(&op.d_xa.mat(), d_x, scratch.a, op.dropout)) },
        None => Ok(()),
    }
}
