use crate::{Result, config::Qwen3Config};
use halfbyte::{Backend, Buf};

/// Cosines and sines of every position's rotations.
pub struct RopeTables<B: Backend> {
    /// `[positions, head_dim / 2]`
    pub(crate) cos: Buf<B, f32>,
    /// `[positions, head_dim / 2]`
    pub(crate) sin: Buf<B, f32>,
}

/// Positions that tables are made for at most, whatever a configuration promises: 1 GiB for heads of 256.
pub(super) const MAX_POSITIONS: usize = 1 << 20;

impl<B: Backend> RopeTables<B> {
    /// Tables for positions below `positions`.
    pub(super) fn new(backend: &B, config: &Qwen3Config, positions: usize) -> Result<Self> {
        let table = config.rope.table(config.head_dim);
        let tabulate = |f: fn(f32) -> f32| {
            let row = |p: usize| table.inv_freq.iter().map(move |w| f(p as f32 * w));
            (0..positions).flat_map(row).map(|v| v * table.attention_factor).collect::<Vec<f32>>()
        };
        Ok(RopeTables { cos: backend.upload(&tabulate(f32::cos))?, sin: backend.upload(&tabulate(f32::sin))? })
    }
}
