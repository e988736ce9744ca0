//! Whole models of a few layers, beside what transformers and PEFT computed, and every way to hold, train and run them. One
//! program, since each one compiles the runtime anew for its types.
#[path = "../common/mod.rs"]
mod common;

mod dora;
mod ends;
mod greedy;
mod kept;
mod peft;
mod trainable_tokens;
