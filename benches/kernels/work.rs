//! What is measured, and by which clock.

use crate::common::random::Random;
use half::bf16;
use halfbyte::{Backend, Buf, Cpu, Cuda, Element, Float, Result, ops::Heads};
use std::time::Instant;

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
}

pub const QWEN3_8B: Model = Model {
    hidden: 4096,
    intermediate: 12_288,
    heads: Heads { q: 32, kv: 8, dim: 128 },
    vocab: 151_936,
    adapter: 43_646_976,
    tokens: &[1, 4, 8, 16, 32, 64, 128, 256, 512, 2048, 8192],
    step: [4, 2048],
    logit_rows: 1024,
    cached: &[100, 2000, 16_000],
    copy: 1 << 30,
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
};

impl Model {
    pub fn step_tokens(&self) -> usize {
        self.step[0] * self.step[1]
    }
}

/// One run of an op on memory that it owns.
pub type Run<B> = Box<dyn FnMut(&B) -> Result<()>>;

/// Makes the memory of an op.
type Prepare<B> = Box<dyn FnOnce(&B) -> Run<B>>;

/// One kernel at one shape.
pub struct Work<B: Backend> {
    pub kernel: &'static str,
    pub shape: String,
    pub dtype: &'static str,
    /// That must be read and written, each once.
    pub bytes: usize,
    pub flops: usize,
    pub prepare: Prepare<B>,
}

impl<B: Backend> Work<B> {
    pub fn new(
        kernel: &'static str,
        shape: String,
        cost: [usize; 2],
        prepare: impl FnOnce(&B) -> Run<B> + 'static,
    ) -> Self {
        let [bytes, flops] = cost;
        Work { kernel, shape, dtype: bf16::DTYPE.suffix(), bytes, flops, prepare: Box::new(prepare) }
    }

    /// An op on f32 alone.
    pub fn f32(self) -> Self {
        Work { dtype: "f32", ..self }
    }

    pub fn id(&self) -> String {
        format!("{}/{}/{}", self.kernel, self.shape, self.dtype)
    }
}

/// Seconds of some work.
pub trait Clock: Backend {
    fn seconds(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64>;

    /// Bytes to overwrite before each run, so that nothing is in a cache. (Small inputs of one layer would be, in a
    /// loop over one op; in a model, hundreds of megabytes of other weights come between.)
    const FLUSH: usize;
}

impl Clock for Cpu {
    const FLUSH: usize = 1 << 26;

    fn seconds(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        let start = Instant::now();
        work()?;
        Ok(start.elapsed().as_secs_f64())
    }
}

impl Clock for Cuda {
    const FLUSH: usize = 1 << 28;

    fn seconds(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        self.time(work)
    }
}

/// A pattern of a few thousand elements, over and over.
fn tiled<B: Backend, T: Element>(backend: &B, pattern: &[T], n: usize) -> Buf<B, T> {
    let host: Vec<T> = pattern.iter().copied().cycle().take(n).collect();
    backend.upload(&host).unwrap()
}

/// Normal numbers.
pub fn normal<B: Backend, T: Float>(backend: &B, n: usize) -> Buf<B, T> {
    let pattern: Vec<T> = Random::new("bench").normal(8191, 1.0).into_iter().map(T::from_f32).collect();
    tiled(backend, &pattern, n)
}

pub fn bytes<B: Backend>(backend: &B, n: usize) -> Buf<B, u8> {
    tiled(backend, &Random::new("bench").bytes(8191), n)
}

pub fn below<B: Backend>(backend: &B, n: usize, limit: usize) -> Buf<B, u32> {
    tiled(backend, &Random::new("bench").below(8191, limit as u32), n)
}

pub fn zeros<B: Backend, T: Element>(backend: &B, n: usize) -> Buf<B, T> {
    backend.zeros(n).unwrap()
}
