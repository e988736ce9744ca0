//! The gradients of both factors and of the adapter's input.

use super::{
    PARTS,
    dropout::dropout_params,
    launch_down, launch_up,
    out_grad::{self, Sums},
    plan::{self, Launch},
    products, together,
    transposed::{self, MATRICES, Shape, Transposed, transpose},
};
use crate::{
    buffer::{Mat, MatMut, View},
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        launch::{dim, grid},
        params::{
            LORA_WEIGHT_GRAD_SUMS, LORA_WEIGHT_GRAD_THREADS, LoraDownParams, LoraOutGradParams, LoraSwigluGradParams,
            LoraUpParams, LoraWeightGradParams, LoraWeightGradsParams, Matrix, MatrixMut, SwigluGradParams,
            TransposeParams,
        },
        scratch::Slot,
    },
    element::Float,
    error::Result,
    ops::{Dropout, LoraFactors, LoraGrad, LoraPart},
};
use core::ffi::c_void;
use std::ptr::{null, null_mut};

const WEIGHT_GRAD_SUM: Kernel<LoraWeightGradsParams> = Kernel::new("lora_grad", "lora_weight_grad_sum");

/// `d_xa`, also transposed.
fn d_xa_params<T: Float>(op: &mut LoraGrad<'_, Cuda, T>, scratch: &Transposed) -> LoraDownParams {
    let [n, out] = op.d_out.shape();
    LoraDownParams {
        x: op.d_out.matrix(),
        a: scratch.b.ptr,
        out: op.d_xa.matrix(),
        out_t: scratch.d_xa,
        n: dim(n),
        cols: dim(out),
        r: dim(op.xa.shape()[1]),
        scale: op.scale,
        dropout: dropout_params(None).0,
    }
}

/// The gradient of a factor: the sum over tokens of `xaᵀ · drop(x)`.
fn factor_params<T: Float>(
    x: &Mat<'_, Cuda, T>,
    xa: &Mat<'_, Cuda, T>,
    xa_t: MatrixMut,
    out: u64,
    dropout: Option<Dropout>,
) -> LoraWeightGradParams {
    let (dropout, keep_scale) = dropout_params(dropout);
    LoraWeightGradParams {
        x: x.matrix(),
        xa: xa.matrix(),
        xa_t: xa_t.as_const(),
        partial: null_mut(),
        out: out as _,
        n: dim(x.shape()[0]),
        cols: dim(x.shape()[1]),
        r: dim(xa.shape()[1]),
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
        xa: d_xa.matrix(),
        b: a_t,
        out: d_x.matrix(),
        n: dim(d_x.shape()[0]),
        cols: dim(d_x.shape()[1]),
        r: dim(d_xa.shape()[1]),
        scale: keep_scale,
        dropout,
    }
}

/// `d_xa` and `d_b`.
#[derive(Clone, Copy)]
enum OfOutput {
    /// From one read of `d_out`.
    Once(LoraOutGradParams),
    Products(products::OfOutput),
    Twice(LoraDownParams, LoraWeightGradParams),
}

/// All that the gradients of one adapter take.
struct Work {
    scratch: Transposed,
    /// Of B and xa, where `d_out` is read twice.
    transposes: [TransposeParams; MATRICES],
    of_output: OfOutput,
    d_a: LoraWeightGradParams,
    d_x: Option<OfInput>,
}

/// What is added to `d_x`: with A transposed before, or by a kernel that reads A as it is.
#[derive(Clone, Copy)]
struct OfInput {
    params: LoraUpParams,
    transpose: TransposeParams,
    a: *const c_void,
}

impl Work {
    fn new<T: Float>(cuda: &Cuda, mut op: LoraGrad<'_, Cuda, T>, scratch: Transposed) -> Result<Self> {
        let ([n, _], [_, r], [_, out]) = (op.x.shape(), op.xa.shape(), op.d_out.shape());
        let d_b = LoraWeightGradParams {
            transposed: 1,
            scale: op.scale,
            ..factor_params(&op.d_out, &op.xa, scratch.xa, op.d_b.ptr(), None)
        };
        let d_a = factor_params(&op.x, &op.d_xa.mat(), scratch.d_xa, op.d_a.ptr(), op.dropout);
        let d_xa = d_xa_params(&mut op, &scratch);
        let (b, none) = (op.b.ptr() as _, transpose(Matrix::NONE, [0, 0], MatrixMut::NONE));
        let (of_output, transposes) = if let Some(once) = out_grad::params(cuda, T::DTYPE, &d_xa, d_b, b) {
            (OfOutput::Once(once), [none; MATRICES])
        } else if let Some(products) = products::OfOutput::new(cuda, T::DTYPE, &d_xa, &d_b, b)? {
            (OfOutput::Products(products), [none; MATRICES])
        } else {
            let b = transpose(Matrix { ptr: b, stride: dim(r) }, [out, r], scratch.b);
            (OfOutput::Twice(d_xa, d_b), [b, transpose(op.xa.matrix(), [n, r], scratch.xa)])
        };
        let mut work = Work { scratch, transposes, of_output, d_a, d_x: None };
        if let Some(d_x) = op.d_x {
            work.add_to(d_x, op.a, &op.d_xa.mat(), op.dropout);
        }
        Ok(work)
    }

