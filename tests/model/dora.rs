//! DoRA beside what the goldens of `peft.rs` say of it: how it begins, answers, and goes with every way to hold a
//! base.
use crate::common::{
    close::relative_norm,
    golden::Golden,
    tiny::{load, logits_tolerance, open_adapter, samples, train_like_peft},
};
use half::bf16;
use halfbyte::{Backend, Float};
use halfbyte_runtime::{
    batch::Batch,
    checkpoint::Checkpoint,
    lora::{Adapter, LoraConfig, Targets},
    model::{Activations, CacheType, Decoder, DropoutSeed, ForwardContext, Keep, Qwen3, SampleOptions},
    train::{
        packing::Step,
        schedule::{Schedule, ScheduleKind, Warmup},
        trainer::{OptimizerOptions, Trainer, TrainerOptions},
    },
};

/// A new one of all layers.
fn new_adapter(
    golden: &Golden,
    base: &str,
    targets: Targets,
    config: &halfbyte_runtime::config::Qwen3Config,
) -> Adapter {
    let mut lora = LoraConfig::new(8, 16.0, targets);
    lora.use_dora = true;
    Adapter::init(lora, config, &Checkpoint::open(&golden.dir(base)).unwrap(), 0).unwrap()
}

fn logits<B: Backend, T: Float>(
    backend: &B,
    model: &Qwen3<B, T>,
    adapter: Option<&Adapter>,
    prompts: &[Vec<u32>],
) -> Vec<f32> {
    let adapter = adapter.map(|adapter| model.adapt(backend, adapter).unwrap());
    let ctx = ForwardContext::new(backend, adapter.as_ref());
    let batch = Batch::of_prompts(prompts);
    let mut acts = Activations::new(ctx, model, batch.n_tokens(), Keep::Nothing).unwrap();
    model.logits(ctx, &mut acts, &batch).unwrap()
}

fn prompts(golden: &Golden) -> Vec<Vec<u32>> {
    samples(golden).into_iter().map(|sample| sample.ids).collect()
}

/// The norms of the decoded rows, which PEFT's magnitudes begin as, too.
fn magnitudes_begin_as_in_peft<B: Backend>(backend: &B) {
    let golden = Golden::open();
    for base in ["untied-nf4-dq", "untied-fp4-dq"] {
        let model = load::<B, f32>(backend, &golden, base);
        let names = ["q_proj", "o_proj", "down_proj"].map(str::to_owned).to_vec();
        let mut adapter = new_adapter(&golden, base, Targets::Names(names), &model.config);
        model.measure(backend, &mut adapter).unwrap();
        assert_eq!(adapter.layers.len(), 6);
        for layer in &adapter.layers {
            let module = layer.target.module;
            let name = format!("train.{base}.dora.init.base_model.model.{module}.lora_magnitude_vector.default.weight");
            let error = relative_norm(&layer.magnitude, &golden.floats(&name));
            // Sums of up to 128 squares in f32.
            assert!(error <= 1e-6, "{base}: {module}: relative error {error:e}");
        }
    }
}

/// However the base is held: as one weight or as several, in 4 bits or not.
fn a_new_adapter_changes_nothing<B: Backend>(backend: &B) {
    let golden = Golden::open();
    for base in ["tied", "untied", "untied-nf4", "untied-fp4-dq"] {
        let model = load::<B, f32>(backend, &golden, base);
        let mut adapter = new_adapter(&golden, base, Targets::AllLinear, &model.config);
        model.measure(backend, &mut adapter).unwrap();
        let prompts = prompts(&golden);
        let (got, want) = (logits(backend, &model, Some(&adapter), &prompts), logits(backend, &model, None, &prompts));
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert!((got - want).abs() <= logits_tolerance(backend), "{base}: logit {i} is {got}, expected {want}");
        }
        // Twice the magnitude is twice the output.
        adapter.layers.iter_mut().flat_map(|layer| &mut layer.magnitude).for_each(|m| *m *= 2.0);
        let louder = logits(backend, &model, Some(&adapter), &prompts);
        assert!(louder.iter().zip(&want).any(|(a, b)| (a - b).abs() > 0.1), "{base}: magnitudes have no effect");
    }
}

/// Token by token as all at once.
fn tokens_are_those_of_the_logits<B: Backend>(backend: &B) {
    let golden = Golden::open();
    let model = load::<B, f32>(backend, &golden, "untied");
    let adapter = open_adapter(&golden, "dora", &model.config);
    let device = model.adapt(backend, &adapter).unwrap();
    let ctx = ForwardContext::new(backend, Some(&device));
    let mut prompt = prompts(&golden).remove(0);
    let mut decoder = Decoder::new(&model, ctx, 1, 40, 256, SampleOptions::GREEDY, CacheType::Plain).unwrap();
    let mut token = decoder.prefill(std::slice::from_ref(&prompt)).unwrap()[0];
    for step in 0..8 {
        let all = logits(backend, &model, Some(&adapter), std::slice::from_ref(&prompt));
        let last = &all[all.len() - model.config.vocab_size..];
        let best = (0..last.len()).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
        assert_eq!(token as usize, best, "token {step}");
        prompt.push(token);
        token = decoder.step().unwrap()[0];
    }
}

fn trainer<'m, B: Backend, T: Float>(
    backend: &'m B,
    model: &'m Qwen3<B, T>,
    adapter: &Adapter,
    capacity: usize,
) -> halfbyte_runtime::Result<Trainer<'m, B, T>> {
    let schedule = Schedule::new(ScheduleKind::Constant, 1e-2, Warmup::Steps(0), 9)?;
    let (kept, optimizer) = (Keep::Everything.into(), OptimizerOptions::default());
    Trainer::new(backend, model, adapter, TrainerOptions::new(capacity, schedule).kept(kept).optimizer(optimizer))
}

