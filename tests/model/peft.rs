//! The whole model against transformers, peft and bitsandbytes: `tests/data/golden/qwen3-tiny`.
use crate::common::{
    close::relative_norm,
    golden::Golden,
    tiny::{check_greedy, check_logits, load, load_merged, logits_tolerance, open_adapter, samples},
};
use half::bf16;
use halfbyte::Backend;
use halfbyte_runtime::{
    batch::{Batch, Branches, Sample},
    lora::Adapter,
    model::{Activations, CacheType, Decoder, ForwardContext, Gradients, Keep, LossBuffers, Qwen3, SampleOptions},
    train::{
        packing::Step,
        schedule::{Schedule, ScheduleKind, Warmup},
        trainer::{OptimizerOptions, Trainer, TrainerOptions},
    },
};
use std::ops::Range;

fn every_base_gives_the_logits_of_transformers<B: Backend>(backend: &B) {
    let golden = Golden::open();
    for tied in ["tied", "untied"] {
        for kind in ["", "-nf4-dq", "-nf4", "-fp4-dq"] {
            let tag = format!("{tied}{kind}");
            let model = load::<B, f32>(backend, &golden, &tag);
            check_logits(backend, &golden, &tag, &model, None);
            check_greedy(backend, &golden, &tag, &model, None);
        }
    }
    let model = load::<B, f32>(backend, &golden, "yarn");
    check_logits(backend, &golden, "yarn", &model, None);
}

fn every_adapter_gives_the_logits_of_peft<B: Backend>(backend: &B) {
    let golden = Golden::open();
    let model = load::<B, f32>(backend, &golden, "untied");
    for name in ["plain", "rslora", "dora", "regex", "patterns", "save_head"] {
        let adapter = open_adapter(&golden, name, &model.config);
        check_logits(backend, &golden, &format!("untied+{name}"), &model, Some(&adapter));
    }
    let plain = open_adapter(&golden, "plain", &model.config);
    check_greedy(backend, &golden, "untied+plain", &model, Some(&plain));
}

fn merged_adapters_give_the_logits_of_peft<B: Backend>(backend: &B) {
    let golden = Golden::open();
    for name in ["plain", "rslora", "dora", "regex", "patterns", "save_head"] {
        let model = load_merged(backend, &golden.dir("untied"), &golden.dir(&format!("adapter-{name}")));
        check_logits(backend, &golden, &format!("untied+{name}"), &model, None);
    }
}

/// The adapter that the golden run begins with or ends with, or its gradient.
fn golden_adapter(golden: &Golden, tag: &str, part: &str, like: &Adapter) -> Adapter {
    let mut adapter = like.clone();
    for layer in &mut adapter.layers {
        let name = |of: &str| format!("{tag}.{part}.base_model.model.{}.lora_{of}.default.weight", layer.target.module);
        (layer.a, layer.b) = (golden.floats(&name("A")), golden.floats(&name("B")));
        if like.config.use_dora {
            layer.magnitude = golden.floats(&name("magnitude_vector"));
        }
    }
    adapter
}

fn assert_same_tensors(got: &Adapter, want: &Adapter, tolerance: f64, what: &str) {
    for (got, want) in got.layers.iter().zip(&want.layers) {
        let magnitudes = ("magnitude", &got.magnitude, &want.magnitude);
        for (part, got, want_part) in [("A", &got.a, &want.a), ("B", &got.b, &want.b), magnitudes] {
            let error = relative_norm(got, want_part);
            assert!(error <= tolerance, "{what}: {} of {}: relative error {error:e}", part, want.target.module);
        }
    }
}

fn training_equals_peft<B: Backend>(backend: &B) {
    for keep in [Keep::Everything, Keep::AllButMlp, Keep::Residual, Keep::Host] {
        for base in ["untied-nf4-dq", "untied-fp4-dq"] {
            train_like_golden(backend, base, "plain", keep);
            train_like_golden(backend, base, "dora", keep);
        }
    }
}

