//! What is kept for the backward pass, and where moments lie, decides about memory and time, and about nothing else.
use half::bf16;
use halfbyte::{Backend, quant::Format};
use halfbyte_runtime::{
    batch::{Batch, Sample},
    config::Qwen3Config,
    model::{Base, Home, Keep, Kept, Qwen3},
    settings::Optim,
    speed::{SHAPES, random_adapter},
    train::{
        packing::Step,
        schedule::{Schedule, ScheduleKind, Warmup},
        trainer::{OptimizerOptions, Trainer, TrainerOptions},
    },
};

/// Enough tokens for every kernel of a GPU that many tokens have.
const CAPACITY: usize = 1300;

fn sample(len: usize, text: usize) -> Sample {
    let ids = (0..len).map(|i| ((i * 31 + text * 17) % 509) as u32).collect();
    Sample { ids, mask: (0..len).map(|i| i % 5 != text % 5).collect() }
}

/// Steps of different sizes: what the one before left in a buffer must not matter.
fn steps() -> Vec<Step> {
    let lengths = [&[CAPACITY][..], &[200, 90], &[1, 400, 30, 700]];
    let micro =
        |(i, lengths): (usize, &&[usize])| Batch::new(&lengths.iter().map(|&len| sample(len, i)).collect::<Vec<_>>());
    let micros: Vec<_> = lengths.iter().enumerate().map(micro).collect();
    let step = |index: u64, micro_batches: Vec<Batch>| {
        let n_targets = micro_batches.iter().map(Batch::n_targets).sum();
        Step { index, micro_batches, n_targets, ..Step::default() }
    };
    vec![step(0, micros[..1].to_vec()), step(1, micros[1..].to_vec()), step(2, micros[2..].to_vec())]
}

/// All bits that come of a training: the losses, the held-out losses between the steps, and the adapter.
fn trained<B: Backend>(
    backend: &B,
    model: &Qwen3<B, bf16>,
    kept: Kept,
    dropout: f32,
    optimizer: OptimizerOptions,
) -> Vec<u64> {
    let adapter = random_adapter(&model.config, 8, dropout, 3).unwrap();
    let options =
        TrainerOptions::new(CAPACITY, Schedule::new(ScheduleKind::Constant, 1e-2, Warmup::Steps(0), 3).unwrap())
            .kept(kept)
            .optimizer(optimizer)
            .seed(5);
    let mut trainer = Trainer::new(backend, model, &adapter, options).unwrap();
    let mut bits = Vec::new();
    for step in steps() {
        let report = trainer.step(&step).unwrap();
        bits.extend([report.loss, report.grad_norm, trainer.evaluate(&[sample(50, 7)]).unwrap()].map(f64::to_bits));
    }
    let layers = &trainer.adapter().unwrap().layers;
    let numbers = layers.iter().flat_map(|layer| layer.a.iter().chain(&layer.b));
    bits.extend(numbers.map(|v| u64::from(v.to_bits())));
    bits
}

fn what_is_kept_changes_no_bit<B: Backend>(backend: &B) {
    let config = Qwen3Config { n_layers: 5, tie_word_embeddings: false, ..SHAPES[0].config() };
    for base in [Base::Quantized { format: Format::Nf4, block_size: 64, double_quant: true }, Base::Unquantized] {
        let model = |home| with_room(backend, Qwen3::random_with(backend, &config, base, 0, home).unwrap());
        let [on_device, on_host] = [Home::Device, Home::Host].map(model);
        for dropout in [0.0, 0.1] {
            let optimizer = OptimizerOptions::default();
            let want = trained(backend, &on_device, Keep::Everything.into(), dropout, optimizer);
            let all = [Keep::AllButMlp, Keep::Residual, Keep::Host].map(Kept::from);
            let mixed = [
                Kept { everything: 2, all_but_mlp: 1, rest: Keep::Host },
                Kept { everything: 1, all_but_mlp: 0, rest: Keep::Residual },
                Kept { everything: 0, all_but_mlp: 4, rest: Keep::Host },
            ];
            for kept in all.into_iter().chain(mixed) {
                let got = trained(backend, &on_host, kept, dropout, optimizer);
                assert!(got == want, "{base:?}, dropout {dropout}, {kept:?}");
            }
        }
    }
}

fn with_room<B: Backend>(backend: &B, mut model: Qwen3<B, bf16>) -> Qwen3<B, bf16> {
    let adapter = random_adapter(&model.config, 8, 0.0, 3).unwrap();
    model.make_room(backend, &adapter.config).unwrap();
    model
}

