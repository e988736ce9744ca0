//! What the benches time: ops at the shapes of a model.

use super::{
    make::{Make, Purpose},
    setup::Setup,
};
use half::bf16;
use halfbyte::{Backend, Float, Result, ops::Heads};

/// The shapes of a model, and how many tokens go through it.
pub struct Model {
    pub hidden: usize,
    pub intermediate: usize,
    pub heads: Heads,
    pub vocab: usize,
    /// Elements of all adapters of rank 16.
    pub adapter: usize,
    /// Tokens at once, while decoding and while reading a prompt.
    pub tokens: &'static [usize],
    /// Sequences of a training step, and their length.
    pub step: [usize; 2],
    /// Tokens whose logits exist at once.
    pub logit_rows: usize,
    /// Cached tokens.
    pub cached: &'static [usize],
    /// Bytes of the copy that measures the bandwidth.
    pub copy: usize,
    /// Tokens, outputs and inputs of the product that measures the arithmetic.
    pub product: [usize; 3],
}

pub const QWEN3_8B: Model = Model {
    hidden: 4096,
    intermediate: 12_288,
    heads: Heads { q: 32, kv: 8, dim: 128 },
    vocab: 151_936,
    adapter: 43_646_976,
    tokens: &[1, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 8192],
    step: [4, 2048],
    logit_rows: 1024,
    cached: &[100, 2000, 16_000],
    copy: 1 << 30,
    product: [8192, 8192, 8192],
};

pub const QWEN3_06B: Model = Model {
    hidden: 1024,
    intermediate: 3072,
    heads: Heads { q: 16, kv: 8, dim: 128 },
    vocab: 151_936,
    adapter: 10_092_544,
    tokens: &[1, 8, 128],
    step: [2, 64],
    logit_rows: 16,
    cached: &[100, 2000],
    copy: 1 << 27,
    product: [512, 4096, 1024],
};

impl Model {
    pub fn step_tokens(&self) -> usize {
        self.step[0] * self.step[1]
    }

    /// Outputs and inputs of the projections of a layer: q, k and v; o; gate and up; down.
    pub fn projections(&self) -> [[usize; 2]; 4] {
        let qkv = (self.heads.q + 2 * self.heads.kv) * self.heads.dim;
        let o = self.heads.q * self.heads.dim;
        [[qkv, self.hidden], [self.hidden, o], [2 * self.intermediate, self.hidden], [self.hidden, self.intermediate]]
    }
}

/// One run of an op on memory that it owns.
pub type Run<B> = Box<dyn FnMut(&B) -> Result<()>>;

/// Makes the memory of an op.
pub type Prepare<B> = Box<dyn FnOnce(&B) -> Run<B>>;

/// One kernel at one shape.
pub struct Work<B: Backend> {
    pub kernel: &'static str,
    pub shape: String,
    pub dtype: &'static str,
    /// That must be read and written, each once.
    pub bytes: usize,
    pub flops: usize,
    /// The op itself.
    pub op: Prepare<B>,
    /// The same product with a dense weight, which cuBLASLt computes on a GPU.
    pub dense: Option<Prepare<B>>,
}

/// The op of `S` on memory of its own.
pub fn prepare<B: Backend, S: Setup<B>>(case: S::Case) -> Prepare<B> {
    Box::new(move |backend| {
        let mut setup = S::new(&Make::new(backend, Purpose::Bench, "bench"), &case);
        Box::new(move |backend| setup.run(backend))
    })
}

/// One after the other.
pub fn both<B: Backend>(first: Prepare<B>, second: Prepare<B>) -> Prepare<B> {
    Box::new(move |backend| {
        let (mut first, mut second) = (first(backend), second(backend));
        Box::new(move |backend| {
            first(backend)?;
            second(backend)
        })
    })
}

impl<B: Backend> Work<B> {
    /// `cost`: bytes and operations.
    pub fn new<S: Setup<B>>(kernel: &'static str, shape: String, cost: [usize; 2], case: S::Case) -> Self {
        let [bytes, flops] = cost;
        let (dtype, op) = (bf16::DTYPE.suffix(), prepare::<B, S>(case));
        Work { kernel, shape, dtype, bytes, flops, op, dense: None }
    }

    /// An op on f32 alone.
    pub fn f32(self) -> Self {
        Work { dtype: f32::DTYPE.suffix(), ..self }
    }

    /// To be compared with `dense`.
    pub fn beside(self, dense: Prepare<B>) -> Self {
        Work { dense: Some(dense), ..self }
    }

    pub fn id(&self) -> String {
        format!("{}/{}/{}", self.kernel, self.shape, self.dtype)
    }
}
