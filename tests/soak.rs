//! Loading, training, generating and dropping, again and again on one backend: nothing grows, and every round gives the
//! same bits. `HALFBYTE_SOAK_SECONDS` for longer.
mod common;

use common::{cuda, root};
use halfbyte::{Backend, Cpu};
use halfbyte_runtime::{
    batch::Sample,
    checkpoint::Checkpoint,
    config::Qwen3Config,
    lora::{Adapter, LoraConfig, Targets},
    model::{Base, CacheType, Decoder, Qwen3, SampleOptions},
    train::{
        packing::{BatchOptions, Batcher, TrainLength},
        schedule::{Schedule, ScheduleKind, Warmup},
        trainer::{Trainer, TrainerOptions},
    },
};
use std::{
    fs,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

const SECONDS: u64 = 10;
/// Rounds after which caches, pools and scratch have grown to their size.
const WARM_UP: u32 = 20;

fn seconds() -> Duration {
    let asked = std::env::var("HALFBYTE_SOAK_SECONDS").ok();
    Duration::from_secs(asked.map_or(SECONDS, |n| n.parse().expect("HALFBYTE_SOAK_SECONDS is a number")))
}

/// What one round gives: an adapter after two steps, and tokens.
type Round = (Adapter, Vec<u32>);

fn round<B: Backend>(backend: &B) -> Round {
    let dir = root().join("tests/data/golden/qwen3-tiny/untied-nf4-dq");
    let (config, files) = (Qwen3Config::open(&dir).unwrap(), Checkpoint::open(&dir).unwrap());
    let model = Qwen3::<B, f32>::load(backend, &files, &config, Base::Unquantized).unwrap();
    let lora = LoraConfig::new(4, 8.0, Targets::AllLinear);
    let adapter = Adapter::init(lora, &config, &files, 1).unwrap();
    let samples: Vec<_> = (0..4)
        .map(|i| Sample { ids: (0..12).map(|j| (i * 31 + j * 7) % 250).collect(), mask: vec![true; 12] })
        .collect();
    let options = BatchOptions::new(2, 16, TrainLength::Steps(2)).seed(1);
    let trainer =
        TrainerOptions::new(24, Schedule::new(ScheduleKind::Constant, 1e-3, Warmup::Steps(0), 2).unwrap()).seed(1);
    let mut trainer = Trainer::new(backend, &model, &adapter, trainer).unwrap();
    for step in Batcher::new(&samples, options).unwrap().steps(0) {
        trainer.step(&step).unwrap();
    }
    let mut decoder =
        Decoder::new(&model, trainer.context(), 1, 24, 250, SampleOptions::GREEDY, CacheType::Plain).unwrap();
    let mut tokens = decoder.prefill(&[vec![1, 2, 3]]).unwrap();
    (0..8).for_each(|_| tokens.extend(decoder.step().unwrap()));
    drop(decoder);
    (trainer.adapter().unwrap().clone(), tokens)
}

/// Of this process: KiB of memory that is no file's, threads, open files.
fn held() -> Option<[usize; 3]> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let field = |name: &str| {
        let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
        rest.split_whitespace().next()?.parse().ok()
    };
    Some([field("RssAnon:")?, field("Threads:")?, fs::read_dir("/proc/self/fd").ok()?.count()])
}

fn soak<B: Backend>(backend: &B) {
    // What another soak of this process takes is not this one's.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let first = round(backend);
    (1..WARM_UP).for_each(|_| assert!(round(backend) == first, "a round of the warm-up differs from the first"));
    let (before, memory) = (held(), backend.memory().allocated);
    let (began, mut rounds) = (Instant::now(), 0);
    while began.elapsed() < seconds() {
        assert!(round(backend) == first, "round {rounds} differs from the first");
        rounds += 1;
    }
    assert_eq!(backend.memory().allocated, memory, "buffers were not given back");
    if let (Some(before), Some(after)) = (before, held()) {
        println!("{rounds} rounds on {}: memory, threads, files {before:?} before, {after:?} after", backend.name());
        // An allocator keeps pages; a leak of one small tensor in each round would be more.
        assert!(after[0] <= before[0] + 8 * 1024, "{} KiB more after {rounds} rounds", after[0] - before[0]);
        assert!(after[1] <= before[1] && after[2] <= before[2], "more threads or open files: {before:?}, {after:?}");
    }
}

#[test]
fn nothing_grows_on_the_cpu() {
    soak(&Cpu::new());
}

#[test]
fn nothing_grows_on_cuda() {
    let Some(cuda) = cuda() else { return };
    soak(cuda);
}
