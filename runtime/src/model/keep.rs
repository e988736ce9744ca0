//! What a forward pass leaves for a backward pass, layer by layer.

use crate::error::Result;

/// What a forward pass leaves of a layer; each takes less of the device's memory than those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// All that the backward pass reads.
    Everything,
    /// The same without gate and up, half of it: these are computed again.
    AllButMlp,
    /// What enters the layer, all but the last product of which is computed again (gradient checkpointing).
    Residual,
    /// The same, in the host's memory.
    Host,
    /// Nothing: inference. The residual stream is one buffer, which every layer adds to.
    Nothing,
}

impl Keep {
    /// Whether the layer has its own queries, keys, values and outputs of attention.
    pub(super) fn attention(self) -> bool {
        matches!(self, Keep::Everything | Keep::AllButMlp)
    }

    /// Whether the layer has its own gate and up.
    pub(super) fn gate_up(self) -> bool {
        self == Keep::Everything
    }
}

/// What each layer keeps. The backward pass begins with the last one, and needs memory for nothing else then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// So many of the last layers keep [`Keep::Everything`].
    pub everything: usize,
    /// So many before these keep [`Keep::AllButMlp`].
    pub all_but_mlp: usize,
    /// What those before these keep.
    pub rest: Keep,
}

impl From<Keep> for Kept {
    /// All layers the same.
    fn from(rest: Keep) -> Self {
        Kept { everything: 0, all_but_mlp: 0, rest }
    }
}

impl Kept {
    /// Of each of `n` layers.
    pub(crate) fn layers(self, n: usize) -> Vec<Keep> {
        let Kept { everything, all_but_mlp, rest } = self;
        let keep = |above| match above {
            above if above < everything => Keep::Everything,
            above if above - everything < all_but_mlp => Keep::AllButMlp,
            _ => rest,
        };
        (0..n).rev().map(keep).collect()
    }
}

/// Something of every layer: some have their own, the others share one.
pub(super) struct Shelf<X> {
    items: Vec<X>,
    /// The item of each layer.
    places: Vec<usize>,
    /// Whose each item is at the moment.
    held: Vec<Option<usize>>,
}

impl<X> Shelf<X> {
    /// `own` says which layers have their own.
    pub fn new(own: impl Iterator<Item = bool>, mut make: impl FnMut() -> Result<X>) -> Result<Self> {
        let places = places(own.enumerate().map(|(layer, own)| own.then_some(layer)));
        let items = (0..distinct(&places)).map(|_| make()).collect::<Result<Vec<_>>>()?;
        let held = items.iter().map(|_| None).collect();
        Ok(Shelf { items, places, held })
    }

    /// That of a layer.
    pub fn at(&self, layer: usize) -> &X {
        &self.items[self.places[layer]]
    }

    /// That of a layer, to write: it is this layer's from now on.
    pub fn at_mut(&mut self, layer: usize) -> &mut X {
        let place = self.places[layer];
        self.held[place] = Some(layer);
        &mut self.items[place]
    }

    /// Whether it is this layer's, and not that of another one with which it shares.
    pub fn has(&self, layer: usize) -> bool {
        self.held[self.places[layer]] == Some(layer)
    }

    pub fn items(&self) -> &[X] {
        &self.items
    }
}

/// Numbers from 0 on for keys, in the order in which they first come.
pub(super) fn places<K: PartialEq>(keys: impl Iterator<Item = K>) -> Vec<usize> {
    let mut known = Vec::new();
    let mut place = |key: K| match known.iter().position(|other| *other == key) {
        Some(place) => place,
        None => {
            known.push(key);
            known.len() - 1
        }
    };
    keys.map(&mut place).collect()
}

/// How many of them there are.
pub(super) fn distinct(places: &[usize]) -> usize {
    places.iter().max().map_or(0, |last| last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_layers_keep_the_most() {
        use Keep::{AllButMlp, Everything, Host, Nothing};
        let kept = Kept { everything: 2, all_but_mlp: 1, rest: Host };
        assert_eq!(kept.layers(5), [Host, Host, AllButMlp, Everything, Everything]);
        assert_eq!(kept.layers(1), [Everything]);
        assert_eq!(Kept::from(Nothing).layers(2), [Nothing, Nothing]);
    }

    #[test]
    fn what_is_shared_is_the_last_writers() {
        let mut next = 0..;
        let mut shelf = Shelf::new([false, true, false].into_iter(), || Ok(next.next().unwrap())).unwrap();
        assert_eq!(shelf.items(), [0, 1]);
        assert_eq!([0, 1, 2].map(|layer| *shelf.at_mut(layer)), [0, 1, 0]);
        assert_eq!([0, 1, 2].map(|layer| shelf.has(layer)), [false, true, true]);
    }
}
