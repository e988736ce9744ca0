//! More memory than there is: an error with the size and what to lower, on the CPU, where the system grants it and kills
//! the process later.
mod common;

use common::{golden::Golden, root};
use half::bf16;
use halfbyte::{Backend, Buf, Cpu, host};
use halfbyte_runtime::{
    Error,
    batch::Sample,
    checkpoint::Checkpoint,
    config::Qwen3Config,
    evaluate::questions::read_questions,
    lora::{Adapter, LoraConfig, Targets},
    model::{Base, CacheType, Decoder, ForwardContext, Qwen3, SampleOptions},
    tokenizer::Tokenizer,
    train::{
        data::{DataOptions, Dataset},
        packing::{BatchOptions, TrainLength},
        schedule::{Schedule, ScheduleKind, Warmup},
        trainer::{Trainer, TrainerOptions, micro_batch_capacity},
    },
};
use std::{
    fs::File,
    io::Write,
    path::Path,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// What one test holds is not free to another.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn says(error: Option<impl ToString>, wanted: &[&str]) {
    let message = error.expect("an error").to_string();
    for wanted in wanted {
        assert!(message.contains(wanted), "the message lacks {wanted:?}: {message}");
    }
}

struct Setup {
    backend: Cpu,
    files: Checkpoint,
    model: Qwen3<Cpu, bf16>,
}

impl Setup {
    fn new(change: impl FnOnce(&mut Qwen3Config)) -> Self {
        let dir = Golden::open().dir("tied");
        let (backend, files) = (Cpu::new(), Checkpoint::open(&dir).unwrap());
        let mut config = Qwen3Config::open(&dir).unwrap();
        change(&mut config);
        let model = Qwen3::load(&backend, &files, &config, Base::Unquantized).unwrap();
        Setup { backend, files, model }
    }

    fn adapter(&self, r: usize) -> Result<Adapter, Error> {
        let config = LoraConfig::new(r, 1.0, Targets::from_text("all-linear"));
        Adapter::init(config, &self.model.config, &self.files, 0)
    }
}

/// Pages that were never touched are free to the system, but promised.
#[test]
fn requests_that_add_up_are_refused() {
    let _alone = alone();
    let (backend, Some(free)) = (Cpu::new(), host::free()) else { return };
    let mut held: Vec<Buf<Cpu, u8>> = Vec::new();
    let refused = (0..8).find_map(|_| match backend.zeros(free / 4) {
        Ok(buf) => {
            held.push(buf);
            None
        }
        Err(e) => Some(e),
    });
    says(refused, &["out of memory", "more were asked for", "are free"]);
    assert!(held.len() >= 2, "{} quarters of what is free were granted", held.len());
    held.clear();
    backend.zeros::<u8>(free / 4).expect("what was given back is free");
}

#[test]
fn buffers_are_counted_while_they_live() {
    let _alone = alone();
    let backend = Cpu::new();
    let before = backend.memory();
    let buf = backend.zeros::<f32>(1 << 28).unwrap();
    let with = backend.memory();
    assert_eq!(with.allocated, before.allocated + (1 << 30));
    assert!(with.peak >= with.allocated, "{with:?}");
    let copy = backend.upload(&[1_u32; 10]).unwrap();
    assert_eq!(backend.memory().allocated, with.allocated + 40);
    drop((buf, copy));
    assert_eq!(backend.memory().allocated, before.allocated);
    assert!(backend.memory().peak > with.allocated);
    if let Some(peak) = host::process_peak() {
        assert!(peak < with.peak, "{peak} bytes of the process, though a GiB was never touched");
    }
}

#[test]
fn micro_batches_beyond_memory_are_refused() {
    let _alone = alone();
    let setup = Setup::new(|_| ());
    let adapter = setup.adapter(4).unwrap();
    for capacity in [i32::MAX as usize, usize::MAX / 8, usize::MAX] {
        let options =
            TrainerOptions::new(capacity, Schedule::new(ScheduleKind::Constant, 1e-3, Warmup::Steps(0), 1).unwrap());
        let error = Trainer::new(&setup.backend, &setup.model, &adapter, options).err();
        says(error, &[&format!("{capacity} tokens"), "--batch-size", "--max-seq-length", "--gradient-checkpointing"]);
    }
}

/// Hours of work must not be lost because another program has taken the memory meanwhile.
#[test]
fn a_trained_adapter_can_be_saved_without_free_memory() {
    let _alone = alone();
    let (setup, Some(_)) = (Setup::new(|_| ()), host::free()) else { return };
    let adapter = setup.adapter(16_384).unwrap();
    let numbers: usize = adapter.layers.iter().map(|layer| layer.a.len() + layer.b.len()).sum();
    let options = TrainerOptions::new(8, Schedule::new(ScheduleKind::Constant, 1e-3, Warmup::Steps(0), 1).unwrap());
    let mut trainer = Trainer::new(&setup.backend, &setup.model, &adapter, options).unwrap();
    let most = 2 * numbers; // half of what the adapter takes
    let held: Buf<Cpu, u8> = setup.backend.zeros(host::free().unwrap() - most).unwrap();
    assert!(host::room::<f32>(numbers).is_err(), "{} bytes are still free", host::free().unwrap());
    let saved = trainer.adapter().unwrap();
    assert!(saved.layers == adapter.layers, "an adapter that was not trained is the one that it began with");
    drop(held);
}

