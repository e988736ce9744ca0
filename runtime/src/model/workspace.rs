//! Memory that the parts of a step use one after the other.

use super::rows;
use crate::{config::Qwen3Config, error::Result};
use halfbyte::{Backend, Buf, Float, MatMut, ViewMut};
use std::ops::Range;

/// Bytes at whose multiples matrices begin.
const ALIGN: usize = 256;

/// The most rows whose logits exist at once: 300 MiB of bf16 at 151,936 tokens.
const MOST_LOGITS: usize = 1024;

/// As many as keep a GPU at its work.
const FEW_LOGITS: usize = 256;

/// Rows whose logits exist at once where there are so many tokens: half of them, so that logits are not most of what a
/// small batch takes.
fn n_logits(capacity: usize) -> usize {
    (capacity / 2).clamp(FEW_LOGITS, MOST_LOGITS).min(capacity)
}

/// What lies in the workspace, for so many tokens of a model.
pub(super) struct Extent<'a> {
    pub config: &'a Qwen3Config,
    /// Tokens.
    pub n: usize,
    /// Columns that operands of products leave for adapters.
    pub room: usize,
}

impl Extent<'_> {
    /// Gradients of an MLP.
    fn mlp(&self) -> [[usize; 2]; 1] {
        [[self.n, self.config.intermediate_size]]
    }

    /// Gradients of an attention.
    fn attention(&self) -> [[usize; 2]; 4] {
        let (n, q, kv) = (self.n, self.config.q_size(), self.config.kv_size());
        [[n, q], [n, q], [n, kv], [n, q + 2 * kv + self.room]]
    }

    /// Inputs of the head and their gradients.
    fn head(&self) -> [[usize; 2]; 4] {
        [[n_logits(self.n), self.config.hidden_size]; 4]
    }

    /// Bytes of what the head works with, in numbers of `size` bytes. There is a row of f32 logits at least.
    pub fn head_bytes(&self, size: usize) -> usize {
        let row = n_logits(self.n).saturating_mul(size).max(size_of::<f32>());
        bytes(&self.head(), size).saturating_add(row.saturating_mul(self.config.vocab_size))
    }

    /// Bytes of what takes the most.
    pub fn bytes(&self, size: usize) -> usize {
        [bytes(&self.mlp(), size), bytes(&self.attention(), size)].into_iter().fold(self.head_bytes(size), usize::max)
    }
}

/// Of a matrix, up to where the next one begins.
fn room_of([rows, cols]: [usize; 2], size: usize) -> usize {
    rows.saturating_mul(cols).saturating_mul(size).checked_next_multiple_of(ALIGN).unwrap_or(usize::MAX)
}

fn bytes(shapes: &[[usize; 2]], size: usize) -> usize {
    shapes.iter().fold(0, |sum, &shape| sum.saturating_add(room_of(shape, size)))
}

/// Gradients of an attention.
pub(super) struct AttentionGrads<'a, B: Backend, T: Float> {
    /// `[n, q]`
    pub attention: MatMut<'a, B, T>,
    /// `[n, q]`: rotated.
    pub q: MatMut<'a, B, T>,
    /// `[n, kv]`: rotated.
    pub k: MatMut<'a, B, T>,
    /// `[n, q + 2 kv]`, with room behind its columns.
    pub qkv: MatMut<'a, B, T>,
}

/// What the head works with.
pub(super) struct Head<'a, B: Backend, T: Float> {
    /// `[rows, hidden]`: what leaves the last layer there.
    pub x: MatMut<'a, B, T>,
    /// `[rows, hidden]`: normed.
    pub normed: MatMut<'a, B, T>,
    /// `[rows, hidden]`: the gradient of `normed`.
    pub d_normed: MatMut<'a, B, T>,
    /// `[rows, hidden]`: the gradient of `x`.
    pub d_x: MatMut<'a, B, T>,
    /// `[rows, vocab]`, of the compute type in training and f32 in evaluation.
    pub logits: Logits<'a, B>,
}

impl<B: Backend, T: Float> Head<'_, B, T> {
    /// Rows that fit at once, with logits of type `O`.
    pub fn capacity<O: Float>(&self) -> usize {
        let Logits { memory, vocab } = &self.logits;
        (memory.len() * size_of::<f32>() / (vocab * size_of::<O>())).min(self.x.shape()[0])
    }

    /// `0..n` in as many rows at a time as fit.
    pub fn chunks<O: Float>(&self, n: usize) -> impl Iterator<Item = Range<usize>> + use<B, T, O> {
        let step = self.capacity::<O>();
        (0..n).step_by(step).map(move |start| start..(start + step).min(n))
    }
}

/// Logits of some rows.
pub(super) struct Logits<'a, B: Backend> {
    memory: ViewMut<'a, B, f32>,
    vocab: usize,
}

impl<B: Backend> Logits<'_, B> {
    /// `[n, vocab]`
    pub fn rows<O: Float>(&mut self, n: usize) -> MatMut<'_, B, O> {
        MatMut::new(self.memory.reborrow().cast().into_at(0..n * self.vocab), n, self.vocab)
    }
}

/// The memory.
pub(super) struct Workspace<B: Backend> {
    /// f32 words, so that either type is aligned.
    memory: Buf<B, f32>,
}

/// The next matrix of this shape in `memory`, and what lies behind it.
fn take<'a, B: Backend, T: Float>(
    memory: ViewMut<'a, B, f32>,
    [rows, cols]: [usize; 2],
) -> (MatMut<'a, B, T>, ViewMut<'a, B, f32>) {
    let (matrix, rest) = memory.split(room_of([rows, cols], size_of::<T>()) / size_of::<f32>());
    (MatMut::new(matrix.cast().into_at(0..rows * cols), rows, cols), rest)
}

impl<B: Backend> Workspace<B> {
    /// Of so many bytes.
    pub fn new(backend: &B, bytes: usize) -> Result<Self> {
        Ok(Workspace { memory: rows::zeros(backend, &[bytes.div_ceil(size_of::<f32>())])? })
    }

    /// `[n, intermediate]`: the gradient of SwiGLU's output.
    pub fn mlp<T: Float>(&mut self, extent: &Extent<'_>) -> MatMut<'_, B, T> {
        let [gated] = extent.mlp();
        take(self.memory.view_mut(), gated).0
    }

    pub fn attention<T: Float>(&mut self, extent: &Extent<'_>) -> AttentionGrads<'_, B, T> {
        let [attention, q, k, qkv] = extent.attention();
        let (attention, rest) = take(self.memory.view_mut(), attention);
        let (q, rest) = take(rest, q);
        let (k, rest) = take(rest, k);
        AttentionGrads { attention, q, k, qkv: take(rest, qkv).0 }
    }

    /// For as many rows as fit at once, or for fewer; `extent` is that of the whole memory.
    pub fn head<T: Float>(&mut self, extent: &Extent<'_>) -> Head<'_, B, T> {
        let [x, normed, d_normed, d_x] = extent.head();
        let (x, rest) = take(self.memory.view_mut(), x);
        let (normed, rest) = take(rest, normed);
        let (d_normed, rest) = take(rest, d_normed);
        let (d_x, memory) = take(rest, d_x);
        Head { x, normed, d_normed, d_x, logits: Logits { memory, vocab: extent.config.vocab_size } }
    }
}
