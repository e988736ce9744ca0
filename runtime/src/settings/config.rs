//! The sections together.

use super::evaluation::EvaluationSettings;
use super::llm::LlmSettings;
use super::retrieval::RetrievalSettings;
use super::section::Section;
use super::training::TrainSettings;

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
