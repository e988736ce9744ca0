//! Where the tensors of an adapter lie in one flat buffer.

use super::{resolve::Target, tokens::Table};
use crate::{
    config::{Module, Projection, Qwen3Config},
    error::Result,
};
use halfbyte::{elements, ops::LORA_ROOM, quant::BLOCK8};
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
    /// `A`, `[r, in]`; that of the embedding `[in, r]`, a row for each token.
    pub a: Range<usize>,
    /// `B`, `[out, r]`.
    pub b: Range<usize>,
    /// Its columns in the matrix of its decoder layer that keeps `x Aᵀ`; embedding and head have another.
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
    /// Whether modules of DoRA drop some of their inputs while they are trained.
    pub drops: bool,
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
    /// The most of these that modules with one input need, rounded up as [`halfbyte::ops::LoraLinear`] wants it: what is
    /// left behind that input for a product that takes them along.
    pub room: usize,
    /// Columns of the matrices that the adapters of the embedding and the output head work with: the larger of their ranks,
    /// to a multiple of 8.
    pub end_columns: usize,
}

/// Columns of `x Aᵀ` in the layer in hand.
struct Columns {
    layer: usize,
    end: usize,
    /// Where those of modules with the last one's input begin, and that one.
    stack: (usize, Projection),
}

impl Columns {
    /// Those of the next module, and what modules with its input have by now.
    fn take(&mut self, layer: usize, projection: Projection, rank: usize) -> Result<(Range<usize>, usize)> {
        if self.layer != layer {
            *self = Columns { layer, end: 0, stack: (0, projection) };
        }
        let xa = self.end..elements::<f32>(&[rank])? + self.end;
        // Columns start at multiples of 8 for the same reason as tensors do.
        self.end = elements::<f32>(&[xa.end.next_multiple_of(8)])?;
        if !self.stack.1.shares_input(projection) {
            self.stack = (xa.start, projection);
        }
        Ok((xa, self.end - self.stack.0))
    }
}

impl Layout {
    /// Lays out the modules, which must come in the model's order, then the head of `head_len` elements.
    ///
    /// # Errors
    /// No memory could hold all.
    pub fn new(targets: impl IntoIterator<Item = Target>, head_len: Option<usize>) -> Result<Self> {
        let mut layout = Layout::default();
        let mut columns = Columns { layer: 0, end: 0, stack: (0, Projection::Q) };
        for Target { module, shape: [out_features, in_features], r: rank, scaling: scale } in targets {
            let (a, b) = (layout.take(&[rank, in_features])?, layout.take(&[out_features, rank])?);
            let xa = match module {
                Module::Layer(layer, projection) => {
                    let (xa, together) = columns.take(layer, projection, rank)?;
                    layout.xa_columns = layout.xa_columns.max(columns.end);
                    layout.room = layout.room.max(together.next_multiple_of(LORA_ROOM));
                    xa
                }
                Module::Embedding | Module::LmHead => {
                    let columns = elements::<f32>(&[rank])?.next_multiple_of(8);
                    layout.end_columns = layout.end_columns.max(columns);
                    0..rank
                }
            };
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

    /// Lays out what DoRA has beside: a magnitude for each output.
    pub(crate) fn take_magnitudes(&mut self, dropout: f32) -> Result<()> {
        self.drops = dropout > 0.0;
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

    /// The embedding, if it is adapted.
    pub fn embedding(&self) -> Option<&LoraModule> {
        self.modules.first().filter(|lora| lora.module == Module::Embedding)
    }

    /// Whether the output head is another than the model's, whose own is the embedding where they are `tied`.
    pub fn changes_head(&self, tied: bool) -> bool {
        let in_head = self.tokens.iter().any(|tokens| tokens.table == Table::Head || tied);
        in_head || self.head.is_some() || self.lm_head().is_some()
    }

    /// The output head, if it is adapted.
    pub fn lm_head(&self) -> Option<&LoraModule> {
        self.modules.last().filter(|lora| lora.module == Module::LmHead)
    }

    /// The module of a layer, if it is adapted.
    pub fn module(&self, layer: usize, projection: Projection) -> Option<&LoraModule> {
        let at = self.modules.binary_search_by_key(&Module::Layer(layer, projection), |lora| lora.module);
        at.ok().map(|i| &self.modules[i])
    }

    /// The columns of `x Aᵀ` that modules with one input have, rounded up as [`halfbyte::ops::LoraLinear`] wants it.
    pub(crate) fn room_of(&self, layer: usize, projections: impl IntoIterator<Item = Projection>) -> usize {
        let columns = projections.into_iter().filter_map(|projection| Some(self.module(layer, projection)?.xa.clone()));
        let all = columns.reduce(|all, one| all.start.min(one.start)..all.end.max(one.end)).unwrap_or(0..0);
        (all.end.next_multiple_of(8) - all.start).next_multiple_of(LORA_ROOM)
    }

    /// Numbers of the room around all dense weights of a model ([`crate::model::Qwen3::make_room`]).
    ///
    /// # Errors
    /// No memory could hold it.
    pub(crate) fn room_around(&self, config: &Qwen3Config) -> Result<usize> {
        let mut all = 0;
        for layer in 0..config.n_layers {
            for merged in Projection::ALL.chunk_by(|one, next| one.shares_input(*next)) {
                let shapes = merged.iter().map(|&projection| config.shape(Module::Layer(layer, projection)));
                let [rows, cols] = shapes.fold([0, 0], |[all, _], [rows, cols]| [all + rows, cols]);
                let room = self.room_of(layer, merged.iter().copied());
                let around = elements::<f32>(&[rows + room, cols + room])? - rows * cols;
                all = elements::<f32>(&[all + around])?;
            }
        }
        Ok(all)
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

    /// Whether rows of the embedding are trained, or it is adapted: the backward pass goes through all layers then.
    pub(crate) fn trains_embedding(&self) -> bool {
        self.embedding().is_some() || self.tokens.iter().any(|tokens| tokens.table == Table::Embedding)
    }

    /// The lowest decoder layer with an adapter, or above what else is trained: the backward pass ends there.
    pub fn lowest_layer(&self) -> Option<usize> {
        if self.trains_embedding() {
            return Some(0);
        }
        // Modules are in the model's order.
        match self.modules.first()?.module {
            Module::Layer(layer, _) => Some(layer),
            Module::Embedding | Module::LmHead => None,
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
