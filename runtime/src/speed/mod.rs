//! How fast a model answers and trains, measured without a checkpoint: its shape decides that, so weights, prompts and
//! samples are random.

mod decode;
mod profile;
mod rows;
mod shape;
mod train;

pub use decode::{DecodeSpeed, Decoding, decode};
pub use rows::{DecodeRow, RowsFile, TrainRow};
pub use shape::{SHAPES, Shape};
pub use train::{TrainSpeed, Training, train};

use crate::{
    config::Qwen3Config,
    error::Result,
    lora::{Adapter, LoraConfig, Targets},
    options,
};
use halfbyte::{host, rng::philox};

/// Sets these random numbers apart from other uses of the same seed ("text").
const STREAM: u32 = 0x7465_7874;

/// An adapter of all linear layers with alpha = 2 r, random also where one that is to be trained begins with zeros.
///
/// # Errors
/// The rank or the dropout is out of range, or there is too little memory.
pub fn random_adapter(config: &Qwen3Config, r: usize, dropout: f32, seed: u64) -> Result<Adapter> {
    options::LORA_R.check(r)?;
    options::LORA_DROPOUT.check(dropout)?;
    let mut lora = LoraConfig::new(r, 2.0 * r as f64, Targets::AllLinear);
    lora.dropout = dropout;
    let mut adapter = Adapter::of_layers(lora, config, seed)?;
    for layer in &mut adapter.layers {
        layer.b.iter_mut().zip(layer.a.iter().cycle()).for_each(|(b, a)| *b = *a);
    }
    Ok(adapter)
}

/// Token ids that a vocabulary of this size has; another `text`, other ids.
fn random_ids(len: usize, vocab: usize, text: usize) -> Result<Vec<u32>> {
    let quads = (0..len.div_ceil(4)).map(|quad| philox([quad as u32, text as u32, 0, STREAM], 0));
    Ok(host::collect(len, quads.flatten().take(len).map(|word| word % vocab as u32))?)
}
