//! Fine-tunes a LoRA adapter on a Qwen3 checkpoint, in 4 bits with `--use-4bit`.
//!
//! Without `--model-name` it trains the small embedded model on the by-laws of an invented town, on the GPU or the CPU,
//! and examines it on them before and after.
mod save;

use super::{
    logs::tells_notes,
    output::complain,
    signals::{Signals, exit_code},
    tool::{Run, Tool},
};
use crate::{
    error::{Error, Result},
    note, say,
    screen::Stream,
    settings::Asked,
    train::{
        metrics::{Progress, Record},
        run::{Prepared, Watch, Wish},
    },
};
use save::Patience;
use std::process::ExitCode;

/// Fine-tunes an adapter.
pub const TRAIN: Tool = Tool {
    name: "train",
    about: "Fine-tune a LoRA adapter on a Qwen3 checkpoint",
    options: |command| command,
    run: Run::Settings(&["train"], run),
};

fn run(asked: Asked) -> Result<ExitCode> {
    let signals = Signals::listen("interrupted before the first step: nothing was trained, and nothing is saved");
    let prepared = Prepared::of(&asked.loaded)?;
    prepared.notes.iter().chain(&prepared.in_force()).for_each(|line| note!("{line}"));
    if asked.check {
        say!("{}", prepared.check()?);
        say!("{}", prepared.preview(Stream::Out)?);
        note!("{}", prepared.expect_room()?);
        match prepared.pace() {
            Ok(time) => say!("{time}"),
            Err(e) => note!("time: not measured: {e}"),
        }
        return Ok(ExitCode::SUCCESS);
    }
    let logging_steps = asked.loaded.config.train.logging_steps;
    let mut screen = Screen { signals, logging_steps, progress: None, patience: None };
    prepared.run(&mut screen)?;
    Ok(exit_code(screen.signals.caught()))
}

/// Shows a run, and ends it where a signal asks for it.
struct Screen {
    signals: Signals,
    logging_steps: u64,
    /// During the steps.
    progress: Option<Progress>,
    /// Since a save failed.
    patience: Option<Patience>,
}

impl Watch for Screen {
    fn say(&mut self, line: &str) {
        say!("{line}");
    }

    fn note(&mut self, line: &str) {
        match &mut self.progress {
            Some(progress) => progress.note(line),
            None => note!("{line}"),
        }
    }

    fn begin(&mut self, done: u64, total_steps: u64) {
        self.progress = tells_notes().then(|| Progress::new(done, total_steps, self.logging_steps));
    }

    fn learnt(&mut self) {
        self.signals.note();
    }

    fn step(&mut self, record: &Record) {
        self.progress.iter_mut().for_each(|progress| progress.step(record));
    }

    fn finish(&mut self) {
        self.progress.take().into_iter().for_each(Progress::finish);
    }

    fn ends(&mut self) -> bool {
        let caught = self.signals.caught().is_some();
        if caught && let Some(progress) = &mut self.progress {
            progress.note("interrupted: saving what was learnt (again to end at once)");
        }
        caught
    }

    fn saved(&mut self) {
        self.signals.end_at_once("interrupted: the adapter is saved");
    }

    fn save_failed(&mut self, error: &Error) -> Wish {
        complain(&format!("error: {error}"));
        self.patience.get_or_insert_with(|| Patience::begin(&self.signals)).wait(&self.signals)
    }
}
