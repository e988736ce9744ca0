//! Keys and values of the tokens so far.

use super::rows::{self, Rows};
use crate::{config::Qwen3Config, error::Result};
use halfbyte::{
    Backend, Buf, Float, Mat, View,
    ops::{CacheRows, DequantizeRows, Heads, KvMut, Op},
};
use std::ops::Range;

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CacheType {
    /// As they are computed.
    #[default]
    Plain,
    /// In 8 bits, with a scale for each head of each token ([`KvMut::Int8`]). Tokens of a prompt that are run at once see
    /// each other's as they are computed; all others, and the first again, see what was kept.
    Int8,
}

impl CacheType {
    /// Of a setting.
    pub fn of(in_8bit: bool) -> Self {
        if in_8bit { CacheType::Int8 } else { CacheType::Plain }
    }

    /// Bytes of a token's keys and values in all layers; `size` is that of the compute type.
    pub(crate) fn bytes_of_token(self, config: &Qwen3Config, size: usize) -> usize {
        let (dim, heads) = (config.head_dim, 2 * config.n_layers * config.n_kv_heads);
        match self {
            CacheType::Plain => heads * dim * size,
            CacheType::Int8 => heads * (dim + size_of::<f32>()),
        }
    }

    /// Bytes that running prompts takes besides, of `n` tokens that one goes on from.
    pub(crate) fn bytes_of_prefix(self, config: &Qwen3Config, n: usize, size: usize) -> usize {
        if self == CacheType::Plain { 0 } else { 2 * n * config.kv_size() * size }
    }
}

/// Keys and values of the tokens so far.
pub(super) struct KvCache<B: Backend, T: Float> {
    /// Positions of one sequence.
    pub capacity: usize,
    heads: Heads,
    layers: Vec<LayerCache<B, T>>,
    /// Keys and values of one layer that a prompt goes on from, `[n, kv]` each: of a cache in 8 bits, while prompts are run.
    prefix: Option<[Rows<B, T>; 2]>,
}

/// Of `n_seqs` sequences.
enum LayerCache<B: Backend, T: Float> {
    /// `[n_seqs, capacity, kv]` each.
    Plain {
        k: Buf<B, T>,
        v: Buf<B, T>,
    },
    Int8 {
        k: Int8Rows<B>,
        v: Int8Rows<B>,
    },
}

struct Int8Rows<B: Backend> {
    /// `[n_seqs, capacity, kv]`
    codes: Buf<B, i8>,
    /// `[n_seqs, heads, capacity]`
    scales: Buf<B, f32>,
}

impl<B: Backend> Int8Rows<B> {
    fn new(backend: &B, n_seqs: usize, capacity: usize, heads: Heads) -> Result<Self> {
        Ok(Int8Rows {
            codes: rows::zeros(backend, &[n_seqs, capacity, heads.kv * heads.dim])?,
            scales: rows::zeros(backend, &[n_seqs, heads.kv, capacity])?,
        })
    }

    /// The first tokens of a sequence, as many as `out` has rows.
    fn read<T: Float>(
        &self,
        backend: &B,
        seq: usize,
        capacity: usize,
        heads: Heads,
        n: usize,
        out: &mut Rows<B, T>,
    ) -> Result<()> {
        let (width, codes, scales) = (heads.kv * heads.dim, seq * capacity, seq * heads.kv * capacity);
        let codes = self.codes.at(codes * width..(codes + n) * width);
        let scales = Mat::new(self.scales.at(scales..scales + heads.kv * capacity), heads.kv, capacity);
        let (codes, scales) = (Mat::new(codes, n, width), scales.columns(0..n));
        DequantizeRows { codes, scales, dim: heads.dim, out: out.rows_mut(n) }.run(backend)?;
        Ok(())
    }
}

impl<B: Backend, T: Float> LayerCache<B, T> {
    fn new(backend: &B, heads: Heads, n_seqs: usize, capacity: usize, kind: CacheType) -> Result<Self> {
        let plain = || rows::zeros(backend, &[n_seqs, capacity, heads.kv * heads.dim]);
        let int8 = || Int8Rows::new(backend, n_seqs, capacity, heads);
        Ok(match kind {
            CacheType::Plain => LayerCache::Plain { k: plain()?, v: plain()? },
            CacheType::Int8 => LayerCache::Int8 { k: int8()?, v: int8()? },
        })
    }
}

/// The first tokens of a sequence.
#[derive(Clone, Copy)]
pub(super) struct Before {
    pub seq: usize,
    pub n: usize,
}

impl<B: Backend, T: Float> KvCache<B, T> {
    /// For `n_seqs` sequences of up to `capacity` tokens each.
    pub fn new(backend: &B, config: &Qwen3Config, n_seqs: usize, capacity: usize, kind: CacheType) -> Result<Self> {
        let heads = config.heads();
        let layer = |_| LayerCache::new(backend, heads, n_seqs, capacity, kind);
        let layers = (0..config.n_layers).map(layer).collect::<Result<_>>()?;
        Ok(KvCache { capacity, heads, layers, prefix: None })
    }

