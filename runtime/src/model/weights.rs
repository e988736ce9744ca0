//! Linear weights in a backend's memory: dense or 4-bit, the layers that share an input merged by rows.

use crate::config::Projection;
use crate::error::Result;
use halfbyte::{
    Backend, Buf, DenseBuf, Float, FrozenWeight, Mat, MatMut, View, ViewMut, host,
    ops::{
        Dequantize, GatherRows, Linear, Linear4, Linear4Grad, LinearGrad, LoraPart, NestAbsmax, NormLinear4, Op,
        Quantize, RmsNorm, RowSquares, Swiglu,
    },
    quant::{Absmax, Format, GROUP, ScaleBufs, Weight4, n_blocks},
};
use std::ops::Range;

/// A 4-bit weight `[rows, cols]` in bitsandbytes' layout.
#[derive(Debug)]
pub struct QuantizedWeight<B: Backend> {
    pub(super) format: Format,
    pub(super) block_size: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// `[rows * cols / 2]`
    pub(super) codes: Buf<B, u8>,
    pub(super) scales: ScaleBufs<B>,
}

impl<B: Backend> QuantizedWeight<B> {
    /// Memory for a weight `[rows, cols]`.
    pub(super) fn zeros(
        backend: &B,
        format: Format,
        block_size: usize,
        double_quant: bool,
        [rows, cols]: [usize; 2],
    ) -> Result<Self> {
        let codes = backend.zeros((rows * cols).div_ceil(2))?;
        let scales = ScaleBufs::zeros(backend, n_blocks(rows * cols, block_size), double_quant)?;
        Ok(QuantizedWeight { format, block_size, rows, cols, codes, scales })
    }

    /// Quantises `x` into the weight's elements `range`.
    pub(super) fn quantize<S: Float>(&mut self, backend: &B, x: View<'_, B, S>, range: Range<usize>) -> Result<()> {
        let QuantizedWeight { format, block_size, .. } = *self;
        let blocks = blocks_of(&range, block_size);
        let codes = self.codes.at_mut(bytes_of(&range));
        match &mut self.scales {
            Absmax::Plain(absmax) => {
                let absmax = absmax.at_mut(blocks);
                Quantize { x, format, block_size, codes, absmax }.run(backend)?;
            }
            Absmax::Nested { codes: nested, groups } => {
                let mut absmax = backend.zeros(blocks.len())?;
                let all = absmax.view_mut();
                Quantize { x, format, block_size, codes, absmax: all }.run(backend)?;
                let groups = groups.at_mut(groups_of(&blocks));
                NestAbsmax { absmax: absmax.view(), codes: nested.at_mut(blocks), groups }.run(backend)?;
            }
        }
        Ok(())
    }

    /// The weight as ops take it.
    pub fn view(&self) -> Weight4<'_, B> {
        let QuantizedWeight { format, block_size, rows, cols, .. } = *self;
        Weight4 { format, block_size, rows, cols, codes: self.codes.view(), scales: self.scales.view() }
    }
}

/// Where elements of a 4-bit weight lie among its codes.
pub(super) fn bytes_of(elements: &Range<usize>) -> Range<usize> {
    elements.start / 2..elements.end.div_ceil(2)
}

/// The blocks that elements make.
pub(super) fn blocks_of(elements: &Range<usize>, block_size: usize) -> Range<usize> {
    elements.start / block_size..elements.end.div_ceil(block_size)
}

/// The nested groups that blocks make.
pub(super) fn groups_of(blocks: &Range<usize>) -> Range<usize> {
    blocks.start / GROUP..blocks.end.div_ceil(GROUP)
}

/// A linear weight `[out, in]`.
#[derive(Debug)]
pub enum Weight<B: Backend, T: Float> {
    /// In the compute type.
    Dense(DenseBuf<B, T>),
    /// In 4 bits.
    Quantized(QuantizedWeight<B>),
}

impl<B: Backend, T: Float> Weight<B, T> {
    /// As ops take it.
    fn view(&self) -> FrozenWeight<'_, B, T> {
        match self {
            Weight::Dense(weight) => FrozenWeight::Dense(weight.weight().settled()),
            Weight::Quantized(weight) => FrozenWeight::Quantized(weight.view()),
        }
    }

    /// `out (+)= x Wᵀ`
    pub(super) fn forward<O: Float>(
        &self,
        backend: &B,
        x: Mat<'_, B, T>,
        out: MatMut<'_, B, O>,
        accumulate: bool,
    ) -> Result<()> {
        RowsOfWeight(self.view()).forward(backend, x, out, accumulate)
    }

    /// `d_x (+)= d_out W`
    pub(super) fn backward(
        &self,
        backend: &B,
        d_out: Mat<'_, B, T>,
        d_x: MatMut<'_, B, T>,
        accumulate: bool,
    ) -> Result<()> {
        RowsOfWeight(self.view()).backward(backend, d_out, d_x, accumulate)
    }
}

