//! A lean Qwen3 runtime on [`halfbyte`]'s 4-bit kernels: it fine-tunes adapters on a frozen base, answers with them, and
//! reads and writes the files of transformers, PEFT, bitsandbytes and llama.cpp.
//!
//! ```
//! use halfbyte_runtime::{device::Device, llm::Llm, settings::LlmSettings};
//!
//! // The embedded model on the CPU. "Qwen/Qwen3-8B" would be that of the Hugging Face hub, `Device::Auto` a GPU.
//! let settings = LlmSettings { device: Device::Cpu, max_new_tokens: 8, ..LlmSettings::default() };
//! assert_eq!(settings.model_name, "embedded");
//! let llm = Llm::new(&settings)?;
//! println!("{}", llm.invoke("Who rings the ferry bell?")?);
//! # Ok::<(), halfbyte_runtime::Error>(())
//! ```
//!
//! # Where to begin
//!
//! | To | |
//! |---|---|
//! | answer, converse, stream, score | [`llm::Llm`] |
//! | train an adapter, go on with a run | [`train::run`](mod@train::run) |
//! | train by steps of one's own | [`model::Qwen3`], [`train::trainer::Trainer`] |
//! | put questions of multiple choice | [`evaluate`] |
//! | answer from texts | `rag` (feature `rag`) |
//! | quantise, merge, write for llama.cpp | [`model::quantize_checkpoint`], [`export`] |
//! | read checkpoints and adapters | [`checkpoint`], [`lora`] |
//! | make a program of it | [`settings`], `cli` (feature `cli`) |
//!
//! What has no backend and type in its name chooses them by its settings; below it both are type parameters, `B` and `T`,
//! of [`halfbyte::Backend`] and [`halfbyte::Float`].
//!
//! Options and settings have defaults and may get more fields in any version: write
//! `TrainSettings { use_4bit: true, ..TrainSettings::default() }`, or begin with a `new` where something has none.
//! [`halfbyte`] and [`half`] are handed on in the versions that this crate takes.
//!
//! # Features
//!
//! `hub` (names on the Hugging Face hub are downloaded), `rag` (retrieval) and `cli` (the programs), all of them by
//! default.

pub mod batch;
mod builder;
pub mod chat;
pub mod checkpoint;
#[cfg(feature = "cli")]
pub mod cli;
pub mod config;
mod debug;
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
pub use halfbyte::{self, half};
