//! Weights without a checkpoint, for measurements: as transformers begins a model that nobody has trained.

use super::{
    load::{Base, Home},
    qwen3::{Layer, Qwen3},
    rope::RopeTables,
    weights::{MergedLinear, QuantizedWeight, Weight},
};
use crate::{
    config::{Module, Projection, Qwen3Config},
    error::Result,
};
use halfbyte::{
    Backend, Buf, DenseBuf, Float, View, elements, host,
    rng::{normal, philox},
};
use std::{iter, ops::Range, sync::OnceLock};

/// Deviation of all numbers but the norms', which are 1: the `initializer_range` of Qwen3.
const DEVIATION: f32 = 0.02;

/// Sets these random numbers apart from other uses of the same seed ("base").
const STREAM: u32 = 0x6261_7365;

/// The most numbers of one cut: whole groups of nested scales, whatever the block size.
const CUT: usize = 1 << 21;

/// Cuts begin before this number, at multiples of [`ALIGN`].
const STARTS: usize = 1 << 20;

/// For kernels that move 16 bytes at a time.
const ALIGN: usize = 64;

impl<B: Backend, T: Float> Qwen3<B, T> {
    /// A model of random weights in `backend`'s memory, held as one that was loaded. Same seed, same weights.
    ///
    /// It is made within seconds: a few million numbers come from the host, and all weights are cuts of them. So it is
    /// as fast as a trained one, and says nothing.
    ///
    /// # Errors
    /// The device has too little memory, or refuses the base's block size.
    pub fn random(backend: &B, config: &Qwen3Config, base: Base, seed: u64) -> Result<Self> {
        Self::random_with(backend, config, base, seed, Home::Device)
    }

    /// The same, with a place for the embedding.
    ///
    /// # Errors
    /// Those of [`Qwen3::random`].
    pub fn random_with(backend: &B, config: &Qwen3Config, base: Base, seed: u64, embedding: Home) -> Result<Self> {
        backend.warm_up();
        let mut numbers = Numbers::new(backend, base, seed)?;
        let table = config.shape(Module::LmHead);
        Ok(Qwen3 {
            config: config.clone(),
            embedding: numbers.dense_in(embedding, table)?,
            layers: (0..config.n_layers).map(|_| numbers.layer(config)).collect::<Result<_>>()?,
            norm: numbers.ones(config.hidden_size)?,
            head: if config.tie_word_embeddings { None } else { Some(numbers.dense(table)?) },
            screen: OnceLock::new(),
            rope: RopeTables::new(backend, config)?,
        })
    }
}

/// Random numbers on the device that weights are cut from.
struct Numbers<'a, B: Backend, T: Float> {
    backend: &'a B,
    base: Base,
    seed: u64,
    /// `[STARTS + CUT]`
    all: Buf<B, T>,
    /// Made so far.
    cuts: u32,
}

impl<'a, B: Backend, T: Float> Numbers<'a, B, T> {
    fn new(backend: &'a B, base: Base, seed: u64) -> Result<Self> {
        let len = STARTS + CUT;
        let quads = (0..len as u32 / 4).map(|quad| philox([quad, 0, 0, STREAM], seed));
        let normals = quads.flat_map(|[a, b, c, d]| [normal(a, b), normal(c, d)]).flatten();
        let all = host::collect(len, normals.map(|v| T::from_f32(DEVIATION * v)))?;
        Ok(Numbers { backend, base, seed, all: backend.upload(&all)?, cuts: 0 })
    }

    /// So many numbers, from another start than most cuts before.
    fn cut(&mut self, len: usize) -> View<'_, B, T> {
        let [word, ..] = philox([self.cuts, 1, 0, STREAM], self.seed);
        self.cuts += 1;
        let start = word as usize % (STARTS / ALIGN) * ALIGN;
        self.all.at(start..start + len)
    }

    fn ones(&self, len: usize) -> Result<Buf<B, f32>> {
        Ok(self.backend.upload(&host::collect(len, iter::repeat_n(1.0, len))?)?)
    }

    /// A weight in the compute type.
    fn dense(&mut self, shape: [usize; 2]) -> Result<Weight<B, T>> {
        Ok(Weight::Dense(DenseBuf::new(self.dense_in(Home::Device, shape)?, shape)))
    }

    fn dense_in(&mut self, home: Home, shape: [usize; 2]) -> Result<Buf<B, T>> {
        let backend = self.backend;
        let mut out = home.zeros(backend, elements::<T>(&shape)?)?;
        for range in pieces(out.len()) {
            backend.copy(self.cut(range.len()), out.at_mut(range))?;
        }
        Ok(out)
    }

    /// A weight as the base is held.
    fn weight(&mut self, shape: [usize; 2]) -> Result<Weight<B, T>> {
        let Base::Quantized { format, block_size, double_quant } = self.base else {
            return self.dense(shape);
        };
        let backend = self.backend;
        let mut weight = QuantizedWeight::zeros(backend, format, block_size, double_quant, shape)?;
        for range in pieces(elements::<T>(&shape)?) {
            weight.quantize(backend, self.cut(range.len()), range)?;
        }
        Ok(Weight::Quantized(weight))
    }

    fn layer(&mut self, config: &Qwen3Config) -> Result<Layer<B, T>> {
        use Projection::{Down, Gate, K, O, Q, Up, V};
        Ok(Layer {
            attention_norm: self.ones(config.hidden_size)?,
            q_norm: self.ones(config.head_dim)?,
            k_norm: self.ones(config.head_dim)?,
            mlp_norm: self.ones(config.hidden_size)?,
            qkv: self.merged(config, &[Q, K, V])?,
            o: self.merged(config, &[O])?,
            gate_up: self.merged(config, &[Gate, Up])?,
            down: self.merged(config, &[Down])?,
        })
    }

    /// Layers with one input, in as few weights as a checkpoint's would be.
    fn merged(&mut self, config: &Qwen3Config, projections: &[Projection]) -> Result<MergedLinear<B, T>> {
        let shapes = projections.iter().map(|&projection| config.shape(Module::Layer(0, projection)));
        let (mut modules, mut joined, mut cols) = (Vec::new(), Vec::<Range<usize>>::new(), 0);
        let mut end = 0;
        for (&projection, [rows, k]) in projections.iter().zip(shapes) {
            let module = end..end + rows;
            (end, cols) = (module.end, k);
            match joined.last_mut() {
                Some(last) if self.base.lines_up(last.len() * k) => last.end = end,
                _ => joined.push(module.clone()),
            }
            modules.push((projection, module));
        }
        let part = |columns: Range<usize>| Ok((self.weight([columns.len(), cols])?, columns));
        let parts = joined.into_iter().map(part).collect::<Result<_>>()?;
        Ok(MergedLinear { parts, modules, in_features: cols, out_features: end })
    }
}

/// The elements of a weight, each time as many as one cut may have.
fn pieces(len: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(CUT).map(move |start| start..len.min(start + CUT))
}
