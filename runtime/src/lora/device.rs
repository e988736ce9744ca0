//! An adapter in a backend's memory: all its tensors in one flat buffer.

use super::{
    dora::DoraBuffers,
    layout::{Layout, LoraModule, TokenLayout},
    tokens::Table,
};
use crate::error::Result;
use halfbyte::{
    Backend, Buf, Float, Mat, View, elements, host,
    ops::{Op, ScatterRows},
};

/// How to do with less memory for an adapter.
pub(crate) const SMALLER: &str = "lower --lora-r, or adapt fewer --target-modules";

/// An adapter as the model reads it; [`crate::model::Qwen3::adapt`] makes it.
pub struct DeviceAdapter<B: Backend, T: Float> {
    /// Where everything lies.
    pub layout: Layout,
    /// `[layout.len]`, in the compute type.
    pub compute: Buf<B, T>,
    /// One for each of `layout.tokens`.
    tables: Vec<PatchedTable<B, T>>,
    /// With DoRA.
    pub(crate) dora: Option<DoraBuffers<B>>,
    /// Of the embedding and the output head, where they are adapted.
    identities: [Option<Buf<B, T>>; 2],
}

/// A copy of one of the model's tables with an adapter's rows in their places, so that whatever reads the table reads
/// them.
struct PatchedTable<B: Backend, T: Float> {
    ids: Buf<B, u32>,
    /// `[vocab, hidden]`
    table: Buf<B, T>,
}

/// What the embedding or the output head takes of an adapter.
#[derive(Clone, Copy)]
pub(crate) struct EndAdapter<'a, B: Backend, T: Float> {
    /// Its rank and scaling, and where its tensors lie.
    pub lora: &'a LoraModule,
    /// `[r, hidden]`; of the embedding `[vocab, r]`.
    pub a: View<'a, B, T>,
    /// `[vocab, r]`; of the embedding `[hidden, r]`.
    pub b: View<'a, B, T>,
    /// `[r, r]`
    pub identity: View<'a, B, T>,
}

/// `[rows, n]`: a one in each of the first `n` rows, then rows of zeros.
pub(crate) fn identity<B: Backend, T: Float>(backend: &B, [rows, n]: [usize; 2]) -> Result<Buf<B, T>> {
    let mut all: Vec<T> = host::zeros(elements::<T>(&[rows, n])?)?;
    all.iter_mut().step_by(n + 1).take(n).for_each(|one| *one = T::from_f32(1.0));
    Ok(backend.upload(&all)?)
}

impl<B: Backend, T: Float> DeviceAdapter<B, T> {
    /// Puts an adapter's numbers, laid out as `layout` says, into `backend`'s memory; `originals` are the model's tables
    /// for `layout.tokens`.
    ///
    /// # Errors
    /// The device has too little memory.
    pub(crate) fn new(backend: &B, layout: Layout, flat: &[f32], originals: &[View<'_, B, T>]) -> Result<Self> {
        let compute = host::collect(flat.len(), flat.iter().map(|&v| T::from_f32(v)))?;
        let copy = |(tokens, &original): (&TokenLayout, &View<'_, B, T>)| -> Result<_> {
            let mut table = backend.zeros(original.len())?;
            backend.copy(original, table.view_mut())?;
            Ok(PatchedTable { ids: backend.upload(&tokens.ids)?, table })
        };
        let tables = layout.tokens.iter().zip(originals).map(copy).collect::<Result<_>>()?;
        let dora = layout.is_dora().then(|| DoraBuffers::new(backend, &layout, flat)).transpose()?;
        let of = |lora: Option<&LoraModule>| lora.map(|lora| identity(backend, [lora.rank; 2])).transpose();
        let identities = [of(layout.embedding())?, of(layout.lm_head())?];
        let mut adapter = DeviceAdapter { layout, compute: backend.upload(&compute)?, tables, dora, identities };
        adapter.patch(backend)?;
        Ok(adapter)
    }

    /// Puts the rows of `compute`, which have changed, into their tables.
    pub(crate) fn patch(&mut self, backend: &B) -> Result<()> {
        for (tokens, PatchedTable { ids, table }) in self.layout.tokens.iter().zip(&mut self.tables) {
            let (n, hidden) = (tokens.ids.len(), tokens.hidden());
            let x = Mat::new(self.compute.at(tokens.used()), n, hidden);
            let vocab = table.len() / hidden;
            ScatterRows { x, rows: ids.view(), out: table.mat_mut(vocab, hidden) }.run(backend)?;
        }
        Ok(())
    }

    /// `A` of a module, `[r, in]`.
    pub(crate) fn a(&self, lora: &LoraModule) -> View<'_, B, T> {
        self.compute.at(lora.a.clone())
    }

    /// `B` of a module, `[out, r]`.
    pub(crate) fn b(&self, lora: &LoraModule) -> View<'_, B, T> {
        self.compute.at(lora.b.clone())
    }

    /// The matrices of the embedding, if it is adapted; `A` is transposed.
    pub(crate) fn of_embedding(&self) -> Option<EndAdapter<'_, B, T>> {
        self.end(self.layout.embedding()?, &self.identities[0])
    }

    /// The matrices of the output head, if it is adapted.
    pub(crate) fn of_head(&self) -> Option<EndAdapter<'_, B, T>> {
        self.end(self.layout.lm_head()?, &self.identities[1])
    }

    fn end<'s>(&'s self, lora: &'s LoraModule, identity: &'s Option<Buf<B, T>>) -> Option<EndAdapter<'s, B, T>> {
        Some(EndAdapter { lora, a: self.a(lora), b: self.b(lora), identity: identity.as_ref()?.view() })
    }

    /// The trained head, or the one with trained rows, `[vocab, hidden]`; none where it is the model's or its embedding.
    pub(crate) fn head(&self) -> Option<View<'_, B, T>> {
        match self.layout.head.clone() {
            Some(range) => Some(self.compute.at(range)),
            None => self.table(Table::Head),
        }
    }

    /// The embedding with trained rows, `[vocab, hidden]`.
    pub(crate) fn embedding(&self) -> Option<View<'_, B, T>> {
        self.table(Table::Embedding)
    }

    fn table(&self, table: Table) -> Option<View<'_, B, T>> {
        let at = self.layout.tokens.iter().position(|tokens| tokens.table == table)?;
        Some(self.tables[at].table.view())
    }
}
