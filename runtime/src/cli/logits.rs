//! Writes a model's logits into a safetensors file, to compare halfbyte with other programs.
//!
//! The file has `ids` (i64, `[n_tokens]`) and `logits` (f32, `[n_tokens, vocab]`); the texts follow one another.

use super::{
    signals::Signals,
    tool::{Run, Tool},
};
use crate::{
    batch::Batch,
    checkpoint::{Checkpoint, Dtype, Tensor, write_file},
    config::Qwen3Config,
    device::{self, Device, Job},
    embedded::EMBEDDED,
    error::{Error, Result},
    hub,
    lora::Adapter,
    model::{Activations, Base, ForwardContext, Keep, Qwen3},
    note, say,
    settings::parse,
    tokenizer::Tokenizer,
};
use clap::{ArgGroup, ArgMatches, Args, Command, FromArgMatches};
use halfbyte::{Backend, Count, DType, Float};
use std::{num::ParseIntError, path::PathBuf, process::ExitCode};

/// Writes logits.
pub const LOGITS: Tool =
    Tool { name: "logits", about: "Write a model's logits into a safetensors file", options, run: Run::Options(run) };

fn options(command: Command) -> Command {
    let texts = ArgGroup::new("texts").required(true).multiple(true).args(["prompt", "ids"]);
    Options::augment_args(command).group(texts)
}

#[derive(Args)]
struct Options {
    /// Folder of a Qwen3 checkpoint, in 4 bits or not, its name on the Hugging Face hub, or `embedded`
    #[arg(long, alias = "model", default_value = EMBEDDED)]
    model_name: String,
    /// Folder of a PEFT adapter, or its name on the hub
    #[arg(long, alias = "adapter")]
    lora_path: Option<PathBuf>,
    /// A text; may be given several times
    #[arg(long)]
    prompt: Vec<String>,
    /// A text as token ids separated by commas; may be given several times
    #[arg(long, value_parser = parse_ids)]
    ids: Vec<Ids>,
    /// The file to write
    #[arg(long)]
    output: PathBuf,
    /// Type of activations: bfloat16, float16 or float32
    #[arg(long, aliases = ["bnb-4bit-compute-dtype", "dtype", "torch-dtype"])]
    #[arg(default_value = "float32", value_parser = parse::<DType>)]
    compute_dtype: DType,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto", value_parser = parse::<Device>)]
    device: Device,
}

#[derive(Clone)]
struct Ids(Vec<u32>);

fn parse_ids(text: &str) -> Result<Ids, ParseIntError> {
    text.split(',').map(|id| id.trim().parse()).collect::<Result<_, _>>().map(Ids)
}

struct Logits {
    model: PathBuf,
    adapter: Option<PathBuf>,
    texts: Vec<Vec<u32>>,
}

impl Job for Logits {
    /// Of every token.
    type Output = Vec<f32>;

    fn run<B: Backend, T: Float>(self, backend: B) -> Result<Vec<f32>> {
        let config = Qwen3Config::open(&self.model)?;
        if self.texts.iter().any(Vec::is_empty) {
            let want = "it must have at least one token".into();
            return Err(Error::Setting { name: "a text", got: "empty".into(), want });
        }
        let batch = Batch::of_prompts(&self.texts);
        batch.check(&config)?;
        let adapter = self.adapter.map(|dir| Adapter::open(&dir, &config)).transpose()?;
        if let Some(note) = adapter.as_ref().and_then(|(_, note)| note.as_ref()) {
            note!("{note}");
        }
        let model = Qwen3::<B, T>::load(&backend, &Checkpoint::open(&self.model)?, &config, Base::Unquantized)?;
        let adapter = match adapter {
            Some((adapter, _)) => Some(model.adapt(&backend, &adapter)?),
            None => None,
        };
        let ctx = ForwardContext::new(&backend, adapter.as_ref());
        let mut acts = Activations::new(ctx, &model, batch.n_tokens(), Keep::Nothing)?;
        model.logits(ctx, &mut acts, &batch)
    }
}

fn run(matches: &ArgMatches) -> Result<ExitCode> {
    let args = Options::from_arg_matches(matches)?;
    let _signals = Signals::listen("interrupted: an unfinished file is removed");
    if args.output.exists() {
        let exists = std::io::Error::new(std::io::ErrorKind::AlreadyExists, "it exists; choose another name");
        return Err(Error::Io { path: args.output, action: "write", source: exists });
    }
    let model = hub::model(&args.model_name)?;
    let mut texts: Vec<Vec<u32>> = args.ids.into_iter().map(|Ids(ids)| ids).collect();
    if !args.prompt.is_empty() {
        let tokenizer = Tokenizer::open(&model)?;
        for prompt in &args.prompt {
            texts.push(tokenizer.encode(prompt)?);
        }
    }
    let ids: Vec<i64> = texts.iter().flatten().map(|&id| i64::from(id)).collect();
    let adapter = args.lora_path.as_deref().map(hub::adapter).transpose()?;
    let job = Logits { model, adapter, texts };
    let logits = device::run(args.device, None, args.compute_dtype, job)?;
    let shape = [ids.len(), logits.len() / ids.len().max(1)];
    let (ids, logits) = (bytemuck::cast_slice(&ids), bytemuck::cast_slice(&logits));
    let ids = Tensor { name: "ids", dtype: Dtype::I64, shape: &shape[..1], data: ids };
    let logits = Tensor { name: "logits", dtype: Dtype::F32, shape: &shape, data: logits };
    write_file(&args.output, &[ids, logits])?;
    say!("logits of {} over {} written to {}", Count(shape[0], "token"), Count(shape[1], "id"), args.output.display());
    Ok(ExitCode::SUCCESS)
}
