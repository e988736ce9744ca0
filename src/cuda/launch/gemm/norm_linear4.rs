//! One or two tokens: `gemv` with the norm in front, adapters beside and SwiGLU behind. Otherwise one kernel after the
//! other.

use super::{
    Gemm, SKINNY_ROWS,
    linear4::{fits_gemv, gemv_config, linear4},
    lora::loras,
    plan::GemmWeight,
};
use crate::{
    buffer::{Mat, MatMut, View},
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        launch::{dim, is_aligned, rms_norm::rms_norm, swiglu::swiglu, weight4},
        params::{self, LORA_LINEAR4_FACTORS, LoraLinear4Factor, MatrixMut, NormLinear4Params},
    },
    element::{DType, Float},
    error::Result,
    ops::{Linear4, LoraPart, NormLinear4, RmsNorm, Swiglu},
    quant::{Scales, Weight4},
};
use std::ptr::{null, null_mut};

/// The kernels for one token and for two, by what is done around the product, and the scales of the weight.
type Gemv = [Kernel<NormLinear4Params>; 2];

macro_rules! gemv {
    ($name:literal) => {
        [gemv!($name, ""), gemv!($name, "_plain")]
    };
    ($name:literal, $scales:literal) => {
        [
            Kernel::new("norm_linear4", concat!("norm_linear4_", $name, "gemv1", $scales)),
            Kernel::new("norm_linear4", concat!("norm_linear4_", $name, "gemv2", $scales)),
        ]
    };
}
static NORM: [Gemv; 2] = gemv!("");
static NORM_SWIGLU: [Gemv; 2] = gemv!("swiglu_");
static ADAPTED: [Gemv; 2] = gemv!("adapted_");
const ADAPTERS: Kernel<NormLinear4Params> = Kernel::new("norm_linear4", "norm_linear4_adapters");

pub(in crate::cuda) fn norm_linear4<T: Float>(cuda: &Cuda, op: NormLinear4<'_, Cuda, T>) -> Result<()> {
    let NormLinear4 { x, norm, eps, mut normed, weight, parts, mut xa, mut out, mut gated } = op;
    let mut fused = Fused {
        gemm: Gemm::new("norm_linear4", false, &x, &mut out, false),
        weight,
        parts,
        xa: xa.matrix(),
        norm: Some((norm, eps, normed.matrix())),
        gated: gated.as_mut().map(|gated| gated.matrix()),
    };
    // SAFETY: `NormLinear4::verify` checked every shape.
    if unsafe { fused.run(cuda)? } {
        return Ok(());
    }
    rms_norm(cuda, RmsNorm { x, add: None, weight: norm, eps, out: normed.reborrow() })?;
    linear4(cuda, Linear4 { x: normed.mat(), weight, out: out.reborrow(), accumulate: false })?;
    adapters(cuda, normed.mat(), parts, xa, out.reborrow())?;
    gated.map_or(Ok(()), |gated| swiglu(cuda, Swiglu { gate_up: out.mat(), out: gated }))
}

/// Adds what adapters make of `x` to `out`, one after the other.
pub(super) fn adapters<T: Float>(
    cuda: &Cuda,
    x: Mat<'_, Cuda, T>,
    parts: &[LoraPart<'_, Cuda, T>],
    mut xa: MatMut<'_, Cuda, T>,
    mut out: MatMut<'_, Cuda, T>,
) -> Result<()> {
    loras(cuda, x, parts, &mut xa, &mut out)
}

/// A product of one or two tokens with all that is around it.
pub(super) struct Fused<'a, T: Float> {
    pub(super) gemm: Gemm,
    pub(super) weight: Weight4<'a, Cuda>,
    pub(super) parts: &'a [LoraPart<'a, Cuda, T>],
    pub(super) xa: MatrixMut,
    /// The norm's weight, its epsilon, and where the normalised input goes.
    pub(super) norm: Option<(View<'a, Cuda, f32>, f32, MatrixMut)>,
    pub(super) gated: Option<MatrixMut>,
}

