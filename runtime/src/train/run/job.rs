//! The run on a device.

use super::{
    examine::{Examination, Examiner},
    prepared::Prepared,
    watch::{Watch, Wish},
};
use crate::{
    device::{self, Job},
    error::Result,
    lora::Adapter,
    model::Qwen3,
    settings::TrainSettings,
    train::{
        metrics::Record,
        output::RunOutput,
        packing::Batcher,
        trainer::{StepReport, Trainer},
    },
};
use halfbyte::{Backend, Count, Float, MemoryUse, Size, host};
use std::{
    mem,
    path::PathBuf,
    time::{Duration, Instant},
};

/// What came of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Steps that were done.
    pub steps: u64,
    /// Steps that the settings ask for; a run that was ended early did fewer.
    pub total_steps: u64,
    /// Tokens that it trained on.
    pub n_tokens: u64,
    /// What the model knew before.
    pub before: Examination,
    /// What it knows now; none where the run was ended early.
    pub after: Option<Examination>,
    /// Where the adapter is.
    pub output: PathBuf,
    /// What buffers took.
    pub memory: MemoryUse,
}

impl Prepared {
    /// Trains and saves.
    ///
    /// # Errors
    /// The device cannot be used or has too little memory, training diverges, or the adapter cannot be saved. What was
    /// learnt before an error is saved.
    pub fn run(self, watch: &mut dyn Watch) -> Result<Outcome> {
        let TrainSettings { device, threads, bnb_4bit_compute_dtype: dtype, .. } = self.settings;
        device::run(device, threads, dtype, Training { run: &self, watch })
    }
}

/// A prepared run, and who watches it.
pub(super) struct Training<'a> {
    pub run: &'a Prepared,
    pub watch: &'a mut dyn Watch,
}

impl Job for Training<'_> {
    type Output = Outcome;

    fn run<B: Backend, T: Float>(self, backend: B) -> Result<Outcome> {
        let Training { run, watch } = self;
        let Prepared { settings, config, files, texts, tokenizer, .. } = run;
        let mut output = RunOutput::create(&settings.output, settings.overwrite)?;
        texts.train.note().iter().for_each(|text| watch.say(text));
        let batcher = run.batcher()?;
        output.reserve(run.lora.weight_bytes(config)? as u64)?;

        let plan = run.plan(backend.free_memory())?;
        let began = Instant::now();
        let model = Qwen3::<B, T>::load_with(&backend, files, config, settings.base(), plan.embedding)?;
        backend.synchronize()?;
        let seconds = began.elapsed().as_secs_f64();
        watch.say(&format!("{} on {}: loaded in {seconds:.1} s", run.dir.display(), backend.name()));

        let new = || Adapter::init(run.lora.clone(), config, files, settings.seed);
        let adapter = run.adapter.clone().map_or_else(new, Ok)?;
        let options = settings.trainer(run.capacity, plan.kept, batcher.total_steps())?;
        let mut trainer = Trainer::new(&backend, &model, &adapter, options)?;
        drop(adapter);
        watch.say(&plan.to_string());
        watch.say(&format!(
            "{}; {}; {}",
            texts.train.told(),
            Count(batcher.total_steps(), "step"),
            Count(trainer.n_trainable(), "trainable number"),
        ));
        let examiner = Examiner { texts, tokenizer, model: &model };
        let before = examiner.examine("before", &mut trainer, watch)?;
        let (eval_steps, runs_behind) = (settings.eval_steps, backend.runs_behind());
        let mut steps = Steps { batcher: &batcher, examiner: &examiner, eval_steps, runs_behind, n_tokens: 0, done: 0 };
        steps.train_and_save(&mut trainer, &mut output, watch)?;
        let (done, n_tokens) = (steps.done, steps.n_tokens);
        let after = if watch.ends() {
            None
        } else {
            watch.saved();
            let after = examiner.examine("after", &mut trainer, watch)?;
            watch.say(&peak_memory(&backend));
            Some(after)
        };
        Ok(Outcome {
            steps: done,
            total_steps: batcher.total_steps(),
            n_tokens,
            before,
            after,
            output: output.path().to_owned(),
            memory: backend.memory(),
        })
    }
}

/// The most memory that buffers took, and the process with all else.
fn peak_memory(backend: &impl Backend) -> String {
    let buffers = format!("peak memory {} in buffers", Size(backend.memory().peak as u64));
    match host::process_peak() {
        Some(peak) => format!("{buffers}; {} of the host in all, mapped files included", Size(peak as u64)),
        None => buffers,
    }
}

