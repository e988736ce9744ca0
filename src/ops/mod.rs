//! What each kernel computes, and what it demands of its arguments.
//!
//! An op is a struct with public fields. [`Op::check`] verifies every length, divisibility and range and
//! gives a [`Checked`] op, the only thing that a backend takes; [`Op::run`] does both steps. Outputs are
//! [`ViewMut`]s or [`MatMut`]s; every element of an output is written unless the op says `+=`.
mod adamw;
mod attention;
mod cast;
mod cross_entropy;
mod decode_attention;
mod dequantize;
mod linear;
mod linear4;
mod lora;
mod lora_linear4;
mod norm_linear4;
mod qk_norm_rope;
mod quantize;
mod reduce;
mod rms_norm;
mod rows;
mod sample;
mod swiglu;
mod weight_grad;

pub use adamw::AdamW;
pub use attention::{Attention, AttentionGrad, Heads, Prefix};
pub use cast::Cast;
pub use cross_entropy::{CrossEntropy, IGNORE};
pub use decode_attention::DecodeAttention;
pub use dequantize::Dequantize;
pub use linear::{Linear, LinearGrad};
pub use linear4::{Linear4, Linear4Grad};
pub use lora::{Dropout, Lora, LoraGrad};
pub(crate) use lora_linear4::span;
pub use lora_linear4::{LoraFactors, LoraLinear4, LoraLinear4Grad, LoraPart};
pub use norm_linear4::NormLinear4;
pub use qk_norm_rope::{CacheRows, QkNormRope, QkNormRopeGrad};
pub use quantize::{NestAbsmax, Quantize};
pub use reduce::{Norm, Sum};
pub use rms_norm::{RmsNorm, RmsNormGrad};
pub use rows::{GatherRows, ScatterRows};
pub use sample::Sample;
pub use swiglu::{Swiglu, SwigluGrad};
pub use weight_grad::WeightGrad;

use crate::{Backend, Element, Error, Mat, MatMut, Result, View, ViewMut};

/// An op whose arguments have been verified. [`Op::check`] is the only way to make one.
pub struct Checked<O>(O);

impl<O> Checked<O> {
    /// The verified op, for the backend that runs it.
    pub fn into_inner(self) -> O {
        self.0
    }
}

/// How an op is called, and how a backend runs it: made from the list of all ops in `backend.rs`.
pub trait Launch<B: Backend>: Sized {
    /// The op's name, as in errors, files, kernels and benches.
    const NAME: &'static str;

    /// Hands a verified op to its backend.
    fn launch(op: Checked<Self>, backend: &B) -> Result<()>;
}

/// An op of backend `B`.
pub trait Op<B: Backend>: Launch<B> {
    /// Finds the first argument that does not fit the others or is not the backend's. Must look at every view of the
    /// op: what it does not show to `check` is not known to be the backend's.
    fn verify(&self, check: &Check<'_, B>) -> Result<()>;

    /// Verifies the arguments.
    fn check(self, backend: &B) -> Result<Checked<Self>> {
        self.verify(&Check::new(Self::NAME, backend))?;
        Ok(Checked(self))
    }

    /// Verifies the arguments and runs the op.
    fn run(self, backend: &B) -> Result<()> {
        Self::launch(self.check(backend)?, backend)
    }
}

/// The largest dimension, length or stride that kernels take: positions inside one row fit 32 bits.
const MAX_DIM: usize = i32::MAX as usize;

// What `verify` multiplies are two dimensions that `Check::dims` has seen: the product must fit.
const _: () = assert!(usize::BITS >= 64, "halfbyte needs a 64-bit machine");

/// The argument checks of one op on one backend.
pub struct Check<'b, B: Backend> {
    op: &'static str,
    backend: &'b B,
}

impl<'b, B: Backend> Check<'b, B> {
    pub(crate) fn new(op: &'static str, backend: &'b B) -> Self {
        Check { op, backend }
    }

    pub(crate) fn value(&self, ok: bool, arg: &'static str, got: impl ToString, want: &'static str) -> Result<()> {
        if ok { Ok(()) } else { Err(Error::Value { op: self.op, arg, got: got.to_string(), want }) }
    }

    fn admit(&self, arg: &'static str, owner: &B::Owner) -> Result<()> {
        if self.backend.admit(owner) { Ok(()) } else { Err(Error::Foreign { op: self.op, arg }) }
    }

    /// A view of any length.
    pub(crate) fn view<T: Element>(&self, arg: &'static str, view: &View<'_, B, T>) -> Result<()> {
        self.admit(arg, view.owner())
    }

    /// A view of any length, to write.
    pub(crate) fn view_mut<T: Element>(&self, arg: &'static str, view: &ViewMut<'_, B, T>) -> Result<()> {
        self.admit(arg, view.owner())
    }

    pub(crate) fn len<T: Element>(&self, arg: &'static str, view: &View<'_, B, T>, want: usize) -> Result<()> {
        self.view(arg, view)?;
        self.length(arg, view.len(), want)
    }

    pub(crate) fn len_mut<T: Element>(&self, arg: &'static str, view: &ViewMut<'_, B, T>, want: usize) -> Result<()> {
        self.view_mut(arg, view)?;
        self.length(arg, view.len(), want)
    }

    fn length(&self, arg: &'static str, got: usize, want: usize) -> Result<()> {
        if got == want { Ok(()) } else { Err(Error::Len { op: self.op, arg, got, want }) }
    }

    pub(crate) fn mat<T: Element>(&self, arg: &'static str, mat: &Mat<'_, B, T>, want: [usize; 2]) -> Result<()> {
        self.view(arg, &mat.view)?;
        self.shape(arg, mat.shape(), mat.stride, want)
    }

    pub(crate) fn mat_mut<T: Element>(
        &self,
        arg: &'static str,
        mat: &MatMut<'_, B, T>,
        want: [usize; 2],
    ) -> Result<()> {
        self.view_mut(arg, &mat.view)?;
        self.shape(arg, mat.shape(), mat.stride, want)
    }

    fn shape(&self, arg: &'static str, got: [usize; 2], stride: usize, want: [usize; 2]) -> Result<()> {
        if got != want {
            return Err(Error::Shape { op: self.op, arg, got, want });
        }
        self.dims(&[got[0], got[1], stride])
    }

    /// Every dimension is something that kernels can count to.
    pub(crate) fn dims(&self, dims: &[usize]) -> Result<()> {
        match dims.iter().find(|&&d| d > MAX_DIM) {
            Some(d) => self.value(false, "a dimension", d, "dimensions must be below 2^31"),
            None => Ok(()),
        }
    }
}