    fn add_to<T: Float>(
        &mut self,
        d_x: MatMut<'_, Cuda, T>,
        a: View<'_, Cuda, T>,
        d_xa: &Mat<'_, Cuda, T>,
        dropout: Option<Dropout>,
    ) {
        let ([_, k], [_, r]) = (d_x.shape(), d_xa.shape());
        let (a, a_t) = (a.ptr() as _, self.scratch.a);
        let transpose = transpose(Matrix { ptr: a, stride: dim(k) }, [r, k], a_t);
        self.d_x = Some(OfInput { params: d_x_params(d_xa, d_x, a_t.ptr, dropout), transpose, a });
    }

    /// Queues `d_xa` of adapters of the same tokens, up to [`PARTS`] of them, `d_b` where that comes with it, and what is read
    /// transposed, but for sums that are left to do.
    ///
    /// # Safety
    /// They were made of ops that were verified, with scratch of their own.
    unsafe fn run_d_xa<T: Float>(cuda: &Cuda, works: &[Self]) -> Result<Option<Sums>> {
        let transposes = works.iter().flat_map(|work| work.transposes).collect::<Vec<_>>();
        let (mut once, mut products, mut twice) = (Vec::new(), Vec::new(), Vec::new());
        for work in works {
            match work.of_output {
                OfOutput::Once(params) => once.push(params),
                OfOutput::Products(both) => products.push(both),
                OfOutput::Twice(d_xa, _) => twice.push(d_xa),
            }
        }
        let copies = products.iter().map(|both| both.transpose).collect::<Vec<_>>();
        // SAFETY: the ops were verified, as this function's contract says, and `Transposed` has room for what is written
        // transposed.
        unsafe {
            transposed::launch::<T>(cuda, &transposes)?;
            if !twice.is_empty() {
                launch_down(cuda, T::DTYPE, &twice)?;
            }
            products.iter().try_for_each(|both| both.run_d_xa(cuda))?;
            transposed::launch::<T>(cuda, &copies)?;
            if once.is_empty() { Ok(None) } else { out_grad::launch::<T>(cuda, &mut once).map(Some) }
        }
    }

    /// Then what they add to `d_x`.
    ///
    /// # Safety
    /// As for [`Work::run_d_xa`], which comes first.
    unsafe fn run_d_x<T: Float>(cuda: &Cuda, works: &[Self]) -> Result<()> {
        let d_x = works.iter().filter_map(|work| work.d_x).collect::<Vec<_>>();
        if d_x.is_empty() {
            return Ok(());
        }
        let transposes = d_x.iter().map(|of| of.transpose).collect::<Vec<_>>();
        let params = d_x.iter().map(|of| of.params).collect::<Vec<_>>();
        // SAFETY: as this function's contract says; `Transposed` has room for A.
        unsafe {
            transposed::launch::<T>(cuda, &transposes)?;
            launch_up(cuda, T::DTYPE, &params, true)
        }
    }

    /// Queues `d_b` where that is a product. What is left of it, where it did not come with `d_xa`, is the kernels'.
    ///
    /// # Safety
    /// As for [`Work::run_d_xa`].
    unsafe fn d_b(cuda: &Cuda, works: &[Self]) -> Result<Vec<LoraWeightGradParams>> {
        let mut left = Vec::new();
        for work in works {
            match work.of_output {
                OfOutput::Once(_) => {}
                // SAFETY: as this function's contract says.
                OfOutput::Products(both) => unsafe { both.run_d_b(cuda)? },
                OfOutput::Twice(_, d_b) if d_b.cols > 0 => left.push(d_b),
                OfOutput::Twice(..) => {}
            }
        }
        Ok(left)
    }

