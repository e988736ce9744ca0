//! The formats: small files that are well, and how a user's file is read.

use crate::seeds::{DOTENV, SETTINGS, TABLES, TEMPLATE, exam, gzip, lines, records, small_tokenizer, zstd};
use halfbyte::Cpu;
use halfbyte_runtime::{
    Error,
    chat::{Chat, ChatTemplate, message},
    checkpoint::Checkpoint,
    config::{GenerationConfig, Qwen3Config},
    evaluate::questions::read_questions,
    lora::{Adapter, LoraConfig},
    model::{Base, Qwen3},
    settings::Sources,
    tokenizer::Tokenizer,
    train::data::{DataOptions, Dataset, Overlong},
};
use serde_json::json;
use std::{env, fmt::Debug, fs, path::Path};
use tempfile::TempDir;

/// What became of a file.
#[derive(Debug)]
pub enum Outcome {
    Refused(String),
    /// What was read, as text.
    Accepted(String),
}

pub struct Format {
    pub name: &'static str,
    /// What every refusal names.
    pub file: &'static str,
    /// Whether it is JSON, so that it can be changed by structure.
    pub json: bool,
    pub seeds: fn() -> Vec<Vec<u8>>,
    pub read: fn(&Reader, &[u8]) -> Outcome,
    /// Keys whose value says nothing of the model, or nothing unless another key has it so.
    pub harmless: &'static [&'static str],
}

/// A folder to put files in, and what all reads share.
pub struct Reader {
    folder: TempDir,
    model: Qwen3Config,
    tokenizer: Tokenizer,
}

impl Reader {
    pub fn new() -> Self {
        let shared = Path::new("/dev/shm");
        let folder = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() }.unwrap();
        let model = Qwen3Config::open(&golden("untied")).unwrap();
        fs::write(folder.path().join("tokenizer.json"), small_tokenizer()).unwrap();
        let tokenizer = Tokenizer::open(folder.path()).unwrap();
        fs::copy(golden("untied/config.json"), folder.path().join("config.json")).unwrap();
        Reader { folder, model, tokenizer }
    }

    /// Puts the bytes into a file of this name.
    fn file(&self, name: &str, bytes: &[u8]) -> std::path::PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Puts the bytes into a folder of its own, beside a golden file (its path, and its name there).
    fn folder(&self, (folder, name): (&str, &str), beside: Option<[&str; 2]>, bytes: &[u8]) -> std::path::PathBuf {
        let folder = self.folder.path().join(folder);
        if !folder.exists() {
            fs::create_dir(&folder).unwrap();
            beside.map(|[from, to]| fs::copy(golden(from), folder.join(to)).unwrap());
        }
        fs::write(folder.join(name), bytes).unwrap();
        folder
    }
}

/// The checkout, or `HALFBYTE_ROOT`.
fn golden(path: &str) -> std::path::PathBuf {
    let root = env::var_os("HALFBYTE_ROOT").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&root).join("tests/data/golden/qwen3-tiny").join(path)
}

fn bytes(path: &str) -> Vec<u8> {
    fs::read(golden(path)).unwrap()
}

fn outcome<T: Debug>(result: Result<T, Error>) -> Outcome {
    match result {
        Ok(read) => Outcome::Accepted(format!("{read:?}")),
        Err(e) => Outcome::Refused(e.to_string()),
    }
}

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn read_checkpoint(reader: &Reader, bytes: &[u8]) -> Outcome {
    let path = reader.file("model.safetensors", bytes);
    let digest = || -> Result<u64, Error> {
        let checkpoint = Checkpoint::open_file(&path)?;
        Qwen3::<Cpu, f32>::load(&Cpu::new(), &checkpoint, &reader.model, Base::Unquantized)?;
        Ok(checkpoint.bytes() as u64)
    };
    outcome(digest())
}

fn read_index(reader: &Reader, bytes: &[u8]) -> Outcome {
    let shard = ["untied/model.safetensors", "model-00001-of-00001.safetensors"];
    let folder = reader.folder(("sharded", "model.safetensors.index.json"), Some(shard), bytes);
    outcome(Checkpoint::open(&folder).map(|checkpoint| checkpoint.names().map(str::to_owned).collect::<Vec<_>>()))
}

fn read_adapter_config(reader: &Reader, bytes: &[u8]) -> Outcome {
    let path = Path::new("adapter_config.json");
    let config = LoraConfig::parse(path, &text(bytes)).map(|(config, note)| (config.to_json(), note, config));
    outcome(config.map(|(json, note, config)| (json, note, config.resolve(&reader.model).map_err(|e| e.to_string()))))
}

