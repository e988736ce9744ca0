//! Where the tensors of an adapter lie in one flat buffer.

use super::{
    config::LoraConfig,
    files::{Adapter, HeadWeights, LoraWeights},
    resolve::Target,
    tokens::{Table, TokenRows},
};
use crate::{
    config::{Module, Projection, Qwen3Config},
    error::{Error, Result},
};
use halfbyte::{Backend, Buf, elements, host, ops::LORA_ROOM, quant::BLOCK8};
use std::ops::Range;

/// Tensors start at multiples of this, so that blocks of 8-bit moments are of one tensor, and that kernels can move 16
/// bytes at a time.
const ALIGN: usize = BLOCK8;

/// Tensors of fewer numbers keep their moments in 32 bits: bitsandbytes' `min_8bit_size`.
const LARGE: usize = 4096;

/// One adapted layer and where its tensors lie in the flat buffer.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraModule {
    /// The layer.
    pub module: Module,
    /// Position among the adapted modules: its dropout masks are its own.
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
    /// `B`, `[out, r]`.
    pub b: Range<usize>,
    /// Its columns in the matrix of its decoder layer that keeps `x Aᵀ`.
    pub xa: Range<usize>,
    /// `[out]`, with DoRA.
    pub magnitude: Range<usize>,
}

/// The rows of a table that are trained, and where they lie in the flat buffer.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLayout {
    /// The table.
    pub table: Table,
    /// The tokens.
    pub ids: Vec<u32>,
    /// `[columns, hidden]`: a row for each token, and zeros.
    pub rows: Range<usize>,
    /// Tokens and more, to a multiple of 8, so that products over them fit the tensor cores.
    pub columns: usize,
}

impl TokenLayout {
    pub(super) fn hidden(&self) -> usize {
        self.rows.len() / self.columns
    }

    /// Where the tokens' own rows lie.
    pub(super) fn used(&self) -> Range<usize> {
        self.rows.start..self.rows.start + self.ids.len() * self.hidden()
    }
}

/// Tensors of a kind, which lie side by side so that an optimiser can treat them alike.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorGroup {
    /// Where they lie, padding included.
    pub range: Range<usize>,
    /// What they are.
    pub kind: TensorKind,
}

/// What sets tensors apart for an optimiser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorKind {
    /// Of 4096 numbers or more.
    pub large: bool,
    /// What part of an adapter it is.
    pub role: Role,
}

/// What part of an adapter a tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `B` of a module.
    B,
    /// A module's magnitudes.
    Magnitude,
    /// `A` of a module, a head, rows of a table.
    Other,
}

impl Role {
    /// Whether LoRA+ moves it faster: `B`, and as in PEFT all vectors.
    pub(crate) fn is_fast(self) -> bool {
        self != Role::Other
    }
}

/// In the order in which they lie: large ones are neighbours, and so are magnitudes, and those that LoRA+ moves faster.
const KINDS: [TensorKind; 6] = [
    TensorKind { large: true, role: Role::Other },
    TensorKind { large: true, role: Role::B },
    TensorKind { large: true, role: Role::Magnitude },
    TensorKind { large: false, role: Role::Magnitude },
    TensorKind { large: false, role: Role::B },
    TensorKind { large: false, role: Role::Other },
];

/// Where everything lies in the flat buffer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Layout {
    /// In the model's order.
    pub modules: Vec<LoraModule>,
    /// The magnitudes of all of them, with DoRA: one behind another, with padding between.
    pub magnitudes: Range<usize>,
    /// The trained output head `[vocab, hidden]`, if it is in `modules_to_save`.
    pub head: Option<Range<usize>>,
    /// Rows of the embedding and the head, if there are `trainable_token_indices`.
    pub tokens: Vec<TokenLayout>,
    /// All tensors by their kind, one behind the other.
    pub groups: Vec<TensorGroup>,
    /// Elements in all, padding included.
    pub len: usize,
    /// Columns of the matrix that keeps `x Aᵀ`: the most that one decoder layer needs.
    pub xa_columns: usize,
    /// The most of these that modules with one input need, rounded up as [`halfbyte::ops::LoraLinear4`] wants it: what is
    /// left behind that input for a product that takes them along.
    pub room: usize,
}