/// Rows of a 4-bit weight, which must begin where a block and, of nested scales, a group does.
fn rows_of<'a, B: Backend>(weight: Weight4<'a, B>, rows: &Range<usize>) -> Weight4<'a, B> {
    let elements = rows.start * weight.cols..rows.end * weight.cols;
    let blocks = blocks_of(&elements, weight.block_size);
    let scales = match weight.scales {
        Absmax::Plain(absmax) => Absmax::Plain(absmax.at(blocks)),
        Absmax::Nested { codes, groups } => {
            Absmax::Nested { groups: groups.at(groups_of(&blocks)), codes: codes.at(blocks) }
        }
    };
    Weight4 { rows: rows.len(), codes: weight.codes.at(bytes_of(&elements)), scales, ..weight }
}

/// A part of a frozen weight, `[out, in]`.
pub(super) struct RowsOfWeight<'a, B: Backend, T: Float>(pub FrozenWeight<'a, B, T>);

impl<B: Backend, T: Float> RowsOfWeight<'_, B, T> {
    /// `out (+)= x Wᵀ`
    pub fn forward<O: Float>(
        &self,
        backend: &B,
        x: Mat<'_, B, T>,
        out: MatMut<'_, B, O>,
        accumulate: bool,
    ) -> Result<()> {
        match self.0 {
            FrozenWeight::Dense(weight) => {
                Linear { x, weight: weight.mat(), out, accumulate, settled: true }.run(backend)?;
            }
            FrozenWeight::Quantized(weight) => Linear4 { x, weight, out, accumulate }.run(backend)?,
        }
        Ok(())
    }

    /// `d_x (+)= d_out W`
    pub fn backward(&self, backend: &B, d_out: Mat<'_, B, T>, d_x: MatMut<'_, B, T>, accumulate: bool) -> Result<()> {
        match self.0 {
            FrozenWeight::Dense(weight) => LinearGrad { d_out, weight: weight.mat(), d_x, accumulate }.run(backend)?,
            FrozenWeight::Quantized(weight) => Linear4Grad { d_out, weight, d_x, accumulate }.run(backend)?,
        }
        Ok(())
    }

    /// The sum of the squares of each row; some rows at a time are decoded.
    pub fn squares(&self, backend: &B, mut out: ViewMut<'_, B, f32>) -> Result<()> {
        let n = out.len();
        let weight = match self.0 {
            FrozenWeight::Dense(weight) => return Ok(RowSquares { x: weight.mat(), out }.run(backend)?),
            FrozenWeight::Quantized(weight) => weight,
        };
        // Rows that begin with a group.
        let group = weight.block_size * GROUP;
        let step = 256_usize.next_multiple_of(group >> group.trailing_zeros().min(weight.cols.trailing_zeros())).min(n);
        let mut decoded = backend.zeros::<T>(step * weight.cols)?;
        for start in (0..n).step_by(step) {
            let rows = start..(start + step).min(n);
            let mut x = decoded.at_mut(0..rows.len() * weight.cols);
            Dequantize { weight: rows_of(weight, &rows), out: x.reborrow() }.run(backend)?;
            let x = Mat::new(decoded.at(0..rows.len() * weight.cols), rows.len(), weight.cols);
            RowSquares { x, out: out.reborrow().into_at(rows) }.run(backend)?;
        }
        Ok(())
    }
}

/// `from` into `to`, `[rows, cols]` each, whose rows may have gaps between them.
pub(super) fn copy_rows<B: Backend, T: Float>(backend: &B, from: Mat<'_, B, T>, to: MatMut<'_, B, T>) -> Result<()> {
    let [n, _] = from.shape();
    let rows = backend.upload(&host::collect(n, 0..n as u32)?)?;
    Ok(GatherRows { table: from, rows: rows.view(), out: to }.run(backend)?)
}

/// The input of linear layers before its norm, and where it goes normalised.
pub(super) struct Norm<'a, B: Backend, T: Float> {
    /// `[n, in]`
    pub x: Mat<'a, B, T>,
    /// `[in]`
    pub weight: View<'a, B, f32>,
    pub eps: f32,
    /// `[n, in]`, with room behind its columns.
    pub out: MatMut<'a, B, T>,
}

/// The adapters of linear layers, and their `xa`.
pub(super) struct Adapters<'a, B: Backend, T: Float> {
    pub parts: &'a [LoraPart<'a, B, T>],
    /// `[n, xa_columns]`
    pub xa: MatMut<'a, B, T>,
}

impl<B: Backend, T: Float> Adapters<'_, B, T> {
    /// Adds what they make of `x` to `out`.
    pub fn add(mut self, backend: &B, x: Mat<'_, B, T>, mut out: MatMut<'_, B, T>) -> Result<()> {
        Ok(self.parts.iter().try_for_each(|part| part.lora(x, &mut self.xa, &mut out).run(backend))?)
    }
}