fn train_like_golden<B: Backend>(backend: &B, base: &str, name: &str, keep: Keep) {
    let golden = Golden::open();
    let tag = format!("train.{base}.{name}");
    let model = load::<B, f32>(backend, &golden, base);
    let adapter = golden_adapter(&golden, &tag, "init", &open_adapter(&golden, name, &model.config));
    let batch = Batch::new(&samples(&golden));
    let optimizer = OptimizerOptions::default().weight_decay(0.01).max_grad_norm(0.3);
    let schedule = Schedule::new(ScheduleKind::Constant, 1e-3, Warmup::Steps(0), 5).unwrap();
    let (capacity, kept) = (batch.n_tokens(), keep.into());
    let options = TrainerOptions::new(capacity, schedule).kept(kept).optimizer(optimizer);
    let mut trainer = Trainer::new(backend, &model, &adapter, options).unwrap();
    let n_targets = batch.n_targets();
    let mut step = Step { micro_batches: vec![batch], n_targets, ..Step::default() };
    for (i, want) in golden.floats(&format!("{tag}.losses5")).into_iter().enumerate() {
        step.index = i as u64;
        let report = trainer.step(&step).unwrap();
        let error = (report.loss / f64::from(want) - 1.0).abs();
        assert!(error <= 1e-5, "{tag}: loss of step {i} is {}, expected {want}", report.loss);
        if i == 0 {
            let want = golden_adapter(&golden, &tag, "grad", &adapter);
            assert_same_tensors(&trainer.gradients().unwrap(), &want, 1e-4, "gradient");
            let want = f64::from(golden.floats(&format!("{tag}.gradnorm"))[0]);
            assert!((report.grad_norm / want - 1.0).abs() <= 1e-4, "{tag}: gradient norm {}", report.grad_norm);
        }
    }
    let want = golden_adapter(&golden, &tag, "after5", &adapter);
    assert_same_tensors(trainer.adapter().unwrap(), &want, 1e-4, "adapter after five steps");
}

fn bf16_loss_is_within_a_percent<B: Backend>(backend: &B) {
    let golden = Golden::open();
    for tag in ["untied", "untied-nf4-dq", "tied-fp4-dq"] {
        let model = load::<B, bf16>(backend, &golden, tag);
        let batch = Batch::new(&samples(&golden));
        let ctx = ForwardContext::new(backend, None);
        let mut acts = Activations::new(ctx, &model, batch.n_tokens(), Keep::Nothing).unwrap();
        let mut buffers = LossBuffers::new(backend, &model, batch.n_targets()).unwrap();
        let losses = model.target_losses(ctx, &mut acts, &mut buffers, &batch).unwrap();
        let loss = losses.iter().sum::<f32>() / losses.len() as f32;
        let want = golden.floats(&format!("{tag}.loss"))[0];
        assert!((loss / want - 1.0).abs() <= 0.01, "{tag}: bf16 loss {loss}, expected {want}");
    }
}

/// Losses of each option after its prompt, each computed with the whole prompt before it.
fn losses_alone<B: Backend>(model: &Qwen3<B, f32>, ctx: ForwardContext<'_, B, f32>, branches: &Branches) -> Vec<f32> {
    let alone = |option: &Vec<u32>| Sample {
        ids: [branches.prompt.as_slice(), option].concat(),
        mask: [vec![false; branches.prompt.len()], vec![true; option.len()]].concat(),
    };
    let batch = Batch::new(&branches.options.iter().map(alone).collect::<Vec<_>>());
    let mut acts = Activations::new(ctx, model, batch.n_tokens(), Keep::Nothing).unwrap();
    let mut buffers = LossBuffers::new(ctx.backend, model, batch.n_targets()).unwrap();
    model.target_losses(ctx, &mut acts, &mut buffers, &batch).unwrap()
}

fn options_after_a_shared_prompt_score_as_alone<B: Backend>(backend: &B) {
    let golden = Golden::open();
    let model = load::<B, f32>(backend, &golden, "untied-nf4-dq");
    let adapter = model.adapt(backend, &open_adapter(&golden, "plain", &model.config)).unwrap();
    let ctx = ForwardContext::new(backend, Some(&adapter));
    let ids = |range: Range<u32>| range.map(|i| i * 37 % 251).collect::<Vec<_>>();
    let branches = |prompt, options: &[Range<u32>]| Branches {
        prompt: ids(prompt),
        options: options.iter().cloned().map(ids).collect(),
    };
    let all = [
        branches(0..70, &[70..75, 80..81, 90..140]),
        branches(5..6, &[7..9, 1..3]),
        branches(20..22, &[3..4, 4..5, 5..6, 6..7]),
    ];
    let batch = Batch::of_branches(&all);
    assert_eq!(batch.n_tokens(), all.iter().map(Branches::n_tokens).sum::<usize>());
    let mut acts = Activations::new(ctx, &model, batch.n_tokens(), Keep::Residual).unwrap();
    let mut buffers = LossBuffers::new(backend, &model, batch.n_targets()).unwrap();
    let got = model.target_losses(ctx, &mut acts, &mut buffers, &batch).unwrap();
    let want: Vec<_> = all.iter().flat_map(|branches| losses_alone(&model, ctx, branches)).collect();
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        let error = (got - want).abs();
        assert!(error <= 2.0 * logits_tolerance(backend), "loss {i} is {got}, alone {want}");
    }
    let mut grads = Gradients::new(ctx, &model, batch.n_tokens()).unwrap();
    assert_says(&refusal(model.backward(ctx, &mut acts, &mut grads)), &["whole sequences"]);
}

