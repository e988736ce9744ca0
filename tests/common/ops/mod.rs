//! Every op: its cases, its memory for one of them, what the oracle says, what it refuses, and what of it the gradients
//! and the benches take. Each op has a file of its name here, and a line in both lists below.

pub mod adamw;
pub mod attention;
pub mod cast;
pub mod cross_entropy;
pub mod decode_attention;
pub mod dequantize;
pub mod dequantize_rows;
pub mod dora;
pub mod linear;
pub mod linear4;
pub mod lora;
pub mod lora_linear;
pub mod noise;
pub mod norm_linear4;
pub mod qk_norm_rope;
pub mod quantize;
pub mod reduce;
pub mod rms_norm;
pub mod rows;
pub mod sample;
pub mod screen;
pub mod swiglu;
pub mod weight_grad;

use super::{
    setup::Check,
    work::{Model, Work},
};
use halfbyte::Backend;

macro_rules! ops {
    ($($op:ident),* $(,)?) => {
        /// Checks of every op on every case against the oracle, by the op.
        pub fn checks<B: Backend>() -> Vec<(&'static str, Vec<Check<B>>)> {
            vec![$((stringify!($op), $op::checks()),)*]
        }

        /// Checks of gradients by finite differences, by the op.
        pub fn gradients<B: Backend>() -> Vec<(&'static str, Vec<Check<B>>)> {
            vec![$((stringify!($op), $op::gradients()),)*]
        }

        /// Checks of what ops refuse, by the op.
        pub fn refusals<B: Backend>() -> Vec<(&'static str, Vec<Check<B>>)> {
            vec![$((stringify!($op), $op::refusals()),)*]
        }

        /// What the benches time.
        pub fn works<B: Backend>(model: &Model) -> Vec<Work<B>> {
            [$($op::works(model),)*].into_iter().flatten().collect()
        }
    };
}

ops!(
    linear4,
    linear,
    weight_grad,
    lora,
    lora_linear,
    norm_linear4,
    quantize,
    dequantize,
    rms_norm,
    qk_norm_rope,
    swiglu,
    dora,
    attention,
    decode_attention,
    dequantize_rows,
    rows,
    noise,
    cross_entropy,
    screen,
    sample,
    cast,
    reduce,
    adamw,
);
