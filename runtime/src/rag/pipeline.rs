use serde::Serialize;
use serde_json::Value;

use super::index::{Index, Passage};
use super::prompt::{context, prompt};
use crate::error::{Error, Result};
use crate::llm::Llm;
use crate::settings::{RagConfig, RetrievalSettings};
use crate::tokenizer::Tokenizer;

/// Questions to answers from the passages of an index, by whatever answers a conversation.
pub struct RagPipeline<A> {
    index: Index,
    settings: RetrievalSettings,
    tokenizer: Tokenizer,
    answerer: A,
}

/// An answer, and what it was given to answer from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Answer {
    /// The answer.
    pub text: String,
    /// The passages of the prompt: `[1]` in the answer is the first.
    pub sources: Vec<Passage>,
}

/// Answers a conversation, on any thread.
type Answerer = Box<dyn FnMut(&[Value]) -> Result<String> + Send>;

impl RagPipeline<Answerer> {
    /// The index and the model that the settings name.
    ///
    /// # Errors
    /// There is no index, it is damaged, or the model cannot be loaded.
    pub fn new(config: &RagConfig) -> Result<Self> {
        let want = "it must name an index; make one with `rag --documents FOLDER --index FOLDER`";
        let dir = config.retrieval.index.as_ref().ok_or_else(|| Error::setting("retrieval.index", "none", want))?;
        Self::of(Index::open(dir)?, config.retrieval.clone(), Llm::new(&config.llm)?)
    }

    /// An index and a model that are open already. A system prompt in the model's settings takes the place of the
    /// pipeline's own.
    ///
    /// # Errors
    /// A setting is out of its range.
    pub fn of(index: Index, settings: RetrievalSettings, llm: Llm) -> Result<Self> {
        let tokenizer = llm.prepared().tokenizer.clone();
        let answerer: Answerer = Box::new(move |messages| {
            let own = llm.prepared().settings.system.is_some();
            // The model puts its settings' system prompt before a conversation that has none.
            let asked = messages.iter().filter(|message| !own || message["role"] != "system");
            Ok(llm.chat(&asked.cloned().collect::<Vec<_>>())?.text)
        });
        Self::with(index, settings, tokenizer, answerer)
    }
}

impl<A: FnMut(&[Value]) -> Result<String>> RagPipeline<A> {
    /// `answerer` takes messages, objects with `role` and `content`; `tokenizer` is its model's, which counts what fits
    /// into the prompt.
    ///
    /// # Errors
    /// A setting is out of its range.
    pub fn with(index: Index, settings: RetrievalSettings, tokenizer: Tokenizer, answerer: A) -> Result<Self> {
        settings.check()?;
        Ok(Self { index, settings, tokenizer, answerer })
    }

    /// The passages that [`Self::answer`] puts into the prompt.
    ///
    /// # Errors
    /// The index is damaged, or the tokenizer cannot represent a text.
    pub fn retrieve(&self, question: &str) -> Result<Vec<Passage>> {
        let found = self.index.search(question, self.settings.top_k)?;
        context(&found, self.settings.context_tokens, &self.tokenizer)
    }

    /// Retrieves passages and has the question answered from them.
    ///
    /// # Errors
    /// Those of [`Self::retrieve`] and of the answerer.
    pub fn answer(&mut self, question: &str) -> Result<Answer> {
        let sources = self.retrieve(question)?;
        let text = (self.answerer)(&prompt(question, &sources))?;
        Ok(Answer { text, sources })
    }
}
