//! Fine-tunes a LoRA adapter on a Qwen3 checkpoint, in 4 bits with `--use-4bit`.
//!
//! Without `--model` it trains the small embedded model on the by-laws of an invented town, on the GPU or the CPU,
//! and examines it on them before and after.
mod common;

use clap::Parser;
use common::{Assets, Interrupt, exit, parse_bool};
use halfbyte::{Backend, Float, quant::Format};
use halfbyte_runtime::{
    Result,
    batch::Batch,
    chat::ChatTemplate,
    checkpoint::Checkpoint,
    config::Qwen3Config,
    device::{self, Device, Job},
    evaluate::{choice, questions::read_questions},
    files,
    generate::generator::{GenerateOptions, generate},
    lora::{Adapter, LoraConfig, Targets},
    model::{Activations, Base, Keep, LossBuffers, Qwen3, SampleOptions},
    tokenizer::Tokenizer,
    train::{
        data::{DataOptions, Dataset, Overlong},
        metrics::{MetricsLog, Progress, Record},
        packing::{BatchOptions, Batcher, TrainLength},
        schedule::{Schedule, ScheduleKind, Warmup},
        trainer::{OptimizerOptions, StepReport, Trainer, TrainerOptions, micro_batch_capacity},
    },
};
use std::{path::PathBuf, process::ExitCode, time::Instant};

/// Fine-tune a LoRA adapter on a Qwen3 checkpoint.
#[derive(Parser)]
struct Args {
    /// Folder of a Hugging Face Qwen3 checkpoint [default: the embedded model]
    #[arg(long)]
    model: Option<PathBuf>,
    /// Training data: JSONL with {"text"}, {"prompt","completion"} or {"messages"} [default: the embedded by-laws]
    #[arg(long)]
    data: Option<PathBuf>,
    /// Held-out data in the same format
    #[arg(long)]
    eval_data: Option<PathBuf>,
    /// Four-choice questions in lawqa_jp's format, asked before and after
    #[arg(long)]
    exam: Option<PathBuf>,
    /// Folder for the adapter and metrics.jsonl
    #[arg(long, default_value = "adapter")]
    output: PathBuf,
    /// Hold the base in 4 bits (QLoRA); without it the base stays unquantised, in the compute type
    #[arg(long)]
    use_4bit: bool,
    /// nf4 or fp4
    #[arg(long, default_value = "nf4")]
    bnb_4bit_quant_type: Format,
    /// Type of activations and adapters in computations: bfloat16, float16 or float32
    #[arg(long, default_value = "bfloat16")]
    bnb_4bit_compute_dtype: String,
    /// Quantise the scales too: true or false
    #[arg(long, default_value = "true", value_parser = parse_bool, action = clap::ArgAction::Set)]
    bnb_4bit_use_double_quant: bool,
    /// Rank
    #[arg(long, default_value_t = 16)]
    lora_r: usize,
    /// Scaling times rank
    #[arg(long, default_value_t = 32.0)]
    lora_alpha: f64,
    /// Share of adapter inputs dropped in training
    #[arg(long, default_value_t = 0.0)]
    lora_dropout: f32,
    /// all-linear, names separated by commas, or a regular expression
    #[arg(long, default_value = "all-linear")]
    target_modules: String,
    /// Scale by alpha / sqrt(r)
    #[arg(long)]
    use_rslora: bool,
    /// Train the output head whole: lm_head
    #[arg(long, value_parser = ["lm_head"])]
    modules_to_save: Option<String>,
    /// Peak learning rate [default: 2e-4; 5e-3 for the embedded model]
    #[arg(long)]
    learning_rate: Option<f64>,
    /// linear, cosine or constant
    #[arg(long, default_value = "cosine")]
    lr_scheduler_type: ScheduleKind,
    /// Share of the steps in which the learning rate rises
    #[arg(long, default_value_t = 0.05)]
    warmup_ratio: f64,
    /// Decoupled weight decay
    #[arg(long, default_value_t = 0.0)]
    weight_decay: f32,
    /// Gradients are scaled down to this norm; 0 turns it off
    #[arg(long, default_value_t = 1.0)]
    max_grad_norm: f32,
    /// Passes over the data [default: 3; 8 for the embedded model]
    #[arg(long)]
    epochs: Option<f64>,
    /// Stop after so many steps, whatever the epochs
    #[arg(long)]
    max_steps: Option<u64>,
    /// Samples of a micro-batch (with --packing: sequences of the full length) [default: 4; 16 for the embedded model]
    #[arg(long)]
    batch_size: Option<usize>,
    /// Micro-batches of an optimiser step
    #[arg(long, default_value_t = 1)]
    gradient_accumulation_steps: usize,
    /// Longest sample, in tokens
    #[arg(long, default_value_t = 2048)]
    max_seq_length: usize,
    /// What becomes of longer samples: error, truncate or skip
    #[arg(long, default_value = "error", value_parser = parse_overlong)]
    overlong: Overlong,
    /// Fill every micro-batch up to batch-size times max-seq-length tokens
    #[arg(long)]
    packing: bool,
    /// Compute activations again in the backward pass instead of keeping them: less memory, more time
    #[arg(long)]
    gradient_checkpointing: bool,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: Device,
    /// Same seed, same device, same data: the same adapter, to the bit
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Steps between lines of progress where there is no terminal
    #[arg(long, default_value_t = 20)]
    logging_steps: u64,
    /// Steps between evaluations; 0 evaluates only before and after
    #[arg(long, default_value_t = 0)]
    eval_steps: u64,
}

