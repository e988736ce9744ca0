//! The types of a GGUF file's tensors: how many bytes their blocks take, and how a row becomes some.

use std::fmt;

use halfbyte::DType;

use super::{k_quants, q8_0};
use crate::export::merged::round;

/// How a tensor's elements are stored; the numbers are ggml's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorType {
    /// f32.
    F32 = 0,
    /// f16.
    F16 = 1,
    /// Blocks of 32 with a scale, 8 bits each.
    Q8_0 = 8,
    /// Blocks of 256 in eight parts, each with a scale and a minimum; 4 bits each.
    Q4K = 12,
    /// Blocks of 256 in sixteen parts, each with a scale; 6 bits each.
    Q6K = 14,
    /// bf16.
    Bf16 = 30,
}

impl TensorType {
    /// Elements of a block, and its bytes.
    pub(super) const fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q8_0 => (q8_0::BLOCK, q8_0::BYTES),
            Self::Q4K => (k_quants::BLOCK, k_quants::Q4_K_BYTES),
            Self::Q6K => (k_quants::BLOCK, k_quants::Q6_K_BYTES),
        }
    }

    /// Bytes of so many elements, which must be whole blocks.
    pub(super) const fn bytes(self, elements: usize) -> usize {
        elements / self.block().0 * self.block().1
    }

    /// Itself, or the nearest type above it whose blocks fill a row of so many elements.
    pub(super) fn that_fits(self, columns: usize) -> Self {
        let fits = |kind: &Self| columns.is_multiple_of(kind.block().0);
        [self, Self::Q8_0, Self::F16].into_iter().find(fits).unwrap_or(Self::F32)
    }

    /// Stores a row; whether all of it is finite in this type.
    pub(super) fn encode(self, row: &[f32], out: &mut [u8]) -> bool {
        let (elements, bytes) = self.block();
        let by_block = |encode: fn(&[f32], &mut [u8]) -> bool, out: &mut [u8]| {
            row.chunks_exact(elements)
                .zip(out.chunks_exact_mut(bytes))
                .fold(true, |all, (x, out)| encode(x, out) && all)
        };
        match self {
            Self::F32 => round(row, DType::F32, out),
            Self::F16 => round(row, DType::F16, out),
            Self::Bf16 => round(row, DType::Bf16, out),
            Self::Q8_0 => by_block(q8_0::encode, out),
            Self::Q4K => by_block(k_quants::encode_q4_k, out),
            Self::Q6K => by_block(k_quants::encode_q6_k, out),
        }
    }
}

/// As ggml names it.
impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q6K => "Q6_K",
        })
    }
}
