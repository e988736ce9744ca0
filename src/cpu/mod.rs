//! The CPU backend: vectorised (run-time dispatch) and threaded. The default where there is no GPU.
mod adamw;
mod attention;
mod attention_grad;
mod cast;
mod cross_entropy;
mod decode_attention;
mod dequantize;
mod flash;
mod gemm;
mod math;
mod memory;
mod par;
mod qk_norm_rope;
mod quantize;
mod reduce;
mod rms_norm;
mod rows;
mod sample;
mod simd;
mod swiglu;

pub use simd::features;

use crate::{
    Backend, Buf, Element, Error, Float, Result, View, ViewMut, element,
    ops::{
        AdamW, Attention, AttentionGrad, CacheAppend, Cast, Check, Checked, CrossEntropy, DecodeAttention, Dequantize,
        GatherRows, Linear, Linear4, Linear4Grad, LinearGrad, Lora, LoraGrad, NestAbsmax, Norm, QkNormRope,
        QkNormRopeGrad, Quantize, RmsNorm, RmsNormGrad, Sample, ScatterRows, Sum, Swiglu, SwigluGrad, WeightGrad,
    },
};

/// The machine's own cores and memory.
#[derive(Debug, Default, Clone, Copy)]
pub struct Cpu;

impl Cpu {
    /// Needs nothing and cannot fail.
    pub fn new() -> Self {
        Cpu
    }
}

/// Runs an op on a thread of the pool, which it enters once and not for each of its loops.
fn run(op: impl FnOnce() + Send) -> Result<()> {
    rayon::scope(|_| op());
    Ok(())
}

/// The bytes in `  1234 kB`.
fn kibibytes(text: &str) -> Option<usize> {
    text.trim().strip_suffix("kB")?.trim().parse::<usize>().ok().map(|n| n * 1024)
}

impl Backend for Cpu {
    type Graph = ();

    fn name(&self) -> String {
        format!("cpu ({}, {} threads)", simd::level(), rayon::current_num_threads())
    }

    fn zeros<T: Element>(&self, len: usize) -> Result<Buf<Self, T>> {
        let bytes = element::bytes::<T>(len)?;
        bytemuck::allocation::try_zeroed_vec(len).map(Buf).map_err(|()| Error::OutOfMemory { bytes })
    }

    fn upload<T: Element>(&self, host: &[T]) -> Result<Buf<Self, T>> {
        Ok(Buf(host.to_vec()))
    }

    fn download<T: Element>(&self, view: View<'_, Self, T>) -> Result<Vec<T>> {
        Ok(view.slice().to_vec())
    }

    fn write<T: Element>(&self, host: &[T], out: ViewMut<'_, Self, T>) -> Result<()> {
        Check::new("write", self).len_mut("out", &out, host.len())?;
        out.into_slice().copy_from_slice(host);
        Ok(())
    }

    fn copy<T: Element>(&self, x: View<'_, Self, T>, out: ViewMut<'_, Self, T>) -> Result<()> {
        Check::new("copy", self).len_mut("out", &out, x.len())?;
        out.into_slice().copy_from_slice(x.slice());
        Ok(())
    }

