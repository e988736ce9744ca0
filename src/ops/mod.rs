//! What each kernel computes, and what it demands of its arguments.
//!
//! An op is a struct with public fields. [`Op::check`] verifies every length, divisibility and range and
//! gives a [`Checked`] op, the only thing that a backend takes; [`Op::run`] does both steps. Outputs are
//! [`ViewMut`]s or [`MatMut`]s; every element of an output is written unless the op says `+=`.
//!
//! [`ViewMut`]: crate::buffer::ViewMut
//! [`MatMut`]: crate::buffer::MatMut
mod adamw;
mod attention;
mod cast;
mod check;
mod cross_entropy;
mod decode_attention;
mod dequantize;
mod dequantize_rows;
mod dora;
mod linear;
mod linear4;
mod lora;
mod lora_linear;
mod noise;
mod norm_linear4;
mod qk_norm_rope;
mod quantize;
mod reduce;
mod rms_norm;
mod rows;
mod sample;
mod screen;
mod swiglu;
mod weight_grad;

pub(crate) use adamw::Factors;
pub use adamw::{AdamW, AdamW8bit, AdamWStep, Clip, Moment8};
pub use attention::{Attention, AttentionGrad, Heads, Prefix};
pub use cast::Cast;
pub use check::{Check, Checked, Launch, Op};
pub use cross_entropy::{CrossEntropy, IGNORE};
pub use decode_attention::DecodeAttention;
pub use dequantize::Dequantize;
pub use dequantize_rows::{DequantizeRows, KvMut};
pub(crate) use dora::factor;
pub use dora::{Dora, DoraGrad, DoraNorms, Dropped, RowSquares};
pub use linear::{Linear, LinearGrad};
pub use linear4::{Linear4, Linear4Grad};
pub use lora::{Dropout, Lora, LoraGrad};
pub use lora_linear::{LORA_ROOM, LoraFactors, LoraInput, LoraLinear, LoraLinearGrad, LoraPart};
pub use noise::Noise;
pub use norm_linear4::NormLinear4;
pub use qk_norm_rope::{CacheRows, QkNormRope, QkNormRopeGrad};
pub use quantize::{NestAbsmax, Quantize};
pub use reduce::{Norm, Sum};
pub use rms_norm::{RmsNorm, RmsNormGrad};
pub use rows::{GatherRows, ScatterRows};
pub use sample::Sample;
pub use screen::{LinearMax, Screen};
pub(crate) use screen::{MARGIN, SUM_ERROR, SUMS_FIT, levels};
pub use swiglu::{Swiglu, SwigluGrad};
pub use weight_grad::WeightGrad;
