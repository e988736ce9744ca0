//! Measures how fast an adapter of a Qwen3 is trained, with random weights: no checkpoint is needed.

use super::{
    measured::{List, Measured, gib, list, or_out_of_memory, say_ops, within},
    signals::Signals,
    tool::{Run, Tool},
};
use crate::{
    device::{self, Job},
    error::Result,
    model::Qwen3,
    options, say,
    settings::{ActivationMemory, Optim, Value, parse},
    speed::{RowsFile, TrainRow, TrainSpeed, Training, random_adapter, train},
    train::run::{Extent, Plan},
};
use clap::{ArgMatches, Args, FromArgMatches};
use halfbyte::{Backend, Float};
use std::process::ExitCode;

/// Measures how fast an adapter is trained.
pub const TRAIN_SPEED: Tool = Tool {
    name: "speed-train",
    about: "Measure how fast an adapter of a Qwen3 is trained, with random weights",
    options: |command| Options::augment_args(command).after_help(COLUMNS),
    run: Run::Options(run),
};

/// What the columns are.
const COLUMNS: &str = "On sequences of full length, every token but the first a target, with an adapter on all linear \
                       layers and AdamW. For each length and batch: tokens/s of the median step, its milliseconds, and \
                       the most memory that buffers took, and how much was counted beforehand.";

#[derive(Args)]
struct Options {
    #[command(flatten)]
    measured: Measured,
    /// Sequences of a step; several numbers make several rows
    #[arg(long, default_value = "4", value_parser = list(options::BATCH_SIZE))]
    batch: List,
    /// Tokens of each sequence; several numbers make several rows
    #[arg(long, default_value = "2048", value_parser = list(options::TRAINED_LENGTH))]
    length: List,
    /// What is kept of the forward pass: full, mlp-recompute, checkpoint or offload
    #[arg(long, default_value = "full", value_parser = fixed)]
    activation_memory: ActivationMemory,
    /// Keep the least: the same as --activation-memory offload
    #[arg(long, conflicts_with = "activation_memory")]
    gradient_checkpointing: bool,
    /// Rank of the adapter
    #[arg(long, default_value_t = 16, value_parser = within::<usize>(options::LORA_R))]
    lora_r: usize,
    /// Share of the adapter's inputs that is dropped
    #[arg(long, default_value_t = 0.0, value_parser = within::<f32>(options::LORA_DROPOUT))]
    lora_dropout: f32,
    /// Steps while the clock runs, after 3 before
    #[arg(long, default_value_t = 10, value_parser = within::<usize>(options::MAX_STEPS))]
    steps: usize,
}

/// A measurement says what is kept, and does not look at what is free.
fn fixed(text: &str) -> Result<ActivationMemory, String> {
    match parse(text) {
        Ok(ActivationMemory::Auto) | Err(_) => Err("it must be full, mlp-recompute, checkpoint or offload".into()),
        asked => asked,
    }
}

impl Options {
    fn activation_memory(&self) -> ActivationMemory {
        if self.gradient_checkpointing { ActivationMemory::Offload } else { self.activation_memory }
    }

    fn plan(&self) -> Plan {
        Plan::of(self.activation_memory(), &self.measured.shape.config())
    }

    fn trainings(&self) -> impl Iterator<Item = Training> {
        let (steps, kept, profile) = (self.steps, self.plan().kept, self.measured.profile);
        let of_length = move |&length| {
            let training = move |&batch| Training { batch, length, kept, steps, profile };
            self.batch.0.iter().map(training)
        };
        self.length.0.iter().flat_map(of_length)
    }

    fn row(&self, training: Training, speed: Option<&TrainSpeed>) -> TrainRow {
        TrainRow {
            shape: self.measured.shape.name,
            base: self.measured.base_name(),
            lora_r: self.lora_r,
            dropout: self.lora_dropout,
            activation_memory: self.activation_memory().show(),
            batch: training.batch,
            length: training.length,
            tokens_per_s: speed.map(|speed| speed.tokens_per_s),
            step_ms: speed.map(|speed| 1e3 * speed.step_s),
            peak_bytes: speed.map(|speed| speed.peak_bytes),
        }
    }
}

struct Measure {
    args: Options,
    file: Option<RowsFile>,
}

impl Job for Measure {
    type Output = ();

    fn run<B: Backend, T: Float>(self, backend: B) -> Result<()> {
        let Measure { args, mut file } = self;
        let Options { lora_r, lora_dropout, steps, .. } = args;
        let config = args.measured.shape.config();
        let plan = args.plan();
        say!("{}", args.measured.heading(&backend));
        say!("adapter: r {lora_r} on all linear layers, dropout {lora_dropout}; {steps} steps each");
        say!("{plan}");
        let mut model = Qwen3::<B, T>::random_with(&backend, &config, args.measured.base(), 0, plan.embedding)?;
        let adapter = random_adapter(&config, lora_r, lora_dropout, 0)?;
        model.make_room(&backend, &adapter.config)?;
        say!("\nbatch  length  tokens/s   step, ms  peak GiB  counted");
        for training in args.trainings() {
            let speed = or_out_of_memory(train(&backend, &model, &adapter, training))?;
            let extent = Extent {
                config: &config,
                base: args.measured.base(),
                dtype: T::DTYPE,
                lora: &adapter.config,
                optim: Optim::AdamW,
                capacity: training.batch * training.length,
                writes: None,
                on_gpu: backend.runs_behind(),
            };
            say!("{}  {:>7.2}", line(training, &speed), gib(extent.need(plan)?.total()));
            say_ops(speed.as_ref().map_or(&[], |speed| &speed.ops));
            if let Some(file) = &mut file {
                file.push(&args.row(training, speed.as_ref().ok()))?;
            }
        }
        Ok(())
    }
}

fn line(training: Training, speed: &Result<TrainSpeed, String>) -> String {
    let figures = match speed {
        Ok(TrainSpeed { tokens_per_s, step_s, peak_bytes, .. }) => {
            format!("{tokens_per_s:>8.1}  {:>9.2}  {:>8.2}", 1e3 * step_s, gib(*peak_bytes))
        }
        Err(reason) => reason.clone(),
    };
    format!("{:>5}  {:>6}  {figures}", training.batch, training.length)
}

fn run(matches: &ArgMatches) -> Result<ExitCode> {
    let args = Options::from_arg_matches(matches)?;
    let _signals = Signals::listen("interrupted: rows that the CSV file has stay there");
    let config = args.measured.shape.config();
    args.trainings().try_for_each(|training| training.check(&config))?;
    let Measured { device, threads, dtype, .. } = args.measured;
    let file = args.measured.rows_file()?;
    device::run(device, threads, dtype, Measure { args, file })?;
    Ok(ExitCode::SUCCESS)
}
