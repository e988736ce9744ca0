//! The tiny random Qwen3 of the goldens, and comparisons with what transformers and PEFT made of it.
use super::golden::Golden;
use halfbyte::{Backend, Float};
use halfbyte_runtime::{
    batch::{Batch, Sample},
    checkpoint::Checkpoint,
    config::Qwen3Config,
    export::{AdapterSettings, MergeSettings},
    lora::Adapter,
    model::{Activations, Base, CacheType, Decoder, ForwardContext, Keep, LossBuffers, Qwen3, SampleOptions},
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
