//! The loop over the steps.

use super::{
    examine::Examiner,
    prepared::Prepared,
    watch::{Watch, Wish},
};
use crate::{
    error::{Error, Result},
    lora::Adapter,
    settings::TrainSettings,
    train::{
        checkpoint::{Keeper, Saved, State, name},
        evaluations::Evaluations,
        metrics::Record,
        output::RunOutput,
        packing::Batcher,
        sample_losses::{SampleLoss, sample_losses},
        trainer::{StepReport, Trainer, TrainerState},
        watchdog::Watchdog,
    },
};
use halfbyte::{Backend, Count, Float};
use std::{
    mem,
    path::PathBuf,
    time::{Duration, Instant},
};
use tracing::{debug, info};

/// The loop over the steps.
pub(super) struct Steps<'a, B: Backend, T: Float> {
    batcher: &'a Batcher<'a>,
    examiner: &'a Examiner<'a, B, T>,
    eval_steps: u64,
    /// Whether to queue a step before the one before it is known.
    runs_behind: bool,
    keeper: Keeper,
    /// Of the last step, where they are to be noted; then none is queued before the one before it is known.
    sample_losses: Option<Vec<SampleLoss>>,
    evaluations: Evaluations,
    watchdog: Watchdog,
    /// Evaluations without a lower loss, after which to end.
    patience: Option<u64>,
    /// Whether the adapter of the best evaluation is the one to save.
    load_best: bool,
    /// How long the run took before it was cut short.
    elapsed_s: f64,
    /// Trained on so far.
    pub n_tokens: u64,
    /// Steps so far.
    pub done: u64,
}

impl<'a, B: Backend, T: Float> Steps<'a, B, T> {
    /// From the first step on, or behind the checkpoint that the run goes on from.
    pub fn new(
        run: &Prepared,
        batcher: &'a Batcher<'a>,
        examiner: &'a Examiner<'a, B, T>,
        runs_behind: bool,
    ) -> Result<Self> {
        let state = run.saved.as_ref().map(|saved| &saved.state);
        let (done, n_tokens) = state.map_or((0, 0), |state| (state.step, state.tokens));
        let elapsed_s = state.map_or(0.0, |state| state.elapsed_s);
        let (evaluations, watchdog) = state.map(|state| (state.evaluations, state.watchdog)).unwrap_or_default();
        let TrainSettings { eval_steps, early_stopping_patience: patience, load_best_at_end: load_best, .. } =
            run.settings;
        let keeper = run.keeper()?;
        Ok(Steps {
            batcher,
            examiner,
            eval_steps,
            runs_behind,
            keeper,
            sample_losses: None,
            evaluations,
            watchdog,
            patience,
            load_best,
            elapsed_s,
            n_tokens,
            done,
        })
    }

    /// Trains, and saves what was learnt: also when somebody or an error ends it early, but not before there is something.
    pub fn train_and_save(
        &mut self,
        trainer: &mut Trainer<'_, B, T>,
        output: &mut RunOutput,
        watch: &mut dyn Watch,
    ) -> Result<()> {
        let (began, trained_before) = (Instant::now(), self.n_tokens);
        watch.begin(self.done, self.batcher.total_steps());
        let trained = self.train(trainer, output, watch);
        watch.finish();
        let seconds = began.elapsed().as_secs_f64();
        if self.done == 0 || matches!(trained, Err(Error::CameApart { .. })) {
            return trained;
        }
        let total = self.batcher.total_steps();
        let finished = trained.is_ok() && (self.done == total || self.ends_early());
        if finished && self.load_best {
            self.take_best(trainer, output, watch);
        }
        save(output, trainer.adapter()?, watch)?;
        for path in output.not_ours() {
            watch.note(&format!("`{}` was changed, or is not halfbyte's: it stays as it is", path.display()));
        }
        let n = self.n_tokens - trained_before;
        watch.say(&format!("trained on {} in {seconds:.1} s: {:.0} tokens/s", Count(n, "token"), n as f64 / seconds));
        watch.say(&format!("adapter saved in {}", output.path().display()));
        if finished && self.done != total {
            let since = Count(self.evaluations.since, "evaluation");
            watch.say(&format!("ended early: {since} in a row brought no lower held-out loss"));
        } else if self.done != total {
            watch.say(&format!("it is that of the first {} of {}", self.done, Count(total, "step")));
        }
        if self.watchdog.bad > 0 {
            watch
                .note("the last losses have risen far, or their gradients vanished: the learning rate may be too high");
        } else if trained.is_ok() && !finished && self.keeper.is_on() {
            if !self.keeper.has(self.done) {
                self.checkpoint(trainer, output, watch, seconds);
            }
            watch.say("--resume auto goes on with it");
        }
        tell_failed(self.keeper.clear(output.path()), watch);
        trained
    }

