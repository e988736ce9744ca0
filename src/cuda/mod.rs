//! The CUDA backend: hand-written kernels from `kernels/`, compiled at build time and loaded through the driver.
mod blas;
mod device;
mod graph;
mod launch;
mod memory;
#[allow(missing_docs, non_camel_case_types, clippy::all)]
mod params;
mod scratch;
mod staging;
mod stream;

pub use blas::has_cublaslt;
pub use device::{Cuda, architectures, device_count, kernels, nvcc_version};
pub use graph::Graph;
pub use memory::{Allocation, Memory};

use crate::{
    Backend, Buf, Element, Float, Result, View, ViewMut,
    ops::{
        AdamW, Attention, AttentionGrad, CacheAppend, Cast, Checked, CrossEntropy, DecodeAttention, Dequantize,
        GatherRows, Linear, Linear4, Linear4Grad, LinearGrad, Lora, LoraGrad, NestAbsmax, Norm, QkNormRope,
        QkNormRopeGrad, Quantize, RmsNorm, RmsNormGrad, Sample, ScatterRows, Sum, Swiglu, SwigluGrad, WeightGrad,
    },
};
impl Backend for Cuda {
    type Graph = Graph;

    fn name(&self) -> String {
        self.describe()
    }

    fn zeros<T: Element>(&self, len: usize) -> Result<Buf<Self, T>> {
        self.alloc_zeros(len)
    }

    fn upload<T: Element>(&self, host: &[T]) -> Result<Buf<Self, T>> {
        self.alloc_copy(host)
    }

    fn download<T: Element>(&self, view: View<'_, Self, T>) -> Result<Vec<T>> {
        self.copy_to_host(view)
    }

    fn write<T: Element>(&self, host: &[T], out: ViewMut<'_, Self, T>) -> Result<()> {
        self.copy_from_host(host, out)
    }

    fn copy<T: Element>(&self, x: View<'_, Self, T>, out: ViewMut<'_, Self, T>) -> Result<()> {
        self.copy_on_device(x, out)
    }

    fn clear<T: Element>(&self, out: ViewMut<'_, Self, T>) -> Result<()> {
        self.fill_zero(out)
    }

    fn synchronize(&self) -> Result<()> {
        self.wait()
    }

    fn memory(&self) -> (usize, usize) {
        self.memory_use()
    }

    fn replay(&self, graph: &mut Graph, step: impl FnMut() -> Result<()>) -> Result<()> {
        self.replay_graph(graph, step)
    }

    fn quantize<T: Float>(&self, op: Checked<Quantize<'_, Self, T>>) -> Result<()> {
        self.in_turn(|| launch::quantize::quantize(self, op.into_inner()))
    }

    fn nest_absmax(&self, op: Checked<NestAbsmax<'_, Self>>) -> Result<()> {
        self.in_turn(|| launch::quantize::nest_absmax(self, op.into_inner()))
    }

    fn dequantize<T: Float>(&self, op: Checked<Dequantize<'_, Self, T>>) -> Result<()> {
        self.in_turn(|| launch::dequantize::dequantize(self, op.into_inner()))
    }

    fn linear4<T: Float, O: Float>(&self, op: Checked<Linear4<'_, Self, T, O>>) -> Result<()> {
        self.in_turn(|| launch::gemm::linear4::linear4(self, op.into_inner()))
    }

    fn linear4_grad<T: Float>(&self, op: Checked<Linear4Grad<'_, Self, T>>) -> Result<()> {
        self.in_turn(|| launch::gemm::linear4::linear4_grad(self, op.into_inner()))
    }

    fn linear<T: Float, O: Float>(&self, op: Checked<Linear<'_, Self, T, O>>) -> Result<()> {
        self.in_turn(|| launch::gemm::linear::linear(self, op.into_inner()))
    }

    fn linear_grad<T: Float>(&self, op: Checked<LinearGrad<'_, Self, T>>) -> Result<()> {
        self.in_turn(|| launch::gemm::linear::linear_grad(self, op.into_inner()))
    }

    fn weight_grad<T: Float>(&self, op: Checked<WeightGrad<'_, Self, T>>) -> Result<()> {
        self.in_turn(|| launch::gemm::weight_grad::weight_grad(self, op.into_inner()))
    }