fn parse_overlong(name: &str) -> Result<Overlong, String> {
    match name {
        "error" => Ok(Overlong::Error),
        "truncate" => Ok(Overlong::Truncate),
        "skip" => Ok(Overlong::Skip),
        _ => Err("it must be error, truncate or skip".into()),
    }
}

/// Paths and numbers, with the embedded ones where none are given.
struct Plan {
    model: PathBuf,
    data: PathBuf,
    eval_data: Option<PathBuf>,
    exam: Option<PathBuf>,
    learning_rate: f64,
    length: TrainLength,
    batch_size: usize,
    /// What is asked before and after.
    question: Option<&'static str>,
}

impl Plan {
    fn new(args: &Args) -> Self {
        let assets = Assets::find();
        let embedded = args.model.is_none();
        let own = args.data.is_none();
        let (rate, epochs, batch) = if embedded { (5e-3, 8.0, 16) } else { (2e-4, 3.0, 4) };
        let epochs = TrainLength::Epochs(args.epochs.unwrap_or(epochs));
        let default = |given: &Option<PathBuf>, path: PathBuf| given.clone().or_else(|| own.then_some(path));
        Plan {
            model: args.model.clone().unwrap_or_else(|| assets.model()),
            data: args.data.clone().unwrap_or_else(|| assets.town("train.jsonl")),
            eval_data: default(&args.eval_data, assets.town("heldout.jsonl")),
            exam: default(&args.exam, assets.town("exam.json")),
            learning_rate: args.learning_rate.unwrap_or(rate),
            length: args.max_steps.map_or(epochs, TrainLength::Steps),
            batch_size: args.batch_size.unwrap_or(batch),
            question: own.then_some("What does the town give to a bride?"),
        }
    }
}

struct Training {
    args: Args,
    interrupt: Interrupt,
}

/// The most tokens of the exam that run at once: the longest question that can be asked.
const EXAM_TOKENS: usize = 2048;

/// What is measured before and after.
struct Examiner {
    tokenizer: Tokenizer,
    heldout: Option<Dataset>,
    questions: Option<Vec<halfbyte_runtime::evaluate::questions::Question>>,
    question: Option<&'static str>,
}