    fn train(&mut self, trainer: &mut Trainer<'_, B, T>, output: &mut RunOutput, watch: &mut dyn Watch) -> Result<()> {
        let (began, aside) = (Instant::now(), Duration::ZERO);
        let mut told = Told { output, watch, began, step_began: began, steps: 0, aside, lost: false };
        for step in self.batcher.steps(self.done) {
            if told.watch.ends() || self.ends_early() {
                break;
            }
            let report = if self.runs_behind { trainer.step_ahead(&step)? } else { Some(trainer.step(&step)?) };
            self.sample_losses = trainer.target_losses().map(|losses| sample_losses(&step, losses));
            self.tell(report, trainer, &mut told)?;
            let done = step.index + 1;
            let is_due = self.keeper.is_due(done);
            // What is evaluated or saved is what the step left.
            if is_due || self.evaluates(done) {
                self.finish(trainer, &mut told)?;
            }
            let good = done != self.batcher.total_steps() && self.watchdog.bad == 0;
            if good && (is_due || self.saves_best(done)) {
                let began = Instant::now();
                self.checkpoint(trainer, told.output, told.watch, told.began.elapsed().as_secs_f64());
                told.pause(began);
            }
        }
        self.finish(trainer, &mut told)
    }

    /// Whether to evaluate after so many steps.
    fn evaluates(&self, done: u64) -> bool {
        self.eval_steps > 0 && done.is_multiple_of(self.eval_steps)
    }

    /// Whether a step has a checkpoint because none has a lower held-out loss.
    fn saves_best(&self, done: u64) -> bool {
        self.evaluations.is_best(done) && (self.keeper.is_on() || self.load_best)
    }

    /// Whether so many evaluations brought nothing that it is time to end.
    fn ends_early(&self) -> bool {
        self.patience.is_some_and(|patience| self.evaluations.since >= patience)
    }

    /// Goes back to the adapter with the lowest held-out loss.
    fn take_best(&self, trainer: &mut Trainer<'_, B, T>, output: &RunOutput, watch: &mut dyn Watch) {
        let Some((step, loss)) = self.evaluations.best.filter(|&(step, _)| step != self.done) else { return };
        let saved = Saved::open(&output.path().join(name(step)));
        let adapter = saved.and_then(|saved| saved.adapter(&self.examiner.model.config));
        match adapter.and_then(|adapter| trainer.load(&adapter)) {
            Ok(()) => {
                watch.say(&format!("held-out loss was lowest after step {step}, {loss:.4}: back to that adapter"))
            }
            Err(e) => watch.note(&format!("the last adapter is saved, though that of step {step} is better: {e}")),
        }
    }

    /// Waits for the last step. When it began nobody knows: the one before it was told of late. So it took what a step took
    /// up to now.
    fn finish(&mut self, trainer: &mut Trainer<'_, B, T>, told: &mut Told<'_>) -> Result<()> {
        let report = trainer.finish()?;
        let mean = told.began.elapsed().saturating_sub(told.aside) / (told.steps + 1);
        if self.runs_behind
            && let Some(began) = Instant::now().checked_sub(mean)
        {
            told.step_began = began;
        }
        self.tell(report, trainer, told)
    }

    /// Notes what a step did, and evaluates where it is time to.
    fn tell(&mut self, report: Option<StepReport>, trainer: &mut Trainer<'_, B, T>, told: &mut Told<'_>) -> Result<()> {
        let Some(report) = report else { return Ok(()) };
        told.watch.learnt();
        self.n_tokens += report.n_tokens as u64;
        self.done = report.step + 1;
        let mut record = record(&report, self.n_tokens, told.step_began);
        record.sample_losses = self.sample_losses.take();
        record.elapsed_s = Some(self.elapsed_s + told.began.elapsed().as_secs_f64());
        let began = Instant::now();
        if self.evaluates(record.step) {
            record.eval_loss = self.examiner.heldout_loss(trainer)?;
            record.eval_loss.iter().for_each(|&loss| self.evaluations.note(record.step, loss));
            let replies = self.examiner.replies(trainer)?;
            replies.iter().for_each(|reply| told.watch.note(&format!("step {}: {reply}", record.step)));
            record.replies = Some(replies).filter(|replies| !replies.is_empty());
        }
        self.log(&record, told, began);
        told.steps += 1;
        told.pause(began);
        // The adapter is worth more: metrics are written again when it is saved.
        if let Err(e) = told.output.record(&record)
            && !mem::replace(&mut told.lost, true)
        {
            told.watch.note(&format!("metrics will be written at the end only: {e}"));
        }
        told.watch.step(&record);
        self.expect_sound(&report, told)
    }