impl<B: Backend, T: Float> Norm<'_, B, T> {
    /// Normalises.
    pub fn run(&mut self, backend: &B) -> Result<()> {
        let Norm { x, weight, eps, .. } = *self;
        let out = self.out.reborrow().columns(0..x.shape()[1]);
        Ok(RmsNorm { x, add: None, weight, eps, out }.run(backend)?)
    }
}

/// Linear layers with one input, their outputs side by side.
///
/// Merged layers that are held alike share one weight; where they cannot (mixed checkpoints, scales that
/// do not line up), there are several parts.
#[derive(Debug)]
pub struct MergedLinear<B: Backend, T: Float> {
    /// Weights and the columns of the output that they make.
    pub(super) parts: Vec<(Weight<B, T>, Range<usize>)>,
    /// The layers and the columns of the output that they make.
    pub(super) modules: Vec<(Projection, Range<usize>)>,
    pub(super) in_features: usize,
    pub(super) out_features: usize,
}

impl<B: Backend, T: Float> MergedLinear<B, T> {
    /// The one weight that all are merged into.
    pub(super) fn whole(&self) -> Option<FrozenWeight<'_, B, T>> {
        match &self.parts[..] {
            [(weight, _)] => Some(weight.view()),
            _ => None,
        }
    }

    /// The part that has the weight of one of the layers, and which rows of it, if it is one of these.
    fn place(&self, projection: Projection) -> Option<(usize, Range<usize>)> {
        let (_, columns) = self.modules.iter().find(|(of, _)| *of == projection)?;
        let has = |(_, part): &(_, Range<usize>)| part.start <= columns.start && columns.end <= part.end;
        let part = self.parts.iter().position(has)?;
        let first = self.parts[part].1.start;
        Some((part, columns.start - first..columns.end - first))
    }

    /// The weight of one of the layers, if it is one of these.
    pub(super) fn weight_of(&self, projection: Projection) -> Option<RowsOfWeight<'_, B, T>> {
        let (part, rows) = self.place(projection)?;
        Some(RowsOfWeight(match &self.parts[part].0 {
            Weight::Dense(all) => FrozenWeight::Dense(all.rows(rows)),
            Weight::Quantized(all) => FrozenWeight::Quantized(rows_of(all.view(), &rows)),
        }))
    }

    /// Each of the layers: its columns of the output, and its weight.
    pub(super) fn each(&self) -> impl Iterator<Item = (Projection, Range<usize>, RowsOfWeight<'_, B, T>)> {
        self.modules.iter().filter_map(|(of, columns)| Some((*of, columns.clone(), self.weight_of(*of)?)))
    }

    /// The same where it is not in 4 bits, to be written.
    pub(super) fn dense_mut(&mut self, projection: Projection) -> Option<MatMut<'_, B, T>> {
        let (part, rows) = self.place(projection)?;
        match &mut self.parts[part].0 {
            Weight::Dense(all) => Some(all.mat_mut().rows(rows)),
            Weight::Quantized(_) => None,
        }
    }

    /// `out (+)= x Wᵀ`: x `[n, in]`, out `[n, out_features]`.
    pub(super) fn forward(
        &self,
        backend: &B,
        x: Mat<'_, B, T>,
        mut out: MatMut<'_, B, T>,
        accumulate: bool,
    ) -> Result<()> {
        for (weight, columns) in &self.parts {
            weight.forward(backend, x, out.reborrow().columns(columns.clone()), accumulate)?;
        }
        Ok(())
    }

    /// `out = rms_norm(x) Wᵀ` with its adapters, and `gated = swiglu(out)`, which may leave nothing in `out`.
    pub(super) fn forward_normed(
        &self,
        backend: &B,
        mut norm: Norm<'_, B, T>,
        adapters: Adapters<'_, B, T>,
        mut out: MatMut<'_, B, T>,
        gated: Option<MatMut<'_, B, T>>,
    ) -> Result<()> {
        if let Some(FrozenWeight::Quantized(weight)) = self.whole() {
            let (Norm { x, weight: norm, eps, out: normed }, Adapters { parts, xa }) = (norm, adapters);
            let normed = normed.columns(0..self.in_features);
            return Ok(NormLinear4 { x, norm, eps, normed, weight, parts, xa, out, gated }.run(backend)?);
        }
        norm.run(backend)?;
        let x = norm.out.mat().columns(0..self.in_features);
        self.forward(backend, x, out.reborrow(), false)?;
        adapters.add(backend, x, out.reborrow())?;
        if let Some(gated) = gated {
            Swiglu { gate_up: out.mat(), out: gated }.run(backend)?;
        }
        Ok(())
    }

    /// `d_x = d_out W`: d_out `[n, out_features]`, d_x `[n, in]`.
    pub(super) fn backward(&self, backend: &B, d_out: Mat<'_, B, T>, mut d_x: MatMut<'_, B, T>) -> Result<()> {
        for (i, (weight, columns)) in self.parts.iter().enumerate() {
            weight.backward(backend, d_out.columns(columns.clone()), d_x.reborrow(), i > 0)?;
        }
        Ok(())
    }
}
