//! Settings that flow: from defaults, a TOML file, `.env`, the environment and the command line, in rising priority, to
//! what runs a model. Each setting is written once, with its help, default, range and other names.
//!
//! ```
//! use halfbyte_runtime::settings::Sources;
//!
//! let sources = Sources { variables: vec![("HALFBYTE_LLM__TEMPERATURE".into(), "0.7".into())], ..Sources::default() };
//! let loaded = sources.load()?;
//! assert_eq!(loaded.config.llm.temperature, 0.7);
//! assert_eq!(loaded.source("llm", "temperature").to_string(), "HALFBYTE_LLM__TEMPERATURE");
//! # Ok::<(), halfbyte_runtime::Error>(())
//! ```

pub(crate) mod choices;
mod command;
mod config;
mod evaluation;
mod llm;
mod retrieval;
mod section;
mod sources;
mod training;
mod values;

pub use crate::embedded::EMBEDDED;
pub use choices::{ActivationMemory, DataFormat, Mode, Optim, PackingStrategy, Resume, TensorBoard, TrainOnEos, Whole};
pub use command::{Asked, Program, with_dashes};
pub use config::RagConfig;
pub use evaluation::EvaluationSettings;
pub use llm::LlmSettings;
pub use retrieval::RetrievalSettings;
pub use section::{Field, Section};
pub use sources::{Loaded, Source, Sources};
pub use training::TrainSettings;
pub(crate) use values::either;
pub use values::{Value, parse};
