//! The training example as a user meets it: refusals, interruption, a full disk, the same adapter twice.
mod answers;
#[path = "../common/mod.rs"]
mod common;
mod effects;
mod exports;
mod hub;
mod kills;
mod lost;
mod moved;
mod options;
mod reports;
mod room;
mod saving;
mod signals;
mod speed;
mod subcommands;
mod tokens;

use common::root;
use halfbyte_runtime::{
    checkpoint::{CheckpointWriter, DEFAULT_SHARD_BYTES, Dtype, Tensor},
    config::{Module, Qwen3Config},
};
use std::{
    fs,
    io::{self, BufRead, BufReader, Lines, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Output, Stdio},
};
use tempfile::TempDir;

/// The example's binary: cargo builds examples and programs before it runs tests.
fn example(name: &str) -> PathBuf {
    built(&format!("examples/{name}"))
}

/// The program whose subcommands the examples are.
fn halfbyte() -> PathBuf {
    built("halfbyte")
}

fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join(name);
    let build = "cargo build --release --workspace --bins --examples";
    assert!(path.exists(), "{} is missing: run `{build}` first", path.display());
    path
}

fn train(arguments: &[&str]) -> Command {
    let mut command = Command::new(example("train_qwen3_lora"));
    command.args(["--use-4bit", "--device", "cpu"]).args(arguments);
    command
}

/// A copy of the embedded model that can be damaged.
fn model() -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in fs::read_dir(root().join("runtime/assets/tiny-qwen3")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    copy
}

/// A model whose steps take milliseconds, with the embedded one's tokenizer, and something to train it on.
struct SmallModel(TempDir);

