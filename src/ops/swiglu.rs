use super::check::{Check, Op};
use crate::{
    buffer::{Mat, MatMut, Storage},
    element::Float,
    error::Result,
};

/// `out = silu(gate) · up`, where `gate_up = [gate | up]` is `[n, 2f]` and `out` is `[n, f]`;
/// `silu(v) = v / (1 + exp(-v))` (Shazeer, "GLU variants improve transformer", 2020).
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// let (gate_up, mut out) = (cpu.upload(&[0_f32, 1.0, 3.0, 2.0])?, cpu.zeros(2)?);
/// Swiglu { gate_up: gate_up.mat(1, 4), out: out.mat_mut(1, 2) }.run(&cpu)?;
/// let [a, b] = out.to_vec(&cpu)?[..] else { unreachable!() };
/// assert!(a == 0.0 && (b - 2.0 / (1.0 + f32::exp(-1.0))).abs() < 1e-6);
/// # Ok::<(), halfbyte::Error>(())
/// ```
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
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// let (mut gate_up, d_out) = (cpu.upload(&[0_f32, 3.0])?, cpu.upload(&[2_f32])?);
/// SwigluGrad { gate_up: gate_up.mat_mut(1, 2), d_out: d_out.mat(1, 1) }.run(&cpu)?;
/// assert_eq!(gate_up.to_vec(&cpu)?, [3.0, 0.0]);
/// # Ok::<(), halfbyte::Error>(())
/// ```
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
