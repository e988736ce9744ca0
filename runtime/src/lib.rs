//! A lean Qwen3 runtime on [`halfbyte`]'s 4-bit kernels.
pub mod batch;
pub mod chat;
pub mod checkpoint;
pub mod config;
pub mod device;
mod error;
pub mod evaluate;
pub mod files;
pub mod generate;
pub mod lora;
pub mod model;
pub mod options;
mod python_json;
#[cfg(feature = "rag")]
pub mod rag;
pub mod tokenizer;
pub mod train;

pub use error::{Error, Result};