fn read_adapter(reader: &Reader, bytes: &[u8]) -> Outcome {
    let config = ["adapter-plain/adapter_config.json", "adapter_config.json"];
    let folder = reader.folder(("adapter", "adapter_model.safetensors"), Some(config), bytes);
    outcome(Adapter::open(&folder, &reader.model).map(|(adapter, _)| adapter.layers.len()))
}

fn read_tokenizer(reader: &Reader, bytes: &[u8]) -> Outcome {
    let folder = reader.folder(("tokenizer", "tokenizer.json"), None, bytes);
    let read = || {
        let tokenizer = Tokenizer::open(&folder)?;
        let ids = tokenizer.encode("Hello, world!\n<|im_start|>x 1 2")?;
        Ok((tokenizer.vocab_size(), tokenizer.decode(&ids, false), tokenizer.decode(&[0, 5, 99, 1 << 30], true), ids))
    };
    outcome(read())
}

fn read_tokenizer_config(reader: &Reader, bytes: &[u8]) -> Outcome {
    reader.file("tokenizer_config.json", bytes);
    let read = || {
        let tokenizer = Tokenizer::open(reader.folder.path())?;
        let template = ChatTemplate::open(reader.folder.path(), &tokenizer)?;
        Ok((tokenizer.eos_id(), tokenizer.eos_ids().to_vec(), render(&template)?))
    };
    outcome(read())
}

fn render(template: &ChatTemplate) -> Result<String, Error> {
    let messages = [message("system", "Be brief."), message("user", "Hello"), message("assistant", "Hi")];
    template.render(&Chat { messages: &messages, add_generation_prompt: true, ..Chat::default() })
}

fn read_template(_: &Reader, bytes: &[u8]) -> Outcome {
    outcome(ChatTemplate::from_source("chat_template.jinja", text(bytes)).and_then(|template| render(&template)))
}

fn read_data(reader: &Reader, name: &str, bytes: &[u8]) -> Outcome {
    let path = reader.file(name, bytes);
    let options = DataOptions::default().max_seq_length(64).overlong(Overlong::Truncate).append_eos(false);
    let read = || {
        let template = ChatTemplate::from_source("template", TEMPLATE)?;
        let data = Dataset::read(&path, &reader.tokenizer, Some(&template), &options)?;
        data.expect_fits(&reader.model).map(|()| data)
    };
    outcome(read())
}

fn read_exam(reader: &Reader, bytes: &[u8]) -> Outcome {
    outcome(read_questions(reader.file("exam.json", bytes)))
}

/// Keys of config.json that change nothing: what transformers notes down, what holds for training or for layers with a
/// window only, and how weights are quantised, which each of them says for itself.
const CONFIG_HARMLESS: &[&str] = &[
    "architectures",
    "attention_bias",
    "attention_dropout",
    "bos_token_id",
    "dtype",
    "hidden_act",
    "initializer_range",
    "layer_types",
    "max_window_layers",
    "model_type",
    "quantization_config",
    "rope_scaling",
    "rope_parameters",
    "sliding_window",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "use_sliding_window",
];

