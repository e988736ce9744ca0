//! LoRA on the embedding and the output head: PEFT's figures, every way to hold a base, dropout, many tokens.
use crate::common::{
    close::relative_norm,
    golden::Golden,
    tiny::{check_adapter, load, loss, samples, step, train_like_peft, trainer_options},
};
use half::bf16;
use halfbyte::{Backend, Float, quant::Format};
use halfbyte_runtime::{
    batch::{Batch, Sample},
    checkpoint::Checkpoint,
    config::Module,
    lora::{Adapter, LoraConfig, LoraWeights, Targets},
    model::{Keep, Qwen3},
    train::{packing::Step, trainer::Trainer},
};

/// Each adapter of the goldens, and the checkpoint that it is for.
const CASES: [(&str, &str); 5] = [
    ("head", "untied"),
    ("tied-head", "tied"),
    ("embedding", "untied"),
    ("tied-embedding", "tied"),
    ("tied-both", "tied"),
];

/// As it is, and merged: a tied head becomes one of its own then.
fn forward_equals_peft<B: Backend>(backend: &B) {
    for (case, base) in CASES {
        let merged = check_adapter(backend, &Golden::of_ends(), case, base);
        assert!(!merged.config.tie_word_embeddings, "{case}");
    }
}

fn training_equals_peft<B: Backend>(backend: &B) {
    for (case, base) in CASES {
        for keep in [Keep::Everything, Keep::Host] {
            train_like_peft(backend, &Golden::of_ends(), case, base, keep);
        }
    }
}

/// A new adapter of these modules.
fn new_adapter<B: Backend, T: Float>(model: &Qwen3<B, T>, base: &str, targets: &str, dropout: f32) -> Adapter {
    let mut lora = LoraConfig::new(8, 16.0, Targets::from_text(targets));
    lora.dropout = dropout;
    Adapter::init(lora, &model.config, &Checkpoint::open(&Golden::open().dir(base)).unwrap(), 0).unwrap()
}

/// In bf16, on bases in 4 bits, also with the head so: nothing changes before the first step; what was trained is what was
/// saved, and is opened again.
fn a_new_adapter_begins_with_nothing_and_learns<B: Backend>(backend: &B) {
    let (golden, samples) = (Golden::open(), samples(&Golden::open()));
    let cases = [
        ("untied-nf4-dq", "lm_head"),
        ("tied-nf4-dq", "v_proj,lm_head,embed_tokens"),
        ("untied-nf4", "embed_tokens"),
        ("tied", "lm_head"),
    ];
    for (base, targets) in cases {
        let mut model = load::<B, bf16>(backend, &golden, base);
        if base == "tied" {
            model.quantize_head(backend, Format::Nf4, true).unwrap();
        }
        let adapter = new_adapter(&model, base, targets, 0.0);
        let plain = new_adapter(&model, base, "q_proj", 0.0);
        let before = loss(backend, &model, &adapter, &samples);
        assert_eq!(before, loss(backend, &model, &plain, &samples), "{base}: it changes something");
        let step = step(&samples);
        let options = trainer_options(step.micro_batches[0].n_tokens(), Keep::Residual);
        let mut trainer = Trainer::new(backend, &model, &adapter, options).unwrap();
        trainer.step(&step).unwrap();
        let trained = trainer.adapter().unwrap().clone();
        let moved = |(new, old): (&LoraWeights, &LoraWeights)| match old.target.module {
            Module::Embedding => new.a != old.a,
            _ => new.b != old.b,
        };
        assert!(trained.layers.iter().zip(&adapter.layers).all(moved), "{base}: what was zero has not moved");
        let dir = tempfile::tempdir().unwrap();
        trained.save(dir.path()).unwrap();
        let (opened, note) = Adapter::open(dir.path(), &model.config).unwrap();
        assert!(opened.layers == trained.layers && note.is_none(), "{base}: saved and opened again");
        let after = loss(backend, &model, &opened, &samples);
        // Sums in another order, of which a number that is rounded to bf16 may become its neighbour: where B reads it, that
        // moves what the adapter adds by so much of it.
        let error = (after - trainer.evaluate(&samples).unwrap()).abs();
        assert!(error <= (before - after) / 256.0, "{base}: what the trainer has is what was saved, but for {error}");
        assert!(after < before, "{base}: {after} is no less than {before}");
    }
}

/// More targets than fit one chunk of logits.
fn long_step() -> Step {
    step(&long_samples())
}

