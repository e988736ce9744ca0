//! The model as it lies in memory.

use super::rope::RopeTables;
use super::screen::HeadScreen;
use super::weights::{MergedLinear, Weight};
use crate::config::Qwen3Config;
use halfbyte::{Backend, Buf, Float, ops::Heads};
use std::{ops::Range, sync::OnceLock};

/// A Qwen3 model in a backend's memory. Its weights are frozen.
pub struct Qwen3<B: Backend, T: Float> {
    /// Its shape.
    pub config: Qwen3Config,
    /// `[vocab, hidden]`
    pub(crate) embedding: Buf<B, T>,
    pub(crate) layers: Vec<Layer<B, T>>,
    /// `[hidden]`
    pub(crate) norm: Buf<B, f32>,
    /// None where the head is the embedding.
    pub(crate) head: Option<Weight<B, T>>,
    /// The head in 8 bits, once it is wanted.
    pub(crate) screen: OnceLock<HeadScreen<B>>,
    pub(crate) rope: RopeTables<B>,
}

/// One decoder layer.
#[derive(Debug)]
pub struct Layer<B: Backend, T: Float> {
    /// `[hidden]`
    pub(crate) attention_norm: Buf<B, f32>,
    /// `[head_dim]`
    pub(crate) q_norm: Buf<B, f32>,
    /// `[head_dim]`
    pub(crate) k_norm: Buf<B, f32>,
    /// `[hidden]`
    pub(crate) mlp_norm: Buf<B, f32>,
    pub(crate) qkv: MergedLinear<B, T>,
    pub(crate) o: MergedLinear<B, T>,
    pub(crate) gate_up: MergedLinear<B, T>,
    pub(crate) down: MergedLinear<B, T>,
}

impl<B: Backend, T: Float> Layer<B, T> {
    /// Its linear layers, those with one input together.
    pub(super) fn linears(&self) -> [&MergedLinear<B, T>; 4] {
        [&self.qkv, &self.o, &self.gate_up, &self.down]
    }

    /// The same, to be written.
    pub(super) fn linears_mut(&mut self) -> [&mut MergedLinear<B, T>; 4] {
        [&mut self.qkv, &mut self.o, &mut self.gate_up, &mut self.down]
    }
}

impl Qwen3Config {
    /// The heads as ops take them.
    pub(crate) fn heads(&self) -> Heads {
        Heads { q: self.n_heads, kv: self.n_kv_heads, dim: self.head_dim }
    }

    /// The columns of the values behind those of queries and keys.
    pub(crate) fn v_columns(&self) -> Range<usize> {
        let start = self.q_size() + self.kv_size();
        start..start + self.kv_size()
    }

    /// `head_dim^-0.5`
    pub(crate) fn attention_scale(&self) -> f32 {
        (self.head_dim as f32).sqrt().recip()
    }
}