impl Examiner {
    /// Prints held-out loss, exam accuracy and a sample; gives the loss.
    fn examine<B: Backend, T: Float>(
        &self,
        when: &str,
        backend: &B,
        model: &Qwen3<B, T>,
        trainer: &mut Trainer<'_, B, T>,
    ) -> Result<Option<f64>> {
        let loss = self.heldout.as_ref().map(|data| trainer.evaluate(&data.samples)).transpose()?;
        if let Some(loss) = loss {
            println!("{when}: held-out loss {loss:.3} nats a token");
        }
        if let Some(questions) = &self.questions {
            let ctx = trainer.context();
            let mut acts = Activations::new(ctx, model, EXAM_TOKENS, Keep::Nothing)?;
            let mut loss = LossBuffers::new(backend, model, EXAM_TOKENS)?;
            let (_, accuracy) = choice::choose(model, ctx, &mut acts, &mut loss, &self.tokenizer, questions)?;
            println!("{when}: exam {accuracy}");
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
            let answer = generate(model, trainer.context(), &self.tokenizer, &prompt, &options, go_on)?;
            println!("{when}: {question} ->{}", answer.text.trim_end());
        }
        Ok(loss)
    }
}

impl Job for Training {
    type Output = bool;

    /// Whether it was interrupted.
    fn run<B: Backend, T: Float>(self, backend: B) -> Result<bool> {
        let Training { args, interrupt } = self;
        let plan = Plan::new(&args);
        files::check_writable(&args.output)?;
        let config = Qwen3Config::open(&plan.model)?;
        let tokenizer = Tokenizer::open(&plan.model)?;
        // Only data with messages needs one, and is refused without; why there is none must not get lost.
        let template = ChatTemplate::open(&plan.model, &tokenizer);
        let template = template.inspect_err(|e| eprintln!("no chat template: {e}")).ok();
        let data_options = DataOptions {
            max_seq_length: args.max_seq_length,
            overlong: args.overlong,
            append_eos: true,
            enable_thinking: None,
        };
        let read = |path: &PathBuf| Dataset::read(path, &tokenizer, template.as_ref(), &data_options);
        let data = read(&plan.data)?;
        let heldout = plan.eval_data.as_ref().map(read).transpose()?;
        let questions = plan.exam.as_ref().map(read_questions).transpose()?;
        data.note().iter().for_each(|note| println!("{note}"));
        // Here, and not when the first bad sample's turn comes.
        for data in [Some(&data), heldout.as_ref()].into_iter().flatten() {
            Batch::new(&data.samples).check(&config)?;
        }
        let batch_options = BatchOptions {
            batch_size: plan.batch_size,
            max_seq_length: args.max_seq_length,
            packing: args.packing,
            gradient_accumulation_steps: args.gradient_accumulation_steps,
            shuffle: true,
            seed: args.seed,
            length: plan.length,
        };
        let batcher = Batcher::new(&data.samples, batch_options)?;
        let lora = lora_config(&args, &plan);
        lora.resolve(&config)?;

        let files = Checkpoint::open(&plan.model)?;
        let base = if args.use_4bit {
            let (format, double_quant) = (args.bnb_4bit_quant_type, args.bnb_4bit_use_double_quant);
            Base::Quantized { format, block_size: 64, double_quant }
        } else {
            Base::Unquantized
        };
        let began = Instant::now();
        let model = Qwen3::<B, T>::load(&backend, &files, &config, base)?;
        backend.synchronize()?;
        println!("{} on {}: loaded in {:.1} s", plan.model.display(), backend.name(), began.elapsed().as_secs_f64());

        let adapter = Adapter::init(lora, &config, &files, args.seed)?;
        let rate = Warmup::Ratio(args.warmup_ratio);
        let schedule = Schedule::new(args.lr_scheduler_type, plan.learning_rate, rate, batcher.total_steps())?;
        let optimizer = OptimizerOptions {
            weight_decay: args.weight_decay,
            max_grad_norm: args.max_grad_norm,
            ..OptimizerOptions::default()
        };
        let longest = |data: &Dataset| data.samples.iter().map(|sample| sample.ids.len()).max().unwrap_or(0);
        let capacity = micro_batch_capacity(&data.samples, &batch_options).max(heldout.as_ref().map_or(0, longest));
        let gradient_checkpointing = args.gradient_checkpointing;
        let options = TrainerOptions { capacity, gradient_checkpointing, schedule, optimizer, seed: args.seed };
        let mut trainer = Trainer::new(&backend, &model, &adapter, options)?;
        println!(
            "{} samples, {} tokens ({} trained on); {} steps; {} trainable numbers",
            data.samples.len(),
            data.n_tokens(),
            data.n_targets(),
            batcher.total_steps(),
            trainer.n_trainable(),
        );
        let examiner = Examiner { tokenizer, heldout, questions, question: plan.question };
        examiner.examine("before", &backend, &model, &mut trainer)?;
        let run = Run { args: &args, batcher: &batcher, examiner: &examiner, interrupt: &interrupt };
        run.train(&mut trainer)?;
        trainer.adapter()?.save(&args.output)?;
        println!("adapter saved in {}", args.output.display());
        if interrupt.happened() {
            println!("interrupted: the adapter is that of the steps so far");
            return Ok(true);
        }
        examiner.examine("after", &backend, &model, &mut trainer)?;
        let (_, peak) = backend.memory();
        println!("peak memory {:.2} GiB", peak as f64 / (1u64 << 30) as f64);
        Ok(false)
    }
}

