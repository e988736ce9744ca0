//! The run on a device.

use super::{
    examine::{Examination, Examiner},
    prepared::Prepared,
    steps::Steps,
    watch::Watch,
};
use crate::{
    device::{self, Job},
    error::Result,
    model::Qwen3,
    settings::TrainSettings,
    train::{about::Worst, metrics::Record, output::RunOutput, report::REPORT, trainer::Trainer},
};
use halfbyte::{Backend, Count, Float, MemoryUse, Size, host};
use std::{path::PathBuf, time::Instant};

/// What came of a run.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Outcome {
    /// Steps that were done.
    pub steps: u64,
    /// Steps that the settings ask for; a run that was ended early did fewer.
    pub total_steps: u64,
    /// Tokens that it trained on.
    pub n_tokens: u64,
    /// What the model knew before; of a run that was resumed, where it went on.
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
    /// The device cannot be used or has too little memory, training diverges, or the adapter cannot be saved, or sent to the
    /// hub. What was learnt before an error is saved.
    pub fn run(self, watch: &mut dyn Watch) -> Result<Outcome> {
        let (run, said) = self.fitted_to_gpu()?;
        said.iter().for_each(|said| watch.say(said));
        let TrainSettings { device, threads, bnb_4bit_compute_dtype: dtype, .. } = run.settings;
        let outcome = device::run(device, threads, dtype, Training { run: &run, watch: &mut *watch })?;
        if let (Some(to), true) = (&run.to, outcome.after.is_some()) {
            watch.say(&format!("sent to {}", to.send(&outcome.output)?));
        }
        Ok(outcome)
    }

    /// Begins events for TensorBoard, where they are asked for.
    fn tell_tensorboard(&self, output: &mut RunOutput, watch: &mut dyn Watch) {
        if let Some(dir) = self.settings.tensorboard.dir(&self.settings.output) {
            watch.say(&format!("events for TensorBoard: {}", dir.display()));
            output.tell_tensorboard(dir, self.saved.as_ref().map_or(0, |saved| saved.state.step));
        }
    }

    /// Finds out what the model knows after `done` steps, whose adapter is safe, and notes it.
    fn end<B: Backend, T: Float>(
        &self,
        examiner: &Examiner<'_, B, T>,
        trainer: &mut Trainer<'_, B, T>,
        output: &mut RunOutput,
        done: u64,
        watch: &mut dyn Watch,
    ) -> Result<Examination> {
        watch.saved();
        let worst = examiner.worst_samples(output.lines());
        say_worst(&worst, watch);
        let after = examiner.examine("after", trainer, watch)?;
        let backend = trainer.context().backend;
        watch.say(&peak_memory(backend));
        let peak_bytes = Some(backend.memory().peak as u64);
        let worst = Some(worst).filter(|worst| !worst.is_empty());
        match output.end(&Record { worst, peak_bytes, ..after.record(done) }, &self.lora.saved()) {
            Ok(()) => watch.say(&format!("report: {}", output.path().join(REPORT).display())),
            Err(e) => watch.note(&format!("metrics and report do not say what the model knows now: {e}")),
        }
        Ok(after)
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
        let mut output = RunOutput::create(&settings.output, run.overwrite)?;
        texts.train.note().iter().for_each(|text| watch.say(text));
        let batcher = run.batcher()?;
        output.reserve(run.lora.saved().weight_bytes(config)? as u64)?;

        let plan = run.plan(backend.free_memory())?;
        run.log_plan(plan)?;
        let began = Instant::now();
        let mut model = Qwen3::<B, T>::load_with(&backend, files, config, settings.base(), plan.embedding)?;
        backend.synchronize()?;
        let seconds = began.elapsed().as_secs_f64();
        watch.say(&format!("{} on {}: loaded in {seconds:.1} s", run.dir.display(), backend.name()));

        let (adapter, taken) = run.begin(&backend, &mut model)?;
        model.make_room(&backend, &adapter.config)?;
        let options = settings.trainer(run.capacity, plan.kept, batcher.total_steps())?;
        let mut trainer = Trainer::new(&backend, &model, &adapter, options)?;
        taken.iter().try_for_each(|taken| trainer.save_for_whole(taken))?;
        drop((adapter, taken));
        trainer.add_noise(settings.neftune_alpha)?;
        watch.say(&plan.to_string());
        watch.say(&format!(
            "{}; {}; {}",
            texts.train.told(),
            Count(batcher.total_steps(), "step"),
            Count(trainer.n_trainable(), "trainable number"),
        ));
        run.restore(&mut trainer, &mut output, watch)?;
        run.tell_tensorboard(&mut output, watch);
        if settings.log_sample_losses {
            trainer.keep_target_losses();
        }
        let examiner = Examiner { texts, tokenizer, model: &model };
        let before = examiner.examine(if run.saved.is_some() { "now" } else { "before" }, &mut trainer, watch)?;
        if run.saved.is_none() {
            let about = run.about(backend.name(), plan, trainer.n_trainable())?;
            output.begin(&Record { run: Some(about.into()), ..before.record(0) });
        }
        let mut steps = Steps::new(run, &batcher, &examiner, backend.runs_behind() && !settings.log_sample_losses)?;
        steps.train_and_save(&mut trainer, &mut output, watch)?;
        let (done, n_tokens) = (steps.done, steps.n_tokens);
        let after = (!watch.ends()).then(|| run.end(&examiner, &mut trainer, &mut output, done, watch)).transpose()?;
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

/// A line for each, under a title.
fn say_worst(worst: &[Worst], watch: &mut dyn Watch) {
    if !worst.is_empty() {
        watch.say("samples of the highest loss, when they were last seen:");
    }
    for Worst { sample, step, loss, text } in worst {
        watch.say(&format!("{loss:7.3}  sample {sample}, step {step}: {text}"));
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
