//! An adapter in a backend's memory: all its tensors in one flat buffer.

use crate::{
    Result,
    config::{Module, Projection},
};
use halfbyte::{Backend, Buf, Float, View};
use std::ops::Range;

/// Tensors start at multiples of this, so that kernels can move 16 bytes at a time.
const ALIGN: usize = 64;

/// One adapted layer and where its tensors lie in the flat buffer.
#[derive(Debug, Clone, PartialEq)]
pub struct Site {
    /// The layer.
    pub module: Module,
    /// Position among the sites: its dropout masks are its own.
    pub index: usize,
    /// Inputs and outputs of the layer.
    pub in_features: usize,
    /// Outputs of the layer.
    pub out_features: usize,
    /// `r`
    pub rank: usize,
    /// `alpha / r` or `alpha / sqrt(r)`.
    pub scale: f32,
    /// `A`, `[r, in]`.
    pub a: Range<usize>,
    /// `B`, `[out, r]`, directly behind `A`'s padding.
    pub b: Range<usize>,
    /// Its columns in the matrix of its decoder layer that keeps `x Aᵀ`.
    pub xa: Range<usize>,
}

/// What to make a [`Site`] of.
#[derive(Debug, Clone, PartialEq)]
pub struct SiteSpec {
    /// The layer.
    pub module: Module,
    /// `[out, in]` of the layer.
    pub shape: [usize; 2],
    /// `r`
    pub rank: usize,
    /// `alpha / r` or `alpha / sqrt(r)`.
    pub scale: f32,
}

/// Where everything lies in the flat buffer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Layout {
    /// In the model's order.
    pub sites: Vec<Site>,
    /// The trained output head `[vocab, hidden]`, if it is in `modules_to_save`.
    pub head: Option<Range<usize>>,
    /// Elements in all, padding included.
    pub len: usize,
    /// Columns of the matrix that keeps `x Aᵀ`: the most that one decoder layer needs.
    pub xa_columns: usize,
}

impl Layout {
    /// Lays out the sites, which must come in the model's order, then the head of `head_len` elements.
    pub fn new(specs: impl IntoIterator<Item = SiteSpec>, head_len: Option<usize>) -> Self {
        let mut layout = Layout::default();
        let mut columns = (None, 0);
        for SiteSpec { module, shape: [out_features, in_features], rank, scale } in specs {
            let layer = match module {
                Module::Layer(layer, _) => Some(layer),
                Module::LmHead => None,
            };
            if columns.0 != layer {
                columns = (layer, 0);
            }
            let xa = columns.1..columns.1 + rank;
            // Columns start at multiples of 8 for the same reason as tensors do.
            columns.1 = xa.end.next_multiple_of(8);
            layout.xa_columns = layout.xa_columns.max(columns.1);
            let (a, b) = (layout.take(rank * in_features), layout.take(out_features * rank));
            let index = layout.sites.len();
            layout.sites.push(Site { module, index, in_features, out_features, rank, scale, a, b, xa });
        }
        layout.head = head_len.map(|len| layout.take(len));
        layout
    }

    fn take(&mut self, len: usize) -> Range<usize> {
        let start = self.len;
        self.len = (start + len).next_multiple_of(ALIGN);
        start..start + len
    }

    /// The site of a layer, if it is adapted.
    pub fn site(&self, layer: usize, projection: Projection) -> Option<&Site> {
        let at = self.sites.binary_search_by_key(&Module::Layer(layer, projection), |site| site.module);
        at.ok().map(|i| &self.sites[i])
    }

    /// The lowest decoder layer with an adapter: the backward pass ends there.
    pub fn lowest_layer(&self) -> Option<usize> {
        let layers = self.sites.iter().filter_map(|site| match site.module {
            Module::Layer(layer, _) => Some(layer),
            Module::LmHead => None,
        });
        layers.min()
    }

    /// Trained numbers, padding not counted.
    pub fn n_trainable(&self) -> usize {
        let sites: usize = self.sites.iter().map(|site| site.a.len() + site.b.len()).sum();
        sites + self.head.as_ref().map_or(0, |head| head.len())
    }
}

/// An adapter as the model reads it.
pub struct Adapter<B: Backend, T: Float> {
    /// Where everything lies.
    pub layout: Layout,
    /// `[layout.len]`, in the compute type.
    pub compute: Buf<B, T>,
}

impl<B: Backend, T: Float> Adapter<B, T> {
    /// Puts an adapter's numbers, laid out as `layout` says, into `backend`'s memory.
    ///
    /// # Errors
    /// The device has too little memory.
    pub fn new(backend: &B, layout: Layout, flat: &[f32]) -> Result<Self> {
        let host: Vec<T> = flat.iter().map(|&v| T::from_f32(v)).collect();
        Ok(Adapter { layout, compute: backend.upload(&host)? })
    }

    /// `A` of a site, `[r, in]`.
    pub(crate) fn a(&self, site: &Site) -> View<'_, B, T> {
        self.compute.at(site.a.clone())
    }

    /// `B` of a site, `[out, r]`.
    pub(crate) fn b(&self, site: &Site) -> View<'_, B, T> {
        self.compute.at(site.b.clone())
    }

    /// The trained head, `[vocab, hidden]`.
    pub(crate) fn head(&self) -> Option<View<'_, B, T>> {
        Some(self.compute.at(self.layout.head.clone()?))
    }
}
