//! Checks from a list, in an order that a seed decides: what libtest does for `#[test]`.

use super::{cuda, setup::Check};
use halfbyte::{
    Cpu, Cuda,
    rng::{philox, uniform},
};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// `<prefix>cpu::<check>` for each.
pub fn on_cpu(prefix: &str, checks: Vec<Check<Cpu>>) -> impl Iterator<Item = Trial> {
    checks.into_iter().map(move |(name, check)| {
        let run = move || {
            check(&Cpu::new());
            Ok(())
        };
        Trial::test(format!("{prefix}cpu::{name}"), run)
    })
}

/// `<prefix>cuda::<check>` for each, all on one [`Cuda`]; ignored without a GPU.
pub fn on_cuda(prefix: &str, checks: Vec<Check<Cuda>>) -> impl Iterator<Item = Trial> {
    checks.into_iter().map(move |(name, check)| {
        let run = move || -> Result<Completion, Failed> {
            let Some(cuda) = cuda() else { return Ok(Completion::ignored_with("no GPU")) };
            check(cuda);
            Ok(Completion::Completed)
        };
        Trial::ignorable_test(format!("{prefix}cuda::{name}"), run)
    })
}

/// Runs the trials in the order that `HALFBYTE_SEED` gives them, or that of a fixed seed. One after the other with
/// `--test-threads=1`, else interleaved.
pub fn run(mut trials: Vec<Trial>) {
    const SEED: u64 = 1;
    let arguments = Arguments::from_args();
    let seed = std::env::var("HALFBYTE_SEED").map_or(SEED, |s| s.parse().expect("HALFBYTE_SEED is a number"));
    if !arguments.list {
        println!("the order of HALFBYTE_SEED={seed}");
    }
    shuffle(&mut trials, seed);
    libtest_mimic::run(&arguments, trials).exit();
}

/// Fisher and Yates.
fn shuffle<T>(items: &mut [T], seed: u64) {
    for last in (1..items.len()).rev() {
        let u = uniform(philox([last as u32, 0, 0, 0], seed)[0]);
        items.swap(last, (u * (last + 1) as f32) as usize);
    }
}
