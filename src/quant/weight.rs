//! A 4-bit weight in memory, and its scales.

use super::{format::Format, nested::Group};
use crate::buffer::{Buf, Storage, View};

/// The block sizes that bitsandbytes writes.
pub const BLOCK_SIZES: [usize; 8] = [32, 64, 128, 256, 512, 1024, 2048, 4096];

/// The scale of each block: one f32, or double quantisation. What holds them is up to the parameters.
#[derive(Debug, Clone, Copy)]
pub enum Absmax<F, C, G> {
    /// One f32 for each block.
    Plain(F),
    /// Double quantisation.
    Nested {
        /// One index into the dynamic map for each block.
        codes: C,
        /// One [`Group`] for each [`GROUP`](super::GROUP) blocks.
        groups: G,
    },
}

/// Scales as ops take them.
pub type Scales<'a, B> = Absmax<View<'a, B, f32>, View<'a, B, u8>, View<'a, B, Group>>;

/// Scales in a backend's memory.
pub type ScaleBufs<B> = Absmax<Buf<B, f32>, Buf<B, u8>, Buf<B, Group>>;

impl<B: Storage> ScaleBufs<B> {
    /// All of them.
    pub fn view(&self) -> Scales<'_, B> {
        match self {
            Absmax::Plain(absmax) => Absmax::Plain(absmax.view()),
            Absmax::Nested { codes, groups } => Absmax::Nested { codes: codes.view(), groups: groups.view() },
        }
    }
}

/// A 4-bit weight in a backend's memory.
#[derive(Debug)]
pub struct Weight4<'a, B: Storage> {
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

impl<B: Storage> Clone for Weight4<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Storage> Copy for Weight4<'_, B> {}

/// Blocks of `len` elements.
pub const fn n_blocks(len: usize, block_size: usize) -> usize {
    len.div_ceil(block_size)
}
