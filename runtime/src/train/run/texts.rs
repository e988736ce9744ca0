//! What is trained on, and what is asked.

use super::prompts::Prompts;
use crate::{
    chat::ChatTemplate,
    config::Qwen3Config,
    error::{Error, Result},
    evaluate::{
        choice,
        questions::{Question, read_questions},
    },
    settings::TrainSettings,
    tokenizer::Tokenizer,
    train::data::{DataFiles, DataOptions, DataReader, Dataset, cache_folder},
};
use std::path::Path;

pub(super) struct Texts {
    pub train: Dataset,
    pub heldout: Option<Dataset>,
    pub questions: Option<Vec<Question>>,
    /// Tokens of the longest question with its options.
    longest_question: usize,
    /// To be continued.
    pub prompts: Prompts,
}

impl Texts {
    /// Reads all files; also gives why there is no chat template, if there is none.
    pub fn read(
        settings: &TrainSettings,
        dir: &Path,
        config: &Qwen3Config,
        tokenizer: &Tokenizer,
    ) -> Result<(Self, Option<String>)> {
        // Only data with messages needs one, and is refused without; why there is none must not get lost.
        let (template, missing) = match ChatTemplate::open(dir, tokenizer) {
            Ok(template) => (Some(template), None),
            Err(e) => (None, Some(format!("no chat template: {e}"))),
        };
        let options = DataOptions {
            format: settings.data_format,
            train_on_eos: settings.train_on_eos,
            max_seq_length: settings.max_seq_length,
            overlong: settings.overlong,
            ..DataOptions::default()
        };
        let cache = if settings.no_cache { None } else { cache_folder() };
        let reader = DataReader::new(tokenizer, template.as_ref(), options).cached_in(cache);
        let read = |files: DataFiles| -> Result<Dataset> {
            let data = reader.read(&files)?;
            // Here, and not when the first bad sample's turn comes.
            data.expect_fits(config)?;
            Ok(data)
        };
        let (questions, longest_question) = match settings.exam_file()? {
            Some(path) => {
                let questions = read_questions(&path)?;
                let longest = choice::expect_fits(&questions, &path, config, tokenizer)?;
                (Some(questions), longest)
            }
            None => (None, 0),
        };
        let train = read(settings.data_files()?)?;
        let heldout = settings.heldout_files()?.map(|files| expect_unweighted(files).and_then(read)).transpose()?;
        let prompts = Prompts::read(settings, template.as_ref(), tokenizer, config)?;
        Ok((Texts { train, heldout, questions, longest_question, prompts }, missing))
    }

    /// Tokens of the longest held-out sample or question.
    pub fn longest_evaluated(&self) -> usize {
        let samples = self.heldout.iter().flat_map(|data| &data.samples);
        samples.map(|sample| sample.ids.len()).fold(self.longest_question, usize::max)
    }
}

/// Held-out data is read once, whatever its weight.
fn expect_unweighted(files: DataFiles) -> Result<DataFiles> {
    if files.0.iter().all(|file| file.weight == 1.0) {
        return Ok(files);
    }
    Err(Error::setting("eval_data", files, "held-out data is read once: leave out the weights"))
}