/// On a GPU adapters are then part of the products, where they were rounded by themselves; on the CPU there is none.
fn room_around_dense_weights_changes_rounding_alone<B: Backend>(backend: &B) {
    let config = Qwen3Config { n_layers: 2, ..SHAPES[0].config() };
    let model = || Qwen3::<B, bf16>::random(backend, &config, Base::Unquantized, 0).unwrap();
    for dropout in [0.0, 0.1] {
        let of = |model: &_| trained(backend, model, Keep::Everything.into(), dropout, OptimizerOptions::default());
        let (roomy, packed) = (of(&with_room(backend, model())), of(&model()));
        if !backend.runs_behind() {
            assert!(roomy == packed);
        }
        // The loss and the norm of the gradient of the first step: sums over hundreds of numbers of bf16.
        for (i, (roomy, packed)) in roomy.iter().zip(&packed).take(2).enumerate() {
            let [roomy, packed] = [roomy, packed].map(|bits| f64::from_bits(*bits));
            let error = (roomy / packed - 1.0).abs();
            assert!(
                error <= f64::from(bf16::EPSILON),
                "dropout {dropout}: number {i} is {roomy}, and {packed} without"
            );
        }
    }
}

fn where_moments_lie_changes_no_bit<B: Backend>(backend: &B) {
    // Of rank 8, so that there are tensors of 4096 numbers.
    let config = Qwen3Config { n_layers: 1, hidden_size: 512, ..SHAPES[0].config() };
    let model = Qwen3::<B, bf16>::random(backend, &config, Base::Unquantized, 0).unwrap();
    let of = |optim| {
        let optimizer = OptimizerOptions::default().optim(optim).lora_plus(4.0);
        trained(backend, &model, Keep::Everything.into(), 0.0, optimizer)
    };
    let [wide, narrow] = [Optim::AdamW, Optim::AdamW8bit].map(of);
    assert!(wide != narrow, "moments in 8 bits move as those in 32");
    assert!(of(Optim::PagedAdamW) == wide && of(Optim::PagedAdamW8bit) == narrow);
}

/// Steps that are queued before the one before them is known come out as those that are waited for; and one that is not
/// finite stops all that follow, whether they were queued or not.
fn steps_ahead_are_the_same<B: Backend>(backend: &B) {
    let base = Base::Quantized { format: Format::Nf4, block_size: 64, double_quant: true };
    let model = Qwen3::<B, bf16>::random(backend, &SHAPES[0].config(), base, 0).unwrap();
    let trained = |ahead: bool, lr: f64, weight_decay: f32| {
        let adapter = random_adapter(&model.config, 8, 0.0, 3).unwrap();
        let schedule = Schedule::new(ScheduleKind::Constant, lr, Warmup::Steps(0), 6).unwrap();
        let optimizer = OptimizerOptions::default().weight_decay(weight_decay);
        let options = TrainerOptions::new(CAPACITY, schedule).kept(Keep::Residual.into()).optimizer(optimizer).seed(5);
        let mut trainer = Trainer::new(backend, &model, &adapter, options).unwrap();
        let mut reports = Vec::new();
        let all = steps().into_iter().cycle().take(6).enumerate().try_for_each(|(i, mut step)| {
            step.index = i as u64;
            let report = if ahead { trainer.step_ahead(&step) } else { trainer.step(&step).map(Some) };
            report.map(|report| reports.extend(report))
        });
        let all = all.and_then(|()| trainer.finish().map(|report| reports.extend(report)));
        let layers = trainer.adapter().unwrap().layers.clone();
        assert!(layers.iter().all(|layer| layer.a.iter().chain(&layer.b).all(|v| v.is_finite())));
        (reports, all.err().map(|e| e.to_string()), layers)
    };
    let (reports, error, _) = trained(true, 1e-3, 0.1);
    assert_eq!((reports.len(), error), (6, None));
    assert!(trained(true, 1e-3, 0.1) == trained(false, 1e-3, 0.1));
    // Each step multiplies all weights by -10^7.
    let (reports, error, layers) = trained(false, 1e4, 1e3);
    assert!(error.as_ref().is_some_and(|e| e.contains("training has diverged")), "{error:?} after {reports:?}");
    assert!((1..5).contains(&reports.len()), "{reports:?}");
    assert!(trained(true, 1e4, 1e3) == (reports, error, layers));
}

crate::backends!(
    what_is_kept_changes_no_bit,
    room_around_dense_weights_changes_rounding_alone,
    where_moments_lie_changes_no_bit,
    steps_ahead_are_the_same
);
