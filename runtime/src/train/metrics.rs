//! What a run reports: metrics as JSON lines, and a progress bar.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use super::about::{About, Reply, Worst};
use super::sample_losses::SampleLoss;
use crate::error::Result;
use crate::files::Log;
use crate::screen::{Stream, bar_room, bars};

/// One line of metrics; what is `None` is left out of the line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// The number of finished optimiser steps.
    pub step: u64,
    /// The number of finished epochs, with its fraction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<f64>,
    /// The step's mean loss for each target token, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// The step's learning rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// The gradient's norm before clipping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    /// The loss scale of f16 training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f64>,
    /// Tokens that the run has trained on so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Tokens per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_s: Option<f64>,
    /// Seconds since the run began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elapsed_s: Option<f64>,
    /// The mean loss for each target token of the held-out data, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
    /// The loss of each sample of the step.
    #[serde(skip_serializing_if = "Option::is_none", skip_deserializing)]
    pub sample_losses: Option<Vec<SampleLoss>>,
    /// The accuracy on the held-out questions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_accuracy: Option<f64>,
    /// How the model went on from the prompts of `sample_prompts`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replies: Option<Vec<Reply>>,
    /// The most that buffers took up to now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
    /// The samples of the highest losses, at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worst: Option<Vec<Worst>>,
    /// What the run is, in its first line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<Box<About>>,
}

impl Record {
    /// As a line of JSON, with its end.
    pub(super) fn to_line(&self) -> String {
        // Numbers under fixed keys: there is nothing in it that JSON could refuse.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}

/// A file of metrics: one JSON object per line, each on the disk before the next step.
///
/// JSON has no NaN and no infinity: they are written as `null`.
#[derive(Debug)]
pub struct MetricsLog(Log);

impl MetricsLog {
    /// Starts a new file, in place of an old one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self> {
        Log::create(path.into()).map(Self)
    }

    /// Goes on writing at the end of a file, or starts it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn append(path: impl Into<PathBuf>) -> Result<Self> {
        Log::append(path.into()).map(Self)
    }

    /// Writes a line.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, record: &Record) -> Result<()> {
        self.write_lines(&record.to_line())
    }

    /// Writes lines that records became.
    pub(super) fn write_lines(&mut self, lines: &str) -> Result<()> {
        self.0.write(lines.as_bytes())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// Shows how far a run is: a bar on a terminal, else a line every so many steps.
#[derive(Debug)]
pub struct Progress {
    view: View,
    total_steps: u64,
    first_step: u64,
    began: Instant,
}

enum View {
    Bar(ProgressBar),
    Lines { every: u64, out: Box<dyn Write + Send> },
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bar(_) => "Bar",
            Self::Lines { .. } => "Lines",
        })
    }
}

