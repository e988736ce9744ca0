//! Between an adapter on the host and one flat buffer.

use super::{
    config::LoraConfig,
    files::{Adapter, HeadWeights, LoraWeights},
    layout::{Layout, LoraModule, TokenLayout},
    resolve::Target,
    tokens::TokenRows,
};
use crate::{
    config::{Module, Qwen3Config},
    error::Result,
};
use halfbyte::{Backend, Buf, host};
use std::ops::Range;

impl Layout {
    /// Where the tensors of `adapter` lie, and all its numbers at their places.
    ///
    /// # Errors
    /// As for [`Layout::new`]; or there is too little memory.
    pub fn of(adapter: &Adapter) -> Result<(Self, Vec<f32>)> {
        let head_len = adapter.lm_head.as_ref().map(|head| head.weight.len());
        adapter.expect_begun()?;
        let mut layout = Layout::new(adapter.layers.iter().map(|layer| layer.target), head_len)?;
        if adapter.config.use_dora {
            layout.take_magnitudes(adapter.config.dropout)?;
        }
        for TokenRows { table, ids, weight } in &adapter.tokens {
            layout.take_tokens(*table, ids, weight.len() / ids.len())?;
        }
        let mut flat = host::zeros(layout.len)?;
        for (lora, layer) in layout.modules.iter().zip(&adapter.layers) {
            match lora.module {
                Module::Embedding => transpose(&layer.a, &mut flat[lora.a.clone()], lora.rank),
                _ => flat[lora.a.clone()].copy_from_slice(&layer.a),
            }
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
            let mut a = copy(&lora.a)?;
            if lora.module == Module::Embedding {
                transpose(&flat[lora.a.clone()], &mut a, lora.in_features);
            }
            Ok(LoraWeights { target, a, b: copy(&lora.b)?, magnitude: copy(&lora.magnitude)? })
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
        let pieces = |range: &Range<usize>, put: &mut dyn FnMut(usize, &[f32])| -> Result<()> {
            for start in range.clone().step_by(PIECE) {
                let piece = start..(start + PIECE).min(range.end);
                put(start - range.start, &backend.download(flat.at(piece))?);
            }
            Ok(())
        };
        let fetch = |range: &Range<usize>, out: &mut [f32]| {
            pieces(range, &mut |at, piece| out[at..at + piece.len()].copy_from_slice(piece))
        };
        for (lora, layer) in self.modules.iter().zip(&mut adapter.layers) {
            match lora.module {
                Module::Embedding => pieces(&lora.a, &mut |at, piece| {
                    let (rank, tokens) = (lora.rank, lora.in_features);
                    (at..).zip(piece).for_each(|(i, &v)| layer.a[i % rank * tokens + i / rank] = v);
                })?,
                _ => fetch(&lora.a, &mut layer.a)?,
            }
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
}

/// `x`, of so many rows, to `out`, which has them as columns.
fn transpose(x: &[f32], out: &mut [f32], rows: usize) {
    let columns = x.len() / rows;
    for (i, row) in x.chunks_exact(columns).enumerate() {
        out.iter_mut().skip(i).step_by(rows).zip(row).for_each(|(out, v)| *out = *v);
    }
}