    fn clear<T: Element>(&self, out: ViewMut<'_, Self, T>) -> Result<()> {
        out.into_slice().fill(T::zeroed());
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    /// The process's resident bytes and their peak, from `/proc/self/status`; zeros where there is none.
    fn memory(&self) -> (usize, usize) {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name| status.lines().find_map(|line| line.strip_prefix(name)).and_then(kibibytes).unwrap_or(0);
        (field("VmRSS:"), field("VmHWM:"))
    }

    fn replay(&self, _graph: &mut (), mut step: impl FnMut() -> Result<()>) -> Result<()> {
        step()
    }

    fn quantize<T: Float>(&self, op: Checked<Quantize<'_, Self, T>>) -> Result<()> {
        run(|| quantize::quantize(op.into_inner()))
    }

    fn nest_absmax(&self, op: Checked<NestAbsmax<'_, Self>>) -> Result<()> {
        run(|| quantize::nest_absmax(op.into_inner()))
    }

    fn dequantize<T: Float>(&self, op: Checked<Dequantize<'_, Self, T>>) -> Result<()> {
        run(|| dequantize::dequantize(op.into_inner()))
    }

    fn linear4<T: Float, O: Float>(&self, op: Checked<Linear4<'_, Self, T, O>>) -> Result<()> {
        run(|| gemm::linear4::linear4(op.into_inner()))
    }

    fn linear4_grad<T: Float>(&self, op: Checked<Linear4Grad<'_, Self, T>>) -> Result<()> {
        run(|| gemm::linear4::linear4_grad(op.into_inner()))
    }

    fn linear<T: Float, O: Float>(&self, op: Checked<Linear<'_, Self, T, O>>) -> Result<()> {
        run(|| gemm::linear::linear(op.into_inner()))
    }

    fn linear_grad<T: Float>(&self, op: Checked<LinearGrad<'_, Self, T>>) -> Result<()> {
        run(|| gemm::linear::linear_grad(op.into_inner()))
    }

    fn weight_grad<T: Float>(&self, op: Checked<WeightGrad<'_, Self, T>>) -> Result<()> {
        run(|| gemm::weight_grad::weight_grad(op.into_inner()))
    }

    fn lora<T: Float>(&self, op: Checked<Lora<'_, Self, T>>) -> Result<()> {
        run(|| gemm::lora::lora(op.into_inner()))
    }

    fn lora_grad<T: Float>(&self, op: Checked<LoraGrad<'_, Self, T>>) -> Result<()> {
        run(|| gemm::lora::lora_grad(op.into_inner()))
    }

    fn rms_norm<T: Float>(&self, op: Checked<RmsNorm<'_, Self, T>>) -> Result<()> {
        run(|| rms_norm::rms_norm(op.into_inner()))
    }

    fn rms_norm_grad<T: Float>(&self, op: Checked<RmsNormGrad<'_, Self, T>>) -> Result<()> {
        run(|| rms_norm::rms_norm_grad(op.into_inner()))
    }

    fn qk_norm_rope<T: Float>(&self, op: Checked<QkNormRope<'_, Self, T>>) -> Result<()> {
        run(|| qk_norm_rope::qk_norm_rope(op.into_inner()))
    }

    fn qk_norm_rope_grad<T: Float>(&self, op: Checked<QkNormRopeGrad<'_, Self, T>>) -> Result<()> {
        run(|| qk_norm_rope::qk_norm_rope_grad(op.into_inner()))
    }

    fn attention<T: Float>(&self, op: Checked<Attention<'_, Self, T>>) -> Result<()> {
        run(|| attention::attention(op.into_inner()))
    }

    fn attention_grad<T: Float>(&self, op: Checked<AttentionGrad<'_, Self, T>>) -> Result<()> {
        run(|| attention::attention_grad(op.into_inner()))
    }

    fn cache_append<T: Float>(&self, op: Checked<CacheAppend<'_, Self, T>>) -> Result<()> {
        run(|| decode_attention::cache_append(op.into_inner()))
    }

    fn decode_attention<T: Float>(&self, op: Checked<DecodeAttention<'_, Self, T>>) -> Result<()> {
        run(|| decode_attention::decode_attention(op.into_inner()))
    }

    fn swiglu<T: Float>(&self, op: Checked<Swiglu<'_, Self, T>>) -> Result<()> {
        run(|| swiglu::swiglu(op.into_inner()))
    }

    fn swiglu_grad<T: Float>(&self, op: Checked<SwigluGrad<'_, Self, T>>) -> Result<()> {
        run(|| swiglu::swiglu_grad(op.into_inner()))
    }

    fn gather_rows<T: Float>(&self, op: Checked<GatherRows<'_, Self, T>>) -> Result<()> {
        run(|| rows::gather_rows(op.into_inner()))
    }

    fn scatter_rows<T: Float>(&self, op: Checked<ScatterRows<'_, Self, T>>) -> Result<()> {
        run(|| rows::scatter_rows(op.into_inner()))
    }

    fn cross_entropy<T: Float>(&self, op: Checked<CrossEntropy<'_, Self, T>>) -> Result<()> {
        run(|| cross_entropy::cross_entropy(op.into_inner()))
    }

    fn sample(&self, op: Checked<Sample<'_, Self>>) -> Result<()> {
        run(|| sample::sample(op.into_inner()))
    }

    fn cast<S: Float, T: Float>(&self, op: Checked<Cast<'_, Self, S, T>>) -> Result<()> {
        run(|| cast::cast(op.into_inner()))
    }

    fn sum(&self, op: Checked<Sum<'_, Self>>) -> Result<()> {
        run(|| reduce::sum(op.into_inner()))
    }

    fn norm(&self, op: Checked<Norm<'_, Self>>) -> Result<()> {
        run(|| reduce::norm(op.into_inner()))
    }

    fn adamw<T: Float>(&self, op: Checked<AdamW<'_, Self, T>>) -> Result<()> {
        run(|| adamw::adamw(op.into_inner()))
    }
}
