//! Random 4-bit weights, and what they stand for.

use super::{
    cases::Quantization,
    make::Make,
    tensor::{Layout, Tensor},
};
use halfbyte::{
    Backend, Float,
    quant::{DYNAMIC_MAP, Format, GROUP, Group, Scales, Weight4, n_blocks},
};

/// The scale of each block, as stored.
enum Stored<B: Backend> {
    Plain(Tensor<B, f32>),
    Nested(Tensor<B, u8>, Tensor<B, Group>),
}

/// A weight `[rows, cols]`.
pub struct Quantized<B: Backend> {
    quantization: Quantization,
    shape: [usize; 2],
    codes: Tensor<B, u8>,
    scales: Stored<B>,
}

impl<B: Backend> Quantized<B> {
    /// Every code, with scales as those of a trained weight.
    pub fn random(make: &Make<B>, shape: [usize; 2], quantization: Quantization, layout: Layout) -> Self {
        let len = shape[0] * shape[1];
        let blocks = n_blocks(len, quantization.block_size);
        let codes = make.bytes(len.div_ceil(2), layout);
        let scales = if quantization.nested {
            let sizes = make.random.uniform(blocks.div_ceil(GROUP));
            // Smaller than the offset, so that every scale is positive.
            let groups = sizes.iter().map(|u| Group { absmax: 0.01 + 0.02 * u, offset: 0.05 });
            Stored::Nested(make.bytes(blocks, layout), make.flat(Layout::Packed, groups.collect()))
        } else {
            let absmax = make.random.uniform(blocks).iter().map(|u| 0.02 + 0.06 * u).collect();
            Stored::Plain(make.flat(layout, absmax))
        };
        Quantized { quantization, shape, codes, scales }
    }

    pub fn weight(&self) -> Weight4<'_, B> {
        Weight4 {
            format: self.quantization.format,
            block_size: self.quantization.block_size,
            rows: self.shape[0],
            cols: self.shape[1],
            codes: self.codes.view(),
            scales: match &self.scales {
                Stored::Plain(absmax) => Scales::Plain(absmax.view()),
                Stored::Nested(codes, groups) => Scales::Nested { codes: codes.view(), groups: groups.view() },
            },
        }
    }

    fn absmax(&self, block: usize) -> f32 {
        match &self.scales {
            Stored::Plain(absmax) => absmax.values()[block],
            Stored::Nested(codes, groups) => {
                let group = groups.values()[block / GROUP];
                let product = DYNAMIC_MAP[usize::from(codes.values()[block])] * group.absmax;
                product + group.offset
            }
        }
    }

    /// What it takes in memory.
    pub fn bytes(quantization: Quantization, [rows, cols]: [usize; 2]) -> usize {
        let (len, blocks) = (rows * cols, rows * cols / quantization.block_size);
        len / 2 + if quantization.nested { blocks + blocks / GROUP * 8 } else { 4 * blocks }
    }

    /// [`Quantized::decoded`], exactly.
    pub fn exact<T: Float>(&self) -> Vec<f64> {
        self.decoded::<T>().into_iter().map(|v| f64::from(v.to_f32())).collect()
    }

    /// The weight that the op is defined with: a product in f32, rounded once to `T`.
    pub fn decoded<T: Float>(&self) -> Vec<T> {
        let value = |i: usize| {
            let byte = self.codes.values()[i / 2];
            let code = if i.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
            let table = match self.quantization.format {
                Format::Nf4 => &halfbyte::quant::NF4_CODES,
                Format::Fp4 => &halfbyte::quant::FP4_CODES,
            };
            T::from_f32(table[usize::from(code)] * self.absmax(i / self.quantization.block_size))
        };
        (0..self.shape[0] * self.shape[1]).map(value).collect()
    }
}
