use super::num::Num;
use halfbyte::{Backend, Float};

/// How the outputs of one case are compared.
pub struct Close<'a, B> {
    pub backend: &'a B,
    /// The case, for messages.
    pub name: &'a str,
    /// Elements that are compared where the oracle takes long.
    pub most: usize,
}

impl<B: Backend> Close<'_, B> {
    /// [`compare`] of the output `part`.
    pub fn all<T: Float>(&self, part: &str, got: &[T], cols: usize, want: impl Fn(usize, usize) -> Num) {
        compare(&format!("{}: {part}", self.name), got, cols, want);
    }

    /// [`compare_some`] of the output `part`.
    pub fn some<T: Float>(&self, part: &str, got: &[T], cols: usize, want: impl Fn(usize, usize) -> Num) {
        compare_some(&format!("{}: {part}", self.name), got, cols, self.most, want);
    }

    /// Every element, however many there are.
    pub fn each<T: Float>(&self, part: &str, got: &[T], cols: usize, want: impl Fn(usize, usize) -> Num) {
        compare_some(&format!("{}: {part}", self.name), got, cols, usize::MAX, want);
    }
}

/// `|got - want| / |want|`, in f64; NaN where any element is.
pub fn relative_norm(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut got.iter().zip(want).map(|(g, w)| f64::from(*g) - f64::from(*w)));
    let size = norm(&mut want.iter().map(|&w| f64::from(w)));
    if size == 0.0 { difference } else { difference / size }
}

/// Elements that [`compare`] looks at, at most.
const MAX_COMPARED: usize = 20_000;

/// Every element of the matrix `got` (or a sample of many, spread evenly) against the oracle's `want(row, column)`.
/// NaN fails, in the sample or not.
pub fn compare<T: Float>(name: &str, got: &[T], cols: usize, want: impl Fn(usize, usize) -> Num) {
    compare_some(name, got, cols, MAX_COMPARED, want);
}

/// [`compare`] with at most `most` elements, for oracles that take long.
pub fn compare_some<T: Float>(name: &str, got: &[T], cols: usize, most: usize, want: impl Fn(usize, usize) -> Num) {
    let nan = got.iter().position(|v| v.to_f32().is_nan());
    assert!(nan.is_none(), "{name}: element {:?} is NaN", nan.map(|i| [i / cols, i % cols]));
    // A step that has no factor in common with any usual length visits distinct elements.
    let (n, step) = if got.len() <= most { (got.len(), 1) } else { (most, 1_000_003) };
    for i in (0..n).map(|i| i * step % got.len()) {
        let (want, got) = (want(i / cols, i % cols), f64::from(got[i].to_f32()));
        let (error, tolerance) = ((got - want.v).abs(), want.tolerance::<T>());
        assert!(
            error <= tolerance,
            "{name}: [{}, {}] is {got:e}, expected {:e}: off by {error:e}, tolerance {tolerance:e}",
            i / cols,
            i % cols,
            want.v
        );
    }
}