/// The error's text.
fn refusal<T>(outcome: halfbyte_runtime::Result<T>) -> String {
    outcome.err().expect("it was not refused").to_string()
}

fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "the message lacks {part:?}: {message}");
    }
}

fn a_decoder_ends_at_its_capacity<B: Backend>(backend: &B) {
    let golden = Golden::open();
    let model = load::<B, f32>(backend, &golden, "tied");
    let ctx = ForwardContext::new(backend, None);
    let mut decoder = Decoder::new(&model, ctx, 2, 6, 256, SampleOptions::GREEDY, CacheType::Plain).unwrap();
    assert_says(&refusal(decoder.step()), &["must run a prompt"]);
    let prompts = [vec![1, 2, 3], vec![4, 5, 6, 7]];
    for _ in 0..2 {
        decoder.prefill(&prompts).unwrap();
        // Positions 4 and 5 of the longer sequence.
        decoder.step().unwrap();
        decoder.step().unwrap();
        assert_says(&refusal(decoder.step()), &["position of the next token is 6", "room for 6"]);
    }
}

/// Greedy continuations of the prompts.
fn write<B: Backend>(model: &Qwen3<B, f32>, backend: &B, prompts: &[Vec<u32>], kind: CacheType) -> Vec<Vec<u32>> {
    let (ctx, n) = (ForwardContext::new(backend, None), prompts.len());
    let mut decoder = Decoder::new(model, ctx, n, 3010, 256, SampleOptions::GREEDY, kind).unwrap();
    let first = decoder.prefill(prompts).unwrap();
    let steps: Vec<_> = [first].into_iter().chain((0..8).map(|_| decoder.step().unwrap())).collect();
    (0..n).map(|i| steps.iter().map(|tokens| tokens[i]).collect()).collect()
}

/// The second prompt is cut where the first part is full.
fn prompts_run_in_parts_go_on_as_alone<B: Backend>(backend: &B) {
    let golden = Golden::open();
    let model = load::<B, f32>(backend, &golden, "tied-nf4-dq");
    let prompts: Vec<Vec<u32>> = [3000, 2500, 5].map(|n| (0..n).map(|i| i * i % 251).collect()).to_vec();
    let write = |prompts: &[Vec<u32>]| write(&model, backend, prompts, CacheType::Plain);
    let alone: Vec<_> = prompts.iter().flat_map(|prompt| write(std::slice::from_ref(prompt))).collect();
    assert_eq!(write(&prompts), alone);
}

/// A prompt that is cut at the same place goes on in the same way, whichever sequence it is; and these as with a plain
/// cache.
fn prompts_go_on_from_a_cache_in_8_bits<B: Backend>(backend: &B) {
    let golden = Golden::open();
    let model = load::<B, f32>(backend, &golden, "tied-nf4-dq");
    let prompt = |n: u32, by: u32| (0..n).map(|i| i * (i + by) % 251).collect::<Vec<_>>();
    let last = prompt(2500, 0);
    let second = [prompt(3000, 1), last.clone()];
    let third = [prompt(1400, 1), prompt(1600, 2), last];
    let [second, third] = [&second[..], &third].map(|prompts| write(&model, backend, prompts, CacheType::Int8));
    assert_eq!(second[1], third[2]);
    let plain = write(&model, backend, &[prompt(3000, 1), prompt(2500, 0)], CacheType::Plain);
    assert_eq!(second, plain);
}

