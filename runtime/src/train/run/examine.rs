//! What a model knows before and after.

use super::{prompts::Prompt, texts::Texts, watch::Watch};
use crate::{
    error::Result,
    evaluate::{
        choice,
        questions::{Accuracy, Question},
    },
    generate::generator::{GenerateOptions, generate},
    model::{CacheType, Qwen3, SampleOptions},
    tokenizer::Tokenizer,
    train::{
        about::{Reply, Worst},
        metrics::Record,
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
    /// How prompts are continued.
    pub replies: Vec<Reply>,
}

impl Examination {
    /// For the metrics, after so many steps.
    pub(super) fn record(&self, step: u64) -> Record {
        let eval_accuracy = self.exam.as_ref().map(Accuracy::value);
        let replies = Some(self.replies.clone()).filter(|replies| !replies.is_empty());
        Record { step, eval_loss: self.heldout_loss, eval_accuracy, replies, ..Record::default() }
    }
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
        let replies = self.replies(trainer)?;
        replies.iter().for_each(|reply| watch.say(&format!("{when}: {reply}")));
        Ok(Examination { heldout_loss, exam, replies })
    }

    /// The samples of the highest losses, as `metrics` tell of them.
    pub fn worst_samples(&self, metrics: &str) -> Vec<Worst> {
        /// Tokens that are shown.
        const SHOWN: usize = 24;
        let told = |(seen, step): (SampleLoss, u64)| {
            let ids = &self.texts.train.samples[seen.sample - 1].ids;
            let text = self.tokenizer.decode(&ids[..ids.len().min(SHOWN)], true);
            let rest = if ids.len() > SHOWN { " …" } else { "" };
            let text = text.trim().replace('\n', " ") + rest;
            Worst { sample: seen.sample, step, loss: seen.loss, text }
        };
        worst(metrics, 10).into_iter().map(told).collect()
    }

    pub fn heldout_loss(&self, trainer: &mut Trainer<'_, B, T>) -> Result<Option<f64>> {
        self.texts.heldout.as_ref().map(|data| trainer.evaluate(&data.samples)).transpose()
    }

    fn exam(&self, questions: &[Question], trainer: &mut Trainer<'_, B, T>) -> Result<Accuracy> {
        let (ctx, acts, loss) = trainer.evaluation();
        Ok(choice::choose(self.model, ctx, acts, loss, self.tokenizer, questions)?.1)
    }

    /// How each prompt is continued, by the likeliest tokens: nothing of it depends on chance, or changes what a run does.
    pub fn replies(&self, trainer: &Trainer<'_, B, T>) -> Result<Vec<Reply>> {
        let prompts = &self.texts.prompts;
        let options = GenerateOptions {
            max_new_tokens: prompts.max_new_tokens,
            stop_tokens: prompts.stop_tokens.clone(),
            sample: SampleOptions::GREEDY,
            cache: CacheType::Plain,
            skip_special: true,
        };
        let reply = |prompt: &Prompt| {
            let go_on = |_: &str| ControlFlow::Continue(());
            let made = generate(self.model, trainer.context(), self.tokenizer, &prompt.ids, &options, go_on)?;
            Ok(Reply { prompt: prompt.text.clone(), text: made.text, stopped: made.stopped })
        };
        prompts.all.iter().map(reply).collect()
    }
}