    /// A layer's, to write.
    pub fn layer_mut(&mut self, layer: usize) -> KvMut<'_, B, T> {
        match &mut self.layers[layer] {
            LayerCache::Plain { k, v } => KvMut::Plain { k: k.view_mut(), v: v.view_mut() },
            LayerCache::Int8 { k, v } => KvMut::Int8 {
                k: k.codes.view_mut(),
                v: v.codes.view_mut(),
                k_scales: k.scales.view_mut(),
                v_scales: v.scales.view_mut(),
            },
        }
    }

    fn is_int8(&self) -> bool {
        matches!(self.layers.first(), Some(LayerCache::Int8 { .. }))
    }

    /// Makes room for what [`Self::before`] reads: up to `n` tokens.
    pub fn begin_prompts(&mut self, backend: &B, n: usize) -> Result<()> {
        if self.is_int8() && n > 0 {
            let rows = || Rows::new(backend, n, self.heads.kv * self.heads.dim);
            self.prefix = Some([rows()?, rows()?]);
        }
        Ok(())
    }

    /// Gives that room back.
    pub fn end_prompts(&mut self) {
        self.prefix = None;
    }

    /// Where the tokens lie in what [`Self::before`] gives.
    pub fn rows_before(&self, Before { seq, n }: Before) -> Range<u32> {
        let first = if self.is_int8() { 0 } else { seq * self.capacity };
        first as u32..(first + n) as u32 // attention refuses more rows than that
    }

    /// Keys and values of a layer, of all tokens or of those that `before` says.
    pub fn before(&mut self, backend: &B, layer: usize, before: Before) -> Result<(Mat<'_, B, T>, Mat<'_, B, T>)> {
        let (heads, capacity, Before { seq, n }) = (self.heads, self.capacity, before);
        match (&self.layers[layer], &mut self.prefix) {
            (LayerCache::Int8 { k, v }, Some([keys, values])) => {
                k.read(backend, seq, capacity, heads, n, keys)?;
                v.read(backend, seq, capacity, heads, n, values)?;
                Ok((keys.rows(n), values.rows(n)))
            }
            (LayerCache::Plain { k, v }, _) => {
                let width = heads.kv * heads.dim;
                let rows = k.len() / width;
                Ok((k.mat(rows, width), v.mat(rows, width)))
            }
            (LayerCache::Int8 { .. }, None) => unreachable!("begin_prompts made room"),
        }
    }
}

/// A cache, and where the tokens in hand go in it.
pub(super) struct CacheSlots<'a, B: Backend, T: Float> {
    pub cache: &'a mut KvCache<B, T>,
    /// `[n]`: the sequence of each token.
    pub seqs: View<'a, B, u32>,
    /// What one of the sequences goes on from; the others begin.
    pub before: Option<Before>,
}

impl<B: Backend, T: Float> CacheSlots<'_, B, T> {
    /// Where keys and values of the tokens in hand go, in a layer.
    pub fn rows(&mut self, layer: usize) -> CacheRows<'_, B, T> {
        CacheRows { seqs: self.seqs, capacity: self.cache.capacity, kv: self.cache.layer_mut(layer) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speed::SHAPES;
    use halfbyte::Cpu;

    const CAPACITY: usize = 5;

    #[test]
    fn a_token_takes_as_much_as_is_told() {
        let (cpu, config) = (Cpu::new(), SHAPES[0].config());
        for kind in [CacheType::Plain, CacheType::Int8] {
            let cache = KvCache::<Cpu, half::bf16>::new(&cpu, &config, 3, CAPACITY, kind).unwrap();
            let of_layer = |layer: &LayerCache<Cpu, half::bf16>| match layer {
                LayerCache::Plain { k, v } => 2 * (k.len() + v.len()),
                LayerCache::Int8 { k, v } => [k, v].map(|x| x.codes.len() + 4 * x.scales.len()).iter().sum(),
            };
            let bytes: usize = cache.layers.iter().map(of_layer).sum();
            assert_eq!(bytes, 3 * CAPACITY * kind.bytes_of_token(&config, 2), "{kind:?}");
        }
    }

    /// The first tokens of the second of three sequences.
    #[test]
    fn what_a_prompt_goes_on_from_is_read_from_its_sequence() {
        let (cpu, config) = (Cpu::new(), SHAPES[0].config());
        let (before, Heads { kv, dim, .. }) = (Before { seq: 1, n: 4 }, config.heads());
        let mut cache = KvCache::<Cpu, f32>::new(&cpu, &config, 3, CAPACITY, CacheType::Int8).unwrap();
        let codes: Vec<i8> = (0..3 * CAPACITY * kv * dim).map(|i| (i * i % 251) as u8 as i8).collect();
        let scales: Vec<f32> = (0..3 * kv * CAPACITY).map(|i| 1.0 + i as f32).collect();
        let KvMut::Int8 { v, v_scales, .. } = cache.layer_mut(1) else { panic!("a cache in 8 bits") };
        cpu.write(&codes, v).unwrap();
        cpu.write(&scales, v_scales).unwrap();
        cache.begin_prompts(&cpu, 4).unwrap();
        assert_eq!(cache.rows_before(before), 0..4);
        cache.before(&cpu, 1, before).unwrap();
        let [keys, values] = cache.prefix.as_ref().unwrap();
        assert!(cpu.download(keys.flat(4)).unwrap().iter().all(|&k| k == 0.0));
        for (i, got) in cpu.download(values.flat(4)).unwrap().into_iter().enumerate() {
            let (row, head) = (i / (kv * dim), i / dim % kv);
            let want = f32::from(codes[CAPACITY * kv * dim + i]) * scales[(kv + head) * CAPACITY + row];
            assert_eq!(got, want, "element {i}");
        }
        cache.end_prompts();
        assert!(cache.prefix.is_none());
    }
}