fn tokens_that_the_model_has_not_are_refused<B: Backend>(backend: &B) {
    let golden = Golden::open();
    let model = load::<B, f32>(backend, &golden, "tied");
    let vocab = model.config.vocab_size as u32;
    let ctx = ForwardContext::new(backend, None);
    let mut acts = Activations::new(ctx, &model, 16, Keep::Nothing).unwrap();
    let batch = |edit: fn(&mut Batch, u32), to: u32| {
        let sample = |ids: &[u32]| Sample { ids: ids.to_vec(), mask: vec![true; ids.len()] };
        let mut batch = Batch::new(&[sample(&[1, 2]), sample(&[3, 4, 5])]);
        edit(&mut batch, to);
        batch
    };
    let mut forward = |batch: &Batch| model.forward(ctx, &mut acts, batch);
    forward(&batch(|batch, id| batch.ids[4] = id, vocab - 1)).unwrap();
    let message = refusal(forward(&batch(|batch, id| batch.ids[4] = id, vocab)));
    let ids = format!("the model has {vocab} ids");
    assert_says(&message, &[&format!("a token id is {vocab} (token 2 of sequence 1)"), &ids, "tokenizer"]);
    let message = refusal(forward(&batch(|batch, id| batch.labels[0] = id, u32::MAX - 1)));
    assert_says(&message, &["a target is 4294967294 (token 0 of sequence 0)", &ids]);
    let most = model.config.max_position_embeddings as u32;
    let message = refusal(forward(&batch(|batch, position| batch.positions[3] = position, most)));
    assert_says(&message, &[&format!("a token's position is {most} (token 1 of sequence 1)")]);
    let message = refusal(forward(&batch(|batch, end| batch.prefixes = vec![0..end; 40], 1)));
    assert_says(&message, &["prefixes is 40", "each of 2 sequences"]);
    let message = refusal(forward(&Batch::of_prompts(&[vec![1; 17]])));
    assert_says(&message, &["tokens is 17", "room for 16"]);

    let mut decoder = Decoder::new(&model, ctx, 2, 8, 256, SampleOptions::GREEDY, CacheType::Plain).unwrap();
    let message = refusal(decoder.prefill(&[vec![1, 2], vec![3, vocab]]));
    assert_says(&message, &[&format!("a token id is {vocab} (token 1 of sequence 1)"), &ids]);
}

/// What a forward pass takes beyond one layer's worth.
fn only_what_is_kept_takes_memory<B: Backend>(backend: &B) {
    let golden = Golden::open();
    let model = load::<B, bf16>(backend, &golden, "tied");
    let ctx = ForwardContext::new(backend, None);
    let bytes = |keep| Activations::new(ctx, &model, 16, keep).unwrap().bytes();
    let (layers, state) = (model.config.n_layers, 16 * model.config.hidden_size * size_of::<bf16>());
    let all = [Keep::Everything, Keep::AllButMlp, Keep::Residual, Keep::Host, Keep::Nothing];
    let [everything, but_mlp, residual, host, nothing] = all.map(bytes);
    // One state for all; one before each layer, one after the last and one before the MLP in hand; or three.
    assert_eq!(residual - nothing, (layers + 1) * state);
    assert_eq!(residual - host, (layers - 1) * state);
    assert!(everything > but_mlp && but_mlp > residual + (layers - 2) * state);
    let mut acts = Activations::new(ctx, &model, 16, Keep::Nothing).unwrap();
    model.forward(ctx, &mut acts, &Batch::of_prompts(&[vec![1, 2, 3]])).unwrap();
    let mut grads = Gradients::new(ctx, &model, 16).unwrap();
    assert_says(&refusal(model.backward(ctx, &mut acts, &mut grads)), &["keep is nothing"]);
}

/// The CUDA backend counts every byte. The CPU backend knows only what the whole process takes, which says nothing here.
#[test]
fn evaluation_takes_no_device_memory_of_its_own() {
    let Some(cuda) = crate::common::own_cuda() else { return };
    let golden = Golden::open();
    let model = load::<_, bf16>(&cuda, &golden, "untied-nf4-dq");
    let adapter = open_adapter(&golden, "plain", &model.config);
    let batch = Batch::new(&samples(&golden));
    let schedule = Schedule::new(ScheduleKind::Constant, 1e-3, Warmup::Steps(0), 1).unwrap();
    let options = TrainerOptions::new(batch.n_tokens(), schedule);
    let mut trainer = Trainer::new(&cuda, &model, &adapter, options).unwrap();
    let n_targets = batch.n_targets();
    trainer.step(&Step { micro_batches: vec![batch], n_targets, ..Step::default() }).unwrap();
    trainer.evaluate(&samples(&golden)).unwrap();
    let used = cuda.memory();
    assert_eq!(used.allocated, used.peak, "memory was taken for a while and given back");
}

crate::backends!(
    a_decoder_ends_at_its_capacity,
    prompts_run_in_parts_go_on_as_alone,
    prompts_go_on_from_a_cache_in_8_bits,
    tokens_that_the_model_has_not_are_refused,
    only_what_is_kept_takes_memory,
    options_after_a_shared_prompt_score_as_alone,
    every_base_gives_the_logits_of_transformers,
    every_adapter_gives_the_logits_of_peft,
    merged_adapters_give_the_logits_of_peft,
    training_equals_peft,
    bf16_loss_is_within_a_percent,
);