    /// The gradients of both factors.
    ///
    /// # Safety
    /// As for [`Work::run_d_xa`], which comes first; `x` is there.
    unsafe fn run_factors<T: Float>(cuda: &Cuda, works: &[Self]) -> Result<()> {
        let d_a = works.iter().map(|work| work.d_a).filter(|p| p.cols > 0).collect::<Vec<_>>();
        // SAFETY: this function's contract is theirs.
        unsafe {
            let mut left = Work::d_b(cuda, works)?;
            if !products::d_a::<T>(cuda, &d_a)? {
                left.extend(d_a);
            }
            launch_weight_grads::<T>(cuda, &mut left, None)
        }
    }
}

/// The gradients of adapters of one weight, step by step: `d_xa` first, what else there is in any order.
pub(in crate::cuda) struct LoraGrads(Vec<Work>);

impl LoraGrads {
    /// For all of `x`, `xa`, `d_xa` and `d_out`.
    pub(in crate::cuda) fn new<'a, T: Float>(
        cuda: &Cuda,
        [x, xa, d_out]: [Mat<'a, Cuda, T>; 3],
        parts: &'a [LoraPart<'a, Cuda, T>],
        factors: Vec<LoraFactors<'a, Cuda>>,
        d_xa: &mut MatMut<'_, Cuda, T>,
    ) -> Result<Self> {
        let [n, k] = x.shape();
        let some = parts.iter().zip(factors).filter(|(part, _)| n > 0 && !part.xa.is_empty()).collect::<Vec<_>>();
        let shape = |part: &LoraPart<'_, Cuda, T>| Shape { n, k, r: part.xa.len(), out: part.out.len() };
        let shapes = some.iter().map(|(part, _)| shape(part)).collect::<Vec<_>>();
        let scratch = Transposed::all::<T>(cuda, &shapes)?;
        let mut works = Vec::with_capacity(some.len());
        for ((part, factors), scratch) in some.into_iter().zip(scratch) {
            works.push(Work::new(cuda, part.lora_grad([x, xa, d_out], d_xa, factors, None), scratch)?);
        }
        Ok(LoraGrads(works))
    }

    /// From now on they add to `d_x`.
    pub(in crate::cuda) fn add_to<T: Float>(
        &mut self,
        parts: &[LoraPart<'_, Cuda, T>],
        d_xa: &Mat<'_, Cuda, T>,
        d_x: &mut MatMut<'_, Cuda, T>,
    ) {
        let with_rank = parts.iter().filter(|part| !part.xa.is_empty());
        for (work, part) in self.0.iter_mut().zip(with_rank) {
            work.add_to(d_x.reborrow(), part.a, &d_xa.columns(part.xa.clone()), part.dropout);
        }
    }

    /// `d_xa`, but for sums of the last adapters that are left to do.
    ///
    /// # Safety
    /// The op that these are parts of was verified (`LoraPart::verify_all`), and what it names is live.
    pub(in crate::cuda::launch::gemm) unsafe fn d_xa<T: Float>(&self, cuda: &Cuda) -> Result<Option<Sums>> {
        let mut left = None::<Sums>;
        for works in self.0.chunks(PARTS) {
            // SAFETY: this function's contract is theirs.
            unsafe {
                left.map_or(Ok(()), |sums| sums.launch::<T>(cuda))?;
                left = Work::run_d_xa::<T>(cuda, works)?;
            }
        }
        Ok(left)
    }

    /// # Safety
    /// As for [`LoraGrads::d_xa`].
    pub(in crate::cuda) unsafe fn d_x<T: Float>(&self, cuda: &Cuda) -> Result<()> {
        // SAFETY: this function's contract is theirs.
        self.0.chunks(PARTS).try_for_each(|works| unsafe { Work::run_d_x::<T>(cuda, works) })
    }

    /// # Safety
    /// As for [`LoraGrads::d_xa`]; `x` is there.
    pub(in crate::cuda) unsafe fn factors<T: Float>(&self, cuda: &Cuda) -> Result<()> {
        // SAFETY: this function's contract is theirs.
        self.0.chunks(PARTS).try_for_each(|works| unsafe { Work::run_factors::<T>(cuda, works) })
    }

    /// The same where `x` is SwiGLU's output, which is not there, with SwiGLU's gradient, and what is added to `d_x`, SwiGLU's
    /// `d_out`, before; or not, where the kernel of both does not suit.
    ///
    /// # Safety
    /// As for [`LoraGrads::d_xa`]; `swiglu` is of as many tokens and of the inputs, and was verified.
    pub(in crate::cuda) unsafe fn all_through<T: Float>(&self, cuda: &Cuda, swiglu: SwigluGradParams) -> Result<bool> {
        let [work] = &self.0[..] else { return Ok(false) };
        let a = work.d_x.map_or(null(), |of| of.a);
        let mut through = LoraSwigluGradParams { swiglu, factor: work.d_a, a };
        let Some(launch) = plan::swiglu_grad(cuda, T::DTYPE, &mut through) else { return Ok(false) };
        // SAFETY: this function's contract is theirs; `plan::swiglu_grad` checked what the kernel demands beyond.
        unsafe {
            if !plan::swiglu_grad_adds(&through.factor) {
                self.d_x::<T>(cuda)?;
            }
            let mut left = Work::d_b(cuda, &self.0)?;
            launch_weight_grads::<T>(cuda, &mut left, Some((launch, through))).map(|()| true)
        }
    }
}

