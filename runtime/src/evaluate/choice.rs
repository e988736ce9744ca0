//! Scoring multiple-choice questions by the likelihood of their options.

use super::prompt::Continuations;
use super::questions::{Accuracy, Question};
use super::score::{best, log_likelihood};
use crate::{
    Error, Result,
    batch::{Batch, Sample, batches},
    config::Qwen3Config,
    model::{Activations, ForwardContext, LossBuffers, Qwen3},
    tokenizer::Tokenizer,
};
use halfbyte::{Backend, Float};
use std::path::Path;

/// Each option as a continuation of its question; only the option's tokens are scored.
fn samples(question: &Question, tokenizer: &Tokenizer) -> Result<Vec<Sample>> {
    Ok(Continuations::of_texts(question, &[]).encode(tokenizer)?.samples())
}

/// Refuses questions that the model has no tokens or positions for; gives the tokens of the longest with an option.
///
/// # Errors
/// [`Error::Data`] names the file that they come from, the question and the number.
pub fn expect_fits(questions: &[Question], path: &Path, config: &Qwen3Config, tokenizer: &Tokenizer) -> Result<usize> {
    let mut longest = 0;
    for (i, question) in questions.iter().enumerate() {
        for sample in samples(question, tokenizer)? {
            let reason = |e| format!("question {} (from 1): {e}", i + 1);
            let checked = Batch::new([&sample]).check(config);
            checked.map_err(|e| Error::Data { path: path.to_owned(), reason: reason(e) })?;
            longest = longest.max(sample.ids.len());
        }
    }
    Ok(longest)
}

/// The loss in nats of every target of every sample; as many tokens at once as `acts` and `buffers` have room for.
pub(crate) fn losses<B: Backend, T: Float>(
    model: &Qwen3<B, T>,
    ctx: ForwardContext<'_, B, T>,
    acts: &mut Activations<B, T>,
    buffers: &mut LossBuffers<B, T>,
    samples: &[Sample],
) -> Result<Vec<Vec<f32>>> {
    let mut all = Vec::new();
    for batch in batches(samples, acts.capacity)? {
        all.extend(model.target_losses(ctx, acts, buffers, &batch)?);
    }
    let mut rest = all.into_iter();
    Ok(samples.iter().map(|sample| rest.by_ref().take(sample.n_targets()).collect()).collect())
}

/// Answers each question with the option of the highest summed log-likelihood after context and question; options are
/// not divided by their length.
///
/// `acts` must have room for the longest question with an option, and `loss` for as many targets as `acts` for tokens.
///
/// # Errors
/// A question does not fit, or the device refuses.
pub fn choose<B: Backend, T: Float>(
    model: &Qwen3<B, T>,
    ctx: ForwardContext<'_, B, T>,
    acts: &mut Activations<B, T>,
    loss: &mut LossBuffers<B, T>,
    tokenizer: &Tokenizer,
    questions: &[Question],
) -> Result<(Vec<usize>, Accuracy)> {
    let mut all = Vec::new();
    for question in questions {
        all.extend(samples(question, tokenizer)?);
    }
    let losses = losses(model, ctx, acts, loss, &all)?;
    let sums: Vec<_> = losses.iter().map(|losses| log_likelihood(losses)).collect();
    let mut sums = sums.as_slice();
    let mut chosen = Vec::new();
    for question in questions {
        let (own, others) = sums.split_at(question.options.len());
        chosen.push(best(own));
        sums = others;
    }
    let accuracy = Accuracy::new(questions, &chosen)?;
    Ok((chosen, accuracy))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exam of the training program is made of these: its score depends on every token.
    #[test]
    fn a_sample_is_context_and_question_and_then_an_option_encoded_apart() {
        let root = std::env::var_os("HALFBYTE_ROOT");
        let root = root.map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), Into::into);
        let tokenizer = Tokenizer::open(root.join("examples/assets/tiny-qwen3")).unwrap();
        let question = |context: &str| Question {
            id: "1".into(),
            context: context.into(),
            instruction: "not part of it".into(),
            question: "Where is the mill?".into(),
            options: ["by the river", "on the hill"].map(String::from).to_vec(),
            answer: Some(1),
        };
        for (context, prompt) in [("", "Where is the mill?"), ("A town.", "A town.\nWhere is the mill?")] {
            let samples = samples(&question(context), &tokenizer).unwrap();
            for (sample, option) in samples.iter().zip([" by the river", " on the hill"]) {
                let (prompt, option) = (tokenizer.encode(prompt).unwrap(), tokenizer.encode(option).unwrap());
                assert_eq!(sample.ids, [prompt.as_slice(), &option].concat());
                assert_eq!(sample.mask, [vec![false; prompt.len()], vec![true; option.len()]].concat());
            }
            assert_eq!(samples.len(), 2);
        }
    }
}
