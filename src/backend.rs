use crate::{
    Buf, Element, Float, Result, Storage, View, ViewMut,
    ops::{
        AdamW, Attention, AttentionGrad, CacheAppend, Cast, Checked, CrossEntropy, DecodeAttention, Dequantize,
        GatherRows, Linear, Linear4, Linear4Grad, LinearGrad, Lora, LoraGrad, NestAbsmax, Norm, QkNormRope,
        QkNormRopeGrad, Quantize, RmsNorm, RmsNormGrad, Sample, ScatterRows, Sum, Swiglu, SwigluGrad, WeightGrad,
    },
};

/// A machine that holds buffers and runs kernels. This trait is the table of contents of halfbyte:
/// one method for each op, each documented where the op is defined.
///
/// Work is queued in order; only [`Backend::download`] and [`Backend::synchronize`] wait for it.
pub trait Backend: Storage + Sized + Send + Sync + 'static {
    /// A recorded sequence of ops; see [`Backend::replay`].
    type Graph: Default + Send;

    /// What it is, for people: `cpu (avx512-bf16, 2 threads)`, `cuda:0 (NVIDIA H200)`.
    fn name(&self) -> String;

    // Memory

    /// `len` zeros.
    fn zeros<T: Element>(&self, len: usize) -> Result<Buf<Self, T>>;
    /// A copy of `host`.
    fn upload<T: Element>(&self, host: &[T]) -> Result<Buf<Self, T>>;
    /// A copy on the host; waits.
    fn download<T: Element>(&self, view: View<'_, Self, T>) -> Result<Vec<T>>;
    /// `host` into memory that exists. Lengths must agree.
    fn write<T: Element>(&self, host: &[T], out: ViewMut<'_, Self, T>) -> Result<()>;
    /// `x` into `out`. Lengths must agree.
    fn copy<T: Element>(&self, x: View<'_, Self, T>, out: ViewMut<'_, Self, T>) -> Result<()>;
    /// Zeros into `out`.
    fn clear<T: Element>(&self, out: ViewMut<'_, Self, T>) -> Result<()>;
    /// Waits until everything that was queued is done, and reports what went wrong in it.
    fn synchronize(&self) -> Result<()>;
    /// Bytes in use and the most that were ever in use, as far as this backend knows.
    fn memory(&self) -> (usize, usize);

    /// Runs `step`, which must queue the same ops on the same memory each time and wait for nothing.
    /// A backend that can record queues (CUDA graphs) records it into `graph` the first time and
    /// from then on replays that.
    fn replay(&self, graph: &mut Self::Graph, step: impl FnMut() -> Result<()>) -> Result<()>;

    // 4-bit formats

    /// See [`Quantize`].
    fn quantize<T: Float>(&self, op: Checked<Quantize<'_, Self, T>>) -> Result<()>;
    /// See [`NestAbsmax`].
    fn nest_absmax(&self, op: Checked<NestAbsmax<'_, Self>>) -> Result<()>;
    /// See [`Dequantize`].
    fn dequantize<T: Float>(&self, op: Checked<Dequantize<'_, Self, T>>) -> Result<()>;

    // Linear layers

    /// See [`Linear4`].
    fn linear4<T: Float, O: Float>(&self, op: Checked<Linear4<'_, Self, T, O>>) -> Result<()>;
    /// See [`Linear4Grad`].
    fn linear4_grad<T: Float>(&self, op: Checked<Linear4Grad<'_, Self, T>>) -> Result<()>;
    /// See [`Linear`].
    fn linear<T: Float, O: Float>(&self, op: Checked<Linear<'_, Self, T, O>>) -> Result<()>;
    /// See [`LinearGrad`].
    fn linear_grad<T: Float>(&self, op: Checked<LinearGrad<'_, Self, T>>) -> Result<()>;
    /// See [`WeightGrad`].
    fn weight_grad<T: Float>(&self, op: Checked<WeightGrad<'_, Self, T>>) -> Result<()>;
    /// See [`Lora`].
    fn lora<T: Float>(&self, op: Checked<Lora<'_, Self, T>>) -> Result<()>;
    /// See [`LoraGrad`].
    fn lora_grad<T: Float>(&self, op: Checked<LoraGrad<'_, Self, T>>) -> Result<()>;

    // The layers between

    /// See [`RmsNorm`].
    fn rms_norm<T: Float>(&self, op: Checked<RmsNorm<'_, Self, T>>) -> Result<()>;
    /// See [`RmsNormGrad`].
    fn rms_norm_grad<T: Float>(&self, op: Checked<RmsNormGrad<'_, Self, T>>) -> Result<()>;
    /// See [`QkNormRope`].
    fn qk_norm_rope<T: Float>(&self, op: Checked<QkNormRope<'_, Self, T>>) -> Result<()>;
    /// See [`QkNormRopeGrad`].
    fn qk_norm_rope_grad<T: Float>(&self, op: Checked<QkNormRopeGrad<'_, Self, T>>) -> Result<()>;
    /// See [`Attention`].
    fn attention<T: Float>(&self, op: Checked<Attention<'_, Self, T>>) -> Result<()>;
    /// See [`AttentionGrad`].
    fn attention_grad<T: Float>(&self, op: Checked<AttentionGrad<'_, Self, T>>) -> Result<()>;
    /// See [`CacheAppend`].
    fn cache_append<T: Float>(&self, op: Checked<CacheAppend<'_, Self, T>>) -> Result<()>;
    /// See [`DecodeAttention`].
    fn decode_attention<T: Float>(&self, op: Checked<DecodeAttention<'_, Self, T>>) -> Result<()>;
    /// See [`Swiglu`].
    fn swiglu<T: Float>(&self, op: Checked<Swiglu<'_, Self, T>>) -> Result<()>;
    /// See [`SwigluGrad`].
    fn swiglu_grad<T: Float>(&self, op: Checked<SwigluGrad<'_, Self, T>>) -> Result<()>;

    // The two ends

    /// See [`GatherRows`].
    fn gather_rows<T: Float>(&self, op: Checked<GatherRows<'_, Self, T>>) -> Result<()>;
    /// See [`ScatterRows`].
    fn scatter_rows<T: Float>(&self, op: Checked<ScatterRows<'_, Self, T>>) -> Result<()>;
    /// See [`CrossEntropy`].
    fn cross_entropy<T: Float>(&self, op: Checked<CrossEntropy<'_, Self, T>>) -> Result<()>;
    /// See [`Sample`].
    fn sample(&self, op: Checked<Sample<'_, Self>>) -> Result<()>;

    // Flat vectors

    /// See [`Cast`].
    fn cast<S: Float, T: Float>(&self, op: Checked<Cast<'_, Self, S, T>>) -> Result<()>;
    /// See [`Sum`].
    fn sum(&self, op: Checked<Sum<'_, Self>>) -> Result<()>;
    /// See [`Norm`].
    fn norm(&self, op: Checked<Norm<'_, Self>>) -> Result<()>;
    /// See [`AdamW`].
    fn adamw<T: Float>(&self, op: Checked<AdamW<'_, Self, T>>) -> Result<()>;
}