/// The loop over the steps.
struct Steps<'a, B: Backend, T: Float> {
    batcher: &'a Batcher<'a>,
    examiner: &'a Examiner<'a, B, T>,
    eval_steps: u64,
    /// Whether to queue a step before the one before it is known.
    runs_behind: bool,
    /// Trained on so far.
    n_tokens: u64,
    /// Steps so far.
    done: u64,
}

impl<B: Backend, T: Float> Steps<'_, B, T> {
    /// Trains, and saves what was learnt: also when somebody or an error ends it early, but not before there is something.
    fn train_and_save(
        &mut self,
        trainer: &mut Trainer<'_, B, T>,
        output: &mut RunOutput,
        watch: &mut dyn Watch,
    ) -> Result<()> {
        let began = Instant::now();
        watch.begin(self.batcher.total_steps());
        let trained = self.train(trainer, output, watch);
        watch.finish();
        let seconds = began.elapsed().as_secs_f64();
        if self.done == 0 {
            return trained;
        }
        save(output, trainer.adapter()?, watch)?;
        let (n, total) = (self.n_tokens, self.batcher.total_steps());
        watch.say(&format!("trained on {} in {seconds:.1} s: {:.0} tokens/s", Count(n, "token"), n as f64 / seconds));
        watch.say(&format!("adapter saved in {}", output.path().display()));
        if self.done != total {
            watch.say(&format!("it is that of the first {} of {}", self.done, Count(total, "step")));
        }
        trained
    }

    fn train(&mut self, trainer: &mut Trainer<'_, B, T>, output: &mut RunOutput, watch: &mut dyn Watch) -> Result<()> {
        let (began, evaluating) = (Instant::now(), Duration::ZERO);
        let mut told = Told { output, watch, began, step_began: began, steps: 0, evaluating, lost: false };
        for step in self.batcher.steps(0) {
            if told.watch.ends() {
                break;
            }
            let report = if self.runs_behind { trainer.step_ahead(&step)? } else { Some(trainer.step(&step)?) };
            self.tell(report, trainer, &mut told)?;
            // What is evaluated is what the step left.
            if self.eval_steps > 0 && (step.index + 1).is_multiple_of(self.eval_steps) {
                self.finish(trainer, &mut told)?;
            }
        }
        self.finish(trainer, &mut told)
    }

    /// Waits for the last step. When it began nobody knows: the one before it was told of late. So it took what a step took
    /// up to now.
    fn finish(&mut self, trainer: &mut Trainer<'_, B, T>, told: &mut Told<'_>) -> Result<()> {
        let report = trainer.finish()?;
        let mean = told.began.elapsed().saturating_sub(told.evaluating) / (told.steps + 1);
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
        let mut record = record(&report, self.n_tokens, told.step_began, told.began);
        if self.eval_steps > 0 && record.step.is_multiple_of(self.eval_steps) {
            let began = Instant::now();
            record.eval_loss = self.examiner.heldout_loss(trainer)?;
            told.evaluating += began.elapsed();
        }
        told.steps += 1;
        told.step_began = Instant::now();
        // The adapter is worth more: metrics are written again when it is saved.
        if let Err(e) = told.output.record(&record)
            && !mem::replace(&mut told.lost, true)
        {
            told.watch.note(&format!("metrics will be written at the end only: {e}"));
        }
        told.watch.step(&record);
        Ok(())
    }
}

/// Who is told of steps.
struct Told<'a> {
    output: &'a mut RunOutput,
    watch: &'a mut dyn Watch,
    began: Instant,
    /// When the step before was told of.
    step_began: Instant,
    /// Steps that were told of, and what evaluations between them took.
    steps: u32,
    evaluating: Duration,
    /// Whether metrics could not be written.
    lost: bool,
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

fn record(report: &StepReport, tokens: u64, step_began: Instant, began: Instant) -> Record {
    Record {
        step: report.step + 1,
        epoch: Some(report.epoch as f64),
        loss: Some(report.loss),
        lr: Some(report.lr),
        grad_norm: Some(report.grad_norm),
        loss_scale: (report.loss_scale != 1.0).then(|| f64::from(report.loss_scale)),
        tokens: Some(tokens),
        tokens_per_s: Some(report.n_tokens as f64 / step_began.elapsed().as_secs_f64()),
        elapsed_s: Some(began.elapsed().as_secs_f64()),
        ..Record::default()
    }
}
