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

mod command;
mod evaluation;
mod llm;
mod retrieval;
mod section;
mod sources;
mod train;
mod values;

pub use command::{Asked, Program, with_dashes};
pub use evaluation::{EvaluationSettings, Mode};
pub use llm::{EMBEDDED, LlmSettings};
pub use retrieval::RetrievalSettings;
pub(crate) use section::section;
pub use section::{Field, Section};
pub use sources::{Loaded, Source, Sources};
pub use train::TrainSettings;
pub use values::{Value, Whole, parse};

/// All settings of a question-answering application.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RagConfig {
    /// The model that answers.
    pub llm: LlmSettings,
    /// How an adapter is trained.
    pub train: TrainSettings,
    /// How passages are found.
    pub retrieval: RetrievalSettings,
    /// How answers are scored.
    pub evaluation: EvaluationSettings,
}

impl RagConfig {
    /// The names of the sections, in the order of the struct.
    pub const SECTIONS: [&str; 4] = ["llm", "train", "retrieval", "evaluation"];

    /// A section by its name.
    pub fn section(&self, name: &str) -> Option<&dyn Section> {
        match name {
            "llm" => Some(&self.llm),
            "train" => Some(&self.train),
            "retrieval" => Some(&self.retrieval),
            "evaluation" => Some(&self.evaluation),
            _ => None,
        }
    }

    /// A section by its name, to be changed.
    pub fn section_mut(&mut self, name: &str) -> Option<&mut dyn Section> {
        match name {
            "llm" => Some(&mut self.llm),
            "train" => Some(&mut self.train),
            "retrieval" => Some(&mut self.retrieval),
            "evaluation" => Some(&mut self.evaluation),
            _ => None,
        }
    }
}