#[test]
fn a_micro_batch_has_no_more_tokens_than_there_are() {
    let sample = |len| Sample { ids: vec![1; len], mask: vec![true; len] };
    let samples = [sample(3), sample(10), sample(5)];
    let capacity = |batch_size, packing| {
        let options = BatchOptions::new(batch_size, 12, TrainLength::Steps(1)).packing(packing).shuffle(false);
        micro_batch_capacity(&samples, 1, &options)
    };
    assert_eq!([capacity(1, false), capacity(1, true)], [10, 12]);
    assert_eq!([capacity(2, false), capacity(1 << 20, true), capacity(usize::MAX, false)], [18; 3]);
}

#[test]
fn adapters_beyond_memory_are_refused() {
    let _alone = alone();
    let setup = Setup::new(|_| ());
    for r in [1 << 28, 1 << 40, 1 << 62, usize::MAX] {
        says(setup.adapter(r).err(), &[&r.to_string(), "from 1 to 65536"]);
    }
    // The largest rank, for a model as wide as a configuration may have it.
    let wide = Qwen3Config { intermediate_size: 1 << 22, ..setup.model.config.clone() };
    let config = LoraConfig::new(65_536, 1.0, Targets::from_text("all-linear"));
    let error = Adapter::init(config, &wide, &setup.files, 0).err();
    says(error, &["r = 65536", "--lora-r", "--target-modules"]);
}

#[test]
fn a_cache_beyond_memory_is_refused() {
    let _alone = alone();
    let setup = Setup::new(|config| config.max_position_embeddings = 33 << 20);
    assert_eq!(setup.model.config.positions(), 1 << 20, "rotary tables are bounded");
    let decoder = |n_seqs, capacity| {
        let ctx = ForwardContext::new(&setup.backend, None);
        Decoder::new(&setup.model, ctx, n_seqs, capacity, 100, SampleOptions::GREEDY, CacheType::Plain).err()
    };
    says(decoder(1, (1 << 20) + 1), &["prompt and new tokens", "1048577", "1048576 positions"]);
    says(decoder(1, usize::MAX), &["prompt and new tokens"]);
    says(decoder(1 << 16, 1 << 20), &["65536 sequences", "out of memory", "--max-new-tokens"]);
    assert!(decoder(1, 1 << 10).is_none());
}

/// A file of `len` bytes that begins with `start` and takes no room on the disk.
fn sparse(path: &Path, start: &[u8], len: u64) {
    let mut file = File::create(path).unwrap();
    file.write_all(start).unwrap();
    file.set_len(len).unwrap();
}

#[test]
fn data_beyond_memory_are_refused() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data.jsonl");
    sparse(&path, b"{\"text\": \"a\"}\n", 1 << 40);
    let tokenizer = Tokenizer::open(root().join("runtime/assets/tiny-qwen3")).unwrap();
    let options = DataOptions::default().max_seq_length(10);
    let error = Dataset::read(&path, &tokenizer, None, &options).err();
    says(error, &["data.jsonl", "2048.0 GiB", "a part of it"]);
    says(read_questions(&path).err(), &["data.jsonl", "3072.0 GiB", "a part of it"]);
    sparse(&dir.path().join("tokenizer.json"), b"{", 1 << 40);
    says(Tokenizer::open(dir.path()).err(), &["tokenizer.json", "1024.0 GiB", "a smaller file"]);
}

#[test]
fn a_tensor_that_is_widened_beyond_memory_is_refused() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let header =
        format!("{{\"t\":{{\"dtype\":\"F16\",\"shape\":[{}],\"data_offsets\":[0,{}]}}}}", 1_u64 << 39, 1_u64 << 40);
    let start = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
    sparse(&path, &start, start.len() as u64 + (1 << 40));
    let files = Checkpoint::open_file(&path).unwrap();
    says(files.tensor("t").unwrap().to_f32().err(), &["out of memory", "2048.0 GiB", "are free"]);
}

/// All samples are one micro-batch; at the end it says what memory was for.
#[test]
fn a_batch_of_more_samples_than_there_are_is_trained() {
    let _alone = alone();
    let output = tempfile::tempdir().unwrap();
    let test = std::env::current_exe().unwrap();
    let example = test.parent().unwrap().parent().unwrap().join("examples/train_qwen3_lora");
    let mut command = Command::new(example);
    command.args(["--device", "cpu", "--use-4bit", "--packing", "--batch-size", "1000000", "--max-steps", "1"]);
    let done = command.arg("--output").arg(output.path().join("adapter")).output().unwrap();
    let (said, errors) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{errors}");
    let peak = said.lines().find(|line| line.starts_with("peak memory")).expect("a line about memory");
    assert!(peak.contains("iB in buffers"), "{peak}");
    assert_eq!(peak.contains("in all, mapped files included"), host::process_peak().is_some(), "{peak}");
}
