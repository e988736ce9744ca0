//! The residual stream, and where its states lie.

use super::{
    keep::{Keep, distinct, places},
    rows::Rows,
};
use crate::error::Result;
use halfbyte::{Backend, Float, MatMut};

/// Where a state lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In a buffer of its own.
    Own(usize),
    /// In one of two that inputs of layers take in turn, until they are in the host's memory and after they came back.
    Turn(usize),
    /// In the one for what enters the MLP of a layer in hand.
    Middle,
    /// In the only one.
    Only,
}

/// Where each state lies: `2 i` enters layer `i`, `2 i + 1` its MLP, and the last one leaves the last layer.
fn states(keep: &[Keep]) -> impl Iterator<Item = Place> {
    let last = keep.len().saturating_sub(1);
    (0..2 * keep.len() + 1).map(move |state| match (keep[last.min(state / 2)], state % 2) {
        (Keep::Nothing, _) => Place::Only,
        (Keep::Host, 0) => Place::Turn(state / 2 % 2),
        (Keep::Host | Keep::Residual, 1) => Place::Middle,
        _ => Place::Own(state),
    })
}

/// How many buffers there are on the device.
pub(super) fn n_states(keep: &[Keep]) -> usize {
    distinct(&places(states(keep)))
}

/// The residual stream.
pub(super) struct ResidualStream<B: Backend, T: Float> {
    /// `[n, hidden]` each.
    buffers: Vec<Rows<B, T>>,
    /// The buffer of each state.
    places: Vec<usize>,
    /// The state in each buffer.
    held: Vec<Option<usize>>,
    /// `[n, hidden]`, in the host's memory: what enters each layer that keeps it there.
    host: Vec<Option<Rows<B, T>>>,
}

impl<B: Backend, T: Float> ResidualStream<B, T> {
    pub fn new(backend: &B, capacity: usize, hidden: usize, keep: &[Keep]) -> Result<Self> {
        let places = places(states(keep));
        let buffer = |_| Rows::new(backend, capacity, hidden);
        let on_host = |&keep: &Keep| (keep == Keep::Host).then(|| Rows::on_host(backend, capacity, hidden)).transpose();
        let buffers = (0..distinct(&places)).map(buffer).collect::<Result<Vec<_>>>()?;
        let held = buffers.iter().map(|_| None).collect();
        Ok(ResidualStream { buffers, places, held, host: keep.iter().map(on_host).collect::<Result<_>>()? })
    }

    /// A state, if it has not been overwritten by a later one.
    pub fn at(&self, state: usize) -> &Rows<B, T> {
        &self.buffers[self.places[state]]
    }

    fn at_mut(&mut self, state: usize) -> &mut Rows<B, T> {
        let place = self.places[state];
        self.held[place] = Some(state);
        &mut self.buffers[place]
    }

    /// What enters the first layer.
    pub fn first_mut(&mut self) -> &mut Rows<B, T> {
        self.at_mut(0)
    }

    /// What leaves the last layer.
    pub fn last(&self) -> &Rows<B, T> {
        self.at(self.places.len() - 1)
    }

    /// As [`Self::last`], to write.
    pub fn last_mut(&mut self) -> &mut Rows<B, T> {
        self.at_mut(self.places.len() - 1)
    }

    /// Begins the state after `state`, for a layer's output to be added to: a copy, or `state` itself if it is not kept.
    pub fn advance(&mut self, backend: &B, state: usize, n: usize) -> Result<MatMut<'_, B, T>> {
        let (from, to) = (self.places[state], self.places[state + 1]);
        // Fails where both are one buffer.
        if let Ok([x, out]) = self.buffers.get_disjoint_mut([from, to]) {
            backend.copy(x.flat(n), out.flat_mut(n))?;
        }
        Ok(self.at_mut(state + 1).rows_mut(n))
    }

    /// Begins to copy what enters a layer to the host's memory, where it keeps that there. It must have been read by then:
    /// what uses it next waits for the copy.
    pub fn store(&mut self, backend: &B, layer: usize, n: usize) -> Result<()> {
        let x = &self.buffers[self.places[2 * layer]];
        match &mut self.host[layer] {
            Some(host) => Ok(backend.copy_aside(x.flat(n), host.flat_mut(n))?),
            None => Ok(()),
        }
    }

    /// Begins to copy what enters a layer back from there, if it is not on the device.
    pub fn fetch(&mut self, backend: &B, layer: usize, n: usize) -> Result<()> {
        let (state, place) = (2 * layer, self.places[2 * layer]);
        match &self.host[layer] {
            Some(host) if self.held[place] != Some(state) => {
                self.held[place] = Some(state);
                Ok(backend.copy_aside(host.flat(n), self.buffers[place].flat_mut(n))?)
            }
            _ => Ok(()),
        }
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.buffers.iter().map(Rows::bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halfbyte::Cpu;

    #[test]
    fn states_take_as_many_buffers_as_are_kept() {
        use Keep::{AllButMlp, Everything, Host, Nothing, Residual};
        let of_all = [Everything, AllButMlp, Residual, Host, Nothing].map(|keep| n_states(&[keep; 36]));
        assert_eq!(of_all, [73, 73, 38, 3, 1]);
        // Two in turn and the middle; two of the layer above, and what leaves it.
        assert_eq!(n_states(&[Host, Host, Host, Everything]), 6);
        assert_eq!(n_states(&[Residual, AllButMlp]), 5);
    }

    /// Every state as a forward pass writes it, and as a backward pass finds it.
    #[test]
    fn what_is_stored_comes_back() {
        let (cpu, n) = (Cpu::new(), 2);
        for keep in [[Keep::Host; 5], [Keep::Residual; 5], [Keep::Everything; 5]] {
            let mut stream = ResidualStream::<_, f32>::new(&cpu, n, 1, &keep).unwrap();
            let write = |rows: &mut Rows<Cpu, f32>, value: usize| {
                cpu.write(&[value as f32; 2], rows.flat_mut(n)).unwrap();
            };
            write(stream.first_mut(), 0);
            for layer in 0..5 {
                stream.advance(&cpu, 2 * layer, n).unwrap();
                stream.store(&cpu, layer, n).unwrap();
                stream.advance(&cpu, 2 * layer + 1, n).unwrap();
                write(stream.at_mut(2 * layer + 2), layer + 1);
            }
            let read = |rows: &Rows<Cpu, f32>| cpu.download(rows.flat(n)).unwrap()[1] as usize;
            assert_eq!(read(stream.last()), 5);
            for layer in (0..5).rev() {
                stream.fetch(&cpu, layer, n).unwrap();
                if layer > 0 {
                    stream.fetch(&cpu, layer - 1, n).unwrap();
                }
                assert_eq!(read(stream.at(2 * layer)), layer, "{keep:?}");
            }
        }
    }
}