    fn lora<T: Float>(&self, op: Checked<Lora<'_, Self, T>>) -> Result<()> {
        self.in_turn(|| launch::gemm::lora::lora(self, op.into_inner()))
    }

    fn lora_grad<T: Float>(&self, op: Checked<LoraGrad<'_, Self, T>>) -> Result<()> {
        self.in_turn(|| launch::gemm::lora::lora_grad(self, op.into_inner()))
    }

    fn rms_norm<T: Float>(&self, op: Checked<RmsNorm<'_, Self, T>>) -> Result<()> {
        self.in_turn(|| launch::rms_norm::rms_norm(self, op.into_inner()))
    }

    fn rms_norm_grad<T: Float>(&self, op: Checked<RmsNormGrad<'_, Self, T>>) -> Result<()> {
        self.in_turn(|| launch::rms_norm::rms_norm_grad(self, op.into_inner()))
    }

    fn qk_norm_rope<T: Float>(&self, op: Checked<QkNormRope<'_, Self, T>>) -> Result<()> {
        self.in_turn(|| launch::qk_norm_rope::qk_norm_rope(self, op.into_inner()))
    }

    fn qk_norm_rope_grad<T: Float>(&self, op: Checked<QkNormRopeGrad<'_, Self, T>>) -> Result<()> {
        self.in_turn(|| launch::qk_norm_rope::qk_norm_rope_grad(self, op.into_inner()))
    }

    fn attention<T: Float>(&self, op: Checked<Attention<'_, Self, T>>) -> Result<()> {
        self.in_turn(|| launch::attention::attention(self, op.into_inner()))
    }

    fn attention_grad<T: Float>(&self, op: Checked<AttentionGrad<'_, Self, T>>) -> Result<()> {
        self.in_turn(|| launch::attention::attention_grad(self, op.into_inner()))
    }

    fn cache_append<T: Float>(&self, op: Checked<CacheAppend<'_, Self, T>>) -> Result<()> {
        self.in_turn(|| launch::decode_attention::cache_append(self, op.into_inner()))
    }

    fn decode_attention<T: Float>(&self, op: Checked<DecodeAttention<'_, Self, T>>) -> Result<()> {
        self.in_turn(|| launch::decode_attention::decode_attention(self, op.into_inner()))
    }

    fn swiglu<T: Float>(&self, op: Checked<Swiglu<'_, Self, T>>) -> Result<()> {
        self.in_turn(|| launch::swiglu::swiglu(self, op.into_inner()))
    }

    fn swiglu_grad<T: Float>(&self, op: Checked<SwigluGrad<'_, Self, T>>) -> Result<()> {
        self.in_turn(|| launch::swiglu::swiglu_grad(self, op.into_inner()))
    }

    fn gather_rows<T: Float>(&self, op: Checked<GatherRows<'_, Self, T>>) -> Result<()> {
        self.in_turn(|| launch::rows::gather_rows(self, op.into_inner()))
    }

    fn scatter_rows<T: Float>(&self, op: Checked<ScatterRows<'_, Self, T>>) -> Result<()> {
        self.in_turn(|| launch::rows::scatter_rows(self, op.into_inner()))
    }

    fn cross_entropy<T: Float>(&self, op: Checked<CrossEntropy<'_, Self, T>>) -> Result<()> {
        self.in_turn(|| launch::cross_entropy::cross_entropy(self, op.into_inner()))
    }

    fn sample(&self, op: Checked<Sample<'_, Self>>) -> Result<()> {
        self.in_turn(|| launch::sample::sample(self, op.into_inner()))
    }

    fn cast<S: Float, T: Float>(&self, op: Checked<Cast<'_, Self, S, T>>) -> Result<()> {
        self.in_turn(|| launch::cast::cast(self, op.into_inner()))
    }

    fn sum(&self, op: Checked<Sum<'_, Self>>) -> Result<()> {
        self.in_turn(|| launch::reduce::sum(self, op.into_inner()))
    }

    fn norm(&self, op: Checked<Norm<'_, Self>>) -> Result<()> {
        self.in_turn(|| launch::reduce::norm(self, op.into_inner()))
    }

    fn adamw<T: Float>(&self, op: Checked<AdamW<'_, Self, T>>) -> Result<()> {
        self.in_turn(|| launch::adamw::adamw(self, op.into_inner()))
    }
}
