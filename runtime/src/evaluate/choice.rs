//! Scoring multiple-choice questions by the likelihood of their options.

use super::{
    prompt::Continuations,
    questions::{Accuracy, Question},
    score::best,
};
use crate::{
    batch::{Batch, Branches},
    config::Qwen3Config,
    error::{Error, Result},
    model::{Activations, ForwardContext, LossBuffers, Qwen3, branch_losses, log_likelihood},
    tokenizer::Tokenizer,
};
use halfbyte::{Backend, Float};
use std::path::Path;

/// Each option as a continuation of its question; only the option's tokens are scored.
fn branches(question: &Question, tokenizer: &Tokenizer) -> Result<Branches> {
    Continuations::of_texts(question, &[]).encode(tokenizer)
}

/// Refuses questions that the model has no tokens or positions for; gives the tokens of the longest with its options.
///
/// # Errors
/// [`Error::Data`] names the file that they come from, the question and the number.
pub fn expect_fits(questions: &[Question], path: &Path, config: &Qwen3Config, tokenizer: &Tokenizer) -> Result<usize> {
    let mut longest = 0;
    for (i, question) in questions.iter().enumerate() {
        let branches = branches(question, tokenizer)?;
        let reason = |e| format!("question {} (from 1): {e}", i + 1);
        let checked = branches.expect_tokens().and_then(|()| Batch::of_branches([&branches]).check(config));
        checked.map_err(|e| Error::Data { path: path.to_owned(), reason: reason(e) })?;
        longest = longest.max(branches.n_tokens());
    }
    Ok(longest)
}

/// Answers each question with the option of the highest summed log-likelihood after context and question; options are
/// not divided by their length.
///
/// `acts` must have room for the longest question with its options, and `loss` for as many targets as `acts` for tokens.
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
    let all = questions.iter().map(|question| branches(question, tokenizer)).collect::<Result<Vec<_>>>()?;
    let losses = branch_losses(model, ctx, acts, loss, &all)?;
    let answer = |own: &Vec<Vec<f32>>| best(&own.iter().map(|losses| log_likelihood(losses)).collect::<Vec<_>>());
    let chosen: Vec<_> = losses.iter().map(answer).collect();
    let accuracy = Accuracy::new(questions, &chosen)?;
    Ok((chosen, accuracy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded;

    /// The exam of the training program is made of these: its score depends on every token.
    #[test]
    fn options_follow_context_and_question_encoded_apart() {
        let tokenizer = Tokenizer::open(embedded::model()).unwrap();
        let question = |context: &str| Question {
            id: "1".into(),
            context: context.into(),
            instruction: "not part of it".into(),
            question: "Where is the mill?".into(),
            options: ["by the river", "on the hill"].map(String::from).to_vec(),
            answer: Some(1),
        };
        for (context, prompt) in [("", "Where is the mill?"), ("A town.", "A town.\nWhere is the mill?")] {
            let ids = |text| tokenizer.encode(text).unwrap();
            let want = Branches { prompt: ids(prompt), options: vec![ids(" by the river"), ids(" on the hill")] };
            assert_eq!(branches(&question(context), &tokenizer).unwrap(), want);
        }
    }
}
