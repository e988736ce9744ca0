//! PiSSA (Meng, Wang and Zhang 2024, arXiv:2404.02948) and LoftQ (Li et al. 2023, arXiv:2310.08659): adapters that begin
//! with the principal part of a weight, or of what quantising took from it.
//!
//! PiSSA takes that part out of the base. What it trains goes with no other base; so the adapter that is saved is
//! `B A - B0 A0`, one of twice the rank that goes with the whole one, as PEFT converts it.

use super::{
    config::{Init, LoraConfig},
    files::{Adapter, LoraWeights},
    principal::{Principal, Search, Weight},
};
use crate::error::Result;
use halfbyte::{Backend, Cpu, elements, host};

impl LoraConfig {
    /// That of the adapter which is saved: PiSSA's has twice the rank, and the same scaling.
    pub(crate) fn saved(&self) -> LoraConfig {
        let mut saved = self.clone();
        if matches!(self.init, Init::Pissa(_)) {
            saved.init = Init::Kaiming;
            let alpha = if self.use_rslora { 2.0_f64.sqrt() } else { 2.0 };
            saved.r *= 2;
            saved.alpha *= alpha;
            saved.rank_pattern.iter_mut().for_each(|(_, r)| *r *= 2);
            saved.alpha_pattern.iter_mut().for_each(|(_, of_module)| *of_module *= alpha);
        }
        saved
    }
}

impl LoraWeights {
    /// Sets `B A` to the principal part of `weight` over the scaling; zeros where its rank is less.
    pub(crate) fn take_principal(&mut self, weight: &[f32], steps: Option<usize>) -> Result<()> {
        let ([rows, cols], r) = (self.target.shape, self.target.r);
        let (cpu, search) = (Cpu::new(), steps.map_or(Search::Exact, Search::Steps));
        let buf = cpu.upload(weight)?;
        let Principal { values, left, right } = Weight { cpu: &cpu, buf, rows, cols }.principal(r, search)?;
        self.a = host::zeros(elements::<f32>(&[r, cols])?)?;
        self.b = host::zeros(elements::<f32>(&[rows, r])?)?;
        for (k, value) in values.iter().enumerate() {
            let root = (value / f64::from(self.target.scaling)).sqrt() as f32;
            self.a[k * cols..][..cols].iter_mut().zip(&right[k]).for_each(|(a, v)| *a = root * v);
            self.b.iter_mut().skip(k).step_by(r).zip(&left[k]).for_each(|(b, u)| *b = root * u);
        }
        Ok(())
    }

    /// `weight` without what the adapter adds to it.
    pub(crate) fn taken_from(&self, weight: &[f32]) -> Result<Vec<f32>> {
        let (cpu, [rows, cols]) = (Cpu::new(), self.target.shape);
        Weight { cpu: &cpu, buf: cpu.upload(weight)?, rows, cols }.minus(&self.a, &self.b, self.target.scaling)
    }
}

/// An adapter of twice the rank, of a base from which PiSSA took nothing.
pub(crate) struct OfWhole(Adapter);

impl OfWhole {
    /// With what was taken from the base.
    ///
    /// # Errors
    /// There is too little memory.
    pub fn new(taken: &Adapter) -> Result<Self> {
        let double = |layer: &LoraWeights| -> Result<LoraWeights> {
            let mut target = layer.target;
            target.r *= 2;
            let mut a = host::room(elements::<f32>(&[2, layer.a.len()])?)?;
            a.extend_from_slice(&layer.a);
            a.extend_from_slice(&layer.a);
            let mut b = host::room(elements::<f32>(&[2, layer.b.len()])?)?;
            for row in layer.b.chunks(layer.target.r) {
                b.extend_from_slice(row);
                b.extend(row.iter().map(|x| -x));
            }
            Ok(LoraWeights { target, a, b, magnitude: Vec::new() })
        };
        let layers = taken.layers.iter().map(double).collect::<Result<_>>()?;
        Ok(OfWhole(Adapter { config: taken.config.saved(), layers, ..taken.clone() }))
    }

