use crate::{
    config::{Qwen3Config, Rope},
    options::Range,
    settings::{Value, either},
};

/// The shape of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// What it is called: `qwen3-8b`.
    pub name: &'static str,
    vocab: usize,
    hidden: usize,
    intermediate: usize,
    layers: usize,
    /// Of queries; then of keys, and of values.
    heads: [usize; 2],
    head_dim: usize,
    positions: usize,
    /// Whether the output head is the embedding.
    tied: bool,
}

/// A dense Qwen3.
const fn qwen3(name: &'static str, [hidden, intermediate, layers, heads]: [usize; 4], tied: bool) -> Shape {
    let (vocab, heads) = (151_936, [heads, 8]);
    Shape { name, vocab, hidden, intermediate, layers, heads, head_dim: 128, positions: 40_960, tied }
}

/// The dense models that Qwen3 has, the smallest first, and one before them that any machine runs in a moment.
pub const SHAPES: [Shape; 7] = [
    Shape {
        name: "tiny",
        vocab: 512,
        hidden: 128,
        intermediate: 256,
        layers: 2,
        heads: [4, 2],
        head_dim: 32,
        positions: 4096,
        tied: true,
    },
    qwen3("qwen3-0.6b", [1024, 3072, 28, 16], true),
    qwen3("qwen3-1.7b", [2048, 6144, 28, 16], true),
    qwen3("qwen3-4b", [2560, 9728, 36, 32], true),
    qwen3("qwen3-8b", [4096, 12_288, 36, 32], false),
    qwen3("qwen3-14b", [5120, 17_408, 40, 40], false),
    qwen3("qwen3-32b", [5120, 25_600, 64, 64], false),
];

impl Shape {
    /// As a `config.json` says it.
    pub fn config(&self) -> Qwen3Config {
        Qwen3Config {
            vocab_size: self.vocab,
            hidden_size: self.hidden,
            intermediate_size: self.intermediate,
            n_layers: self.layers,
            n_heads: self.heads[0],
            n_kv_heads: self.heads[1],
            head_dim: self.head_dim,
            max_position_embeddings: self.positions,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: self.tied,
            rope: Rope { theta: 1e6, yarn: None },
            dtype: None,
            eos_token_ids: Vec::new(),
            pad_token_id: None,
            quantization: None,
        }
    }
}

/// By its name; capitals do not count.
impl Value for Shape {
    fn wanted(_: Option<Range>) -> String {
        either(&SHAPES.map(|shape| shape.name))
    }

    fn parse(text: &str, _: Option<Range>) -> Option<Self> {
        SHAPES.into_iter().find(|shape| text.eq_ignore_ascii_case(shape.name))
    }

    fn show(&self) -> String {
        self.name.into()
    }
}
