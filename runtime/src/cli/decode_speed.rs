//! Measures how fast a Qwen3 answers, with random weights: no checkpoint is needed.

use super::{
    measured::{List, Measured, gib, list, or_out_of_memory, say_ops, within},
    signals::Signals,
    tool::{Run, Tool},
};
use crate::{
    device::{self, Job},
    error::Result,
    model::{CacheType, Qwen3},
    options, say,
    settings::Value,
    speed::{DecodeRow, DecodeSpeed, Decoding, RowsFile, decode, random_adapter},
};
use clap::{ArgMatches, Args, FromArgMatches};
use halfbyte::{Backend, Float, quant::Format};
use std::process::ExitCode;

/// Measures how fast a Qwen3 answers.
pub const DECODE_SPEED: Tool = Tool {
    name: "speed-decode",
    about: "Measure how fast a Qwen3 answers, with random weights",
    options: |command| Options::augment_args(command).after_help(COLUMNS),
    run: Run::Options(run),
};

/// What the columns are.
const COLUMNS: &str = "For each context and number of sequences: seconds from the prompts to the first token of each, the \
                       first time and once more (warm); tokens/s of all sequences together; and the most memory that \
                       buffers took.";

#[derive(Args)]
struct Options {
    #[command(flatten)]
    measured: Measured,
    /// Sequences that are decoded together; several numbers make several rows
    #[arg(long, default_value = "1", value_parser = list(options::SEQUENCES))]
    sequences: List,
    /// Tokens of each prompt; several numbers make several rows
    #[arg(long, default_value = "512", value_parser = list(options::CONTEXT))]
    context: List,
    /// Tokens that each sequence goes on by while the clock runs
    #[arg(long, default_value_t = 128, value_parser = within::<usize>(options::MAX_NEW_TOKENS))]
    new_tokens: usize,
    /// Hold the output head in 4 bits, too
    #[arg(long, conflicts_with = "unquantised")]
    head_4bit: bool,
    /// Keep keys and values of tokens in 8 bits
    #[arg(long)]
    kv_cache_8bit: bool,
    /// Choose among so many of the largest logits, at the temperature of 0.7 and top-p of 0.8 that Qwen3 advises; without it
    /// the largest is chosen
    #[arg(long, value_parser = within::<usize>(options::TOP_K))]
    top_k: Option<usize>,
    /// Rank of an adapter on all linear layers; there is none without it
    #[arg(long, value_parser = within::<usize>(options::LORA_R))]
    lora_r: Option<usize>,
}

impl Options {
    fn decodings(&self) -> impl Iterator<Item = Decoding> {
        let (new_tokens, top_k, profile) = (self.new_tokens, self.top_k, self.measured.profile);
        let cache = CacheType::of(self.kv_cache_8bit);
        let of_context = move |&context| {
            let decoding = move |&sequences| Decoding { sequences, context, new_tokens, top_k, cache, profile };
            self.sequences.0.iter().map(decoding)
        };
        self.context.0.iter().flat_map(of_context)
    }

    fn head_name(&self) -> String {
        if self.head_4bit { Format::Nf4.to_string() } else { self.measured.dtype.show() }
    }

    fn cache_name(&self) -> String {
        if self.kv_cache_8bit { "int8".into() } else { self.measured.dtype.show() }
    }

    fn row(&self, decoding: Decoding, speed: Option<&DecodeSpeed>) -> DecodeRow {
        let Decoding { sequences, context, new_tokens, .. } = decoding;
        DecodeRow {
            shape: self.measured.shape.name,
            base: self.measured.base_name(),
            head: self.head_name(),
            kv_cache: self.cache_name(),
            lora_r: self.lora_r,
            top_k: self.top_k,
            sequences,
            context,
            new_tokens,
            first_s: speed.map(|speed| speed.first_s),
            first_warm_s: speed.map(|speed| speed.first_warm_s),
            tokens_per_s: speed.map(|speed| speed.tokens_per_s),
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
        let config = args.measured.shape.config();
        let adapter = args.lora_r.map_or("none".into(), |r| format!("r {r} on all linear layers"));
        let (head, cache) = (args.head_name(), args.cache_name());
        let choice = args.top_k.map_or("greedy".into(), |k| format!("top-k {k}"));
        let heading = args.measured.heading(&backend);
        say!("{heading}\nhead: {head}; keys and values: {cache}; adapter: {adapter}; tokens: {choice}");
        let mut model = Qwen3::<B, T>::random(&backend, &config, args.measured.base(), 0)?;
        if args.head_4bit {
            model.quantize_head(&backend, Format::Nf4, true)?;
        }
        let adapter = args.lora_r.map(|r| model.adapt(&backend, &random_adapter(&config, r, 0.0, 0)?)).transpose()?;
        say!("\nsequences  context  new tokens  first, s   warm, s  tokens/s  peak GiB");
        for decoding in args.decodings() {
            let speed = or_out_of_memory(decode(&backend, &model, adapter.as_ref(), decoding))?;
            say!("{}", line(decoding, &speed));
            say_ops(speed.as_ref().map_or(&[], |speed| &speed.ops));
            if let Some(file) = &mut file {
                file.push(&args.row(decoding, speed.as_ref().ok()))?;
            }
        }
        Ok(())
    }
}

fn line(decoding: Decoding, speed: &Result<DecodeSpeed, String>) -> String {
    let Decoding { sequences, context, new_tokens, .. } = decoding;
    let figures = match speed {
        Ok(DecodeSpeed { first_s, first_warm_s, tokens_per_s, peak_bytes, .. }) => {
            format!("{first_s:>8.4}  {first_warm_s:>8.4}  {tokens_per_s:>8.1}  {:>8.2}", gib(*peak_bytes))
        }
        Err(reason) => reason.clone(),
    };
    format!("{sequences:>9}  {context:>7}  {new_tokens:>10}  {figures}")
}

fn run(matches: &ArgMatches) -> Result<ExitCode> {
    let args = Options::from_arg_matches(matches)?;
    let _signals = Signals::listen("interrupted: rows that the CSV file has stay there");
    let config = args.measured.shape.config();
    args.decodings().try_for_each(|decoding| decoding.check(&config))?;
    let Measured { device, threads, dtype, .. } = args.measured;
    let file = args.measured.rows_file()?;
    device::run(device, threads, dtype, Measure { args, file })?;
    Ok(ExitCode::SUCCESS)
}
