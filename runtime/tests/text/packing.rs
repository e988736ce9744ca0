use std::collections::HashMap;
use std::time::{Duration, Instant};

use halfbyte::rng::philox;
use halfbyte_runtime::batch::{Batch, IGNORE, Sample};
use halfbyte_runtime::train::packing::{BatchOptions, Batcher, PackingStrategy, Position, Step, TrainLength};

const MAX_LEN: usize = 32;

/// Samples of random lengths and masks in which every token id occurs once.
fn random_samples(count: usize, seed: u64) -> Vec<Sample> {
    let mut next_id = 0;
    let mut samples = Vec::new();
    for index in 0..count as u32 {
        let len = 2 + philox([index, 0, 0, 0], seed)[0] as usize % (MAX_LEN - 1);
        let ids: Vec<u32> = (next_id..next_id + len as u32).collect();
        next_id += len as u32;
        let mut mask: Vec<bool> = ids.iter().map(|&id| philox([id, 1, 0, 0], seed)[0] < u32::MAX / 3 * 2).collect();
        mask[len - 1] = true;
        samples.push(Sample { ids, mask });
    }
    samples
}

fn options(seed: u64) -> BatchOptions {
    BatchOptions::new(3, MAX_LEN, TrainLength::Epochs(2.0))
        .packing(seed.is_multiple_of(2))
        .packing_strategy(if seed.is_multiple_of(4) { PackingStrategy::FirstFit } else { PackingStrategy::BestFit })
        .gradient_accumulation_steps(1 + seed as usize % 3)
        .seed(seed)
}

fn all_steps(samples: &[Sample], options: BatchOptions) -> Vec<Step> {
    Batcher::new(samples, options).unwrap().steps(0).collect()
}

fn targets(steps: &[Step]) -> Vec<u32> {
    let labels = steps.iter().flat_map(|step| &step.micro_batches).flat_map(|batch| &batch.labels);
    let mut targets: Vec<u32> = labels.copied().filter(|&label| label != IGNORE).collect();
    targets.sort_unstable();
    targets
}

fn wanted_targets(samples: &[Sample]) -> Vec<u32> {
    let pairs = samples.iter().flat_map(|sample| sample.ids.iter().zip(&sample.mask).skip(1));
    pairs.filter(|&(_, &trained)| trained).map(|(&id, _)| id).collect()
}

#[test]
fn a_batch_by_hand() {
    let first = Sample { ids: vec![5, 6, 7], mask: vec![true, false, true] };
    let second = Sample { ids: vec![8, 9], mask: vec![false, true] };
    let batch = Batch::new([&first, &second]);
    assert_eq!(batch.ids, [5, 6, 7, 8, 9]);
    assert_eq!(batch.positions, [0, 1, 2, 0, 1]);
    assert_eq!(batch.labels, [IGNORE, 7, IGNORE, 9, IGNORE]);
    assert_eq!(batch.cu_seqlens, [0, 3, 5]);
    assert_eq!((batch.max_len, batch.n_tokens(), batch.n_targets()), (3, 5, 2));
}

#[test]
fn every_target_comes_once_in_each_epoch() {
    for seed in 0..20 {
        let samples = random_samples(1 + seed as usize * 7, seed);
        let steps = all_steps(&samples, options(seed));
        for epoch in 0..2 {
            let of_epoch: Vec<_> = steps.iter().filter(|step| step.epoch == epoch).cloned().collect();
            assert_eq!(targets(&of_epoch), wanted_targets(&samples), "seed {seed}, epoch {epoch}");
        }
    }
}

#[test]
fn labels_are_the_next_trained_token_of_the_same_sequence() {
    for seed in 0..20 {
        let samples = random_samples(50, seed);
        let trained: HashMap<u32, bool> =
            samples.iter().flat_map(|s| s.ids.iter().copied().zip(s.mask.iter().copied())).collect();
        for batch in all_steps(&samples, options(seed)).iter().flat_map(|step| &step.micro_batches) {
            check_batch(batch, &trained);
        }
    }
}

fn check_batch(batch: &Batch, trained: &HashMap<u32, bool>) {
    assert_eq!(batch.cu_seqlens.last().copied(), Some(batch.ids.len() as u32));
    let mut longest = 0;
    for bounds in batch.cu_seqlens.windows(2) {
        let (start, end) = (bounds[0] as usize, bounds[1] as usize);
        longest = longest.max(end - start);
        for at in start..end {
            assert_eq!(batch.positions[at] as usize, at - start);
            let next = (at + 1 < end).then(|| batch.ids[at + 1]).filter(|id| trained[id]);
            assert_eq!(batch.labels[at], next.unwrap_or(IGNORE));
        }
    }
    assert_eq!(batch.max_len, longest);
}

