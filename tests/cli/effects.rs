//! Every option of every `--help` has an effect, or is refused: there is a row for each, and each row is seen.

use crate::{SmallModel, example, root, small_model, text};
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tempfile::TempDir;

/// What an option does, and what it would be wrong to see without it.
pub enum Sees {
    /// The program says this.
    Says(String),
    /// The program fails with this.
    Refused(&'static str),
    /// This file of the output is another.
    File(&'static str),
    /// This file of the output holds this text, and did not.
    Holds(&'static str, &'static str),
    /// Standard output is another.
    Output,
}
pub use Sees::{File, Holds, Output, Refused, Says};

/// An option with its value, what stands beside it in both runs, and what is seen.
pub struct Row {
    option: Vec<String>,
    beside: Vec<String>,
    sees: Sees,
}

pub fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

pub fn row(option: &str, sees: Sees) -> Row {
    Row { option: words(option), beside: Vec::new(), sees }
}

impl Row {
    pub fn beside(self, line: &str) -> Row {
        Row { beside: words(line), ..self }
    }
}

pub fn says(text: impl Into<String>) -> Sees {
    Says(text.into())
}

/// A program with a command line that works.
pub struct Driven {
    pub name: &'static str,
    pub line: Vec<String>,
    /// What is appended to the folder for the option `--output`, where there is one.
    pub output: Option<&'static str>,
}

/// What came of a run.
pub struct Ran {
    pub done: bool,
    stdout: String,
    /// With standard error.
    pub said: String,
    pub folder: TempDir,
}

impl Ran {
    fn file(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.folder.path().join("out").join(name)).ok()
    }

    fn holds(&self, name: &str, text: &str) -> bool {
        self.file(name).is_some_and(|file| String::from_utf8_lossy(&file).contains(text))
    }
}

impl Driven {
    pub fn run(&self, options: &[String]) -> Ran {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(example(self.name));
        command.args(&self.line).stdin(Stdio::null()).current_dir(folder.path());
        command.env("HALFBYTE_CACHE", folder.path().join("cache"));
        if let Some(name) = self.output {
            fs::create_dir(folder.path().join("out")).unwrap();
            command.args(["--output", text(&folder.path().join("out").join(name))]);
        }
        let done = command.args(options).output().unwrap();
        let [stdout, stderr] = [done.stdout, done.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert!(!stderr.contains("panicked"), "{options:?}: {stderr}");
        Ran { done: done.status.success(), said: format!("{stdout}{stderr}"), stdout, folder }
    }

    /// The names of the options that `--help` tells.
    fn options(&self) -> Vec<String> {
        let help = self.run(&words("--help")).stdout;
        let name = |line: &str| {
            let option = line.trim_start();
            let option = option.strip_prefix('-').filter(|_| line.starts_with(' '))?;
            let long = &option[option.find("--").map_or(usize::from(option.starts_with('-')), |at| at + 2)..];
            Some(long.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').next()?.to_owned())
        };
        help.lines().filter_map(name).collect()
    }

    /// Sees what each row says; each option has one.
    pub fn see(&self, rows: &[Row]) {
        let mut without = HashMap::new();
        for Row { option, beside, sees } in rows {
            let without: &Ran = without.entry(beside).or_insert_with(|| self.run(beside));
            let with = self.run(&[beside.as_slice(), option].concat());
            let seen = match sees {
                Says(text) => with.done && with.said.contains(text) && !without.said.contains(text),
                Refused(text) => !with.done && with.said.contains(text) && without.done,
                File(name) => with.done && with.file(name).is_some() && with.file(name) != without.file(name),
                Holds(name, text) => with.done && with.holds(name, text) && !without.holds(name, text),
                Output => with.done && with.stdout != without.stdout,
            };
            let (name, with, without) = (self.name, &with.said, &without.said);
            assert!(seen, "{name} {option:?} beside {beside:?}: {with}\nwithout it: {without}");
        }
        let named = |row: &Row| row.option[0].split('=').next().map(|option| option.replace('_', "-"));
        let has_row = |name: &String| rows.iter().any(|row| named(row) == Some(format!("--{name}")));
        let missing: Vec<_> = self.options().into_iter().filter(|name| !has_row(name)).collect();
        assert!(missing.is_empty(), "{}: no row for {missing:?}", self.name);
        assert!(self.options().len() > 1, "the options of {} were not found", self.name);
    }
}

/// What rows name.
pub struct Files {
    pub model: SmallModel,
    /// An adapter for it.
    pub adapter: PathBuf,
    pub settings: PathBuf,
    few: PathBuf,
    pub folder: TempDir,
}

impl Files {
    pub fn new(settings: &str) -> Files {
        let (model, folder) = (small_model(), tempfile::tempdir().unwrap());
        let [adapter, file, few] = ["adapter", "own.toml", "few.jsonl"].map(|name| folder.path().join(name));
        let done = model.train(&["--max-steps", "2", "--output", text(&adapter)]).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        fs::write(&file, settings).unwrap();
        let data = fs::read_to_string(model.path().join("data.jsonl")).unwrap();
        fs::write(&few, data.lines().take(5).collect::<Vec<_>>().join("\n")).unwrap();
        Files { model, adapter, settings: file, few, folder }
    }

    pub fn model(&self) -> String {
        format!("--model-name {}", text(self.model.path()))
    }

    pub fn other(&self) -> PathBuf {
        self.folder.path().join("other")
    }
}

pub fn show(option: &str, path: &Path) -> String {
    format!("{option} {}", path.display())
}

/// How programs that answer hold their base.
pub fn of_the_base() -> Vec<Row> {
    vec![
        row("--device cuda:99", Refused("CUDA")),
        row("--threads 1", says(", 1 thread)")),
        row("--load-in-4bit false", says("base: unquantised")),
        row("--head-4bit", says("the head in 4 bits, too")),
        row("--head-4bit", Refused("or set load_in_4bit")).beside("--load-in-4bit false"),
        row("--bnb-4bit-compute-dtype float32", says("computing in float32")),
        row("--bnb-4bit-quant-type fp4", says("base: fp4")),
        row("--bnb-4bit-use-double-quant false", says("base: nf4 in 4 bits (")),
    ]
}

/// How they choose tokens, with the embedded model, which has no chat template.
pub fn of_sampling(top_k: &str) -> Vec<Row> {
    let hot = "--temperature 9";
    let greedy = "the likeliest token is taken";
    vec![
        row("--temperature 9", Output),
        row(&format!("{top_k} 1"), Output).beside(hot),
        row(&format!("{top_k} 1"), Refused(greedy)),
        row("--top-p 0.01", Output).beside(hot),
        row("--top-p 0.01", Refused(greedy)),
        row("--min-p 0.99", Output).beside(hot),
        row("--min-p 0.99", Refused(greedy)),
        row("--repetition-penalty 50", Output),
        row("--seed 1", Output).beside(hot),
        row("--seed 1", Refused(greedy)),
        row("--system Answer", Refused("system is set")),
        row("--enable-thinking true", Refused("enable_thinking is set")),
        row("--use-generation-config", says("temperature 0.8")),
        row("--kv-cache-8bit", says("; keys and values in 8 bits")),
    ]
}

pub fn of_every_program(name: &str) -> Vec<Row> {
    let debug = row("--log-level debug", says("DEBUG halfbyte_runtime::cli::logs: "));
    vec![row("--help", says("Usage:")), row("--version", says(version(name))), debug]
}

/// What a program says of its version.
pub fn version(name: &str) -> String {
    let kernels = match halfbyte::cuda::architectures() {
        "" => "no kernels: CPU only".into(),
        archs => format!("kernels for {archs}"),
    };
    format!("{name} {} ({kernels})", env!("CARGO_PKG_VERSION"))
}

const WEIGHTS: Sees = File("adapter_model.safetensors");

// Long: a row for each option.
#[test]
fn every_option_of_training_is_seen() {
    let files = Files::new("[train]\nlora_r = 3\n");
    let Files { adapter, settings, few, .. } = &files;
    let data = files.model.path().join("data.jsonl");
    let line = format!("{} {} --use-4bit --device cpu --batch-size 8", files.model(), show("--data", &data));
    let driven = Driven { name: "train_qwen3_lora", line: words(&line), output: Some("") };
    let exam = root().join("runtime/assets/town/exam.json");
    let large = files.folder.path().join("large.jsonl");
    let line = format!("{{\"text\": \"{}\"}}\n", "house ".repeat(200));
    fs::write(&large, line.repeat(1000)).unwrap();
    let still = format!("--learning-rate 0 --eval-steps 1 {}", show("--eval-data", few));
    let rows = vec![
        row("--no-cache", says("large.jsonl: 1000 of text\n")).beside(&format!("--check {}", show("--data", &large))),
        row("--model-name embedded", says("hidden 256")).beside("--check"),
        row(&show("--lora-path", adapter), says("trained further")),
        row(&show("--data", few), says("37 samples")),
        row(&show("--data none --data", few), says("5 samples")),
        row("--data-format prompt-completion", Refused("the key `prompt` is missing")),
        row("--train-on-eos none", WEIGHTS),
        row(&show("--eval-data", few), says("before: held-out loss")),
        row(&show("--exam", &exam), says("before: exam")),
        row(&show("--output", &files.other()), says(format!("saved in {}", files.other().display()))),
        row("--push-to-hub here", Refused("a name there is OWNER/NAME")),
        row("--overwrite", says("adapter saved in")).beside(&show("--output", adapter)),
        row("--use-4bit=false", says("base: unquantised")),
        row("--bnb-4bit-quant-type fp4", says("base: fp4")),
        row("--bnb-4bit-compute-dtype float32", says("computing in float32")),
        row("--bnb-4bit-use-double-quant false", says("base: nf4 in 4 bits (")),
        row("--lora-r 4", WEIGHTS),
        row("--lora-alpha 8", WEIGHTS),
        row("--lora-dropout 0.5", WEIGHTS),
        row("--target-modules q_proj", WEIGHTS),
        row("--target-modules q_proj,embed_tokens,lm_head", WEIGHTS),
        row("--target-modules q_proj,lm_head", Refused("DoRA (`use_dora`) is for the layers' linear maps"))
            .beside("--use-dora"),
        row("--exclude-modules q_proj", WEIGHTS),
        row("--layers-to-transform 0", Holds("adapter_config.json", "\"layers_to_transform\": [")),
        row("--layers-pattern layers", Holds("adapter_config.json", "\"layers_pattern\": ["))
            .beside("--layers-to-transform 0"),
        row("--use-rslora", WEIGHTS),
        row("--use-dora", WEIGHTS),
        row("--lora-dropout 0.1", WEIGHTS).beside("--use-dora"),
        row("--init-lora-weights gaussian", WEIGHTS),
        row("--modules-to-save lm_head", Refused("the model's output head is its embedding")),
        row("--trainable-token-indices 1", WEIGHTS),
        row("--learning-rate 0.1", WEIGHTS),
        row("--lr-scheduler-type linear", WEIGHTS),
        row("--warmup-ratio 0.5", WEIGHTS),
        row("--min-lr 1e-4", WEIGHTS).beside("--lr-scheduler-type polynomial"),
        row("--decay-ratio 0.9", WEIGHTS).beside("--lr-scheduler-type warmup_stable_decay"),
        row("--lr-power 3", WEIGHTS).beside("--lr-scheduler-type polynomial"),
        row("--optim adamw_8bit", WEIGHTS).beside("--lora-r 256"),
        row("--loraplus-lr-ratio 8", WEIGHTS),
        row("--loraplus-lr-ratio 8", Refused("leave embed_tokens out")).beside("--target-modules embed_tokens"),
        row("--weight-decay 1", WEIGHTS),
        row("--max-grad-norm 0.001", WEIGHTS),
        row("--neftune-alpha 5", WEIGHTS),
        row("--epochs 1", says("; 4 steps;")),
        row("--max-steps 5", says("; 5 steps;")),
        row("--batch-size 16", says("; 6 steps;")),
        row("--auto-batch-size", says("micro-batches: 8 at a time, 1 for each step")),
        row("--gradient-accumulation-steps 2", says("; 6 steps;")),
        row("--max-seq-length 8", Refused("raise --max-seq-length")),
        row("--overlong skip", says("left out: ")).beside("--max-seq-length 24"),
        row("--packing", says("; 3 steps;")),
        row("--packing-strategy best-fit", WEIGHTS).beside("--packing --max-seq-length 64 --batch-size 1"),
        row("--activation-memory checkpoint", Output).beside("--check --model-name embedded"),
        row("--gradient-checkpointing", Output).beside("--check --model-name embedded"),
        row("--device cuda:99", Refused("CUDA")),
        row("--threads 1", says(", 1 thread)")),
        row("--seed 1", WEIGHTS),
        row("--logging-steps 1", says("step 2/")),
        row("--log-sample-losses", Holds("metrics.jsonl", "\"sample_losses\":[")),
        row("--sample-prompts Where", says("after: Where -> ")),
        row("--eval-steps 6", says("step 6: Where -> ")).beside("--sample-prompts Where"),
        row("--tensorboard", says("events for TensorBoard: ")),
        row("--eval-steps 1", says("step 2/")).beside(&show("--eval-data", few)),
        row("--load-best-at-end", says("held-out loss was lowest after step 1, ")).beside(&still),
        row("--early-stopping-patience 2", says("ended early: 2 evaluations in a row")).beside(&still),
        row("--save-steps 5", says("checkpoint-10 saved")),
        row("--save-minutes 1e-6", says("checkpoint-1 saved")),
        row("--save-total-limit 3", says("(3 checkpoints kept)")).beside("--save-steps 1"),
        row("--resume auto", says("has no checkpoint to resume: the run begins")),
        row(&show("--config", settings), says("r 3,")),
        row("--print-config", says("[train]")),
        row("--check", says("checked: ")),
        row("--dry-run", says("samples by their tokens")),
    ];
    driven.see(&rows.into_iter().chain(of_every_program("train_qwen3_lora")).collect::<Vec<_>>());
}

#[test]
fn every_option_of_inference_is_seen() {
    let files = Files::new("[llm]\ntop_k = 7\n");
    let small = format!("{} --raw", files.model());
    let driven = Driven { name: "infer", line: words("--device cpu --prompt The --max-new-tokens 12"), output: None };
    let rows = vec![
        row(&files.model(), says("hidden 32")).beside("--raw"),
        row(&show("--lora-path", &files.adapter), says("adapter: /")).beside(&small),
        row("--max-new-tokens 2", says(", 2 written")),
        row("--raw", Output).beside(&files.model()),
        row("--prompt Every", Output),
        row(&show("--config", &files.settings), says("top_k                        = 7 ")).beside("--print-config"),
        row("--print-config", says("[llm]")),
        row("--check", says("checked: ")),
    ];
    driven.see(
        &[rows, of_the_base(), of_sampling("--top-k"), of_every_program("infer")]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>(),
    );
}

#[test]
fn every_option_of_quantising_is_seen() {
    let model = small_model();
    let line = format!("--model-name {} --device cpu", text(model.path()));
    let driven = Driven { name: "quantize", line: words(&line), output: Some("") };
    let other = tempfile::tempdir().unwrap();
    let rows = vec![
        row("--model-name embedded", says("tiny-qwen3")),
        row(&show("--output", &other.path().join("x")), says(format!("written to {}/x", other.path().display()))),
        row("--bnb-4bit-quant-type FP4", File("model.safetensors")),
        row("--bnb_4bit_use_double_quant=False", File("model.safetensors")),
        row("--bnb-4bit-compute-dtype fp16", File("config.json")),
        row("--block-size 128", File("model.safetensors")),
        row("--device cuda:99", Refused("CUDA")),
    ];
    driven.see(&rows.into_iter().chain(of_every_program("quantize")).collect::<Vec<_>>());
}

#[test]
fn every_option_of_logits_is_seen() {
    let files = Files::new("");
    let line = format!("{} --device cpu --prompt The", files.model());
    const NAME: &str = "logits.safetensors";
    let driven = Driven { name: "logits", line: words(&line), output: Some(NAME) };
    let other = files.other();
    let rows = vec![
        row("--model-name embedded", File(NAME)),
        row(&show("--lora-path", &files.adapter), File(NAME)),
        row("--prompt Every", says("logits of 3 tokens")),
        row("--ids 1,2,3", says("logits of 4 tokens")),
        row(&show("--output", &other), says(format!("written to {}", other.display()))),
        row("--compute-dtype bf16", File(NAME)),
        row("--device cuda:99", Refused("CUDA")),
    ];
    driven.see(&rows.into_iter().chain(of_every_program("logits")).collect::<Vec<_>>());
}

#[test]
fn every_option_of_the_device_report_is_seen() {
    let driven = Driven { name: "device_info", line: Vec::new(), output: None };
    driven.see(&of_every_program("device_info"));
}

/// The last of a repeated option counts, dashes and underscores are the same, and so are the names that Python has.
#[test]
fn names_that_python_users_type_are_taken() {
    let model = small_model();
    let line = format!(
        "--model_name_or_path {0} --train_file {0}/data.jsonl --load_in_4bit=True --bnb_4bit_quant_type=NF4 --device cpu \
         --torch_dtype torch.bfloat16 --lora_rank 2 --num_train_epochs 9 --num_train_epochs 1 --lr 1e-3 --max_length 512 \
         --per_device_train_batch_size 8 --overwrite_output_dir --activation_checkpointing True",
        text(model.path())
    );
    let driven = Driven { name: "train_qwen3_lora", line: words(&line), output: Some("") };
    let ran = driven.run(&[]);
    assert!(ran.done && ran.said.contains("; 4 steps;") && ran.said.contains("(r 2,"), "{}", ran.said);
    let line = format!("--model {} --bnb_4bit_quant_type NF4 --dtype=bf16 --device CPU", text(model.path()));
    let ran = Driven { name: "quantize", line: words(&line), output: Some("") }
        .run(&words("--block_size 32 --block-size 64"));
    assert!(ran.done, "{}", ran.said);
    let driven =
        Driven { name: "logits", line: words("--model_name embedded --device cpu --ids 1 --ids 2"), output: Some("l") };
    let ran = driven.run(&words("--dtype fp16 --compute_dtype=bf16"));
    assert!(ran.done && ran.said.contains("logits of 2 tokens"), "{}", ran.said);
}
