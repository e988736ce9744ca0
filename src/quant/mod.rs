//! The 4-bit formats of bitsandbytes: code tables, blocks, double quantisation, packed layout.
//!
//! A weight `[rows, cols]` is flattened row by row and cut into blocks of `block_size`. A block keeps its
//! largest magnitude (`absmax`) and, for each element, the 4-bit index of the nearest code of
//! `element / absmax`. Element `2j` is in the high half of byte `j`. With double quantisation the `absmax`
//! themselves are stored in 8 bits, in groups of [`GROUP`] (Dettmers et al., "QLoRA", 2023, section 3).
//! The moments of [`crate::ops::AdamW8bit`] are in 8 bits, in blocks of [`BLOCK8`].

mod block;
mod block8;
mod code;
mod format;
mod nested;
mod weight;

pub(crate) use block::{pack_codes, quantize_block};
pub use block8::BLOCK8;
pub(crate) use block8::Map8;
pub use code::{DYNAMIC_MAP, FP4_CODES, NF4_CODES, UNSIGNED_DYNAMIC_MAP, nearest8, nearest8_unsigned};
pub use format::Format;
pub use nested::{GROUP, Group, mean, nest, unnest};
pub use weight::{Absmax, BLOCK_SIZES, ScaleBufs, Scales, Weight4, n_blocks};