    /// Notes a step, which has just been done, and its evaluation, which began then.
    fn log(&self, record: &Record, told: &Told<'_>, began: Instant) {
        let Record { step, loss, lr, grad_norm, .. } = *record;
        debug!(step, loss, lr, grad_norm, tokens = self.n_tokens, took = ?began.duration_since(told.step_began), "step");
        if self.evaluates(step) {
            info!(step, heldout_loss = record.eval_loss, took = ?began.elapsed(), "evaluated");
        }
    }

    /// Ends a run whose adapter is worth nothing any more.
    fn expect_sound(&mut self, report: &StepReport, told: &mut Told<'_>) -> Result<()> {
        let output = told.output.path();
        let vocab_size = self.examiner.model.config.vocab_size;
        let reason = (!report.skipped).then(|| self.watchdog.see(report.loss, report.grad_norm, vocab_size)).flatten();
        if let Some(reason) = reason {
            // The first bad loss is that of what so many steps had left.
            let first_bad = self.done.saturating_sub(self.watchdog.bad);
            let left = self.keeper.drop_from(output, first_bad).ok().flatten();
            let kept = match left {
                Some(path) => format!("`{}` is from before, for --lora-path", path.display()),
                None => "nothing is saved".into(),
            };
            return Err(Error::CameApart { step: self.done, loss: report.loss, reason, kept });
        }
        if self.watchdog.bad == 0 {
            tell_failed(self.keeper.clear_after_step(output), told.watch);
        }
        Ok(())
    }

    /// Saves a checkpoint `seconds` after the loop began. Training goes on where that fails: it is tried again when the
    /// next one is due.
    fn checkpoint(&mut self, trainer: &mut Trainer<'_, B, T>, output: &RunOutput, watch: &mut dyn Watch, seconds: f64) {
        let began = Instant::now();
        let saved = self.save_checkpoint(trainer, output, self.elapsed_s + seconds);
        info!(step = self.done, saved = saved.is_ok(), took = ?began.elapsed(), "checkpoint");
        watch.note(&match saved {
            Ok(path) => format!(
                "{} saved in {:.1} s ({} kept)",
                path.display(),
                began.elapsed().as_secs_f64(),
                Count(self.keeper.n_kept() as u64, "checkpoint")
            ),
            Err(e) => format!("there is no checkpoint of step {}: {e}", self.done),
        });
    }

    fn save_checkpoint(
        &mut self,
        trainer: &mut Trainer<'_, B, T>,
        output: &RunOutput,
        elapsed_s: f64,
    ) -> Result<PathBuf> {
        let TrainerState { counters, moments } = trainer.state()?;
        let state = State {
            version: State::VERSION,
            step: self.done,
            total_steps: self.batcher.total_steps(),
            tokens: self.n_tokens,
            elapsed_s,
            device: trainer.device(),
            counters,
            evaluations: self.evaluations,
            watchdog: self.watchdog,
            run: self.keeper.identity.clone(),
        };
        self.keeper.save(output, &state, &moments, trainer.adapter()?)
    }
}

/// Who is told of steps.
struct Told<'a> {
    output: &'a mut RunOutput,
    watch: &'a mut dyn Watch,
    began: Instant,
    /// When the step before was told of.
    step_began: Instant,
    /// Steps that were told of, and what evaluations and checkpoints between them took.
    steps: u32,
    aside: Duration,
    /// Whether metrics could not be written.
    lost: bool,
}

impl Told<'_> {
    /// What began then was no part of a step.
    fn pause(&mut self, began: Instant) {
        self.aside += began.elapsed();
        self.step_began = Instant::now();
    }
}

/// Says that checkpoints could not be removed: no reason to stop.
fn tell_failed(cleared: Result<()>, watch: &mut dyn Watch) {
    if let Err(e) = cleared {
        watch.note(&format!("there are more checkpoints than there should be: {e}"));
    }
}

/// Saves the adapter. Where that fails, hours of work are not dropped until `watch` says so.
fn save(output: &mut RunOutput, adapter: &Adapter, watch: &mut dyn Watch) -> Result<()> {
    let mut outcome = output.save(adapter);
    while let Err(error) = outcome {
        let wish = watch.save_failed(&error);
        let moved = match &wish {
            Wish::Folder(dir) => output.move_to(dir),
            _ => Ok(()),
        };
        outcome = moved.and_then(|()| output.save(adapter));
        if wish == Wish::GiveUp && outcome.is_err() {
            watch.note("what was trained is lost");
            return outcome;
        }
    }
    outcome
}

fn record(report: &StepReport, tokens: u64, step_began: Instant) -> Record {
    Record {
        step: report.step + 1,
        epoch: Some(report.epochs_done),
        loss: Some(report.loss),
        lr: Some(report.lr),
        grad_norm: Some(report.grad_norm),
        loss_scale: (report.loss_scale != 1.0).then(|| f64::from(report.loss_scale)),
        tokens: Some(tokens),
        tokens_per_s: Some(report.n_tokens as f64 / step_began.elapsed().as_secs_f64()),
        ..Record::default()
    }
}
