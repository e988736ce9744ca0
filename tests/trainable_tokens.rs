//! Rows of the embedding and the head that an adapter trains, against PEFT: `tests/data/golden/trainable-tokens`.
mod common;

use common::{
    close::relative_norm,
    golden::Golden,
    tiny::{check_greedy, check_logits, load, load_merged, open_adapter, samples},
};
use half::bf16;
use halfbyte::{Backend, Float};
use halfbyte_runtime::{
    batch::{Batch, Sample},
    checkpoint::Checkpoint,
    config::Qwen3Config,
    lora::{Adapter, LoraConfig, Table, Targets, TrainableTokens},
    model::{Activations, ForwardContext, Keep, LossBuffers, Qwen3},
    train::{
        packing::Step,
        schedule::{Schedule, ScheduleKind, Warmup},
        trainer::{OptimizerOptions, Trainer, TrainerOptions},
    },
};

/// Each adapter of the goldens, and the checkpoint that it is for.
const CASES: [(&str, &str); 4] = [("tied", "tied"), ("untied", "untied"), ("both", "untied"), ("head", "untied")];

fn forward_equals_peft<B: Backend>(backend: &B) {
    let (golden, bases) = (Golden::of_trainable_tokens(), Golden::open());
    for (case, base) in CASES {
        let model = load::<B, f32>(backend, &bases, base);
        let adapter = open_adapter(&golden, case, &model.config);
        check_logits(backend, &golden, case, &model, Some(&adapter));
        check_greedy(backend, &golden, case, &model, Some(&adapter));
        let merged = load_merged(backend, &bases.dir(base), &golden.dir(&format!("adapter-{case}")));
        check_logits(backend, &golden, case, &merged, None);
    }
}

fn options(capacity: usize, keep: Keep) -> TrainerOptions {
    let optimizer = OptimizerOptions::default().weight_decay(0.01).max_grad_norm(0.3);
    let schedule = Schedule::new(ScheduleKind::Constant, 1e-2, Warmup::Steps(0), 5).unwrap();
    TrainerOptions::new(capacity, schedule).kept(keep.into()).optimizer(optimizer)
}

fn step(samples: &[Sample]) -> Step {
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
        check(&format!("{}.lora_A.weight", layer.target.module), &layer.a);
        check(&format!("{}.lora_B.weight", layer.target.module), &layer.b);
    }
    for rows in &got.tokens {
        check(&format!("{}.token_adapter.trainable_tokens_delta", rows.table), &rows.weight);
    }
}

fn train_like_peft<B: Backend>(backend: &B, case: &str, base: &str, keep: Keep) {
    let golden = Golden::of_trainable_tokens();
    let model = load::<B, f32>(backend, &Golden::open(), base);
    let adapter = open_adapter(&golden, case, &model.config);
    let mut step = step(&samples(&golden));
    let options = options(step.micro_batches[0].n_tokens(), keep);
    let mut trainer = Trainer::new(backend, &model, &adapter, options).unwrap();
    let numbers = adapter.layers.iter().map(|layer| layer.a.len() + layer.b.len()).sum::<usize>();
    assert_eq!(trainer.n_trainable(), numbers + adapter.tokens.iter().map(|rows| rows.weight.len()).sum::<usize>());
    for (i, want) in golden.floats(&format!("{case}.losses5")).into_iter().enumerate() {
        step.index = i as u64;
        let report = trainer.step(&step).unwrap();
        let error = (report.loss / f64::from(want) - 1.0).abs();
        assert!(error <= 1e-5, "{case}: loss of step {i} is {}, expected {want}", report.loss);
        if i == 0 {
            assert_tensors(&golden, &trainer.gradients().unwrap(), &format!("{case}.grad"));
            let want = f64::from(golden.floats(&format!("{case}.gradnorm"))[0]);
            assert!((report.grad_norm / want - 1.0).abs() <= 1e-4, "{case}: gradient norm {}", report.grad_norm);
        }
    }
    assert_tensors(&golden, trainer.adapter().unwrap(), &format!("{case}.after5"));
}

fn training_equals_peft<B: Backend>(backend: &B) {
    for (case, base) in CASES {
        train_like_peft(backend, case, base, Keep::Everything);
        train_like_peft(backend, case, base, Keep::Host);
    }
}

