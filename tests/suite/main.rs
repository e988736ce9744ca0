//! Every op on every backend against the oracle, on the cases of `tests/common/cases.rs`.
//!
//! Outputs are full of NaN before, and everything around inputs and outputs is NaN; outputs are compared element by
//! element with tolerances from `tests/common/num.rs`; each op runs twice and must give the same bits.
#[macro_use]
#[path = "../common/mod.rs"]
mod common;

mod attention;
mod cross_entropy;
mod decode_attention;
mod fences;
mod flat;
mod linear;
mod linear4;
mod lora;
mod memory;
mod qk_norm_rope;
mod quantize;
mod rms_norm;
mod rows;
mod sample;
mod swiglu;