/// Queues the gradients of factors: parts of the tokens, then their sums; `through` is one more of them, with its kernel.
///
/// # Safety
/// The matrices are live and as large as the dimensions say; `partial` is set here.
unsafe fn launch_weight_grads<T: Float>(
    cuda: &Cuda,
    factors: &mut Vec<LoraWeightGradParams>,
    through: Option<(Launch<LoraSwigluGradParams>, LoraSwigluGradParams)>,
) -> Result<()> {
    let own = (!factors.is_empty()).then(|| plan::weight_grad(cuda, T::DTYPE, factors));
    factors.extend(through.as_ref().map(|(_, params)| params.factor));
    if factors.is_empty() {
        return Ok(());
    }
    let partial = |p: &LoraWeightGradParams| p.splits as usize * p.r as usize * p.cols as usize;
    let mut next = cuda.scratch::<f32>(Slot::Partial, factors.iter().map(partial).sum())?;
    for p in factors.iter_mut() {
        (p.partial, next) = (next, next.wrapping_add(partial(p)));
    }
    let count = factors.len() - usize::from(through.is_some());
    // SAFETY: the matrices are as this function's contract says, `partial` has room for `splits` parts of each, and `plan`
    // checked what the kernels demand beyond.
    unsafe {
        if let Some(Launch { kernel, config }) = own {
            let params = LoraWeightGradsParams { factors: together(&factors[..count]), count: dim(count) };
            cuda.launch(kernel, T::DTYPE.suffix(), params, config)?;
        }
        if let Some((Launch { kernel, config }, params)) = through {
            let params = LoraSwigluGradParams { factor: factors[count], ..params };
            cuda.launch(kernel, T::DTYPE.suffix(), params, config)?;
        }
        launch_sums(cuda, factors)
    }
}

/// Adds the parts of each factor to its gradient.
///
/// # Safety
/// As for [`launch_weight_grads`]; the parts are there.
pub(super) unsafe fn launch_sums(cuda: &Cuda, factors: &[LoraWeightGradParams]) -> Result<()> {
    let threads = |p: &LoraWeightGradParams| {
        let rows = if p.transposed == 0 { p.r } else { p.r.div_ceil(LORA_WEIGHT_GRAD_SUMS) };
        rows as usize * p.cols as usize
    };
    let most = factors.iter().map(threads).max().unwrap_or(0);
    let blocks = grid("lora_grad", &[most], most.div_ceil(LORA_WEIGHT_GRAD_THREADS as usize))?;
    let config = LaunchConfig { grid: [blocks, 1, dim(factors.len())], threads: LORA_WEIGHT_GRAD_THREADS, shared: 0 };
    let params = LoraWeightGradsParams { factors: together(factors), count: dim(factors.len()) };
    // SAFETY: this function's contract is that of `Cuda::launch`.
    unsafe { cuda.launch(&WEIGHT_GRAD_SUM, "", params, config) }
}

pub(in crate::cuda) fn lora_grad<T: Float>(cuda: &Cuda, op: LoraGrad<'_, Cuda, T>) -> Result<()> {
    let ([n, k], [_, r], [_, out]) = (op.x.shape(), op.xa.shape(), op.d_out.shape());
    if n == 0 || r == 0 {
        return Ok(());
    }
    let scratch = Transposed::all::<T>(cuda, &[Shape { n, k, r, out }])?;
    let works = scratch.into_iter().zip([op]).map(|(scratch, op)| Work::new(cuda, op, scratch));
    let grads = LoraGrads(works.collect::<Result<_>>()?);
    // SAFETY: `LoraGrad::verify` checked the op.
    unsafe {
        if let Some(sums) = grads.d_xa::<T>(cuda)? {
            sums.launch::<T>(cuda)?;
        }
        grads.factors::<T>(cuda)?;
        grads.d_x::<T>(cuda)
    }
}
