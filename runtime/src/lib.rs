//! A lean Qwen3 runtime on [`halfbyte`]'s 4-bit kernels.
pub mod batch;
pub mod chat;
pub mod checkpoint;
#[cfg(feature = "cli")]
pub mod cli;
pub mod config;
pub mod device;
pub mod embedded;
mod error;
pub mod evaluate;
pub mod export;
pub mod files;
pub mod generate;
pub mod hub;
mod json;
pub mod llm;
pub mod lora;
pub mod model;
pub mod options;
mod python_json;
#[cfg(feature = "rag")]
pub mod rag;
pub mod screen;
pub mod settings;
pub mod speed;
pub mod tokenizer;
pub mod train;

pub use error::{Error, Result};