#[test]
fn micro_batches_keep_to_their_budget_and_packing_fills_it() {
    for seed in 0..20 {
        let samples = random_samples(100, seed);
        let steps = all_steps(&samples, options(seed));
        let batches: Vec<_> = steps.iter().flat_map(|step| &step.micro_batches).collect();
        assert!(batches.iter().all(|batch| batch.n_tokens() <= 3 * MAX_LEN));
        if !options(seed).packing {
            assert!(batches.iter().all(|batch| batch.cu_seqlens.len() <= 4));
            continue;
        }
        // Either leaves at most one bin of an epoch half empty or emptier.
        let half_empty = batches.iter().filter(|batch| batch.n_tokens() * 2 <= 3 * MAX_LEN).count();
        assert!(half_empty <= 2, "{half_empty} of {} micro-batches over 2 epochs", batches.len());
    }
}

#[test]
fn the_best_fit_fills_more_and_splits_nothing() {
    let mut better = 0;
    for seed in 0..20 {
        let samples = random_samples(200, seed);
        let one = options(seed).batch_size(1).packing(true).length(TrainLength::Epochs(1.0));
        let epoch = |packing_strategy| {
            let batcher = Batcher::new(&samples, one.packing_strategy(packing_strategy)).unwrap();
            let batches: Vec<_> = batcher.steps(0).flat_map(|step| step.micro_batches).collect();
            let n_sequences: usize = batches.iter().map(|batch| batch.cu_seqlens.len() - 1).sum();
            assert_eq!(n_sequences, samples.len(), "a sample was split or lost");
            let epoch = batcher.first_epoch();
            let fill = epoch.n_tokens as f64 / (batches.len() * MAX_LEN) as f64;
            assert_eq!((epoch.n_micro_batches, epoch.fill), (batches.len(), Some(fill)));
            batches
        };
        let [first, best] = [PackingStrategy::FirstFit, PackingStrategy::BestFit].map(epoch);
        assert!(best.len() <= first.len(), "seed {seed}: {} and {}", best.len(), first.len());
        better += usize::from(best.len() < first.len());
        // Long samples do not come first.
        let fills: Vec<_> = best.iter().map(|batch| batch.cu_seqlens.len()).collect();
        assert!(!fills.is_sorted() && !fills.is_sorted_by(|a, b| a >= b), "{fills:?}");
    }
    assert!(better >= 10, "better in {better} of 20");
}

#[test]
fn a_step_counts_the_targets_of_all_its_micro_batches() {
    for seed in 0..6 {
        let samples = random_samples(40, seed);
        for step in all_steps(&samples, options(seed)) {
            assert!((1..=options(seed).gradient_accumulation_steps).contains(&step.micro_batches.len()));
            assert_eq!(step.n_targets, step.micro_batches.iter().map(Batch::n_targets).sum::<usize>());
            assert!(step.n_targets > 0);
        }
    }
}

#[test]
fn accumulating_four_of_one_sees_the_targets_of_one_of_four() {
    let samples = random_samples(37, 1);
    let unpacked = options(1).packing(false);
    let accumulated = all_steps(&samples, unpacked.batch_size(1).gradient_accumulation_steps(4));
    let at_once = all_steps(&samples, unpacked.batch_size(4).gradient_accumulation_steps(1));
    assert_eq!(accumulated.len(), at_once.len());
    for (a, b) in accumulated.iter().zip(&at_once) {
        assert_eq!((a.n_targets, a.epoch, a.index), (b.n_targets, b.epoch, b.index));
        assert_eq!(targets(std::slice::from_ref(a)), targets(std::slice::from_ref(b)));
    }
}

#[test]
fn the_seed_decides_the_order() {
    let samples = random_samples(60, 3);
    for seed in [0, 1] {
        let steps = all_steps(&samples, options(seed));
        assert_eq!(steps, all_steps(&samples, options(seed)));
        assert_ne!(steps, all_steps(&samples, options(seed).seed(seed + 2)));
        let of = |epoch| steps.iter().find(|step| step.epoch == epoch).unwrap().micro_batches.clone();
        assert_ne!(of(0), of(1), "epochs have orders of their own");
    }
    let in_order = options(1).shuffle(false).packing(false).length(TrainLength::Epochs(1.0));
    let ids: Vec<u32> =
        all_steps(&samples, in_order).iter().flat_map(|s| &s.micro_batches).flat_map(|b| b.ids.clone()).collect();
    assert!(ids.is_sorted() && ids.len() == samples.iter().map(|s| s.ids.len()).sum::<usize>());
}

#[test]
fn each_place_is_reached_from_each_place_equally_often() {
    // 4 samples over 4000 epochs: each lands in each place 1000 times, with a standard deviation of 27.4.
    let samples: Vec<_> = (0..4).map(|id| Sample { ids: vec![id, id], mask: vec![false, true] }).collect();
    let one =
        options(9).batch_size(1).packing(false).gradient_accumulation_steps(4).length(TrainLength::Epochs(4000.0));
    let mut counts = [[0; 4]; 4];
    for step in all_steps(&samples, one) {
        for (place, batch) in step.micro_batches.iter().enumerate() {
            counts[place][batch.ids[0] as usize] += 1;
        }
    }
    assert!(counts.iter().flatten().all(|&n| (850..=1150).contains(&n)), "{counts:?}");
}

