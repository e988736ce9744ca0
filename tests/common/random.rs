//! Reproducible random numbers for inputs.

use halfbyte::rng::{philox, uniform};
use proptest::{
    strategy::Strategy,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use std::cell::Cell;

/// Distinct normal numbers of one draw, which take long. A prime: rows of a repeated matrix differ all the same.
const PERIOD: usize = 1_048_573;

/// Each draw of a `Random` differs; the same case draws the same.
pub struct Random {
    seed: u64,
    draw: Cell<u32>,
}

impl Random {
    /// From anything that prints differently for each case.
    pub fn new(case: &str) -> Self {
        // FNV-1a.
        let seed =
            case.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        Random { seed, draw: Cell::new(0) }
    }

    pub fn words(&self, n: usize) -> Vec<u32> {
        let draw = self.draw.replace(self.draw.get() + 1);
        (0..n.div_ceil(4)).flat_map(|i| philox([i as u32, draw, 0, 0], self.seed)).take(n).collect()
    }

    /// In `[0, 1)`.
    pub fn uniform(&self, n: usize) -> Vec<f32> {
        self.words(n).into_iter().map(uniform).collect()
    }

    /// Normal with mean 0 and this standard deviation (Box and Muller); more than [`PERIOD`] repeat.
    pub fn normal(&self, n: usize, deviation: f32) -> Vec<f32> {
        let distinct = n.min(PERIOD);
        let (u, v) = (self.uniform(distinct), self.uniform(distinct));
        let one = |(u, v): (&f32, &f32)| (-2.0 * (1.0 - u).ln()).sqrt() * (std::f32::consts::TAU * v).cos() * deviation;
        let mut values: Vec<f32> = u.iter().zip(&v).map(one).collect();
        values.reserve_exact(n - distinct);
        (distinct..n).for_each(|i| values.push(values[i - PERIOD]));
        values
    }

    /// In `[0, limit)`.
    pub fn below(&self, n: usize, limit: u32) -> Vec<u32> {
        self.words(n).into_iter().map(|w| w % limit).collect()
    }

    pub fn bytes(&self, n: usize) -> Vec<u8> {
        self.words(n).into_iter().map(|w| w as u8).collect()
    }
}

/// `check` on `n` cases that proptest makes up (the same each time), shrunk when one fails.
pub fn property<S: Strategy>(n: u32, strategy: S, check: impl Fn(S::Value)) {
    let config = Config { cases: n, failure_persistence: None, max_shrink_iters: 64, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let result = runner.run(&strategy, |case| {
        check(case);
        Ok(())
    });
    if let Err(e) = result {
        panic!("{e}");
    }
}