impl Progress {
    /// On stderr, for the steps from `first_step` to `total_steps`; `every` is at least 1 and for lines only.
    pub fn new(first_step: u64, total_steps: u64, every: u64) -> Self {
        if !io::stderr().is_terminal() {
            return Self::lines(first_step, total_steps, every, Box::new(io::stderr()));
        }
        let bar = ProgressBar::with_draw_target(Some(total_steps), bars()).with_position(first_step);
        let template = format!("{{bar:{}}} {{pos}}/{{len}}  {{msg}}", bar_columns());
        bar.set_style(ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { view: View::Bar(bar), total_steps, first_step, began: Instant::now() }
    }

    /// As lines, into `out`.
    pub fn lines(first_step: u64, total_steps: u64, every: u64, out: Box<dyn Write + Send>) -> Self {
        let view = View::Lines { every: every.max(1), out };
        Self { view, total_steps, first_step, began: Instant::now() }
    }

    /// Shows a finished step.
    pub fn step(&mut self, record: &Record) {
        let left = self.time_left(record.step);
        match &mut self.view {
            View::Bar(bar) => {
                if let Some(loss) = record.eval_loss {
                    above(bar, &format!("step {}/{}  held-out loss {loss:.4}", record.step, self.total_steps));
                }
                let count = format!(" {}/{}  ", record.step, self.total_steps);
                let message = summary(record, left, bar_room().saturating_sub(bar_columns() + count.len()));
                bar.set_message(message);
                bar.set_position(record.step);
            }
            View::Lines { every, out } => {
                // The first, too: it says how long the run will take.
                let (first, last) = (self.first_step + 1, self.total_steps);
                let told = record.step.is_multiple_of(*every) || [first, last].contains(&record.step);
                if told || record.eval_loss.is_some() {
                    let message = summary(record, left, usize::MAX);
                    // Progress that nobody can read any more is no reason to stop training.
                    let _ = writeln!(out, "step {}/{}  {message}", record.step, self.total_steps);
                }
            }
        }
    }

    /// Prints a line of its own.
    pub fn note(&mut self, text: &str) {
        match &mut self.view {
            View::Bar(bar) => above(bar, text),
            View::Lines { out, .. } => {
                let _ = writeln!(out, "{text}");
            }
        }
    }

    /// Leaves the last state on the screen.
    pub fn finish(self) {
        if let View::Bar(bar) = self.view {
            bar.abandon();
            // The bar leaves the last columns free, and so the line is not at its end.
            let _ = writeln!(io::stderr());
        }
    }

    /// The time left at the mean pace so far.
    fn time_left(&self, step: u64) -> Duration {
        let done = step.saturating_sub(self.first_step).max(1);
        let left = self.total_steps.saturating_sub(step);
        self.began.elapsed().mul_f64(left as f64 / done as f64)
    }
}

/// Prints a line that stays.
fn above(bar: &ProgressBar, text: &str) {
    bar.suspend(|| {
        let _ = writeln!(io::stderr(), "{}", Stream::Err.fit(text));
    });
}

/// Columns of the bar itself, of those that its line has.
fn bar_columns() -> usize {
    (bar_room() / 5).clamp(1, 30)
}

/// `loss 1.2345  lr 2.00e-4  norm 0.51  8358 tokens/s  5m left`, as far as the values are there and `room` has columns for
/// them.
fn summary(record: &Record, left: Duration, room: usize) -> String {
    // Each with the order in which they go where there is too little room.
    let parts = [
        (5, record.loss.map(|loss| format!("loss {loss:.4}"))),
        (2, record.eval_loss.map(|loss| format!("held-out loss {loss:.4}"))),
        (1, record.lr.map(|lr| format!("lr {lr:.2e}"))),
        (0, record.grad_norm.map(|norm| format!("norm {norm:.3}"))),
        (3, record.tokens_per_s.map(|rate| format!("{rate:.0} tokens/s"))),
        (4, (left >= Duration::from_secs(1)).then(|| format!("{:#} left", HumanDuration(left)))),
    ];
    let line = |least: u8| {
        let kept = parts.iter().filter(|(order, _)| *order >= least).filter_map(|(_, part)| part.as_deref());
        kept.collect::<Vec<_>>().join("  ")
    };
    (0..6).map(line).find(|line| line.len() <= room).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_has_what_is_known() {
        let record = Record {
            step: 3,
            loss: Some(1.234_56),
            lr: Some(2e-4),
            grad_norm: Some(0.5),
            tokens_per_s: Some(8358.4),
            ..Record::default()
        };
        let said = |room| summary(&record, Duration::from_secs(300), room);
        assert_eq!(said(80), "loss 1.2346  lr 2.00e-4  norm 0.500  8358 tokens/s  5m left");
        assert_eq!(said(59), said(80));
        assert_eq!(said(58), "loss 1.2346  lr 2.00e-4  8358 tokens/s  5m left");
        assert_eq!(said(40), "loss 1.2346  8358 tokens/s  5m left");
        assert_eq!((said(11).as_str(), said(10).as_str()), ("loss 1.2346", ""));
        let nothing = Record { loss: Some(f64::NAN), ..Record::default() };
        assert_eq!(summary(&nothing, Duration::ZERO, 80), "loss NaN");
    }
}