/// Mean loss of the golden samples.
fn loss<B: Backend, T: Float>(backend: &B, model: &Qwen3<B, T>, adapter: &Adapter, samples: &[Sample]) -> f64 {
    let adapter = model.adapt(backend, adapter).unwrap();
    let (ctx, batch) = (ForwardContext::new(backend, Some(&adapter)), Batch::new(samples));
    let mut acts = Activations::new(ctx, model, batch.n_tokens(), Keep::Nothing).unwrap();
    let mut buffers = LossBuffers::new(backend, model, batch.n_targets()).unwrap();
    let losses = model.target_losses(ctx, &mut acts, &mut buffers, &batch).unwrap();
    losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len() as f64
}

/// From the checkpoint's rows, which change nothing, through training, a folder and back, in a 4-bit base.
fn a_new_adapter_trains_its_rows_and_keeps_them<B: Backend>(backend: &B) {
    let bases = Golden::open();
    let samples = samples(&Golden::of_trainable_tokens());
    for name in ["tied-nf4-dq", "untied-nf4-dq"] {
        let model = load::<B, bf16>(backend, &bases, name);
        let files = Checkpoint::open(&bases.dir(name)).unwrap();
        let mut config = LoraConfig::new(8, 16.0, Targets::Names(vec!["v_proj".into()]));
        let plain = Adapter::init(config.clone(), &model.config, &files, 0).unwrap();
        config.trainable_tokens = match model.config.tie_word_embeddings {
            true => TrainableTokens::Ids(vec![203, 3]),
            false => TrainableTokens::from_text(r#"{"lm_head": [3, 251], "embed_tokens": [203]}"#).unwrap(),
        };
        let adapter = Adapter::init(config, &model.config, &files, 0).unwrap();
        let before = loss(backend, &model, &adapter, &samples);
        assert_eq!(before, loss(backend, &model, &plain, &samples), "{name}: rows of the checkpoint are its own");
        let step = step(&samples);
        let mut trainer =
            Trainer::new(backend, &model, &adapter, options(step.micro_batches[0].n_tokens(), Keep::Residual)).unwrap();
        trainer.step(&step).unwrap();
        let trained = trainer.adapter().unwrap();
        for (new, old) in trained.tokens.iter().zip(&adapter.tokens) {
            let hidden = model.config.hidden_size;
            let moved = new.weight.chunks(hidden).zip(old.weight.chunks(hidden)).map(|(new, old)| new != old);
            // Token 3 is never read and never a target, but it is a logit of every target.
            let is_logit = new.table == Table::Head || model.config.tie_word_embeddings;
            let want = new.ids.iter().map(|&id| id != 3 || is_logit);
            assert_eq!(moved.collect::<Vec<_>>(), want.collect::<Vec<_>>(), "{name}: {:?}", new.table);
        }
        let dir = tempfile::tempdir().unwrap();
        trained.save(dir.path()).unwrap();
        let (opened, _) = Adapter::open(dir.path(), &model.config).unwrap();
        assert!(opened.layers == trained.layers && opened.tokens == trained.tokens, "{name}: saved and opened again");
        let after = loss(backend, &model, &opened, &samples);
        // The head's products come in chunks of another size there, and may be summed in another order: in f32.
        let error = (after / trainer.evaluate(&samples).unwrap() - 1.0).abs();
        assert!(error <= 1e-6, "{name}: what the trainer has is what was saved, but for {error}");
        assert!(after < before, "{name}: {after} is no less than {before}");
    }
}

/// config.json says that they are one.
fn rows_of_a_tied_embedding_beside_another_head_are_refused<B: Backend>(backend: &B) {
    let bases = Golden::open();
    let dir = bases.dir("untied");
    let config = Qwen3Config { tie_word_embeddings: true, ..Qwen3Config::open(&dir).unwrap() };
    let files = Checkpoint::open(&dir).unwrap();
    let model = Qwen3::<B, f32>::load(backend, &files, &config, halfbyte_runtime::model::Base::Unquantized).unwrap();
    let mut lora = LoraConfig::new(8, 16.0, Targets::AllLinear);
    lora.trainable_tokens = TrainableTokens::Ids(vec![3]);
    let adapter = Adapter::init(lora, &config, &files, 0).unwrap();
    let error = model.adapt(backend, &adapter).expect_err("it was not refused").to_string();
    assert!(error.contains("trainable_token_indices") && error.contains("remove `lm_head.weight`"), "{error}");
}

backends!(
    forward_equals_peft,
    training_equals_peft,
    a_new_adapter_trains_its_rows_and_keeps_them,
    rows_of_a_tied_embedding_beside_another_head_are_refused,
);
