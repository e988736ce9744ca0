//! What is in force, for the first lines of a program.

use super::prepared::Prepared;
use crate::llm::{base_line, describe, model_line};

impl Prepared {
    /// Model, base, compute type, adapter and the files of the data, a line for each.
    pub fn in_force(&self) -> Vec<String> {
        let begun = match &self.settings.lora_path {
            Some(path) => format!("{}, trained further", path.display()),
            None => "new".into(),
        };
        let head = if self.lora.save_lm_head { ", lm_head whole" } else { "" };
        let found = self.files.quantized_as();
        let texts = [("data", Some(&self.texts.train)), ("held out", self.texts.heldout.as_ref())];
        let data = texts.iter().flat_map(|(name, data)| {
            data.iter().flat_map(|data| &data.parts).map(move |part| format!("{name}: {part}"))
        });
        let of_the_model = [
            model_line(&self.dir, &self.config),
            base_line(self.settings.base(), found, self.settings.bnb_4bit_compute_dtype),
            format!("adapter: {begun} ({}{head})", describe(&self.lora)),
        ];
        of_the_model.into_iter().chain(data).collect()
    }
}
