//! A conversation that goes on.

use super::answer::Llm;
use crate::chat::message;
use crate::error::Result;
use crate::generate::generator::Generated;
use serde_json::Value;
use std::ops::ControlFlow;

/// Turns so far; every question is answered after all of them.
#[derive(Clone, Debug, Default)]
pub struct Conversation {
    messages: Vec<Value>,
}

impl Conversation {
    /// The messages, oldest first.
    pub fn messages(&self) -> &[Value] {
        &self.messages
    }

    /// Begins again, with instructions where there are any.
    pub fn reset(&mut self, system: Option<&str>) {
        self.messages = system.map(|text| message("system", text)).into_iter().collect();
    }

    /// Asks, and keeps question and answer; what was written before `each` ended it counts. After an error the question
    /// is forgotten. Thoughts are left out of what later turns see, as Qwen3's template does.
    ///
    /// # Errors
    /// See [`Llm::chat`].
    pub fn ask(&mut self, llm: &Llm, question: &str, each: impl FnMut(&str) -> ControlFlow<()>) -> Result<Generated> {
        self.messages.push(message("user", question));
        let made = llm.stream(&self.messages, each);
        match &made {
            Ok(made) => self.messages.push(message("assistant", &made.text)),
            Err(_) => drop(self.messages.pop()),
        }
        made
    }
}
