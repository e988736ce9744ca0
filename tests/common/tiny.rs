//! The tiny random Qwen3 of the goldens, and comparisons with what transformers and PEFT made of it.
use super::{close::relative_norm, golden::Golden};
use halfbyte::{Backend, Float};
use halfbyte_runtime::{
    batch::{Batch, Sample},
    checkpoint::Checkpoint,
    config::{Module, Qwen3Config},
    export::{AdapterSettings, MergeSettings},
    lora::{Adapter, LoraWeights},
    model::{Activations, Base, CacheType, Decoder, ForwardContext, Keep, LossBuffers, Qwen3, SampleOptions},
    train::{
        packing::Step,
        schedule::{Schedule, ScheduleKind, Warmup},
        trainer::{OptimizerOptions, Trainer, TrainerOptions},
    },
};
use std::path::Path;

/// Largest difference of f32 logits: sums in another order on the CPU, further ones on the GPU.
pub fn logits_tolerance<B: Backend>(backend: &B) -> f32 {
    if backend.name().starts_with("cpu") { 2e-4 } else { 1e-3 }
}

pub fn load<B: Backend, T: Float>(backend: &B, golden: &Golden, name: &str) -> Qwen3<B, T> {
    load_from(backend, &golden.dir(name))
}

pub fn load_from<B: Backend, T: Float>(backend: &B, dir: &Path) -> Qwen3<B, T> {
    let config = Qwen3Config::open(dir).unwrap();
    Qwen3::load(backend, &Checkpoint::open(dir).unwrap(), &config, Base::Unquantized).unwrap()
}

/// The checkpoint of a folder with an adapter merged into it.
pub fn load_merged<B: Backend>(backend: &B, base: &Path, adapter: &Path) -> Qwen3<B, f32> {
    let out = tempfile::tempdir().unwrap();
    let model_name = base.to_str().unwrap().into();
    let settings = MergeSettings { model_name, ..MergeSettings::new(AdapterSettings::one(adapter), out.path()) };
    settings.run(&mut ()).unwrap().expect("nobody broke off");
    load_from(backend, out.path())
}

pub fn open_adapter(golden: &Golden, name: &str, config: &Qwen3Config) -> Adapter {
    Adapter::open(&golden.dir(&format!("adapter-{name}")), config).unwrap().0
}

/// The golden batch: two sequences of 24 and 18 tokens; the first 6 tokens of each are not trained.
pub fn samples(golden: &Golden) -> Vec<Sample> {
    let (ids, mask, labels) = (golden.ints("ids"), golden.ints("mask_right"), golden.ints("labels"));
    let row = |r: usize| {
        let len = mask[r * 24..(r + 1) * 24].iter().sum::<i64>() as usize;
        Sample {
            ids: ids[r * 24..r * 24 + len].iter().map(|&id| id as u32).collect(),
            mask: labels[r * 24..r * 24 + len].iter().map(|&label| label >= 0).collect(),
        }
    };
    vec![row(0), row(1)]
}

pub fn check_logits<B: Backend>(
    backend: &B,
    golden: &Golden,
    tag: &str,
    model: &Qwen3<B, f32>,
    adapter: Option<&Adapter>,
) {
    let adapter = adapter.map(|adapter| model.adapt(backend, adapter).unwrap());
    let ctx = ForwardContext::new(backend, adapter.as_ref());
    let batch = Batch::new(&samples(golden));
    let mut acts = Activations::new(ctx, model, batch.n_tokens(), Keep::Nothing).unwrap();
    let got = model.logits(ctx, &mut acts, &batch).unwrap();
    let want = golden.floats(&format!("{tag}.logits"));
    let vocab = model.config.vocab_size;
    // The golden has 24 rows for each sequence, padding included.
    let rows = (0..24).chain(24..42);
    let tolerance = logits_tolerance(backend);
    for (row, got) in rows.zip(got.chunks_exact(vocab)) {
        for (column, (got, want)) in got.iter().zip(&want[row * vocab..]).enumerate() {
            let error = (got - want).abs();
            assert!(error <= tolerance, "{tag}: logit [{row}, {column}] is {got}, expected {want}");
        }
    }
    let mut buffers = LossBuffers::new(backend, model, batch.n_targets()).unwrap();
    let losses = model.target_losses(ctx, &mut acts, &mut buffers, &batch).unwrap();
    let loss = losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len() as f64;
    let want = f64::from(golden.floats(&format!("{tag}.loss"))[0]);
    assert!((loss / want - 1.0).abs() <= 1e-5, "{tag}: loss {loss}, expected {want}");
}

/// The adapter of golden `case` on checkpoint `base`: logits and greedy tokens as it is, logits merged; the merged model.
pub fn check_adapter<B: Backend>(backend: &B, golden: &Golden, case: &str, base: &str) -> Qwen3<B, f32> {
    let bases = Golden::open();
    let model = load::<B, f32>(backend, &bases, base);
    let adapter = open_adapter(golden, case, &model.config);
    check_logits(backend, golden, case, &model, Some(&adapter));
    check_greedy(backend, golden, case, &model, Some(&adapter));
    let merged = load_merged(backend, &bases.dir(base), &golden.dir(&format!("adapter-{case}")));
    check_logits(backend, golden, case, &merged, None);
    merged
}