#[test]
fn a_run_resumes_at_any_step() {
    for seed in 0..4 {
        let samples = random_samples(30, seed);
        let batcher = Batcher::new(&samples, options(seed).length(TrainLength::Epochs(3.0))).unwrap();
        let steps: Vec<_> = batcher.steps(0).collect();
        assert_eq!(batcher.total_steps(), steps.len() as u64);
        for start in 0..=steps.len() + 1 {
            let resumed: Vec<_> = batcher.steps(start as u64).collect();
            assert_eq!(resumed, steps[start.min(steps.len())..]);
            let Some(next) = steps.get(start) else { continue };
            let before = steps[..start].iter().filter(|step| step.epoch == next.epoch).count() as u64;
            assert_eq!(batcher.position(start as u64), Position { epoch: next.epoch, step: before });
        }
    }
}

#[test]
fn lengths_in_steps_and_fractions_of_epochs() {
    let samples = random_samples(10, 5);
    let run = |length| all_steps(&samples, options(1).batch_size(2).length(length).gradient_accumulation_steps(1));
    assert_eq!(run(TrainLength::Epochs(1.0)).len(), 5);
    assert_eq!(run(TrainLength::Epochs(0.5)).len(), 3);
    assert_eq!(run(TrainLength::Epochs(2.2)).len(), 11);
    let seven = run(TrainLength::Steps(7));
    assert_eq!((seven.len(), seven[4].epoch, seven[5].epoch), (7, 0, 1));
    let done: Vec<_> = seven.iter().map(|step| step.epochs_done).collect();
    assert_eq!(done, [0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4]);
}

#[test]
fn refuses_what_makes_no_sense() {
    let samples = random_samples(3, 7);
    let refusal = |samples: &[Sample], options| Batcher::new(samples, options).unwrap_err().to_string();
    let ok = options(1);
    assert!(refusal(&[], ok).contains("samples is 0"));
    assert!(refusal(&samples, ok.batch_size(0)).contains("batch size is 0"));
    assert!(refusal(&samples, ok.gradient_accumulation_steps(0)).contains("accumulation steps is 0"));
    assert!(refusal(&samples, ok.max_seq_length(usize::MAX)).contains("longest sequence is 1844"));
    let large = ok.batch_size(1_000_000).max_seq_length(1_000_000);
    assert!(refusal(&samples, large).contains("at most 2147483647 tokens"));
    assert!(refusal(&samples, ok.length(TrainLength::Steps(0))).contains("steps is 0"));
    let none = refusal(&samples, ok.length(TrainLength::Epochs(1e-9)));
    assert!(none.contains("no step with 3 samples"), "{none}");
    for epochs in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(refusal(&samples, ok.length(TrainLength::Epochs(epochs))).contains("epochs is"));
    }
    let long = Sample { ids: vec![0; MAX_LEN + 1], mask: vec![true; MAX_LEN + 1] };
    assert!(
        refusal(&[samples[0].clone(), long], ok).contains("33 (sample 1), but the longest allowed sequence has 32")
    );
    let idle = Sample { ids: vec![1, 2], mask: vec![true, false] };
    assert!(refusal(&[idle], ok).contains("targets of a sample is 0 (sample 0)"));
}

/// The learning rate needs the number of steps before the first of them.
#[test]
fn epochs_that_take_too_long_to_plan_are_refused() {
    let samples = random_samples(360, 3);
    let began = Instant::now();
    let new = |options| Batcher::new(&samples, options).map(|batcher| batcher.total_steps());
    let packed = options(0).packing(true).gradient_accumulation_steps(1);
    let long = |epochs| packed.length(TrainLength::Epochs(epochs));
    let refusal = new(long(100_000.0)).unwrap_err().to_string();
    assert!(refusal.contains("number of epochs is 100000") && refusal.contains("at most 93206"), "{refusal}");
    assert!(refusal.contains("360 samples") && refusal.contains("--max-steps"), "{refusal}");
    // Where all epochs are alike, one is enough.
    let alike = |epochs| long(epochs).shuffle(false);
    assert_eq!(new(alike(1_000_000.0)).unwrap(), 1_000_000 * new(alike(1.0)).unwrap());
    let apart = |epochs| long(epochs).packing(false);
    assert_eq!(new(apart(1_000_000.0)).unwrap(), 120_000_000);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    // What is planned is what comes.
    let batcher = Batcher::new(&samples, long(20.5)).unwrap();
    assert_eq!(batcher.total_steps(), batcher.steps(0).count() as u64);
    assert!(batcher.steps(0).last().unwrap().epoch == 20);
}
