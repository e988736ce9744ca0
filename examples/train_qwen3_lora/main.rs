//! Fine-tunes a LoRA adapter on a Qwen3 checkpoint, in 4 bits with `--use-4bit`.
//!
//! Without `--model` it trains the small embedded model on the by-laws of an invented town, on the GPU or the CPU,
//! and examines it on them before and after.
#[path = "../common/mod.rs"]
mod common;
mod options;
mod save;

use common::{Signals, exit_code, note, say, start};
use halfbyte::{Backend, Float, host};
use halfbyte_runtime::{
    Result,
    chat::ChatTemplate,
    checkpoint::Checkpoint,
    config::Qwen3Config,
    device::{self, Job},
    evaluate::{
        choice,
        questions::{Question, read_questions},
    },
    generate::generator::{GenerateOptions, generate},
    lora::Adapter,
    model::{Activations, Keep, LossBuffers, Qwen3, SampleOptions, checkpoint_note},
    tokenizer::Tokenizer,
    train::{
        data::{DataOptions, Dataset},
        metrics::{Progress, Record},
        output::RunOutput,
        packing::Batcher,
        trainer::{StepReport, Trainer, micro_batch_capacity},
    },
};
use options::{Args, Plan, batch_options, lora_config, trainer_options};
use std::{path::PathBuf, process::ExitCode, time::Instant};

struct Training {
    args: Args,
    signals: Signals,
}

/// What is trained on, and what is asked.
struct Texts {
    train: Dataset,
    heldout: Option<Dataset>,
    questions: Option<Vec<Question>>,
    /// Of the exam that run at once.
    exam_tokens: usize,
}

impl Texts {
    fn read(args: &Args, plan: &Plan, config: &Qwen3Config, tokenizer: &Tokenizer) -> Result<Self> {
        // Only data with messages needs one, and is refused without; why there is none must not get lost.
        let template = ChatTemplate::open(&plan.model, tokenizer);
        let template = template.inspect_err(|e| note!("no chat template: {e}")).ok();
        let options = DataOptions {
            max_seq_length: args.max_seq_length,
            overlong: args.overlong,
            append_eos: true,
            enable_thinking: None,
        };
        let read = |path: &PathBuf| -> Result<Dataset> {
            let data = Dataset::read(path, tokenizer, template.as_ref(), &options)?;
            // Here, and not when the first bad sample's turn comes.
            data.expect_fits(path, config)?;
            Ok(data)
        };
        let questions = plan.exam.as_ref().map(read_questions).transpose()?;
        let longest = match (&questions, &plan.exam) {
            (Some(questions), Some(path)) => choice::expect_fits(questions, path, config, tokenizer)?,
            _ => 0,
        };
        let (train, heldout) = (read(&plan.data)?, plan.eval_data.as_ref().map(read).transpose()?);
        Ok(Texts { train, heldout, questions, exam_tokens: longest.max(EXAM_TOKENS) })
    }

    /// Tokens of the longest held-out sample.
    fn longest_heldout(&self) -> usize {
        let samples = self.heldout.iter().flat_map(|data| &data.samples);
        samples.map(|sample| sample.ids.len()).max().unwrap_or(0)
    }
}

/// Tokens of the exam that run at once, unless one question has more.
const EXAM_TOKENS: usize = 2048;

/// What is measured before and after.
struct Examiner<'a> {
    tokenizer: &'a Tokenizer,
    texts: &'a Texts,
    question: Option<&'static str>,
}

impl Examiner<'_> {
    fn heldout_loss<B: Backend, T: Float>(&self, trainer: &mut Trainer<'_, B, T>) -> Result<Option<f64>> {
        self.texts.heldout.as_ref().map(|data| trainer.evaluate(&data.samples)).transpose()
    }

    /// Prints held-out loss, exam accuracy and a sample; gives the loss.
    fn examine<B: Backend, T: Float>(
        &self,
        when: &str,
        backend: &B,
        model: &Qwen3<B, T>,
        trainer: &mut Trainer<'_, B, T>,
    ) -> Result<Option<f64>> {
        let loss = self.heldout_loss(trainer)?;
        if let Some(loss) = loss {
            say!("{when}: held-out loss {loss:.3} nats a token");
        }
        if let Some(questions) = &self.texts.questions {
            let ctx = trainer.context();
            let mut acts = Activations::new(ctx, model, self.texts.exam_tokens, Keep::Nothing)?;
            let mut loss = LossBuffers::new(backend, model, self.texts.exam_tokens)?;
            let (_, accuracy) = choice::choose(model, ctx, &mut acts, &mut loss, self.tokenizer, questions)?;
            say!("{when}: exam {accuracy}");
        }
        if let Some(question) = self.question {
            let prompt = self.tokenizer.encode(question)?;
            let options = GenerateOptions {
                max_new_tokens: 24,
                stop_tokens: self.tokenizer.eos_ids().to_vec(),
                sample: SampleOptions::GREEDY,
                skip_special: true,
            };
            let go_on = |_: &str| std::ops::ControlFlow::Continue(());
            let answer = generate(model, trainer.context(), self.tokenizer, &prompt, &options, go_on)?;
            say!("{when}: {question} ->{}", answer.text.trim_end());
        }
        Ok(loss)
    }
}

impl Job for Training {
    type Output = Option<i32>;

