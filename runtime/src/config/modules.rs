use std::fmt;

use super::qwen3::Qwen3Config;

/// The seven linear maps of a decoder layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Projection {
    /// `self_attn.q_proj`
    Q,
    /// `self_attn.k_proj`
    K,
    /// `self_attn.v_proj`
    V,
    /// `self_attn.o_proj`
    O,
    /// `mlp.gate_proj`
    Gate,
    /// `mlp.up_proj`
    Up,
    /// `mlp.down_proj`
    Down,
}

impl Projection {
    /// All of them, in the order in which the model defines them.
    pub const ALL: [Projection; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// Whether both read the same rows.
    pub fn shares_input(self, other: Projection) -> bool {
        let input = |projection| match projection {
            Self::Q | Self::K | Self::V => 0,
            Self::O => 1,
            Self::Gate | Self::Up => 2,
            Self::Down => 3,
        };
        input(self) == input(other)
    }

    /// Its last name, such as `q_proj`.
    pub fn name(self) -> &'static str {
        self.path().rsplit('.').next().unwrap_or_default()
    }

    /// Its name within a layer.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Q => "self_attn.q_proj",
            Self::K => "self_attn.k_proj",
            Self::V => "self_attn.v_proj",
            Self::O => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }
}

/// What of a model can be adapted: the embedding, and linear maps. Its text is its name in transformers, such as
/// `model.layers.3.mlp.up_proj`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Module {
    /// The embedding: a linear map of vectors with a one at the token's place.
    Embedding,
    /// One of a decoder layer's.
    Layer(usize, Projection),
    /// The output head.
    LmHead,
}

impl Module {
    /// Whether it is not of a decoder layer, but the embedding or the output head.
    pub(crate) fn is_end(self) -> bool {
        !matches!(self, Module::Layer(..))
    }

    /// Whether it is such a map of some layer.
    pub(crate) fn is(self, projection: Projection) -> bool {
        matches!(self, Module::Layer(_, of) if of == projection)
    }
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Module::Embedding => f.write_str("model.embed_tokens"),
            Module::Layer(layer, projection) => {
                write!(f, "model.layers.{layer}.{}", projection.path())
            }
            Module::LmHead => f.write_str("lm_head"),
        }
    }
}

impl Qwen3Config {
    /// Every linear map, layer by layer, the output head last.
    pub fn modules(&self) -> impl Iterator<Item = Module> + use<> {
        let layers = (0..self.n_layers).flat_map(|i| Projection::ALL.map(|p| Module::Layer(i, p)));
        layers.chain([Module::LmHead])
    }

    /// All that can be adapted: the embedding, and every linear map.
    pub(crate) fn adaptable(&self) -> impl Iterator<Item = Module> + use<> {
        [Module::Embedding].into_iter().chain(self.modules())
    }

    /// The names of all tensors that a model may be made of; the output head is one where it is not the embedding.
    pub(crate) fn tensor_names(&self) -> impl Iterator<Item = String> + use<> {
        const NORMS: [&str; 4] =
            ["input_layernorm", "self_attn.q_norm", "self_attn.k_norm", "post_attention_layernorm"];
        let norms = (0..self.n_layers).flat_map(|i| NORMS.map(|norm| format!("model.layers.{i}.{norm}")));
        let ends = ["model.embed_tokens", "model.norm"].map(str::to_owned).into_iter();
        let modules = self.modules().map(|module| module.to_string());
        ends.chain(norms).chain(modules).map(|name| name + ".weight")
    }

    /// The shape `[out, in]` of a linear map's weight. That of the embedding lies in a checkpoint the other way round.
    pub fn shape(&self, module: Module) -> [usize; 2] {
        let (hidden, inter) = (self.hidden_size, self.intermediate_size);
        match module {
            Module::Embedding => [hidden, self.vocab_size],
            Module::Layer(_, Projection::Q) => [self.q_size(), hidden],
            Module::Layer(_, Projection::K | Projection::V) => [self.kv_size(), hidden],
            Module::Layer(_, Projection::O) => [hidden, self.q_size()],
            Module::Layer(_, Projection::Gate | Projection::Up) => [inter, hidden],
            Module::Layer(_, Projection::Down) => [hidden, inter],
            Module::LmHead => [self.vocab_size, hidden],
        }
    }
}