/// In bf16, where the norms follow every step: a trainer that takes over an adapter goes on as the one that had it.
fn norms_follow_the_adapter<B: Backend>(backend: &B) {
    let golden = Golden::open();
    let model = load::<B, bf16>(backend, &golden, "untied-nf4-dq");
    let mut adapter = new_adapter(&golden, "untied-nf4-dq", Targets::AllLinear, &model.config);
    model.measure(backend, &mut adapter).unwrap();
    let batch = Batch::new(&samples(&golden));
    let (capacity, n_targets) = (batch.n_tokens(), batch.n_targets());
    let mut step = Step { micro_batches: vec![batch], n_targets, ..Step::default() };
    let mut first = trainer(backend, &model, &adapter, capacity).unwrap();
    let losses: Vec<_> = (0..3)
        .map(|index| {
            step.index = index;
            first.step(&step).unwrap().loss
        })
        .collect();
    assert!(losses[2] < losses[0], "{losses:?}");
    let (learnt, state) = (first.adapter().unwrap().clone(), first.state().unwrap());
    let moved = learnt.layers.iter().zip(&adapter.layers).all(|(now, then)| now.magnitude != then.magnitude);
    assert!(moved, "magnitudes were not trained");
    let mut second = trainer(backend, &model, &adapter, capacity).unwrap();
    second.load(&learnt).unwrap();
    second.restore(&state).unwrap();
    step.index = 3;
    let (a, b) = (first.step(&step).unwrap(), second.step(&step).unwrap());
    assert_eq!((a.loss.to_bits(), a.grad_norm.to_bits()), (b.loss.to_bits(), b.grad_norm.to_bits()));
    assert!(first.adapter().unwrap() == second.adapter().unwrap());
}

fn what_is_not_supported_is_refused<B: Backend>(backend: &B) {
    let golden = Golden::open();
    let model = load::<B, f32>(backend, &golden, "untied");
    let mut adapter = new_adapter(&golden, "untied", Targets::AllLinear, &model.config);
    let error = model.adapt(backend, &adapter).expect_err("magnitudes are missing").to_string();
    assert!(error.contains("model.layers.0.self_attn.q_proj has 0 magnitudes, not 128"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    assert!(adapter.save(dir.path()).is_err(), "saved without magnitudes");
    model.measure(backend, &mut adapter).unwrap();
    let device = model.adapt(backend, &adapter).unwrap();
    let (ctx, batch) = (ForwardContext::new(backend, Some(&device)), Batch::new(&samples(&golden)));
    let mut acts = Activations::new(ctx, &model, batch.n_tokens(), Keep::Residual).unwrap();
    let dropout = Some(DropoutSeed { p: 0.1, seed: 0, micro_batch: 0 });
    let error = model.forward(ForwardContext { dropout, ..ctx }, &mut acts, &batch).expect_err("no room").to_string();
    assert!(error.contains("dropout") && error.contains("a DoRA adapter without"), "{error}");
}

/// With its masks, and the layer's own product of what they leave; LoRA beside, whose masks they are.
fn dropout_is_that_of_peft<B: Backend>(backend: &B) {
    for (case, base) in [("lora", "untied"), ("dora", "untied"), ("dora-4bit", "untied-nf4-dq")] {
        for keep in [Keep::Everything, Keep::AllButMlp, Keep::Residual, Keep::Host] {
            train_like_peft(backend, &Golden::of_dropout(), case, base, keep);
        }
    }
}

/// Masks are functions of the place and the micro-batch: a run goes on with the same bits. Evaluation has none.
fn dropout_goes_on<B: Backend>(backend: &B) {
    let golden = Golden::open();
    let model = load::<B, bf16>(backend, &golden, "untied-nf4-dq");
    let mut adapter = new_adapter(&golden, "untied-nf4-dq", Targets::AllLinear, &model.config);
    adapter.config.dropout = 0.1;
    model.measure(backend, &mut adapter).unwrap();
    let (samples, batch) = (samples(&golden), Batch::new(&samples(&golden)));
    let (capacity, n_targets) = (batch.n_tokens(), batch.n_targets());
    let mut step = Step { micro_batches: vec![batch.clone(), batch], n_targets: 2 * n_targets, ..Step::default() };
    let mut first = trainer(backend, &model, &adapter, capacity).unwrap();
    assert_eq!(first.evaluate(&samples).unwrap(), first.evaluate(&samples).unwrap());
    let before = first.evaluate(&samples).unwrap();
    first.step(&step).unwrap();
    let (learnt, state) = (first.adapter().unwrap().clone(), first.state().unwrap());
    let mut second = trainer(backend, &model, &learnt, capacity).unwrap();
    second.restore(&state).unwrap();
    step.index = 1;
    let (a, b) = (first.step(&step).unwrap(), second.step(&step).unwrap());
    assert_eq!((a.loss.to_bits(), a.grad_norm.to_bits()), (b.loss.to_bits(), b.grad_norm.to_bits()));
    assert!(first.adapter().unwrap() == second.adapter().unwrap());
    assert!(first.evaluate(&samples).unwrap() < before);
}

crate::backends!(
    magnitudes_begin_as_in_peft,
    a_new_adapter_changes_nothing,
    tokens_are_those_of_the_logits,
    norms_follow_the_adapter,
    what_is_not_supported_is_refused,
    dropout_is_that_of_peft,
    dropout_goes_on,
);