    /// The signal that ended it early, if one did.
    fn run<B: Backend, T: Float>(self, backend: B) -> Result<Option<i32>> {
        let Training { args, signals } = self;
        let plan = Plan::new(&args);
        let mut output = RunOutput::create(&args.output, args.overwrite)?;
        let config = Qwen3Config::open(&plan.model)?;
        let tokenizer = Tokenizer::open(&plan.model)?;
        let texts = Texts::read(&args, &plan, &config, &tokenizer)?;
        texts.train.note().iter().for_each(|text| say!("{text}"));
        let batch_options = batch_options(&args, &plan);
        let batcher = Batcher::new(&texts.train.samples, batch_options)?;
        let lora = lora_config(&args, &plan);
        output.reserve(lora.weight_bytes(&config)?)?;

        let files = Checkpoint::open(&plan.model)?;
        checkpoint_note(&files, &config)?.iter().for_each(|text| note!("{text}"));
        let began = Instant::now();
        let model = Qwen3::<B, T>::load(&backend, &files, &config, args.base())?;
        backend.synchronize()?;
        say!("{} on {}: loaded in {:.1} s", plan.model.display(), backend.name(), began.elapsed().as_secs_f64());

        let adapter = Adapter::init(lora, &config, &files, args.seed)?;
        let capacity = micro_batch_capacity(&texts.train.samples, &batch_options).max(texts.longest_heldout());
        let options = trainer_options(&args, &plan, capacity, batcher.total_steps())?;
        let mut trainer = Trainer::new(&backend, &model, &adapter, options)?;
        say!(
            "{} samples, {} tokens ({} trained on); {} steps; {} trainable numbers",
            texts.train.samples.len(),
            texts.train.n_tokens(),
            texts.train.n_targets(),
            batcher.total_steps(),
            trainer.n_trainable(),
        );
        let examiner = Examiner { tokenizer: &tokenizer, texts: &texts, question: plan.question };
        examiner.examine("before", &backend, &model, &mut trainer)?;
        let mut run =
            Run { args: &args, batcher: &batcher, examiner: &examiner, signals: &signals, tokens: 0, steps: 0 };
        run.train_and_save(&mut trainer, &mut output)?;
        let signal = signals.caught();
        if signal.is_none() {
            signals.end_at_once("interrupted: the adapter is saved");
            examiner.examine("after", &backend, &model, &mut trainer)?;
            say!("{}", peak_memory(&backend));
        }
        Ok(signal)
    }
}

/// The most memory that buffers took, and the process with all else.
fn peak_memory(backend: &impl Backend) -> String {
    let gib = |bytes: usize| bytes as f64 / (1u64 << 30) as f64;
    let buffers = format!("peak memory {:.2} GiB in buffers", gib(backend.memory().peak));
    match host::process_peak() {
        Some(peak) => format!("{buffers}; {:.2} GiB of the host in all, mapped files included", gib(peak)),
        None => buffers,
    }
}

/// The loop over the steps.
struct Run<'a> {
    args: &'a Args,
    batcher: &'a Batcher<'a>,
    examiner: &'a Examiner<'a>,
    signals: &'a Signals,
    /// Trained on so far.
    tokens: u64,
    /// Done so far.
    steps: u64,
}

impl Run<'_> {
    /// Trains, and saves what was learnt: also when a signal or an error ends it early, but not before there is something.
    fn train_and_save<B: Backend, T: Float>(
        &mut self,
        trainer: &mut Trainer<'_, B, T>,
        output: &mut RunOutput,
    ) -> Result<()> {
        let began = Instant::now();
        let trained = self.train(trainer, output);
        let seconds = began.elapsed().as_secs_f64();
        let all = self.steps == self.batcher.total_steps();
        if self.steps == 0 {
            return trained;
        }
        save::save(output, &trainer.adapter()?, self.signals)?;
        say!("trained on {} tokens in {seconds:.1} s: {:.0} tokens/s", self.tokens, self.tokens as f64 / seconds);
        say!("adapter saved in {}", output.path().display());
        if !all {
            say!("it is that of the first {} of {} steps", self.steps, self.batcher.total_steps());
        }
        trained
    }

    fn train<B: Backend, T: Float>(&mut self, trainer: &mut Trainer<'_, B, T>, output: &mut RunOutput) -> Result<()> {
        let mut progress = Progress::new(0, self.batcher.total_steps(), self.args.logging_steps);
        let began = Instant::now();
        let mut lost = false;
        for step in self.batcher.steps(0) {
            if self.signals.caught().is_some() {
                progress.note("interrupted: saving what was learnt (again to end at once)");
                break;
            }
            let step_began = Instant::now();
            let report = trainer.step(&step)?;
            // From here on there is something to save.
            self.signals.note();
            self.tokens += report.n_tokens as u64;
            self.steps = step.index + 1;
            let mut record = record(&report, self.steps, self.tokens, step_began, began);
            record.epoch = Some(step.epoch as f64);
            if self.args.eval_steps > 0 && record.step.is_multiple_of(self.args.eval_steps) {
                record.eval_loss = self.examiner.heldout_loss(trainer)?;
            }
            // The adapter is worth more: metrics are written again when it is saved.
            if let Err(e) = output.record(&record)
                && !std::mem::replace(&mut lost, true)
            {
                progress.note(&format!("metrics will be written at the end only: {e}"));
            }
            progress.step(&record);
        }
        progress.finish();
        Ok(())
    }
}

fn record(report: &StepReport, step: u64, tokens: u64, step_began: Instant, began: Instant) -> Record {
    Record {
        step,
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

fn main() -> ExitCode {
    start(|args: Args| {
        let (device, dtype) = (args.device, device::compute_dtype(&args.bnb_4bit_compute_dtype)?);
        let signals = Signals::listen("interrupted before the first step: nothing was trained, and nothing is saved");
        Ok(exit_code(device::run(device, dtype, Training { args, signals })?))
    })
}
