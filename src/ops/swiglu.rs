use super::check::{Check, Op};
use crate::{
    buffer::{Mat, MatMut, Storage},
    element::Float,
    error::Result,
};

/// `out = silu(gate) · up`, where `gate_up = [gate | up]` is `[n, 2f]` and `out` is `[n, f]`;
/// `silu(v) = v / (1 + exp(-v))` (Shazeer, "GLU variants improve transformer", 2020).
#[derive(Debug)]
pub struct Swiglu<'a, B: Storage, T: Float> {
    /// `[n, 2f]`: gate, then up.
    pub gate_up: Mat<'a, B, T>,
    /// `[n, f]`.
    pub out: MatMut<'a, B, T>,
}

impl<B: Storage, T: Float> Op<B> for Swiglu<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        verify_shapes(check, &self.gate_up, ("out", self.out.mat()))
    }
}

/// What the check of the op and of its gradient share: `out` is the output or its gradient.
fn verify_shapes<B: Storage, T: Float>(
    check: &Check<'_, B>,
    gate_up: &Mat<'_, B, T>,
    (name, out): (&'static str, Mat<'_, B, T>),
) -> Result<()> {
    let [n, f] = out.shape();
    check.mat(name, &out, [n, f])?;
    check.mat("gate_up", gate_up, [n, 2 * f])
}

/// The gradient of [`Swiglu`].
///
/// With `s = 1 / (1 + exp(-gate))`: `d_gate = d_out · up · s · (1 + gate · (1 - s))`, `d_up = d_out · gate · s`. They take
/// the place of gate and up, which nothing reads after their gradients: `[n, 2f]` is the largest matrix of a layer.
#[derive(Debug)]
pub struct SwigluGrad<'a, B: Storage, T: Float> {
    /// `[n, 2f]`, as in the forward op; then d_gate and d_up.
    pub gate_up: MatMut<'a, B, T>,
    /// `[n, f]`.
    pub d_out: Mat<'a, B, T>,
}

impl<B: Storage, T: Float> Op<B> for SwigluGrad<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        verify_shapes(check, &self.gate_up.mat(), ("d_out", self.d_out))
    }
}
