//! What quantising loses, bounded by the tables of codes.
mod common;

use common::{
    cases::{FORMATS, Quantization},
    random::Random,
    tensor::{Layout, Tensor},
};
use half::{bf16, f16};
use halfbyte::{
    Backend, Float,
    ops::{Dequantize, NestAbsmax, Op, Quantize},
    quant::{BLOCK_SIZES, DYNAMIC_MAP, Format, GROUP, Group, Scales, Weight4, n_blocks},
};

const ROWS: usize = 37;
const COLS: usize = 333;

/// A weight and what it was quantised to.
struct Stored<B: Backend> {
    quantization: Quantization,
    codes: Tensor<B, u8>,
    absmax: Tensor<B, f32>,
    nested: (Tensor<B, u8>, Tensor<B, Group>),
}

impl<B: Backend> Stored<B> {
    fn quantize<T: Float>(backend: &B, x: &[T], quantization: Quantization) -> Self {
        let Quantization { format, block_size, .. } = quantization;
        let x = Tensor::flat(backend, Layout::Packed, x.to_vec());
        let blocks = n_blocks(ROWS * COLS, block_size);
        let mut codes = Tensor::<B, u8>::poisoned_flat(backend, (ROWS * COLS).div_ceil(2), Layout::Packed);
        let mut absmax = Tensor::<B, f32>::poisoned_flat(backend, blocks, Layout::Packed);
        let op = Quantize { x: x.view(), format, block_size, codes: codes.view_mut(), absmax: absmax.view_mut() };
        op.run(backend).unwrap();
        let mut nested = Tensor::<B, u8>::poisoned_flat(backend, blocks, Layout::Packed);
        let mut groups = Tensor::<B, Group>::poisoned_flat(backend, blocks.div_ceil(GROUP), Layout::Packed);
        let op = NestAbsmax { absmax: absmax.view(), codes: nested.view_mut(), groups: groups.view_mut() };
        op.run(backend).unwrap();
        Stored { quantization, codes, absmax, nested: (nested, groups) }
    }

    fn decode<T: Float>(&self, backend: &B) -> Vec<T> {
        let scales = match self.quantization.nested {
            false => Scales::Plain(self.absmax.view()),
            true => Scales::Nested { codes: self.nested.0.view(), groups: self.nested.1.view() },
        };
        let Quantization { format, block_size, .. } = self.quantization;
        let weight = Weight4 { format, block_size, rows: ROWS, cols: COLS, codes: self.codes.view(), scales };
        let mut out = Tensor::<B, T>::poisoned_flat(backend, ROWS * COLS, Layout::Packed);
        Dequantize { weight, out: out.view_mut() }.run(backend).unwrap();
        out.read(backend, "dequantize")
    }
}

/// Half the widest gap between neighbours of a table: no number in its range is further from the nearest.
fn half_gap(table: &[f32]) -> f64 {
    let mut sorted: Vec<f64> = table.iter().map(|&v| f64::from(v)).collect();
    sorted.sort_by(f64::total_cmp);
    sorted.windows(2).map(|w| (w[1] - w[0]) / 2.0).fold(0.0, f64::max)
}

/// What one code loses at most, relative to absmax: thresholds are decimals of six digits, arithmetic is f32.
fn code_loss(format: Format) -> f64 {
    half_gap(format.codes()) + 2e-6
}

/// What the 8 bits of an absmax lose at most, relative to its group's: the table's gap, and half a step of the grid that
/// values are rounded to first.
fn nested_loss() -> f64 {
    half_gap(&*DYNAMIC_MAP) + 2.0 / 65_535.0
}

fn weight<T: Float>(name: &str) -> Vec<T> {
    Random::new(name).normal(ROWS * COLS, 0.05).into_iter().map(T::from_f32).collect()
}

fn check_loss<B: Backend, T: Float>(backend: &B, quantization: Quantization) {
    let name = format!("{} {quantization:?}", T::DTYPE.suffix());
    let x: Vec<T> = weight(&name);
    let stored = Stored::quantize(backend, &x, quantization);
    let absmax = stored.absmax.read(backend, &name);
    let groups = stored.nested.1.read(backend, &name);
    for (i, (x, got)) in x.iter().zip(stored.decode::<f32>(backend)).enumerate() {
        let block = i / quantization.block_size;
        let mut bound = f64::from(absmax[block]) * code_loss(quantization.format);
        if quantization.nested {
            // A code is at most 1: an error of the absmax passes on whole.
            bound += f64::from(groups[block / GROUP].absmax) * nested_loss();
        }
        let error = (f64::from(x.to_f32()) - f64::from(got)).abs();
        assert!(error <= bound, "{name}: {x:?} at {i} came back as {got}: off by {error}, at most {bound}");
    }
}

fn each<B: Backend>(backend: &B, check: impl Fn(&B, Quantization)) {
    Quantization::all().into_iter().for_each(|quantization| check(backend, quantization));
}

fn the_loss_is_at_most_half_a_gap<B: Backend>(backend: &B) {
    each(backend, |backend, quantization| {
        each_float!(check_loss::<B>(backend, quantization));
    });
}

/// Absmax alone: the bound of double quantisation.
fn nesting_loses_at_most_half_a_gap<B: Backend>(backend: &B) {
    for block_size in BLOCK_SIZES {
        let x: Vec<f32> = weight("nesting");
        let stored = Stored::quantize(backend, &x, Quantization { block_size, ..Quantization::DEFAULT });
        let (codes, groups) = (stored.nested.0.read(backend, "codes"), stored.nested.1.read(backend, "groups"));
        let absmax = stored.absmax.read(backend, "absmax");
        let back = halfbyte::quant::unnest(&codes, &groups);
        for (i, (absmax, back)) in absmax.iter().zip(back).enumerate() {
            let error = (f64::from(*absmax) - f64::from(back)).abs();
            let bound = f64::from(groups[i / GROUP].absmax) * nested_loss() + f64::from(f32::EPSILON);
            assert!(error <= bound, "block {i} of {block_size}: {absmax} came back as {back}, at most {bound} off");
        }
    }
}

fn check_again<B: Backend, T: Float>(backend: &B, quantization: Quantization) {
    let name = format!("{} {quantization:?}", T::DTYPE.suffix());
    let first = Stored::quantize(backend, &weight::<T>(&name), quantization);
    let values: Vec<T> = first.decode(backend);
    let second = Stored::quantize(backend, &values, quantization);
    assert_eq!(second.absmax.read(backend, &name), first.absmax.read(backend, &name), "{name}: absmax");
    let (first, second) = (first.codes.read(backend, &name), second.codes.read(backend, &name));
    // Zeros: FP4 has two.
    let canonical = |codes: &[u8]| -> Vec<f32> {
        let value = |code: u8| quantization.format.codes()[usize::from(code)];
        codes.iter().flat_map(|byte| [value(byte >> 4), value(byte & 15)]).collect()
    };
    assert_eq!(canonical(&second), canonical(&first), "{name}: codes");
}

/// What came out of a quantised weight quantises to the same codes: each block has an element at its absmax.
fn quantising_again_changes_nothing<B: Backend>(backend: &B) {
    for format in FORMATS {
        for block_size in BLOCK_SIZES {
            // Nested absmax come back changed.
            let quantization = Quantization { format, block_size, nested: false };
            check_again::<B, f32>(backend, quantization);
            check_again::<B, bf16>(backend, quantization);
            check_again::<B, f16>(backend, quantization);
        }
    }
}

backends!(the_loss_is_at_most_half_a_gap, nesting_loses_at_most_half_a_gap, quantising_again_changes_nothing);