impl<T: Float> Fused<'_, T> {
    /// Queues it. False: there is no kernel for this shape, this alignment or this GPU.
    ///
    /// # Safety
    /// The matrices, the weight and the adapters are live and as large as the dimensions of `gemm` and `parts` say.
    pub(super) unsafe fn run(&mut self, cuda: &Cuda) -> Result<bool> {
        let Some(kernel) = self.kernel(cuda)? else { return Ok(false) };
        let (suffix, params) = (T::DTYPE.suffix(), self.params());
        let columns = self.parts.iter().map(|part| dim(part.xa.len())).sum();
        let grid = [columns, dim(self.gemm.n), 1];
        let config = LaunchConfig { grid, threads: params::NORM_LINEAR4_ADAPTERS_THREADS, shared: 0 };
        let rows = self.weight.rows / (1 + usize::from(self.gated.is_some()));
        // SAFETY: the shapes are this function's contract, and `fits` says what else the kernels demand.
        unsafe {
            cuda.launch(&ADAPTERS, suffix, params, config)?;
            cuda.launch(kernel, suffix, params, gemv_config(cuda, dim(rows)))?;
        }
        Ok(true)
    }

    fn kernel(&self, cuda: &Cuda) -> Result<Option<&'static Kernel<NormLinear4Params>>> {
        let kernels = match (&self.norm, &self.gated) {
            (None, _) => &ADAPTED,
            (Some(_), None) => &NORM,
            (Some(_), Some(_)) => &NORM_SWIGLU,
        };
        let kernels = &kernels[usize::from(matches!(self.weight.scales, Scales::Plain(_)))];
        let kernel = self.gemm.n.checked_sub(1).and_then(|n| kernels.get(n));
        let Some(kernel) = kernel.filter(|_| self.fits(cuda)) else { return Ok(None) };
        Ok(cuda.has(kernel, T::DTYPE.suffix())?.then_some(kernel))
    }

    fn fits(&self, cuda: &Cuda) -> bool {
        let Fused { gemm, weight, .. } = self;
        let norm = self.norm.as_ref().is_none_or(|(norm, _, normed)| {
            weight.cols <= params::NORM_LINEAR4_GEMV_MAX_COLS as usize
                && is_aligned(norm.ptr() as _, 0, 16)
                && normed.is_aligned(T::DTYPE, 16)
        });
        let halves = self.gated.is_none() || (weight.rows / 2).is_multiple_of(SKINNY_ROWS);
        gemm.x_fits_tensor_cores()
            && fits_gemv(cuda, weight, params::LINEAR4_GEMV_SHARED + params::NORM_LINEAR4_GEMV_STATIC_BYTES)
            && is_aligned(weight.codes.ptr() as _, 0, 16)
            && norm
            && halves
            && self.adapters_fit()
    }

    fn adapters_fit(&self) -> bool {
        let part = |part: &LoraPart<'_, Cuda, T>| {
            part.dropout.is_none()
                && is_aligned(part.a.ptr() as _, 0, 16)
                && is_aligned(part.b.ptr() as _, 0, 8)
                && [part.xa.start, part.xa.len()].iter().all(|columns| columns.is_multiple_of(4))
        };
        let some = self.xa.is_aligned(T::DTYPE, 8)
            && self.weight.cols <= params::NORM_LINEAR4_ADAPTERS_MAX_COLS as usize
            && self.parts.len() <= LORA_LINEAR4_FACTORS as usize
            && self.parts.iter().all(part);
        T::DTYPE != DType::F32 && (self.parts.is_empty() || some)
    }

    fn params(&self) -> NormLinear4Params {
        let (norm, eps, normed) = match &self.norm {
            Some((norm, eps, normed)) => (norm.ptr() as _, *eps, *normed),
            None => (null(), 0.0, MatrixMut::NONE),
        };
        let mut params = NormLinear4Params {
            linear: weight4(&self.weight).params(&self.gemm, null_mut(), 1),
            norm,
            eps,
            normed,
            gated: self.gated.unwrap_or(MatrixMut::NONE),
            xa: self.xa,
            a: [null(); LORA_LINEAR4_FACTORS as usize],
            b: [LoraLinear4Factor::NONE; LORA_LINEAR4_FACTORS as usize],
            adapters: dim(self.parts.len()),
        };
        for ((a, b), part) in params.a.iter_mut().zip(&mut params.b).zip(self.parts) {
            *a = part.a.ptr() as _;
            *b = LoraLinear4Factor::new(part.b.ptr() as _, part, 0);
        }
        params
    }
}
