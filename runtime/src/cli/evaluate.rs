//! Scores a Qwen3 checkpoint, with or without an adapter and retrieval, on multiple-choice questions.

use super::{
    output::progress_bar,
    signals::{Signals, exit_code},
    tool::{Run, Tool},
};
use crate::{
    error::Result,
    evaluate::{
        exam::{self, Exam, Progress},
        output::ScoringOutput,
        report::{Report, Score},
    },
    llm::{Prepared, expect_effect, in_force},
    note,
    rag::{Index, context},
    say,
    settings::{Asked, Mode, RagConfig, RetrievalSettings},
};
use halfbyte::Count;
use indicatif::ProgressBar;
use std::{ops::ControlFlow, process::ExitCode};

/// Scores a model.
pub const EVALUATE: Tool = Tool {
    name: "evaluate",
    about: "Score a Qwen3 checkpoint on multiple-choice questions",
    options: |command| command,
    run: Run::Settings(&["evaluation", "retrieval", "llm"], run),
};

fn run(asked: Asked) -> Result<ExitCode> {
    let signals = Signals::listen("interrupted before the first answers: nothing was written");
    let loaded = &asked.loaded;
    let config = &loaded.config;
    exam::expect_effect(loaded)?;
    let items = exam::items(&config.evaluation, config.llm.seed)?;
    let prepared = exam::prepare(config)?;
    expect_effect(loaded, &prepared.files, config.evaluation.shuffle_options)?;
    let index = config.retrieval.index.as_deref().map(Index::open).transpose()?;
    prepared.notes.iter().chain(&in_force(&prepared)).for_each(|line| note!("{line}"));
    note!("{}", exam::in_force(config));
    if let Some(path) = &config.retrieval.index {
        let RetrievalSettings { top_k, context_tokens, .. } = config.retrieval;
        let most = format!(
            "up to {} in place of each question's context, {}",
            Count(top_k, "passage"),
            Count(context_tokens, "token")
        );
        note!("retrieval: {}: {most}", path.display());
    }
    let evaluation = &config.evaluation;
    if evaluation.shuffle_options && evaluation.mode == Mode::Likelihood {
        note!("options in other orders have the same likelihoods; --mode generate shows the model their order");
    }
    if asked.check {
        let passages = |question: &str| passages(index.as_ref(), config, &prepared, question);
        let exam = Exam::new(&prepared, evaluation, index.is_some().then_some(&passages));
        let checked = exam.check(&items)?;
        say!("{checked}");
        note!("{}", exam.expect_room(checked.need)?);
        return Ok(ExitCode::SUCCESS);
    }
    let settings = exam::run_settings(config);
    let mut output = ScoringOutput::open(&evaluation.output, items, settings, evaluation.overwrite)?;
    let llm = prepared.load()?;
    note!("device: {}", llm.device());
    let passages = |question: &str| passages(index.as_ref(), config, llm.prepared(), question);
    let exam = Exam::new(llm.prepared(), evaluation, index.is_some().then_some(&passages));
    let bar = progress_bar("");
    bar.set_length(output.n_items() as u64);
    let report = exam.sit(&llm, &mut output, |progress| {
        // What was answered is on the disk.
        signals.note();
        show(&bar, progress);
        if signals.caught().is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    bar.finish_and_clear();
    match report {
        Some(report) => print(&report, evaluation.mode, evaluation.output.display()),
        None => note!("interrupted: the same command goes on from here"),
    }
    Ok(exit_code(signals.caught()))
}

/// Those of the index that fit into the budget, best first.
fn passages(index: Option<&Index>, config: &RagConfig, prepared: &Prepared, question: &str) -> Result<Vec<String>> {
    let Some(index) = index else { return Ok(Vec::new()) };
    let found = index.search(question, config.retrieval.top_k)?;
    let fit = context(&found, config.retrieval.context_tokens, &prepared.tokenizer)?;
    Ok(fit.into_iter().map(|passage| passage.text).collect())
}

fn show(bar: &ProgressBar, Progress { done, accuracy, .. }: Progress) {
    bar.set_position(done as u64);
    bar.set_message(accuracy.map_or(String::new(), |accuracy| format!("{:.1} % right", 100.0 * accuracy.value())));
}

fn print(report: &Report, mode: Mode, output: impl std::fmt::Display) {
    let Report { n_rows, n_right, n_scored, n_unparsable, n_too_long, seconds, tokens, score, .. } = report;
    if let Some(score) = score {
        print_score(score, *n_right, *n_scored);
    }
    let written = mode == Mode::Generate;
    let unparsable = if written { format!("answers without a letter: {n_unparsable}; ") } else { String::new() };
    let wrong = if n_unparsable + n_too_long > 0 { " (counted as wrong)" } else { "" };
    say!("{n_rows} asked; {unparsable}too long for the model: {n_too_long}{wrong}");
    say!("{} in {seconds:.1} s; metrics.json and details.csv are in {output}", Count(*tokens, "token"));
}

fn print_score(score: &Score, n_right: usize, n_scored: usize) {
    let percent = |share: f64| 100.0 * share;
    let [low, high] = score.accuracy_interval.map(percent);
    say!(
        "accuracy {:.1} % ({n_right} of {n_scored}; 95 % interval {low:.1} to {high:.1} %), macro-F1 {:.3}",
        percent(score.accuracy),
        score.macro_f1,
    );
    say!("always answering {}: {:.1} %", score.majority, percent(score.majority_baseline));
    if let (Some(per_token), Some(per_char)) = (score.accuracy_per_token, score.accuracy_per_char) {
        say!("by likelihood per token {:.1} %, per character {:.1} %", percent(per_token), percent(per_char));
    }
    if let Some(orders) = &score.orders {
        let each: Vec<_> = orders.accuracy.iter().map(|&share| format!("{:.1}", percent(share))).collect();
        say!("each order: {} %; right in all {:.1} %", each.join(", "), percent(orders.right_in_all));
        say!("the same option in all orders: {:.1} %", percent(orders.consistent));
    }
}
