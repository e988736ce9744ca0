//! ggml's Q8_0: 32 elements, an f16 scale before 32 signed bytes.

use half::f16;

/// Elements of a block.
pub const BLOCK: usize = 32;
/// Its bytes.
pub const BYTES: usize = 2 + BLOCK;

/// Stores a block; whether its scale is finite.
pub fn encode(x: &[f32], out: &mut [u8]) -> bool {
    let scale = x.iter().fold(0f32, |most, v| most.max(v.abs())) / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let stored = f16::from_f32(scale);
    out[..2].copy_from_slice(&stored.to_le_bytes());
    out[2..].iter_mut().zip(x).for_each(|(out, v)| *out = (v * inverse).round() as i8 as u8);
    stored.is_finite()
}
