//! An op with the memory of one case, and what is done with it: it is compared with the oracle (the suite),
//! differentiated (the gradients) and timed (the benches). What each op is, stands in `ops/<op>.rs`.

use super::{
    close::Close,
    make::{Make, Purpose},
    tensor::Output,
};
use halfbyte::{Backend, Result};
use std::fmt::Debug;

pub trait Setup<B: Backend>: Sized + 'static {
    /// Shapes and options.
    type Case: Debug + Clone + 'static;

    /// The op, its types and the case: for messages, and the seed of the values.
    fn name(case: &Self::Case) -> String;

    /// Makes inputs and outputs.
    fn new(make: &Make<B>, case: &Self::Case) -> Self;

    fn run(&mut self, backend: &B) -> Result<()>;

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>>;

    /// Compares the outputs, as they were fetched, with the oracle.
    fn compare(&mut self, close: &Close<'_, B>);

    /// The gradients among the outputs, each with the loss that it is the gradient of.
    fn differences(&self) -> Vec<Difference<'_>> {
        Vec::new()
    }
}

/// A gradient, and what it is a gradient of.
pub struct Difference<'a> {
    pub part: &'static str,
    pub got: Vec<f32>,
    /// Where it was taken.
    pub at: Vec<f64>,
    pub loss: Loss<'a>,
}

pub type Loss<'a> = Box<dyn Fn(&[f64]) -> f64 + 'a>;

/// A check of the suite or of the gradients, and its name.
pub type Check<B> = (&'static str, fn(&B));

/// Elements that are compared where the oracle takes long.
const MOST: usize = 4000;

/// Runs the case, reads the outputs and what lies around them. The bytes of all outputs.
pub fn bits<B: Backend, S: Setup<B>>(setup: &mut S, backend: &B, name: &str) -> Vec<u8> {
    setup.run(backend).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut outputs = setup.outputs();
    outputs.iter_mut().for_each(|output| output.fetch(backend, name));
    outputs.iter().flat_map(|output| output.bytes()).copied().collect()
}

/// [`bits`] of a run on outputs as they were at first.
pub fn bits_again<B: Backend, S: Setup<B>>(setup: &mut S, backend: &B, name: &str) -> Vec<u8> {
    setup.outputs().into_iter().for_each(|output| output.restore(backend));
    bits(setup, backend, name)
}

/// Runs the case twice, which must give the same bits, and compares with the oracle.
pub fn check<B: Backend, S: Setup<B>>(backend: &B, case: &S::Case) {
    check_some::<B, S>(backend, case, MOST);
}

/// [`check`] that compares at most this many elements of each output, where the oracle takes long.
pub fn check_some<B: Backend, S: Setup<B>>(backend: &B, case: &S::Case, most: usize) {
    let name = S::name(case);
    let mut setup = S::new(&Make::new(backend, Purpose::Suite, &name), case);
    let first = bits(&mut setup, backend, &name);
    assert!(first == bits_again(&mut setup, backend, &name), "{name}: two runs differ");
    setup.compare(&Close { backend, name: &name, most });
}

/// Half the distance of the two points of a difference. What is left out is about its square, 1e-8; f64 adds 1e-12.
const STEP: f64 = 1e-4;

/// Of the largest element: f32 sums of at most 100 terms (100 eps = 1.2e-5), approximate exponentials, and [`STEP`].
const TOLERANCE: f64 = 3e-5;

/// Compares the gradients of the case with central differences of their losses.
pub fn differentiate<B: Backend, S: Setup<B>>(backend: &B, case: &S::Case) {
    let name = S::name(case);
    let mut setup = S::new(&Make::new(backend, Purpose::Gradients, &name), case);
    bits(&mut setup, backend, &name);
    let differences = setup.differences();
    assert!(!differences.is_empty(), "{name} has no gradients");
    differences.iter().for_each(|difference| difference.check(&name));
}

impl Difference<'_> {
    fn check(&self, name: &str) {
        let name = format!("{name}: {}", self.part);
        assert_eq!(self.got.len(), self.at.len(), "{name}");
        let want: Vec<f64> = (0..self.at.len()).map(|i| self.slope(i)).collect();
        let size = want.iter().fold(0.0, |m: f64, w| m.max(w.abs()));
        assert!(size > 1e-3, "{name}: the gradient is {size} at most, too small to see anything");
        for (i, (got, want)) in self.got.iter().zip(&want).enumerate() {
            let error = (f64::from(*got) - want).abs();
            assert!(error <= TOLERANCE * size, "{name}: element {i} is {got}, the difference says {want}");
        }
    }

    /// The central difference in direction `i`.
    fn slope(&self, i: usize) -> f64 {
        let moved = |by: f64| {
            let mut point = self.at.clone();
            point[i] += by;
            (self.loss)(&point)
        };
        (moved(STEP) - moved(-STEP)) / (2.0 * STEP)
    }
}
