//! The options, and what the library makes of them.

use crate::common::{Assets, parse_bool, within};
use clap::Parser;
use halfbyte::quant::Format;
use halfbyte_runtime::{
    Result,
    device::Device,
    lora::{LoraConfig, Targets},
    model::Base,
    options as ranges,
    train::{
        data::Overlong,
        packing::{BatchOptions, TrainLength},
        schedule::{Schedule, ScheduleKind, Warmup},
        trainer::{OptimizerOptions, TrainerOptions},
    },
};
use std::path::PathBuf;

/// Fine-tune a LoRA adapter on a Qwen3 checkpoint.
#[derive(Parser)]
#[command(version, allow_negative_numbers = true)]
pub struct Args {
    /// Folder of a Hugging Face Qwen3 checkpoint [default: the embedded model]
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// Training data: JSONL with {"text"}, {"prompt","completion"} or {"messages"} [default: the embedded by-laws]
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Held-out data in the same format
    #[arg(long)]
    pub eval_data: Option<PathBuf>,
    /// Four-choice questions in lawqa_jp's format, asked before and after
    #[arg(long)]
    pub exam: Option<PathBuf>,
    /// Folder for the adapter and metrics.jsonl
    #[arg(long, default_value = "adapter")]
    pub output: PathBuf,
    /// Replace an adapter that is in the folder, once the new one is trained
    #[arg(long)]
    pub overwrite: bool,
    /// Hold the base in 4 bits (QLoRA); without it the base stays unquantised, in the compute type
    #[arg(long)]
    pub use_4bit: bool,
    /// nf4 or fp4
    #[arg(long, default_value = "nf4")]
    pub bnb_4bit_quant_type: Format,
    /// Type of activations and adapters in computations: bfloat16, float16 or float32
    #[arg(long, default_value = "bfloat16")]
    pub bnb_4bit_compute_dtype: String,
    /// Quantise the scales too: true or false
    #[arg(long, default_value = "true", value_parser = parse_bool, action = clap::ArgAction::Set)]
    pub bnb_4bit_use_double_quant: bool,
    /// Rank
    #[arg(long, default_value_t = 16, value_parser = within::<usize>(ranges::LORA_R))]
    pub lora_r: usize,
    /// Scaling times rank
    #[arg(long, default_value_t = 32.0, value_parser = within::<f64>(ranges::LORA_ALPHA))]
    pub lora_alpha: f64,
    /// Share of adapter inputs dropped in training
    #[arg(long, default_value_t = 0.0, value_parser = within::<f32>(ranges::LORA_DROPOUT))]
    pub lora_dropout: f32,
    /// all-linear, names separated by commas, or a regular expression
    #[arg(long, default_value = "all-linear")]
    pub target_modules: String,
    /// Scale by alpha / sqrt(r)
    #[arg(long)]
    pub use_rslora: bool,
    /// Train the output head whole: lm_head
    #[arg(long, value_parser = ["lm_head"])]
    pub modules_to_save: Option<String>,
    /// Peak learning rate [default: 2e-4; 5e-3 for the embedded model]
    #[arg(long, value_parser = within::<f64>(ranges::LEARNING_RATE))]
    pub learning_rate: Option<f64>,
    /// linear, cosine or constant
    #[arg(long, default_value = "cosine")]
    pub lr_scheduler_type: ScheduleKind,
    /// Share of the steps in which the learning rate rises
    #[arg(long, default_value_t = 0.05, value_parser = within::<f64>(ranges::WARMUP_RATIO))]
    pub warmup_ratio: f64,
    /// Decoupled weight decay
    #[arg(long, default_value_t = 0.0, value_parser = within::<f32>(ranges::WEIGHT_DECAY))]
    pub weight_decay: f32,
    /// Gradients are scaled down to this norm; 0 turns it off
    #[arg(long, default_value_t = 1.0, value_parser = within::<f32>(ranges::MAX_GRAD_NORM))]
    pub max_grad_norm: f32,
    /// Passes over the data [default: 3; 8 for the embedded model]
    #[arg(long, value_parser = within::<f64>(ranges::EPOCHS))]
    pub epochs: Option<f64>,
    /// Stop after so many steps, whatever the epochs
    #[arg(long, value_parser = within::<u64>(ranges::MAX_STEPS))]
    pub max_steps: Option<u64>,
    /// Samples of a micro-batch (with --packing: sequences of the full length) [default: 4; 16 for the embedded model]
    #[arg(long, value_parser = within::<usize>(ranges::BATCH_SIZE))]
    pub batch_size: Option<usize>,
    /// Micro-batches of an optimiser step
    #[arg(long, default_value_t = 1, value_parser = within::<usize>(ranges::ACCUMULATION))]
    pub gradient_accumulation_steps: usize,
    /// Longest sample, in tokens
    #[arg(long, default_value_t = 2048, value_parser = within::<usize>(ranges::MAX_SEQ_LENGTH))]
    pub max_seq_length: usize,
    /// What becomes of longer samples: error, truncate or skip
    #[arg(long, default_value = "error", value_parser = parse_overlong)]
    pub overlong: Overlong,
    /// Fill every micro-batch up to batch-size times max-seq-length tokens
    #[arg(long)]
    pub packing: bool,
    /// Compute activations again in the backward pass instead of keeping them: less memory, more time
    #[arg(long)]
    pub gradient_checkpointing: bool,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: Device,
    /// Same seed, same device, same data: the same adapter, to the bit
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Steps between lines of progress where there is no terminal
    #[arg(long, default_value_t = 20, value_parser = within::<u64>(ranges::LOGGING_STEPS))]
    pub logging_steps: u64,
    /// Steps between evaluations; 0 evaluates only before and after
    #[arg(long, default_value_t = 0, value_parser = within::<u64>(ranges::EVAL_STEPS))]
    pub eval_steps: u64,
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
pub struct Plan {
    pub model: PathBuf,
    pub data: PathBuf,
    pub eval_data: Option<PathBuf>,
    pub exam: Option<PathBuf>,
    pub learning_rate: f64,
    pub length: TrainLength,
    pub batch_size: usize,
    /// What is asked before and after.
    pub question: Option<&'static str>,
}

impl Plan {
    pub fn new(args: &Args) -> Self {
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

impl Args {
    /// How to hold the base.
    pub fn base(&self) -> Base {
        let (format, double_quant) = (self.bnb_4bit_quant_type, self.bnb_4bit_use_double_quant);
        if self.use_4bit { Base::Quantized { format, block_size: 64, double_quant } } else { Base::Unquantized }
    }
}

pub fn batch_options(args: &Args, plan: &Plan) -> BatchOptions {
    BatchOptions {
        batch_size: plan.batch_size,
        max_seq_length: args.max_seq_length,
        packing: args.packing,
        gradient_accumulation_steps: args.gradient_accumulation_steps,
        shuffle: true,
        seed: args.seed,
        length: plan.length,
    }
}

pub fn trainer_options(args: &Args, plan: &Plan, capacity: usize, total_steps: u64) -> Result<TrainerOptions> {
    let warmup = Warmup::Ratio(args.warmup_ratio);
    Ok(TrainerOptions {
        capacity,
        gradient_checkpointing: args.gradient_checkpointing,
        schedule: Schedule::new(args.lr_scheduler_type, plan.learning_rate, warmup, total_steps)?,
        optimizer: OptimizerOptions {
            weight_decay: args.weight_decay,
            max_grad_norm: args.max_grad_norm,
            ..OptimizerOptions::default()
        },
        seed: args.seed,
    })
}

pub fn lora_config(args: &Args, plan: &Plan) -> LoraConfig {
    let mut lora = LoraConfig::new(args.lora_r, args.lora_alpha, Targets::from_text(&args.target_modules));
    lora.dropout = args.lora_dropout;
    lora.use_rslora = args.use_rslora;
    lora.save_lm_head = args.modules_to_save.is_some();
    lora.base_model = Some(plan.model.display().to_string());
    lora
}