impl Layout {
    /// Lays out the modules, which must come in the model's order, then the head of `head_len` elements.
    ///
    /// # Errors
    /// A target is the output head, which can be trained whole (`modules_to_save`) but not adapted; or no memory could
    /// hold all.
    pub fn new(targets: impl IntoIterator<Item = Target>, head_len: Option<usize>) -> Result<Self> {
        let mut layout = Layout::default();
        // Of the layer in hand.
        let mut columns = (0, 0);
        // Where the columns of modules with this one's input begin.
        let mut stack = (0, Projection::Q, 0);
        for Target { module, shape: [out_features, in_features], r: rank, scaling: scale } in targets {
            let Module::Layer(layer, projection) = module else {
                let reason = "the output head cannot be adapted; train it whole with modules_to_save, or leave it out";
                return Err(Error::Target { target: format!("`{module}`"), reason: reason.into() });
            };
            if columns.0 != layer {
                columns = (layer, 0);
            }
            let (a, b) = (layout.take(&[rank, in_features])?, layout.take(&[out_features, rank])?);
            let xa = columns.1..elements::<f32>(&[rank])? + columns.1;
            // Columns start at multiples of 8 for the same reason as tensors do.
            columns.1 = elements::<f32>(&[xa.end.next_multiple_of(8)])?;
            layout.xa_columns = layout.xa_columns.max(columns.1);
            if stack.0 != layer || !stack.1.shares_input(projection) {
                stack = (layer, projection, xa.start);
            }
            layout.room = layout.room.max((columns.1 - stack.2).next_multiple_of(LORA_ROOM));
            let index = layout.modules.len();
            let magnitude = 0..0;
            layout.modules.push(LoraModule {
                module,
                index,
                in_features,
                out_features,
                rank,
                scale,
                a,
                b,
                xa,
                magnitude,
            });
        }
        layout.head = head_len.map(|len| layout.take(&[len])).transpose()?;
        layout.arrange();
        Ok(layout)
    }

    /// Lays out a magnitude for each output, too.
    pub(crate) fn take_magnitudes(&mut self) -> Result<()> {
        for i in 0..self.modules.len() {
            self.modules[i].magnitude = self.take(&[self.modules[i].out_features])?;
        }
        self.arrange();
        Ok(())
    }

    /// The next tensor. What [`elements`] has let pass is below 2^61, so that two such numbers can be added.
    fn take(&mut self, shape: &[usize]) -> Result<Range<usize>> {
        let (start, len) = (self.len, elements::<f32>(shape)?);
        self.len = elements::<f32>(&[(start + len).next_multiple_of(ALIGN)])?;
        Ok(start..start + len)
    }

    /// The module of a layer, if it is adapted.
    pub fn module(&self, layer: usize, projection: Projection) -> Option<&LoraModule> {
        let at = self.modules.binary_search_by_key(&Module::Layer(layer, projection), |lora| lora.module);
        at.ok().map(|i| &self.modules[i])
    }

    /// Lays out rows of a table, too.
    pub(crate) fn take_tokens(&mut self, table: Table, ids: &[u32], hidden: usize) -> Result<()> {
        let columns = ids.len().next_multiple_of(8);
        let rows = self.take(&[columns, hidden])?;
        self.tokens.push(TokenLayout { table, ids: ids.to_vec(), rows, columns });
        self.arrange();
        Ok(())
    }

    /// Every tensor: what it is, how many numbers it has, and where it lies.
    fn tensors(&mut self) -> impl Iterator<Item = (Role, usize, &mut Range<usize>)> {
        let whole = self.modules.iter_mut().flat_map(|LoraModule { a, b, magnitude, .. }| {
            [(Role::Other, a), (Role::B, b), (Role::Magnitude, magnitude)]
        });
        let whole = whole.filter(|(_, range)| range.start < range.end);
        let whole = whole.chain(self.head.iter_mut().map(|head| (Role::Other, head)));
        let whole = whole.map(|(role, range)| (role, range.len(), range));
        whole.chain(self.tokens.iter_mut().map(|tokens| (Role::Other, tokens.used().len(), &mut tokens.rows)))
    }

    /// Puts tensors of a kind side by side; those of a kind stay in their order.
    fn arrange(&mut self) {
        let (mut groups, mut end) = (Vec::new(), 0);
        for kind in KINDS {
            let start = end;
            let of_kind = |&(role, numbers, _): &(Role, usize, _)| TensorKind { large: numbers >= LARGE, role } == kind;
            for (_, _, range) in self.tensors().filter(of_kind) {
                let len = range.len();
                *range = end..end + len;
                end = (end + len).next_multiple_of(ALIGN);
            }
            groups.push(TensorGroup { range: start..end, kind });
        }
        assert_eq!(end, self.len, "a tensor of the layout is in no group");
        let of_magnitudes = groups.iter().filter(|group| group.kind.role == Role::Magnitude && !group.range.is_empty());
        let both = of_magnitudes.map(|group| group.range.clone()).reduce(|first, second| first.start..second.end);
        self.magnitudes = both.unwrap_or_default();
        self.groups = groups;
    }

    /// Whether rows of the embedding are trained: the backward pass goes through all layers then.
    pub(crate) fn trains_embedding(&self) -> bool {
        self.tokens.iter().any(|tokens| tokens.table == Table::Embedding)
    }

