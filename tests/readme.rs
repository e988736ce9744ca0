//! What README.md and README.ja.md say in figures: computed here, or dated.
//!
//! `HALFBYTE_BLESS=1 cargo test --release --test readme` writes the computed tables again.
mod common;

use common::root;
use halfbyte::{DType, quant::Format};
use halfbyte_runtime::{
    config::Qwen3Config,
    llm,
    lora::{LoraConfig, Targets},
    model::{Base, CacheType, SampleOptions},
    settings::{ActivationMemory, Optim},
    speed::SHAPES,
    train::run,
};
use std::fs;

const BASE: Base = Base::Quantized { format: Format::Nf4, block_size: 64, double_quant: true };
const GIB: f64 = (1u64 << 30) as f64;

/// Memory of common GPUs in GiB, by the name that shops give it.
const GPUS: [(&str, f64); 8] = [
    ("8 GB", 8.0),
    ("12 GB", 12.0),
    ("16 GB", 16.0),
    ("24 GB", 24.0),
    ("32 GB", 32.0),
    ("48 GB", 48.0),
    ("80 GB", 80.0),
    ("141 GB", 139.0),
];

/// What of a GPU's memory a run may take: the driver, the kernels and their scratch memory need some, too.
const SHARE: f64 = 0.9;

/// Peaks on one H200 with Qwen3-8B's shape, in GiB: batch, length, checkpointing.
const MEASURED: [(usize, usize, bool, f64); 4] =
    [(4, 2048, false, 34.1), (4, 2048, true, 7.2), (1, 512, false, 8.4), (1, 512, true, 5.6)];

/// The shapes of Qwen3 by size, as `8B`.
fn models() -> impl Iterator<Item = (String, Qwen3Config)> {
    SHAPES.iter().filter_map(|shape| Some((shape.name.strip_prefix("qwen3-")?.to_uppercase(), shape.config())))
}

fn config(size: &str) -> Qwen3Config {
    models().find(|(name, _)| name == size).unwrap().1
}

/// GiB of training with r = 16 on all linear layers.
fn training(size: &str, capacity: usize, gradient_checkpointing: bool) -> f64 {
    let (config, lora) = (config(size), LoraConfig::new(16, 32.0, Targets::AllLinear));
    let extent = run::Extent {
        config: &config,
        base: BASE,
        dtype: DType::Bf16,
        lora: &lora,
        optim: Optim::AdamW,
        capacity,
        writes: None,
        on_gpu: true,
    };
    let kept = if gradient_checkpointing { ActivationMemory::Offload } else { ActivationMemory::Full };
    extent.need(run::Plan::of(kept, &config)).unwrap().total() as f64 / GIB
}

/// GiB of an answer at the end of 4096 tokens.
fn answering(size: &str) -> f64 {
    let config = config(size);
    let extent = llm::Extent {
        config: &config,
        base: BASE,
        head_4bit: false,
        cache: CacheType::Plain,
        sample: SampleOptions::GREEDY,
        dtype: DType::Bf16,
        lora: None,
        work: llm::Work::answer(3840, 256),
    };
    extent.need().unwrap().least() as f64 / GIB
}

/// GiB, and the smallest GPU that has so much.
fn cell(gib: f64) -> String {
    let gpu = GPUS.iter().find(|(_, memory)| gib <= memory * SHARE).map_or("–", |(name, _)| name);
    format!("{gib:.1} · {gpu}")
}

