//! The 4-bit formats of bitsandbytes: code tables, blocks, double quantisation, packed layout.
//!
//! A weight `[rows, cols]` is flattened row by row and cut into blocks of `block_size`. A block keeps its
//! largest magnitude (`absmax`) and, for each element, the 4-bit index of the nearest code of
//! `element / absmax`. Element `2j` is in the high half of byte `j`. With double quantisation the `absmax`
//! themselves are stored in 8 bits, in groups of [`GROUP`] (Dettmers et al., "QLoRA", 2023, section 3).

mod block;
mod code;
mod nested;

pub(crate) use block::{max_or_nan, pack_codes, quantize_block};
pub use code::{DYNAMIC_MAP, FP4_CODES, NF4_CODES, nearest8};
pub use nested::{mean, nest, unnest};

use crate::{Backend, Buf, Error, Result, View};

/// Blocks that share one nested absmax.
pub const GROUP: usize = 256;

/// The block sizes that bitsandbytes writes.
pub const BLOCK_SIZES: [usize; 8] = [32, 64, 128, 256, 512, 1024, 2048, 4096];

/// Which 16 values the codes stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Quantiles of a normal distribution, "4-bit NormalFloat".
    Nf4,
    /// Sign, two bits of exponent, one of mantissa.
    Fp4,
}

/// One nested group: `absmax[i] = MAP[code[i]] * absmax + offset`, multiplied and then added, each rounded to f32.
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Group {
    /// Largest magnitude of `absmax - offset` in the group.
    pub absmax: f32,
    /// Mean absmax of the weight that the group belongs to.
    pub offset: f32,
}

impl crate::Element for Group {}

/// The scale of each block: one f32, or double quantisation. What holds them is up to the parameters.
#[derive(Debug, Clone, Copy)]
pub enum Absmax<F, C, G> {
    /// One f32 for each block.
    Plain(F),
    /// Double quantisation.
    Nested {
        /// One index into the dynamic map for each block.
        codes: C,
        /// One [`Group`] for each [`GROUP`] blocks.
        groups: G,
    },
}

/// Scales as ops take them.
pub type Scales<'a, B> = Absmax<View<'a, B, f32>, View<'a, B, u8>, View<'a, B, Group>>;

/// Scales in a backend's memory.
pub type ScaleBufs<B> = Absmax<Buf<B, f32>, Buf<B, u8>, Buf<B, Group>>;

impl<B: Backend> ScaleBufs<B> {
    /// Zeros for `blocks` blocks.
    ///
    /// # Errors
    /// The device has too little memory.
    pub fn zeros(backend: &B, blocks: usize, double_quant: bool) -> Result<Self> {
        if !double_quant {
            return Ok(Absmax::Plain(backend.zeros(blocks)?));
        }
        Ok(Absmax::Nested { codes: backend.zeros(blocks)?, groups: backend.zeros(blocks.div_ceil(GROUP))? })
    }

    /// All of them.
    pub fn view(&self) -> Scales<'_, B> {
        match self {
            Absmax::Plain(absmax) => Absmax::Plain(absmax.view()),
            Absmax::Nested { codes, groups } => Absmax::Nested { codes: codes.view(), groups: groups.view() },
        }
    }
}

/// A 4-bit weight in a backend's memory.
pub struct Weight4<'a, B: Backend> {
    /// Which codes.
    pub format: Format,
    /// One of [`BLOCK_SIZES`].
    pub block_size: usize,
    /// Outputs of the layer.
    pub rows: usize,
    /// Inputs of the layer.
    pub cols: usize,
    /// `rows * cols` half bytes, rounded up.
    pub codes: View<'a, B, u8>,
    /// One for each `block_size` elements, rounded up.
    pub scales: Scales<'a, B>,
}

impl<B: Backend> Clone for Weight4<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Weight4<'_, B> {}

/// Blocks of `len` elements.
pub const fn n_blocks(len: usize, block_size: usize) -> usize {
    len.div_ceil(block_size)
}

impl<B: Backend> Weight4<'_, B> {
    pub(crate) fn verify(&self, check: &crate::ops::Check<'_, B>) -> Result<()> {
        check.dims(&[self.rows, self.cols])?;
        check.block_size(self.block_size)?;
        let len = self.rows * self.cols;
        let blocks = n_blocks(len, self.block_size);
        check.len("weight.codes", &self.codes, len.div_ceil(2))?;
        match &self.scales {
            Scales::Plain(absmax) => check.len("weight.absmax", absmax, blocks),
            Scales::Nested { codes, groups } => {
                check.len("weight.absmax", codes, blocks)?;
                check.len("weight.nested_absmax", groups, blocks.div_ceil(GROUP))
            }
        }
    }
}

impl<B: Backend> crate::ops::Check<'_, B> {
    /// Kernels know the block sizes that bitsandbytes writes.
    pub(crate) fn block_size(&self, size: usize) -> Result<()> {
        self.value(BLOCK_SIZES.contains(&size), "the block size", size, "it must be a power of two from 32 to 4096")
    }
}

/// The name that bitsandbytes gives a format: `nf4`, `fp4`.
impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Format::Nf4 => "nf4",
            Format::Fp4 => "fp4",
        })
    }
}

impl std::str::FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "nf4" => Ok(Format::Nf4),
            "fp4" => Ok(Format::Fp4),
            _ => {
                Err(Error::Value { op: "quantize", arg: "the format", got: name.into(), want: "it must be nf4 or fp4" })
            }
        }
    }
}