pub const FORMATS: [Format; 17] = [
    Format {
        name: "config",
        file: "config.json",
        json: true,
        seeds: || vec![bytes("untied/config.json"), bytes("yarn/config.json"), bytes("untied-nf4-dq/config.json")],
        read: |_, bytes| outcome(Qwen3Config::parse(Path::new("config.json"), &text(bytes))),
        harmless: CONFIG_HARMLESS,
    },
    Format {
        name: "generation_config",
        file: "generation_config.json",
        json: true,
        seeds: || {
            let all = json!({"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.1, "eos_token_id":
                             [1, 2], "pad_token_id": 3, "repetition_penalty": 1.1, "num_beams": 1, "max_new_tokens": 9});
            vec![bytes("untied/generation_config.json"), all.to_string().into_bytes()]
        },
        read: |_, bytes| outcome(GenerationConfig::parse(Path::new("generation_config.json"), &text(bytes))),
        harmless: &[
            "transformers_version",
            "_from_model_config",
            "bos_token_id",
            "use_cache",
            "output_attentions",
            "output_hidden_states",
            "num_beams",
        ],
    },
    Format {
        name: "adapter_config",
        file: "adapter_config.json",
        json: true,
        seeds: || {
            let named = ["plain", "patterns", "rslora", "dora", "regex"];
            named.map(|name| bytes(&format!("adapter-{name}/adapter_config.json"))).to_vec()
        },
        read: read_adapter_config,
        harmless: &[
            "task_type",
            "bias",
            "inference_mode",
            "peft_type",
            "fan_in_fan_out",
            "use_qalora",
            "lora_bias",
            "ensure_weight_tying",
            "layer_replication",
            "megatron_config",
            "target_parameters",
            "alora_invocation_tokens",
            "arrow_config",
            "kasa_config",
            "velora_config",
            "use_bdlora",
            "monteclora_config",
        ],
    },
    Format {
        name: "adapter",
        file: "adapter_model.safetensors",
        json: false,
        seeds: || vec![bytes("adapter-plain/adapter_model.safetensors")],
        read: read_adapter,
        harmless: &[],
    },
    Format {
        name: "checkpoint",
        file: "model.safetensors",
        json: false,
        seeds: || vec![bytes("untied/model.safetensors"), bytes("untied-nf4-dq/model.safetensors")],
        read: read_checkpoint,
        harmless: &[],
    },
    Format {
        name: "index",
        file: "sharded",
        json: true,
        seeds: || {
            let checkpoint = Checkpoint::open(&golden("untied")).unwrap();
            let map: serde_json::Map<_, _> =
                checkpoint.names().map(|name| (name.to_owned(), json!("model-00001-of-00001.safetensors"))).collect();
            vec![json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string().into_bytes()]
        },
        read: read_index,
        harmless: &["metadata"],
    },
    Format {
        name: "tokenizer",
        file: "tokenizer.json",
        json: true,
        seeds: || vec![small_tokenizer()],
        read: read_tokenizer,
        // Truncation and padding are switched off; the rest need not show in three texts.
        harmless: &[
            "version",
            "truncation",
            "padding",
            "added_tokens",
            "normalizer",
            "pre_tokenizer",
            "post_processor",
            "decoder",
            "model",
        ],
    },
    Format {
        name: "tokenizer_config",
        file: "tokenizer_config.json",
        json: true,
        seeds: || {
            let config = json!({"eos_token": "<|im_end|>", "pad_token": "<|im_start|>", "chat_template": TEMPLATE});
            vec![config.to_string().into_bytes()]
        },
        read: read_tokenizer_config,
        harmless: &["pad_token"],
    },
    Format {
        name: "template",
        file: "chat_template.jinja",
        json: false,
        seeds: || vec![TEMPLATE.as_bytes().to_vec()],
        read: read_template,
        harmless: &[],
    },
    Format {
        name: "data",
        file: "data.jsonl",
        json: false,
        seeds: || records().map(|records| lines(&records)).to_vec(),
        read: |reader, bytes| read_data(reader, "data.jsonl", bytes),
        harmless: &[],
    },
    Format {
        name: "data_array",
        file: "data.json",
        json: false,
        seeds: || {
            let wrap = |records| [json!(records), json!({"version": 1, "rows": records})];
            records().into_iter().flat_map(wrap).map(|file| format!("{file:#}").into_bytes()).collect()
        },
        read: |reader, bytes| read_data(reader, "data.json", bytes),
        harmless: &[],
    },
    Format {
        name: "data_packed",
        file: "data.packed",
        json: false,
        seeds: || records().iter().flat_map(|records| [gzip(&lines(records)), zstd(&lines(records))]).collect(),
        read: |reader, bytes| read_data(reader, "data.packed", bytes),
        harmless: &[],
    },
    Format {
        name: "data_parquet",
        file: "data.parquet",
        json: false,
        seeds: || TABLES.map(|name| bytes(&format!("../parquet/{name}.parquet"))).into(),
        read: |reader, bytes| read_data(reader, "data.parquet", bytes),
        harmless: &[],
    },
    Format {
        name: "exam",
        file: "exam.json",
        json: true,
        seeds: || vec![exam().to_string().into_bytes()],
        read: read_exam,
        harmless: &[],
    },
    Format {
        name: "exam_lines",
        file: "exam.jsonl",
        json: false,
        seeds: || {
            let lines = [
                json!({"question": "When?", "options": ["at noon", "never"], "answer": "b"}),
                json!({"id": "x", "context": "A town.", "question": "Who?", "options": {"a": "I", "b": "he"}, "answer": 0}),
            ];
            vec![lines.map(|line| line.to_string()).join("\n").into_bytes()]
        },
        read: |reader, bytes| outcome(read_questions(reader.file("exam.jsonl", bytes))),
        harmless: &[],
    },
    Format {
        name: "settings",
        file: "halfbyte.toml",
        json: false,
        seeds: || vec![SETTINGS.into()],
        read: |reader, bytes| {
            let file = Some(reader.file("halfbyte.toml", bytes));
            outcome(Sources { file, ..Sources::default() }.load().map(|loaded| loaded.config))
        },
        harmless: &[],
    },
    Format {
        name: "dotenv",
        file: ".env",
        json: false,
        seeds: || vec![DOTENV.into()],
        read: |reader, bytes| {
            let dotenv = Some(reader.file(".env", bytes));
            outcome(Sources { dotenv, ..Sources::default() }.load().map(|loaded| loaded.config))
        },
        harmless: &[],
    },
];