/// Headings of the tables.
struct Words {
    models: &'static str,
    measured: &'static str,
    rows: [&'static str; 2],
}

const ENGLISH: Words = Words {
    models: "| Qwen3 | answer, 4096 tokens in all | train 1 x 2048, checkpointing | train 1 x 2048 | train 4 x 2048, \
             checkpointing | train 4 x 2048 |",
    measured: "| Qwen3-8B, GiB | 4 x 2048 | 4 x 2048, checkpointing | 1 x 512 | 1 x 512, checkpointing |",
    rows: ["computed", "measured"],
};

const JAPANESE: Words = Words {
    models: "| Qwen3 | 回答（計 4096 トークン） | 学習 1 x 2048、再計算あり | 学習 1 x 2048 | 学習 4 x 2048、再計算あり \
             | 学習 4 x 2048 |",
    measured: "| Qwen3-8B、GiB | 4 x 2048 | 4 x 2048、再計算あり | 1 x 512 | 1 x 512、再計算あり |",
    rows: ["計算値", "実測値"],
};

fn table(head: &str, rows: impl Iterator<Item = Vec<String>>) -> String {
    let columns = head.matches('|').count() - 1;
    let rows: String = rows.map(|cells| format!("| {} |\n", cells.join(" | "))).collect();
    format!("{head}\n|{}\n{rows}", "---|".repeat(columns))
}

fn models_table(words: &Words) -> String {
    let row = |(size, _): (String, Qwen3Config)| {
        let runs = [(2048, true), (2048, false), (8192, true), (8192, false)];
        let training = runs.map(|(capacity, checkpointing)| cell(training(&size, capacity, checkpointing)));
        [vec![size.clone(), cell(answering(&size))], training.into()].concat()
    };
    table(words.models, models().map(row))
}

fn measured_table(words: &Words) -> String {
    let computed = MEASURED.map(|(batch, length, checkpointing, _)| training("8B", batch * length, checkpointing));
    let row = |(name, values): (&str, [f64; 4])| {
        [vec![name.to_owned()], values.map(|gib| format!("{gib:.1}")).into()].concat()
    };
    let rows = [(words.rows[0], computed), (words.rows[1], MEASURED.map(|(.., gib)| gib))];
    table(words.measured, rows.into_iter().map(row))
}

/// Where computed text stands.
fn markers(name: &str) -> (String, String) {
    (format!("<!-- {name}: computed by tests/readme.rs -->\n"), format!("<!-- end of {name} -->\n"))
}

/// `text` with `made` between the markers of `name`.
fn with(text: &str, name: &str, made: &str) -> String {
    let (begin, end) = markers(name);
    let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("there is no {begin}"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("there is no {end}"));
    format!("{before}{begin}{made}{end}{after}")
}

#[test]
fn computed_tables_are_up_to_date() {
    for (file, words) in [("README.md", ENGLISH), ("README.ja.md", JAPANESE)] {
        let path = root().join(file);
        let have = fs::read_to_string(&path).unwrap();
        let want = with(&with(&have, "memory", &models_table(&words)), "measured memory", &measured_table(&words));
        if std::env::var_os("HALFBYTE_BLESS").is_some() {
            fs::write(&path, &want).unwrap();
        }
        let have = fs::read_to_string(&path).unwrap();
        assert!(have == want, "{file} has other figures than are computed: run with HALFBYTE_BLESS=1");
    }
}

/// README says so.
#[test]
fn computed_memory_is_within_a_twentieth_of_measured() {
    for (batch, length, checkpointing, measured) in MEASURED {
        let computed = training("8B", batch * length, checkpointing);
        let error = (computed / measured - 1.0).abs();
        assert!(error <= 0.05, "{batch} x {length}, {checkpointing}: {computed:.1} computed, {measured} measured");
    }
}

// ------------------------------------------------------------------------------------------------- dated figures

/// Behind a number these make a figure that somebody measured.
const UNITS: &[&str] = &[
    "tokens/s",
    "GiB",
    "MiB",
    "GB",
    "ms",
    "s",
    "seconds",
    "minutes",
    "minute",
    "%",
    "nats",
    "crates",
    "トークン/秒",
    "秒",
    "分",
];

/// What looks like one and is none.
const NO_FIGURES: &[(&str, &str)] = &[("95 %", "the confidence of an interval")];

/// Blocks with a figure and without a date, in them or in the block before, of which they are the table or the output.
fn undated(text: &str) -> Vec<String> {
    let (mut found, mut dated_before, mut computed) = (Vec::new(), false, false);
    for block in blocks(text) {
        computed |= block.starts_with("<!--") && block.contains("computed by");
        let dated = has_date(&block);
        let lines = block.lines().filter(|line| !computed && !dated && !dated_before && has_figure(line));
        found.extend(lines.map(str::to_owned));
        computed &= !block.contains("<!-- end of");
        dated_before = dated;
    }
    found
}

/// Paragraphs, tables, and code with the blank lines in it.
fn blocks(text: &str) -> Vec<String> {
    let (mut blocks, mut block, mut fenced) = (Vec::new(), String::new(), false);
    for line in text.lines().chain([""]) {
        fenced ^= line.starts_with("```");
        if line.is_empty() && !fenced {
            blocks.extend(Some(std::mem::take(&mut block)).filter(|block| !block.is_empty()));
        } else {
            block += &format!("{line}\n");
        }
    }
    blocks
}

/// `2026-11-26`, or the month alone.
fn has_date(text: &str) -> bool {
    let digits = |part: &str, n: usize| part.len() >= n && part.bytes().take(n).all(|byte| byte.is_ascii_digit());
    text.match_indices("20").any(|(at, _)| {
        let rest = &text[at..];
        digits(rest, 4) && rest[4..].starts_with('-') && digits(&rest[5..], 2)
    })
}

fn has_figure(line: &str) -> bool {
    let line = NO_FIGURES.iter().fold(line.to_owned(), |line, (text, _)| line.replace(text, ""));
    let ends = line.match_indices(|c: char| c.is_ascii_digit()).map(|(at, digit)| at + digit.len());
    ends.into_iter().any(|end| {
        let rest = line[end..].trim_start_matches(' ');
        let unit = |unit: &&&str| {
            let after = rest.strip_prefix(**unit).map(|rest| rest.chars().next());
            after.is_some_and(|next| !unit.is_ascii() || next.is_none_or(|next| !next.is_ascii_alphanumeric()))
        };
        UNITS.iter().find(unit).is_some()
    })
}

#[test]
fn measured_figures_are_dated() {
    for file in ["README.md", "README.ja.md"] {
        let found = undated(&fs::read_to_string(root().join(file)).unwrap());
        assert!(found.is_empty(), "{file}: say when and where this was measured:\n{}", found.join("\n"));
    }
}

#[test]
fn an_undated_figure_is_found() {
    let said = ["It trains at 15,500 tokens/s.", "It takes 3 s.", "毎秒 12 トークン/秒です。", "| a | 3.5 GiB |"];
    for line in said {
        assert_eq!(undated(line), [line]);
        assert!(undated(&format!("{line} (2026-11-26)")).is_empty(), "{line}");
        assert!(undated(&format!("Measured 2026-11:\n\n{line}")).is_empty(), "{line}");
        assert_eq!(undated(&format!("2026-11-26\n\nOther words.\n\n{line}")), [line]);
        let (begin, end) = markers("x");
        assert!(undated(&format!("{begin}{line}\n{end}")).is_empty());
        assert_eq!(undated(&format!("{begin}\n{end}\n{line}")), [line]);
    }
    assert!(undated("Python 3 is needed, and 2 cores, 4 bits, bf16, 2048 samples, a 95 % interval.").is_empty());
}