    /// The lowest decoder layer with an adapter, or above what else is trained: the backward pass ends there.
    pub fn lowest_layer(&self) -> Option<usize> {
        if self.trains_embedding() {
            return Some(0);
        }
        // Modules are in the model's order.
        match self.modules.first()?.module {
            Module::Layer(layer, _) => Some(layer),
            Module::LmHead => None,
        }
    }

    /// Where the tensors of `adapter` lie, and all its numbers at their places.
    ///
    /// # Errors
    /// As for [`Layout::new`]; or there is too little memory.
    pub fn of(adapter: &Adapter) -> Result<(Self, Vec<f32>)> {
        let head_len = adapter.lm_head.as_ref().map(|head| head.weight.len());
        adapter.expect_begun()?;
        let mut layout = Layout::new(adapter.layers.iter().map(|layer| layer.target), head_len)?;
        if adapter.config.use_dora {
            layout.take_magnitudes()?;
        }
        for TokenRows { table, ids, weight } in &adapter.tokens {
            layout.take_tokens(*table, ids, weight.len() / ids.len())?;
        }
        let mut flat = host::zeros(layout.len)?;
        for (lora, layer) in layout.modules.iter().zip(&adapter.layers) {
            flat[lora.a.clone()].copy_from_slice(&layer.a);
            flat[lora.b.clone()].copy_from_slice(&layer.b);
            flat[lora.magnitude.clone()].copy_from_slice(&layer.magnitude);
        }
        if let (Some(range), Some(head)) = (layout.head.clone(), &adapter.lm_head) {
            flat[range].copy_from_slice(&head.weight);
        }
        for (at, rows) in layout.tokens.iter().zip(&adapter.tokens) {
            flat[at.used()].copy_from_slice(&rows.weight);
        }
        Ok((layout, flat))
    }

    /// The adapter that `flat` holds.
    ///
    /// # Errors
    /// There is too little memory.
    pub fn to_adapter(&self, config: &LoraConfig, model: &Qwen3Config, flat: &[f32]) -> Result<Adapter> {
        let copy = |range: &Range<usize>| host::collect(range.len(), flat[range.clone()].iter().copied());
        let weights = |lora: &LoraModule| {
            let shape = [lora.out_features, lora.in_features];
            let target = Target { module: lora.module, r: lora.rank, scaling: lora.scale, shape };
            Ok(LoraWeights { target, a: copy(&lora.a)?, b: copy(&lora.b)?, magnitude: copy(&lora.magnitude)? })
        };
        let head =
            |range| -> Result<_> { Ok(HeadWeights { shape: model.shape(Module::LmHead), weight: copy(range)? }) };
        let tokens = |at: &TokenLayout| -> Result<_> {
            Ok(TokenRows { table: at.table, ids: at.ids.clone(), weight: copy(&at.used())? })
        };
        Ok(Adapter {
            config: config.clone(),
            layers: self.modules.iter().map(weights).collect::<Result<_>>()?,
            lm_head: self.head.as_ref().map(head).transpose()?,
            tokens: self.tokens.iter().map(tokens).collect::<Result<_>>()?,
        })
    }

    /// Puts what `flat` holds into `adapter`, which must have come from this layout, with no more memory than a piece of
    /// it takes.
    ///
    /// # Errors
    /// The device refuses.
    pub(crate) fn fetch<B: Backend>(&self, backend: &B, flat: &Buf<B, f32>, adapter: &mut Adapter) -> Result<()> {
        const PIECE: usize = 1 << 16;
        let fetch = |range: &Range<usize>, out: &mut [f32]| -> Result<()> {
            for (start, piece) in range.clone().step_by(PIECE).zip(out.chunks_mut(PIECE)) {
                piece.copy_from_slice(&backend.download(flat.at(start..start + piece.len()))?);
            }
            Ok(())
        };
        for (lora, layer) in self.modules.iter().zip(&mut adapter.layers) {
            fetch(&lora.a, &mut layer.a)?;
            fetch(&lora.b, &mut layer.b)?;
            fetch(&lora.magnitude, &mut layer.magnitude)?;
        }
        for (at, rows) in self.tokens.iter().zip(&mut adapter.tokens) {
            fetch(&at.used(), &mut rows.weight)?;
        }
        match (&self.head, &mut adapter.lm_head) {
            (Some(range), Some(head)) => fetch(range, &mut head.weight),
            _ => Ok(()),
        }
    }

    /// Trained numbers, padding not counted.
    pub fn n_trainable(&self) -> usize {
        let numbers = |lora: &LoraModule| lora.a.len() + lora.b.len() + lora.magnitude.len();
        let modules: usize = self.modules.iter().map(numbers).sum();
        let tokens: usize = self.tokens.iter().map(|tokens| tokens.used().len()).sum();
        modules + self.head.as_ref().map_or(0, |head| head.len()) + tokens
    }
}
