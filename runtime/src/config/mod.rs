//! The configuration files of a Qwen3 checkpoint: `config.json` and `generation_config.json`, as transformers 4 and 5
//! write them.

mod dtype;
mod generation;
pub(crate) mod keys;
mod modules;
mod quantization;
mod qwen3;
mod rope;

pub(crate) use dtype::{dtype_by_name, dtype_name};
pub use generation::GenerationConfig;
pub use modules::{Module, Projection};
pub use quantization::QuantizationConfig;
pub use qwen3::Qwen3Config;
pub use rope::{Rope, RopeTable, Yarn};

#[cfg(test)]
mod tests;
