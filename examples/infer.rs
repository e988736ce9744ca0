//! Generates text with a Qwen3 checkpoint and, if given, a LoRA adapter.
mod common;

use clap::Parser;
use common::{Assets, Signals, exit_code, note, output::print, parse_bool, start, within};
use halfbyte::{Backend, Float, quant::Format};
use halfbyte_runtime::{
    Error, Result,
    chat::{Chat, ChatTemplate, message},
    checkpoint::Checkpoint,
    config::{GenerationConfig, Qwen3Config},
    device::{self, Device, Job},
    generate::generator::{GenerateOptions, generate},
    lora::{Adapter, DeviceAdapter, Layout},
    model::{Base, ForwardContext, Qwen3, SampleOptions, checkpoint_note},
    options as ranges,
    tokenizer::Tokenizer,
};
use std::{
    io::{IsTerminal, Read},
    ops::ControlFlow,
    path::PathBuf,
    process::ExitCode,
};

/// Generate text with a Qwen3 checkpoint and a LoRA adapter.
#[derive(Parser)]
#[command(version, allow_negative_numbers = true)]
struct Args {
    /// Folder of a Hugging Face Qwen3 checkpoint [default: the embedded model]
    #[arg(long)]
    model: Option<PathBuf>,
    /// Folder of a PEFT adapter
    #[arg(long)]
    lora_path: Option<PathBuf>,
    /// What to answer or continue [default: standard input]
    #[arg(long)]
    prompt: Option<String>,
    /// Instructions that come before the conversation
    #[arg(long, conflicts_with = "raw")]
    system: Option<String>,
    /// Continue the prompt as it is, without the chat template [default for the embedded model]
    #[arg(long)]
    raw: bool,
    /// The template's enable_thinking: true or false
    #[arg(long, value_parser = parse_bool, action = clap::ArgAction::Set, conflicts_with = "raw")]
    enable_thinking: Option<bool>,
    /// Hold the base in 4 bits: true or false
    #[arg(long, default_value = "true", value_parser = parse_bool, action = clap::ArgAction::Set)]
    load_in_4bit: bool,
    /// nf4 or fp4
    #[arg(long, default_value = "nf4")]
    bnb_4bit_quant_type: Format,
    /// bfloat16, float16 or float32
    #[arg(long, default_value = "bfloat16")]
    bnb_4bit_compute_dtype: String,
    /// Quantise the scales too: true or false
    #[arg(long, default_value = "true", value_parser = parse_bool, action = clap::ArgAction::Set)]
    bnb_4bit_use_double_quant: bool,
    /// At most so many [default: the checkpoint's, or 256]
    #[arg(long, value_parser = within::<usize>(ranges::MAX_NEW_TOKENS))]
    max_new_tokens: Option<usize>,
    /// 0 takes the most probable token [default: the checkpoint's]
    #[arg(long, value_parser = within::<f32>(ranges::TEMPERATURE))]
    temperature: Option<f32>,
    /// Choose among so many; 0 is off [default: the checkpoint's]
    #[arg(long, value_parser = within::<usize>(ranges::TOP_K))]
    top_k: Option<usize>,
    /// Choose among the likeliest with this probability together; 1 is off [default: the checkpoint's]
    #[arg(long, value_parser = within::<f32>(ranges::TOP_P))]
    top_p: Option<f32>,
    /// Choose among those at least this share as likely as the likeliest; 0 is off [default: the checkpoint's]
    #[arg(long, value_parser = within::<f32>(ranges::MIN_P))]
    min_p: Option<f32>,
    /// Makes tokens that were there less likely; 1 is off [default: the checkpoint's]
    #[arg(long, value_parser = within::<f32>(ranges::REPETITION_PENALTY))]
    repetition_penalty: Option<f32>,
    /// Same seed, same text
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: Device,
}

impl Args {
    /// What was asked for, else what the checkpoint's generation_config.json says, else greedy.
    fn sampling(&self, defaults: &GenerationConfig) -> SampleOptions {
        let sampled = defaults.do_sample == Some(true);
        let default = |value: Option<f32>, off| if sampled { value.unwrap_or(off) } else { off };
        let temperature = if sampled { defaults.temperature.unwrap_or(1.0) } else { 0.0 };
        SampleOptions {
            temperature: self.temperature.unwrap_or(temperature),
            top_k: self.top_k.unwrap_or(if sampled { defaults.top_k.unwrap_or(50) } else { 0 }),
            top_p: self.top_p.unwrap_or(default(defaults.top_p, 1.0)),
            min_p: self.min_p.unwrap_or(default(defaults.min_p, 0.0)),
            repetition_penalty: self.repetition_penalty.or(defaults.repetition_penalty).unwrap_or(1.0),
            seed: self.seed,
        }
    }