    /// What was learnt, and what was taken.
    pub fn with(&mut self, trained: &Adapter) -> &Adapter {
        for (whole, layer) in self.0.layers.iter_mut().zip(&trained.layers) {
            let r = layer.target.r;
            whole.a[..layer.a.len()].copy_from_slice(&layer.a);
            let rows = whole.b.chunks_mut(2 * r).zip(layer.b.chunks(r));
            rows.for_each(|(whole, row)| whole[..r].copy_from_slice(row));
        }
        if let (Some(whole), Some(head)) = (&mut self.0.lm_head, &trained.lm_head) {
            whole.weight.copy_from_slice(&head.weight);
        }
        for (whole, rows) in self.0.tokens.iter_mut().zip(&trained.tokens) {
            whole.weight.copy_from_slice(&rows.weight);
        }
        &self.0
    }
}

impl Adapter {
    /// What [`OfWhole`] made one of: what was learnt, and what was taken.
    ///
    /// # Errors
    /// There is too little memory.
    pub(crate) fn parted(&self, config: &LoraConfig) -> Result<[Adapter; 2]> {
        let part = |second: bool| -> Result<Adapter> {
            let half = |layer: &LoraWeights| -> Result<LoraWeights> {
                let mut target = layer.target;
                target.r /= 2;
                let sign = if second { -1.0 } else { 1.0 };
                let of_row = |n: usize| if second { n / 2..n } else { 0..n / 2 };
                let a = layer.a[of_row(layer.a.len())].iter().copied();
                let b = layer.b.chunks(2 * target.r).flat_map(|row| &row[of_row(row.len())]).map(|b| sign * b);
                let (a, b) = (host::collect(layer.a.len() / 2, a)?, host::collect(layer.b.len() / 2, b)?);
                Ok(LoraWeights { target, a, b, magnitude: Vec::new() })
            };
            let layers = self.layers.iter().map(half).collect::<Result<_>>()?;
            Ok(Adapter { config: config.clone(), layers, ..self.clone() })
        };
        Ok([part(false)?, part(true)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Qwen3Config, embedded, lora::Targets};

    fn adapter(init: Init, use_rslora: bool) -> Adapter {
        let model = Qwen3Config::open(&embedded::model()).unwrap();
        let mut config = LoraConfig::new(3, 5.0, Targets::from_text("q_proj,down_proj"));
        config.use_rslora = use_rslora;
        let mut adapter = Adapter::of_layers(config, &model, 1).unwrap();
        adapter.config.init = init;
        adapter.layers.iter_mut().for_each(|layer| (0..).zip(&mut layer.b).for_each(|(i, b)| *b = (i % 7) as f32));
        adapter
    }

    #[test]
    fn twice_the_rank_scales_the_same() {
        let model = Qwen3Config::open(&embedded::model()).unwrap();
        for use_rslora in [false, true] {
            let adapter = adapter(Init::Pissa(None), use_rslora);
            let saved = adapter.config.saved().resolve(&model).unwrap();
            assert_eq!(adapter.config.saved().init, Init::Kaiming);
            for (saved, layer) in saved.iter().zip(&adapter.layers) {
                assert_eq!(saved.r, 6);
                let off = saved.scaling / layer.target.scaling - 1.0;
                assert!(off.abs() <= f32::EPSILON, "{off}");
            }
        }
        let plain = adapter(Init::LoftQ, false).config;
        assert_eq!(plain.saved(), plain);
        assert!(plain.to_json().contains(r#""init_lora_weights": true"#));
    }

    #[test]
    fn parts_come_back() {
        let taken = adapter(Init::Pissa(None), false);
        let mut trained = taken.clone();
        trained.layers.iter_mut().for_each(|layer| layer.a.iter_mut().chain(&mut layer.b).for_each(|x| *x += 0.5));
        let mut whole = OfWhole::new(&taken).unwrap();
        let saved = whole.with(&trained).clone();
        assert_eq!(saved.parted(&taken.config).unwrap(), [trained.clone(), taken.clone()]);
        // What nothing was learnt of adds nothing.
        let layer = &whole.with(&taken).layers[0];
        let [_, cols] = layer.target.shape;
        let sum: f32 = (0..6).map(|k| layer.b[k] * layer.a[k * cols]).sum();
        assert!(sum.abs() <= 1e-6, "{sum}");
    }
}
