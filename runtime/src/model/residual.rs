//! The residual stream, and how much of it is kept.

use super::rows::Rows;
use crate::error::Result;
use halfbyte::{Backend, Float, MatMut};

/// What a forward pass leaves for a backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// All that the backward pass reads.
    Everything,
    /// The residual stream between layers; the backward pass computes each layer again (gradient checkpointing).
    Residual,
    /// Nothing: inference. The residual stream is one buffer, which every layer adds to.
    Nothing,
}

impl Keep {
    /// How many states of the residual stream exist at once.
    pub(super) fn states(self, n_layers: usize) -> usize {
        match self {
            Keep::Everything => 2 * n_layers + 1,
            Keep::Residual => n_layers + 2,
            Keep::Nothing => 1,
        }
    }

    /// How many layers keep their activations.
    pub(super) fn layers(self, n_layers: usize) -> usize {
        if self == Keep::Everything { n_layers } else { 1 }
    }
}

/// The residual stream. Its state `2 i` enters layer `i`, state `2 i + 1` the MLP of layer `i`; the last one leaves the
/// last layer.
pub(super) struct ResidualStream<B: Backend, T: Float> {
    /// `[n, hidden]` each.
    buffers: Vec<Rows<B, T>>,
    keep: Keep,
    last: usize,
}

impl<B: Backend, T: Float> ResidualStream<B, T> {
    pub fn new(backend: &B, capacity: usize, hidden: usize, n_layers: usize, keep: Keep) -> Result<Self> {
        let buffers =
            (0..keep.states(n_layers)).map(|_| Rows::new(backend, capacity, hidden)).collect::<Result<_>>()?;
        Ok(ResidualStream { buffers, keep, last: 2 * n_layers })
    }

    /// The buffer that holds a state.
    fn slot(&self, state: usize) -> usize {
        match self.keep {
            Keep::Everything => state,
            Keep::Residual if state.is_multiple_of(2) => state / 2,
            // What enters an MLP is needed only while its layer is in hand.
            Keep::Residual => self.buffers.len() - 1,
            Keep::Nothing => 0,
        }
    }

    pub fn keep(&self) -> Keep {
        self.keep
    }

    /// A state, if it has not been overwritten by a later one.
    pub fn at(&self, state: usize) -> &Rows<B, T> {
        &self.buffers[self.slot(state)]
    }

    /// What enters the first layer.
    pub fn first_mut(&mut self) -> &mut Rows<B, T> {
        &mut self.buffers[0]
    }

    /// What leaves the last layer.
    pub fn last(&self) -> &Rows<B, T> {
        self.at(self.last)
    }

    /// As [`Self::last`], to write.
    pub fn last_mut(&mut self) -> &mut Rows<B, T> {
        let slot = self.slot(self.last);
        &mut self.buffers[slot]
    }

    /// Begins the state after `state`, for a layer's output to be added to: a copy, or `state` itself if it is not kept.
    pub fn advance(&mut self, backend: &B, state: usize, n: usize) -> Result<MatMut<'_, B, T>> {
        let (from, to) = (self.slot(state), self.slot(state + 1));
        // Fails where both are one buffer.
        if let Ok([x, out]) = self.buffers.get_disjoint_mut([from, to]) {
            backend.copy(x.flat(n), out.flat_mut(n))?;
        }
        Ok(self.buffers[to].rows_mut(n))
    }

    pub fn bytes(&self) -> usize {
        self.buffers.iter().map(Rows::bytes).sum()
    }
}