pub fn check_greedy<B: Backend>(
    backend: &B,
    golden: &Golden,
    tag: &str,
    model: &Qwen3<B, f32>,
    adapter: Option<&Adapter>,
) {
    let adapter = adapter.map(|adapter| model.adapt(backend, adapter).unwrap());
    let ctx = ForwardContext::new(backend, adapter.as_ref());
    let prompts: Vec<Vec<u32>> = samples(golden).into_iter().map(|sample| sample.ids).collect();
    let mut decoder = Decoder::new(model, ctx, 2, 40, 256, SampleOptions::GREEDY, CacheType::Plain).unwrap();
    let mut got = vec![Vec::new(); 2];
    let mut tokens = decoder.prefill(&prompts).unwrap();
    for step in 0..12 {
        if step > 0 {
            tokens = decoder.step().unwrap();
        }
        got.iter_mut().zip(&tokens).for_each(|(row, &token)| row.push(i64::from(token)));
    }
    assert_eq!(got.concat(), golden.ints(&format!("{tag}.greedy_left")), "{tag}: greedy tokens");
}

/// As the goldens were trained.
pub fn trainer_options(capacity: usize, keep: Keep) -> TrainerOptions {
    let optimizer = OptimizerOptions::default().weight_decay(0.01).max_grad_norm(0.3);
    let schedule = Schedule::new(ScheduleKind::Constant, 1e-2, Warmup::Steps(0), 5).unwrap();
    TrainerOptions::new(capacity, schedule).kept(keep.into()).optimizer(optimizer)
}

/// The step that trains on these.
pub fn step(samples: &[Sample]) -> Step {
    let batch = Batch::new(samples);
    let n_targets = batch.n_targets();
    Step { micro_batches: vec![batch], n_targets, ..Step::default() }
}

/// Compares every tensor with PEFT's of the same name.
fn assert_tensors(golden: &Golden, got: &Adapter, part: &str) {
    let check = |name: &str, got: &[f32]| {
        let error = relative_norm(got, &golden.floats(&format!("{part}.base_model.model.{name}")));
        assert!(error <= 1e-4, "{part}: relative error {error:e} of {name}");
    };
    for layer in &got.layers {
        let module = layer.target.module;
        let [a, b] = match module {
            Module::Embedding => ["lora_embedding_A", "lora_embedding_B"],
            _ => ["lora_A.weight", "lora_B.weight"],
        };
        check(&format!("{module}.{a}"), &layer.a);
        check(&format!("{module}.{b}"), &layer.b);
        if !layer.magnitude.is_empty() {
            check(&format!("{module}.lora_magnitude_vector.weight"), &layer.magnitude);
        }
    }
    for rows in &got.tokens {
        check(&format!("{}.token_adapter.trainable_tokens_delta", rows.table), &rows.weight);
    }
}

/// Gradients, losses and outcome of the five steps that PEFT took.
pub fn train_like_peft<B: Backend>(backend: &B, golden: &Golden, case: &str, base: &str, keep: Keep) {
    let model = load::<B, f32>(backend, &Golden::open(), base);
    let adapter = open_adapter(golden, case, &model.config);
    let mut step = step(&samples(golden));
    let options = trainer_options(step.micro_batches[0].n_tokens(), keep);
    let mut trainer = Trainer::new(backend, &model, &adapter, options).unwrap();
    let of = |layer: &LoraWeights| layer.a.len() + layer.b.len() + layer.magnitude.len();
    let numbers = adapter.layers.iter().map(of).sum::<usize>();
    assert_eq!(trainer.n_trainable(), numbers + adapter.tokens.iter().map(|rows| rows.weight.len()).sum::<usize>());
    for (i, want) in golden.floats(&format!("{case}.losses5")).into_iter().enumerate() {
        step.index = i as u64;
        let report = trainer.step(&step).unwrap();
        let error = (report.loss / f64::from(want) - 1.0).abs();
        assert!(error <= 1e-5, "{case}: loss of step {i} is {}, expected {want}", report.loss);
        if i == 0 {
            assert_tensors(golden, &trainer.gradients().unwrap(), &format!("{case}.grad"));
            let want = f64::from(golden.floats(&format!("{case}.gradnorm"))[0]);
            assert!((report.grad_norm / want - 1.0).abs() <= 1e-4, "{case}: gradient norm {}", report.grad_norm);
        }
    }
    assert_tensors(golden, trainer.adapter().unwrap(), &format!("{case}.after5"));
}

/// Mean loss of the golden samples.
pub fn loss<B: Backend, T: Float>(backend: &B, model: &Qwen3<B, T>, adapter: &Adapter, samples: &[Sample]) -> f64 {
    let adapter = model.adapt(backend, adapter).unwrap();
    let (ctx, batch) = (ForwardContext::new(backend, Some(&adapter)), Batch::new(samples));
    let mut acts = Activations::new(ctx, model, batch.n_tokens(), Keep::Nothing).unwrap();
    let mut buffers = LossBuffers::new(backend, model, batch.n_targets()).unwrap();
    let losses = model.target_losses(ctx, &mut acts, &mut buffers, &batch).unwrap();
    losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len() as f64
}
