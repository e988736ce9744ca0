//! What is in force, for the first lines of a program.

use super::prepared::Prepared;
use crate::llm::{base_line, describe, model_line};

impl Prepared {
    /// Model, base, compute type and adapter, a line for each.
    pub fn in_force(&self) -> Vec<String> {
        let begun = match &self.settings.lora_path {
            Some(path) => format!("{}, trained further", path.display()),
            None => "new".into(),
        };
        let head = if self.lora.save_lm_head { ", lm_head whole" } else { "" };
        let found = self.files.quantized_as();
        vec![
            model_line(&self.dir, &self.config),
            base_line(self.settings.base(), found, self.settings.bnb_4bit_compute_dtype),
            format!("adapter: {begun} ({}{head})", describe(&self.lora)),
        ]
    }
}
