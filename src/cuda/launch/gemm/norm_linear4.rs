//! One or two tokens: `gemv` with the norm in front, adapters beside and SwiGLU behind. Three to 128: SwiGLU behind, where there
//! are no adapters and, from nine on, a tile for each multiprocessor is all of the output. Otherwise one kernel after the other.

use super::{Gemm, SKINNY_ROWS, gemv, linear4::linear4, linear4_wgmma, lora::loras};
use crate::{
    buffer::{Mat, MatMut, View},
    cuda::{
        device::Cuda,
        kernel::Kernel,
        launch::{dim, is_aligned, rms_norm::rms_norm, swiglu::swiglu},
        params::{self, LORA_LINEAR_FACTORS, LoraLinearFactor, MatrixMut, NormLinear4Params},
        scratch::Slot,
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
static ADAPTED_NORM: [Gemv; 2] = gemv!("adapted_");
static ADAPTED_NORM_SWIGLU: [Gemv; 2] = gemv!("adapted_swiglu_");
static ADAPTED: [Gemv; 2] = gemv!("adapted_only_");
/// Of three to eight tokens, without norm and adapters.
static SWIGLU: [Kernel<NormLinear4Params>; 2] = [
    Kernel::new("norm_linear4", "norm_linear4_swiglu_gemv8"),
    Kernel::new("norm_linear4", "norm_linear4_swiglu_gemv8_plain"),
];

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
    fused.gemm = Gemm::new("norm_linear4", false, &normed.mat(), &mut out, false);
    fused.norm = None;
    if let (Some(out), []) = (fused.gated, parts) {
        let gemm = Gemm { out, ..fused.gemm };
        // SAFETY: `NormLinear4::verify` checked every shape; `normed` has those of `x`.
        if unsafe { fused.run(cuda)? || linear4_wgmma::run_gated(cuda, &gemm, &weight)? } {
            return Ok(());
        }
    }
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
        let Some((kernel, threads, shared)) = self.kernel(cuda)? else { return Ok(false) };
        let params = self.params(cuda)?;
        let config = gemv::config(cuda, self.weight.rows / self.halves(), threads, shared);
        // SAFETY: the shapes are this function's contract, and `fits` says what else the kernels demand.
        unsafe { cuda.launch(kernel, T::DTYPE.suffix(), params, config)? };
        Ok(true)
    }

    /// The kernel, its threads, and its dynamic shared memory.
    fn kernel(&self, cuda: &Cuda) -> Result<Option<(&'static Kernel<NormLinear4Params>, u32, u32)>> {
        let plain = usize::from(matches!(self.weight.scales, Scales::Plain(_)));
        let few = |kernels: &'static [Gemv; 2]| {
            let kernel = self.gemm.n.checked_sub(1).and_then(|n| kernels[plain].get(n));
            let small =
                [params::LINEAR4_GEMV_THREADS, params::LINEAR4_GEMV_SHARED, params::NORM_LINEAR4_GEMV_STATIC_BYTES];
            kernel.map(|kernel| (kernel, small))
        };
        let kernel = match (&self.norm, &self.gated, self.parts) {
            (None, Some(_), []) if (3..=8).contains(&self.gemm.n) => Some((&SWIGLU[plain], gemv::EIGHT)),
            (None, Some(_), _) => None,
            (None, None, _) => few(&ADAPTED),
            (Some(_), None, []) => few(&NORM),
            (Some(_), None, _) => few(&ADAPTED_NORM),
            (Some(_), Some(_), []) => few(&NORM_SWIGLU),
            (Some(_), Some(_), _) => few(&ADAPTED_NORM_SWIGLU),
        };
        let Some((kernel, [threads, shared, static_bytes])) = kernel else { return Ok(None) };
        let there = self.fits(cuda, shared + static_bytes) && cuda.has(kernel, T::DTYPE.suffix())?;
        Ok(there.then_some((kernel, threads, shared)))
    }

    fn fits(&self, cuda: &Cuda, shared: u32) -> bool {
        let Fused { gemm, weight, .. } = self;
        let norm = self.norm.as_ref().is_none_or(|(norm, _, normed)| {
            weight.cols <= params::NORM_LINEAR4_GEMV_MAX_COLS as usize
                && is_aligned(norm.ptr() as _, 0, 16)
                && normed.is_aligned(T::DTYPE, 16)
        });
        let halves = (weight.rows / self.halves()).is_multiple_of(SKINNY_ROWS);
        gemm.x_fits_tensor_cores()
            && gemv::fits(cuda, weight, shared)
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
        let some = self.columns() * self.gemm.n <= params::NORM_LINEAR4_GEMV_MAX_XA as usize
            && self.parts.len() <= LORA_LINEAR_FACTORS as usize
            && self.parts.iter().all(part);
        T::DTYPE != DType::F32 && (self.parts.is_empty() || some)
    }

    /// With SwiGLU a CTA has the same rows of gate and of up.
    fn halves(&self) -> usize {
        1 + usize::from(self.gated.is_some())
    }

    /// Those of xa that the adapters make.
    fn columns(&self) -> usize {
        self.parts.iter().map(|part| part.xa.len()).sum()
    }

    fn params(&self, cuda: &Cuda) -> Result<NormLinear4Params> {
        let (norm, eps, normed) = match &self.norm {
            Some((norm, eps, normed)) => (norm.ptr() as _, *eps, *normed),
            None => (null(), 0.0, MatrixMut::NONE),
        };
        let mut params = NormLinear4Params {
            linear: gemv::params(cuda, &self.gemm, &self.weight, self.halves()),
            norm,
            eps,
            normed,
            gated: self.gated.unwrap_or(MatrixMut::NONE),
            xa: self.xa,
            a: [null(); LORA_LINEAR_FACTORS as usize],
            b: [LoraLinearFactor::NONE; LORA_LINEAR_FACTORS as usize],
            adapters: dim(self.parts.len()),
            columns: dim(self.columns()),
            tickets: if self.parts.is_empty() { null_mut() } else { cuda.scratch(Slot::Tickets, 2)? },
        };
        for ((a, b), part) in params.a.iter_mut().zip(&mut params.b).zip(self.parts) {
            *a = part.a.ptr() as _;
            *b = LoraLinearFactor::new(part.b.ptr() as _, part, 0);
        }
        Ok(params)
    }
}
