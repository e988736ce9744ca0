use crate::config::Qwen3Config;
use crate::error::Result;
use halfbyte::{Backend, Buf, elements, host};

/// The most positions that tables are made for: 256 MiB in each for heads of 128. No published model has more; a damaged
/// `config.json` may.
const MAX_POSITIONS: usize = 1 << 20;

impl Qwen3Config {
    /// Positions that a sequence can have here: the model's, but at most 2^20.
    pub fn positions(&self) -> usize {
        self.max_position_embeddings.min(MAX_POSITIONS)
    }
}

/// Cosines and sines of every position's rotations.
#[derive(Debug)]
pub struct RopeTables<B: Backend> {
    /// `[positions, head_dim / 2]`
    pub(crate) cos: Buf<B, f32>,
    /// `[positions, head_dim / 2]`
    pub(crate) sin: Buf<B, f32>,
}

impl<B: Backend> RopeTables<B> {
    /// Tables for all positions that a sequence can have.
    pub(super) fn new(backend: &B, config: &Qwen3Config) -> Result<Self> {
        let (table, positions) = (config.rope.table(config.head_dim), config.positions());
        let len = elements::<f32>(&[positions, table.inv_freq.len()])?;
        let tabulate = |f: fn(f32) -> f32| {
            let row = |p: usize| table.inv_freq.iter().map(move |w| f(p as f32 * w));
            host::collect(len, (0..positions).flat_map(row).map(|v| v * table.attention_factor))
        };
        Ok(RopeTables { cos: backend.upload(&tabulate(f32::cos)?)?, sin: backend.upload(&tabulate(f32::sin)?)? })
    }
}