fn lora_config(args: &Args, plan: &Plan) -> LoraConfig {
    let mut lora = LoraConfig::new(args.lora_r, args.lora_alpha, Targets::from_text(&args.target_modules));
    lora.dropout = args.lora_dropout;
    lora.use_rslora = args.use_rslora;
    lora.save_lm_head = args.modules_to_save.is_some();
    lora.base_model = Some(plan.model.display().to_string());
    lora
}

/// The loop over the steps.
struct Run<'a> {
    args: &'a Args,
    batcher: &'a Batcher<'a>,
    examiner: &'a Examiner,
    interrupt: &'a Interrupt,
}

impl Run<'_> {
    fn train<B: Backend, T: Float>(&self, trainer: &mut Trainer<'_, B, T>) -> Result<()> {
        let mut log = MetricsLog::create(self.args.output.join("metrics.jsonl"))?;
        let total = self.batcher.total_steps();
        let mut progress = Progress::new(0, total, self.args.logging_steps);
        let (began, mut tokens) = (Instant::now(), 0);
        for step in self.batcher.steps(0) {
            if self.interrupt.happened() {
                break;
            }
            let step_began = Instant::now();
            let report = trainer.step(&step)?;
            tokens += report.n_tokens as u64;
            let mut record = record(&report, step.index + 1, tokens, step_began, began);
            record.epoch = Some(step.epoch as f64);
            if self.args.eval_steps > 0 && record.step.is_multiple_of(self.args.eval_steps) {
                let heldout = self.examiner.heldout.as_ref();
                record.eval_loss = heldout.map(|data| trainer.evaluate(&data.samples)).transpose()?;
            }
            log.write(&record)?;
            progress.step(&record);
        }
        progress.finish();
        let seconds = began.elapsed().as_secs_f64();
        println!("trained on {tokens} tokens in {seconds:.1} s: {:.0} tokens/s", tokens as f64 / seconds);
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
    let args = Args::parse();
    exit(|| {
        let (device, dtype) = (args.device, device::compute_dtype(&args.bnb_4bit_compute_dtype)?);
        let interrupted = device::run(device, dtype, Training { args, interrupt: Interrupt::listen() })?;
        Ok(if interrupted { ExitCode::from(130) } else { ExitCode::SUCCESS })
    })
}