fn long_samples() -> Vec<Sample> {
    let ids: Vec<u32> = (0..120).map(|i| (i * 37 + 11) % 251).collect();
    let sample = |first: usize| {
        let ids: Vec<u32> = ids.iter().cycle().skip(first).take(110).copied().collect();
        Sample { mask: vec![true; ids.len()], ids }
    };
    vec![sample(0), sample(5), sample(17), sample(40)]
}

/// The directional derivative of the loss along the gradient, by central differences: with dropout,
/// whose masks must be the same there and back, and differ from chunk to chunk.
fn gradients_are_those_of_the_loss_with_dropout<B: Backend>(backend: &B) {
    let model = load::<B, f32>(backend, &Golden::open(), "untied");
    let step = long_step();
    let n = step.micro_batches[0].n_tokens();
    let mut adapter = new_adapter(&model, "untied", "embed_tokens,v_proj,lm_head", 0.25);
    for layer in &mut adapter.layers {
        let zeros = if layer.target.module == Module::Embedding { &mut layer.a } else { &mut layer.b };
        (0..).zip(zeros).for_each(|(i, x)| *x = 0.1 * (i as f32 * 0.7).sin());
    }
    let run = |adapter: &Adapter| {
        let mut trainer = Trainer::new(backend, &model, adapter, trainer_options(n, Keep::Residual)).unwrap();
        let loss = trainer.step(&step).unwrap().loss;
        (loss, trainer.gradients().unwrap())
    };
    let (_, gradient) = run(&adapter);
    let all = |layer: &LoraWeights| [layer.a.clone(), layer.b.clone()].concat();
    for (i, layer) in gradient.layers.iter().enumerate() {
        let square = all(layer).iter().map(|&g| f64::from(g).powi(2)).sum::<f64>();
        // So that the loss moves by a hundredth each way.
        let h = (0.01 / square) as f32;
        let moved = |h: f32| {
            let mut moved = adapter.clone();
            let of_layer = &mut moved.layers[i];
            of_layer.a.iter_mut().zip(&layer.a).for_each(|(x, g)| *x += h * g);
            of_layer.b.iter_mut().zip(&layer.b).for_each(|(x, g)| *x += h * g);
            run(&moved).0
        };
        let slope = (moved(h) - moved(-h)) / (2.0 * f64::from(h));
        // A loss of 6 is summed to 1e-6 of it, which is 6e-4 of what it moves by; the rest is the third derivative.
        let error = (slope / square - 1.0).abs();
        assert!(error <= 1e-2, "{}: slope {slope}, expected {square}", layer.target.module);
    }
}

/// The rows of `A` of tokens that were read have a gradient, whatever blocks they come in, and no others; that of two
/// micro-batches is the sum of theirs.
fn only_rows_of_tokens_that_were_read_have_a_gradient<B: Backend>(backend: &B) {
    let model = load::<B, f32>(backend, &Golden::open(), "untied");
    let mut adapter = new_adapter(&model, "untied", "embed_tokens", 0.0);
    (0..).zip(&mut adapter.layers[0].a).for_each(|(i, x)| *x = 0.1 * (i as f32 * 0.7).sin());
    let whole = long_step();
    let n = whole.micro_batches[0].n_tokens();
    let gradient = |step: &Step| {
        let mut trainer = Trainer::new(backend, &model, &adapter, trainer_options(n, Keep::Everything)).unwrap();
        trainer.step(step).unwrap();
        trainer.gradients().unwrap().layers.remove(0)
    };
    let got = gradient(&whole);
    let ([_, vocab], ids) = (got.target.shape, &whole.micro_batches[0].ids);
    // More than there are columns in the residual stream, whose gradient's memory they are found in.
    let read: std::collections::BTreeSet<_> = ids.iter().collect();
    assert!(read.len() > model.config.hidden_size && read.len() < vocab, "{}", read.len());
    for (i, g) in got.a.iter().enumerate() {
        assert_eq!(*g != 0.0, read.contains(&((i % vocab) as u32)), "token {}: {g}", i % vocab);
    }
    let samples = long_samples();
    let parts = Vec::from([&samples[..1], &samples[1..]].map(Batch::new));
    let parted = gradient(&Step { micro_batches: parts, ..whole });
    for (name, got, want) in [("A", &parted.a, &got.a), ("B", &parted.b, &got.b)] {
        // Sums in another order, of f32.
        let error = relative_norm(got, want);
        assert!(error <= 1e-5, "{name} in two micro-batches: {error:e}");
    }
}

crate::backends!(
    only_rows_of_tokens_that_were_read_have_a_gradient,
    forward_equals_peft,
    training_equals_peft,
    a_new_adapter_begins_with_nothing_and_learns,
    gradients_are_those_of_the_loss_with_dropout,
);