fn small_model() -> SmallModel {
    const CONFIG: &str = r#"{"architectures": ["Qwen3ForCausalLM"], "vocab_size": 4096, "hidden_size": 32,
        "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 32, "eos_token_id": 4093, "max_position_embeddings": 131072, "tie_word_embeddings": true, "rope_theta": 10000.0}"#;
    let folder = tempfile::tempdir().unwrap();
    let assets = root().join("runtime/assets");
    fs::copy(assets.join("tiny-qwen3/tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    fs::write(folder.path().join("config.json"), CONFIG).unwrap();
    let data = fs::read_to_string(assets.join("town/train.jsonl")).unwrap();
    let few: Vec<_> = data.lines().take(32).collect();
    fs::write(folder.path().join("data.jsonl"), few.join("\n")).unwrap();
    let config = Qwen3Config::open(folder.path()).unwrap();
    let mut writer = CheckpointWriter::create(folder.path(), DEFAULT_SHARD_BYTES).unwrap();
    let mut put = |name: &str, shape: &[usize]| {
        let values: Vec<f32> =
            (0..shape.iter().product::<usize>()).map(|i| ((i * 37 % 101) as f32 - 50.0) / 500.0).collect();
        writer.put(Tensor { name, dtype: Dtype::F32, shape, data: bytemuck::cast_slice(&values) }).unwrap();
    };
    put("model.embed_tokens.weight", &[4096, 32]);
    put("model.norm.weight", &[32]);
    for (norm, width) in
        [("input_layernorm", 32), ("post_attention_layernorm", 32), ("self_attn.q_norm", 32), ("self_attn.k_norm", 32)]
    {
        put(&format!("model.layers.0.{norm}.weight"), &[width]);
    }
    for module in config.modules().filter(|module| *module != Module::LmHead) {
        put(&format!("{module}.weight"), &config.shape(module));
    }
    writer.finish().unwrap();
    SmallModel(folder)
}

impl SmallModel {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn train(&self, arguments: &[&str]) -> Command {
        let data = self.path().join("data.jsonl");
        let mut command = train(&["--model", text(self.path()), "--data", text(&data), "--batch-size", "8"]);
        command.args(arguments);
        command
    }
}

/// A model of 370 MB whose loading takes a while.
fn large_model() -> SmallModel {
    hollow_model(12, 4096)
}

/// A model of hidden size 1024, whose file has a header, and zeros that take no room on the disk.
fn hollow_model(layers: usize, intermediate: usize) -> SmallModel {
    let model = small_model();
    let config = fs::read_to_string(model.path().join("config.json")).unwrap();
    let config = config.replace("\"hidden_size\": 32", "\"hidden_size\": 1024");
    let config = config.replace("\"intermediate_size\": 64", &format!("\"intermediate_size\": {intermediate}"));
    let config = config.replace("\"num_hidden_layers\": 1", &format!("\"num_hidden_layers\": {layers}"));
    fs::write(model.path().join("config.json"), config).unwrap();
    let config = Qwen3Config::open(model.path()).unwrap();
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    let mut put = |name: String, shape: &[usize]| {
        let end = at + 2 * shape.iter().product::<usize>();
        let entry = serde_json::json!({"dtype": "BF16", "shape": shape, "data_offsets": [at, end]});
        header.insert(name, entry);
        at = end;
    };
    put("model.embed_tokens.weight".into(), &[4096, 1024]);
    put("model.norm.weight".into(), &[1024]);
    for layer in 0..layers {
        let norms = ["input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"];
        for (norm, width) in norms.into_iter().zip([1024, 1024, 32, 32]) {
            put(format!("model.layers.{layer}.{norm}.weight"), &[width]);
        }
    }
    for module in config.modules().filter(|module| *module != Module::LmHead) {
        put(format!("{module}.weight"), &config.shape(module));
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = fs::File::create(model.path().join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&header).unwrap();
    file.set_len((8 + header.len() + at) as u64).unwrap();
    model
}

/// A run that is under way, and what it says on its standard error.
struct Begun {
    child: Child,
    said: Lines<BufReader<ChildStderr>>,
}

impl Begun {
    /// Waits for its end; gives the exit code.
    fn end(mut self) -> Option<i32> {
        self.said.by_ref().for_each(drop);
        self.child.wait().unwrap().code()
    }
}

/// Reads lines until one contains `word`.
fn until(lines: &mut impl Iterator<Item = io::Result<String>>, word: &str) {
    assert!(lines.any(|line| line.unwrap().contains(word)), "it never said `{word}`");
}

fn send(signal: &str, child: &Child) {
    assert!(Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap().success());
}

fn saved(dir: &Path) -> bool {
    dir.join("adapter_model.safetensors").exists() && dir.join("adapter_config.json").exists()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Fails with `wanted` in its message, without a panic, and leaves no adapter.
fn refused(mut command: Command, output: &Path, wanted: &[&str]) {
    let done: Output = command.args(["--output", text(output)]).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success(), "it succeeded, expected an error with {wanted:?}");
    assert!(!said.contains("panicked"), "{said}");
    for wanted in wanted {
        assert!(said.contains(wanted), "the message lacks {wanted:?}: {said}");
    }
    assert!(!output.join("adapter_model.safetensors").exists(), "an adapter was left behind");
    assert!(!output.join("adapter_config.json").exists(), "half an adapter was left behind");
}

/// Refuses the embedded model once `damage` has been done to it.
fn damaged(damage: impl FnOnce(&Path), wanted: &[&str]) {
    let (model, output) = (model(), tempfile::tempdir().unwrap());
    damage(model.path());
    let data = root().join("runtime/assets/town/train.jsonl");
    refused(train(&["--model", text(model.path()), "--data", text(&data)]), output.path(), wanted);
}

fn edit_config(dir: &Path, from: &str, to: &str) {
    let path = dir.join("config.json");
    let config = fs::read_to_string(&path).unwrap();
    assert!(config.contains(from), "{config}");
    fs::write(&path, config.replace(from, to)).unwrap();
}

#[test]
fn damaged_models_are_refused() {
    damaged(
        |dir| {
            let file = fs::OpenOptions::new().write(true).open(dir.join("model.safetensors")).unwrap();
            file.set_len(5_000_000).unwrap();
        },
        &["model.safetensors"],
    );
    damaged(|dir| fs::write(dir.join("model.safetensors"), [0xFF; 64]).unwrap(), &["model.safetensors"]);
    damaged(|dir| edit_config(dir, "\"hidden_size\": 256", "\"hidden_size\": 320"), &["320"]);
    damaged(|dir| edit_config(dir, "Qwen3ForCausalLM", "LlamaForCausalLM"), &["config.json", "LlamaForCausalLM"]);
    damaged(|dir| fs::remove_file(dir.join("tokenizer.json")).unwrap(), &["tokenizer.json"]);
    // A tokenizer that knows more tokens than the model has.
    damaged(
        |dir| edit_config(dir, "\"vocab_size\": 4096", "\"vocab_size\": 100"),
        &["a token id is", "of sequence", "the model has 100 ids"],
    );
    damaged(
        |dir| {
            fs::rename(dir.join("model.safetensors"), dir.join("model-00001-of-00002.safetensors")).unwrap();
            let index = r#"{"metadata":{},"weight_map":{"model.norm.weight":"model-00002-of-00002.safetensors"}}"#;
            fs::write(dir.join("model.safetensors.index.json"), index).unwrap();
        },
        &["model-00002-of-00002.safetensors"],
    );
}

#[test]
fn bad_data_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("adapter");
    let data = |contents: &str| {
        let path = folder.path().join("data.jsonl");
        fs::write(&path, contents).unwrap();
        train(&["--data", text(&path)])
    };
    refused(data(""), &output, &["data.jsonl", "empty"]);
    refused(data("{\"text\": \"fine\"}\n{\"text\": \n"), &output, &["data.jsonl", "line 2"]);
    refused(data("{\"txt\": \"no such key\"}\n"), &output, &["line 1", "text"]);
    let mut long = data("{\"text\": \"The ferry bell shall be rung by the schoolmistress at noon.\"}\n");
    long.args(["--max-seq-length", "4"]);
    refused(long, &output, &["line 1", "4"]);
}

#[test]
fn bad_options_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("adapter");
    refused(train(&["--target-modules", "q_proj,gate_prj"]), &output, &["gate_prj"]);
    refused(train(&["--lora-r", "0"]), &output, &["--lora-r", "from 1 to 65536"]);
    refused(train(&["--bnb-4bit-compute-dtype", "int8"]), &output, &["int8"]);
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    refused(train(&[]), &file.join("adapter"), &["file"]);
}

#[test]
fn cuda_without_a_gpu_is_refused() {
    if halfbyte::Cuda::new(0).is_ok() {
        eprintln!("skipped: there is a GPU");
        return;
    }
    let output = tempfile::tempdir().unwrap();
    let mut command = Command::new(example("train_qwen3_lora"));
    command.args(["--use-4bit", "--device", "cuda"]);
    refused(command, output.path(), &["CUDA"]);
}

#[test]
fn the_same_seed_gives_the_same_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = |name: &str, seed: &str| {
        let output = folder.path().join(name);
        let mut command = train(&["--max-steps", "4", "--lora-dropout", "0.1", "--seed", seed]);
        let done = command.args(["--output", text(&output)]).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        fs::read(output.join("adapter_model.safetensors")).unwrap()
    };
    let first = adapter("first", "5");
    assert!(first == adapter("second", "5"), "two runs with one seed differ");
    assert!(first != adapter("third", "6"), "another seed gives the same adapter");
}