    fn base(&self) -> Base {
        let (format, double_quant) = (self.bnb_4bit_quant_type, self.bnb_4bit_use_double_quant);
        if self.load_in_4bit { Base::Quantized { format, block_size: 64, double_quant } } else { Base::Unquantized }
    }

    /// The prompt as the model reads it.
    fn text(&self, dir: &std::path::Path, tokenizer: &Tokenizer) -> Result<String> {
        let prompt = match &self.prompt {
            Some(prompt) => prompt.clone(),
            None => standard_input()?,
        };
        if self.raw || self.model.is_none() {
            return Ok(prompt);
        }
        let template = ChatTemplate::open(dir, tokenizer)?;
        template.note().iter().for_each(|text| note!("{text}"));
        if self.enable_thinking.is_some() && !template.uses("enable_thinking") {
            note!("the chat template does not read enable_thinking: it has no effect");
        }
        let system = self.system.iter().map(|text| message("system", text));
        let messages: Vec<_> = system.chain([message("user", &prompt)]).collect();
        template.render(&Chat {
            messages: &messages,
            tools: None,
            add_generation_prompt: true,
            enable_thinking: self.enable_thinking,
            extra: None,
        })
    }
}

fn standard_input() -> Result<String> {
    let mut stdin = std::io::stdin();
    if stdin.is_terminal() {
        note!("reading the prompt from standard input; end it with Ctrl-D");
    }
    let mut text = String::new();
    let read = stdin.read_to_string(&mut text);
    read.map_err(|source| Error::Io { path: "standard input".into(), action: "read", source })?;
    Ok(text.trim_end_matches('\n').to_owned())
}

struct Inference {
    args: Args,
    signals: Signals,
}

impl Job for Inference {
    type Output = Option<i32>;

    /// The signal that ended it early, if one did.
    fn run<B: Backend, T: Float>(self, backend: B) -> Result<Option<i32>> {
        let args = &self.args;
        let dir = args.model.clone().unwrap_or_else(|| Assets::find().model());
        let (config, tokenizer) = (Qwen3Config::open(&dir)?, Tokenizer::open(&dir)?);
        let defaults = GenerationConfig::open(&dir)?;
        let prompt = tokenizer.encode(&args.text(&dir, &tokenizer)?)?;
        let adapter = args.lora_path.as_ref().map(|path| Adapter::open(path, &config)).transpose()?;
        let files = Checkpoint::open(&dir)?;
        let notes = [checkpoint_note(&files, &config)?, defaults.note()];
        notes.iter().flatten().for_each(|text| note!("{text}"));
        let model = Qwen3::<B, T>::load(&backend, &files, &config, args.base())?;
        let adapter = match adapter {
            Some((adapter, note)) => {
                note.iter().for_each(|text| note!("{text}"));
                let (layout, flat) = Layout::of(&adapter)?;
                Some(DeviceAdapter::new(&backend, layout, &flat)?)
            }
            None => None,
        };
        let ctx = ForwardContext::new(&backend, adapter.as_ref());
        let mut stop_tokens = tokenizer.eos_ids().to_vec();
        stop_tokens.extend(defaults.eos_token_ids.iter().chain(&config.eos_token_ids));
        let options = GenerateOptions {
            max_new_tokens: args.max_new_tokens.or(defaults.max_new_tokens).unwrap_or(256),
            stop_tokens,
            sample: args.sampling(&defaults),
            skip_special: true,
        };
        let made = generate(&model, ctx, &tokenizer, &prompt, &options, |piece| {
            // From here on there is something to end in order.
            self.signals.note();
            // A reader that is gone, as `head` is, wants no more.
            let read = print(format_args!("{piece}"));
            if read && self.signals.caught().is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        print(format_args!("\n"));
        let decoded = made.ids.len().saturating_sub(1);
        note!(
            "{}: {} tokens read in {:.2} s, {} written at {:.1} tokens/s",
            backend.name(),
            prompt.len(),
            made.prompt_seconds,
            made.ids.len(),
            decoded as f64 / made.decode_seconds,
        );
        Ok(self.signals.caught())
    }
}

fn main() -> ExitCode {
    start(|args: Args| {
        let (device, dtype) = (args.device, device::compute_dtype(&args.bnb_4bit_compute_dtype)?);
        let signals = Signals::listen("interrupted: nothing was written");
        Ok(exit_code(device::run(device, dtype, Inference { args, signals })?))
    })
}
