//! What a model knows before and after.

use super::{texts::Texts, watch::Watch};
use crate::{
    error::Result,
    evaluate::{
        choice,
        questions::{Accuracy, Question},
    },
    generate::generator::{GenerateOptions, Generated, generate},
    model::{CacheType, Qwen3, SampleOptions},
    tokenizer::Tokenizer,
    train::{
        sample_losses::{SampleLoss, worst},
        trainer::Trainer,
    },
};
use halfbyte::{Backend, Float};
use std::ops::ControlFlow;

/// What a model knows; nothing where nothing was asked.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Examination {
    /// Mean loss of the held-out targets, in nats.
    pub heldout_loss: Option<f64>,
    /// Right answers of the exam.
    pub exam: Option<Accuracy>,
    /// How the embedded question is continued.
    pub answer: Option<String>,
}

/// What it is asked with.
pub(super) struct Examiner<'a, B: Backend, T: Float> {
    pub texts: &'a Texts,
    pub tokenizer: &'a Tokenizer,
    pub model: &'a Qwen3<B, T>,
}

impl<B: Backend, T: Float> Examiner<'_, B, T> {
    /// Finds out, and says each thing as soon as it is known.
    pub fn examine(&self, when: &str, trainer: &mut Trainer<'_, B, T>, watch: &mut dyn Watch) -> Result<Examination> {
        let heldout_loss = self.heldout_loss(trainer)?;
        if let Some(loss) = heldout_loss {
            watch.say(&format!("{when}: held-out loss {loss:.3} nats a token"));
        }
        let exam = self.texts.questions.as_ref().map(|questions| self.exam(questions, trainer)).transpose()?;
        if let Some(accuracy) = &exam {
            watch.say(&format!("{when}: exam {accuracy}"));
        }
        let answer = self.texts.prompt.map(|prompt| self.answer(prompt, trainer)).transpose()?;
        if let (Some(prompt), Some(Generated { text, stopped, .. })) = (self.texts.prompt, &answer) {
            let rest = if *stopped { "" } else { " …" };
            watch.say(&format!("{when}: {prompt} ->{}{rest}", text.trim_end()));
        }
        Ok(Examination { heldout_loss, exam, answer: answer.map(|answer| answer.text) })
    }

    /// The samples of the highest losses, as `metrics` tell of them: a line for each.
    pub fn worst_samples(&self, metrics: &str) -> Vec<String> {
        /// Tokens that are shown.
        const SHOWN: usize = 24;
        let line = |(seen, step): &(SampleLoss, u64)| {
            let ids = &self.texts.train.samples[seen.sample - 1].ids;
            let text = self.tokenizer.decode(&ids[..ids.len().min(SHOWN)], true);
            let rest = if ids.len() > SHOWN { " …" } else { "" };
            format!("{:7.3}  sample {}, step {step}: {}{rest}", seen.loss, seen.sample, text.trim().replace('\n', " "))
        };
        let lines: Vec<_> = worst(metrics, 10).iter().map(line).collect();
        let title = (!lines.is_empty()).then(|| "samples of the highest loss, when they were last seen:".to_owned());
        title.into_iter().chain(lines).collect()
    }

    pub fn heldout_loss(&self, trainer: &mut Trainer<'_, B, T>) -> Result<Option<f64>> {
        self.texts.heldout.as_ref().map(|data| trainer.evaluate(&data.samples)).transpose()
    }

    fn exam(&self, questions: &[Question], trainer: &mut Trainer<'_, B, T>) -> Result<Accuracy> {
        let (ctx, acts, loss) = trainer.evaluation();
        Ok(choice::choose(self.model, ctx, acts, loss, self.tokenizer, questions)?.1)
    }

    fn answer(&self, prompt: &str, trainer: &Trainer<'_, B, T>) -> Result<Generated> {
        let options = GenerateOptions {
            max_new_tokens: 24,
            stop_tokens: self.tokenizer.eos_ids().to_vec(),
            sample: SampleOptions::GREEDY,
            cache: CacheType::Plain,
            skip_special: true,
        };
        let (prompt, go_on) = (self.tokenizer.encode(prompt)?, |_: &str| ControlFlow::Continue(()));
        generate(self.model, trainer.context(), self.tokenizer, &prompt, &options, go_on)
    }
}