#[test]
fn an_interrupted_run_saves_what_it_has() {
    let output = tempfile::tempdir().unwrap();
    let mut command = train(&["--epochs", "1000", "--logging-steps", "1", "--output", text(output.path())]);
    let mut running = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(running.stderr.take().unwrap()).lines();
    let began = lines.any(|line| line.unwrap().starts_with("step 2/"));
    assert!(began, "training never began");
    let sent = Command::new("kill").args(["-INT", &running.id().to_string()]).status().unwrap();
    assert!(sent.success());
    lines.for_each(drop);
    assert_eq!(running.wait().unwrap().code(), Some(130));
    let config = root().join("runtime/assets/tiny-qwen3");
    let config = halfbyte_runtime::config::Qwen3Config::open(&config).unwrap();
    let (adapter, _) = halfbyte_runtime::lora::Adapter::open(output.path(), &config).unwrap();
    assert!(adapter.layers.iter().any(|layer| layer.b.iter().any(|&v| v != 0.0)), "nothing was learnt");
}

#[test]
fn a_full_disk_leaves_no_half_adapter() {
    let disk = tempfile::tempdir().unwrap();
    // The adapter has 1.9 MB. The listing is made inside, where the small file system is seen.
    let script = r#"mount -t tmpfs -o size=512k tmpfs "$1" || exit 99
        "$2" --use-4bit --device cpu --max-steps 1 --output "$1"; code=$?; ls -A "$1"; exit $code"#;
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]);
    let done = match unshare.arg(disk.path()).arg(example("train_qwen3_lora")).output() {
        Ok(done) if done.status.code() == Some(1) => done,
        Ok(done) if done.status.success() => panic!("1.9 MB were saved on a disk of 512 KB"),
        other => {
            eprintln!("skipped: this machine lets no user mount a small file system ({other:?})");
            return;
        }
    };
    let (listed, said) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(said.contains("are free there"), "{said}");
    assert!(!listed.contains("adapter_"), "files were left behind: {listed}");
}
