//! Adapters that begin with a part of the model: PiSSA's and LoftQ's.

use super::{load::bar, qwen3::Qwen3};
use crate::{
    checkpoint::Checkpoint,
    config::Module,
    error::{Error, Result},
    lora::{Adapter, Init},
};
use halfbyte::{Backend, Float};
use std::time::Instant;
use tracing::info;

impl<B: Backend, T: Float> Qwen3<B, T> {
    /// Finds what a new adapter of PiSSA or LoftQ begins with; `files` are those that the model was loaded from. Any other
    /// adapter stays as it is. On the CPU, whatever the model's device is: the same numbers everywhere.
    ///
    /// With PiSSA the adapter is for what [`Qwen3::take`] leaves of the model.
    ///
    /// # Errors
    /// A target is the output head, `files` have a target in 4 bits, or there is too little memory.
    pub fn begin(&self, backend: &B, files: &Checkpoint, adapter: &mut Adapter) -> Result<()> {
        if !adapter.is_to_begin() {
            return Ok(());
        }
        let (bar, began) = (bar("finding principal parts", adapter.layers.len(), "modules"), Instant::now());
        let Adapter { config, layers, .. } = adapter;
        for layer in layers {
            let mut weight = self.expect_held(backend, layer.target.module)?;
            let steps = match config.init {
                Init::Pissa(steps) => steps,
                _ => {
                    let original = files.tensor(&format!("{}.weight", layer.target.module))?;
                    let original = original.expect_shape(&layer.target.shape)?.expect_finite()?.to_f32()?;
                    weight.iter_mut().zip(original).for_each(|(held, original)| *held = original - *held);
                    None
                }
            };
            layer.take_principal(&weight, steps)?;
            bar.inc(1);
        }
        bar.finish_and_clear();
        info!(modules = adapter.layers.len(), took = ?began.elapsed(), "principal parts were found");
        Ok(())
    }

    /// Takes what a new PiSSA adapter adds out of the model, which then computes with the adapter what it did without.
    ///
    /// # Errors
    /// A target is the output head or in 4 bits, or there is too little memory.
    pub fn take(&mut self, backend: &B, adapter: &Adapter) -> Result<()> {
        for layer in &adapter.layers {
            let module = layer.target.module;
            let rest = layer.taken_from(&self.expect_held(backend, module)?)?;
            if !self.hold(backend, module, &rest)? {
                return Err(wrong(module, "it is in 4 bits, which what is left of it would have to be rounded to"));
            }
        }
        Ok(())
    }

    fn expect_held(&self, backend: &B, module: Module) -> Result<Vec<f32>> {
        let head = "the output head has no such adapter: leave it out";
        self.held(backend, module)?.ok_or_else(|| wrong(module, head))
    }
}

fn wrong(module: Module, reason: &str) -> Error {
    Error::Target { target: format!("`{module}`"), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Qwen3Config,
        embedded,
        lora::{LoraConfig, LoraWeights, Targets},
        model::Base,
    };
    use halfbyte::{Cpu, quant::Format};

    /// The model, and an adapter that has begun on it.
    fn begun(base: Base, init: Init) -> (Cpu, Checkpoint, Qwen3<Cpu, f32>, Adapter) {
        let (cpu, dir) = (Cpu::new(), embedded::model());
        let (files, config) = (Checkpoint::open(&dir).unwrap(), Qwen3Config::open(&dir).unwrap());
        let model = Qwen3::load(&cpu, &files, &config, base).unwrap();
        let mut lora = LoraConfig::new(4, 8.0, Targets::from_text("q_proj,v_proj,down_proj"));
        lora.init = init;
        let mut adapter = Adapter::init(lora, &config, &files, 0).unwrap();
        assert!(adapter.expect_begun().unwrap_err().to_string().contains("begins with what a model finds"));
        model.begin(&cpu, &files, &mut adapter).unwrap();
        (cpu, files, model, adapter)
    }

    fn original(files: &Checkpoint, layer: &LoraWeights) -> Vec<f32> {
        files.tensor(&format!("{}.weight", layer.target.module)).unwrap().to_f32().unwrap()
    }

    fn norm(x: &[f32]) -> f64 {
        x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
    }

    /// The singular value that column `k` of `B` and row `k` of `A` stand for, times the scaling.
    fn value(layer: &LoraWeights, k: usize) -> f64 {
        let (r, [_, cols]) = (layer.target.r, layer.target.shape);
        let column: Vec<f32> = layer.b.iter().skip(k).step_by(r).copied().collect();
        f64::from(layer.target.scaling) * norm(&column) * norm(&layer.a[k * cols..][..cols])
    }

    /// Nothing of what is left of `weight` is larger than the last that `layer` has of it.
    fn expect_best(layer: &LoraWeights, weight: &[f32]) {
        let rest = layer.taken_from(weight).unwrap();
        let mut next = layer.clone();
        next.take_principal(&rest, None).unwrap();
        let (last, next) = (value(layer, layer.target.r - 1), value(&next, 0));
        assert!(last > 0.0 && next <= last * 1.0001, "{}: {next} is left, {last} taken", layer.target.module);
        // What is left and what was taken are at right angles.
        let taken: f64 = (0..layer.target.r).map(|k| value(layer, k).powi(2)).sum();
        let (whole, rest) = (norm(weight).powi(2), norm(&rest).powi(2));
        assert!((rest + taken - whole).abs() <= 1e-4 * whole, "{rest} and {taken} of {whole}");
    }

    #[test]
    fn pissa_takes_the_principal_part() {
        let (cpu, files, mut model, adapter) = begun(Base::Unquantized, Init::Pissa(None));
        model.take(&cpu, &adapter).unwrap();
        for layer in &adapter.layers {
            let (whole, held) = (original(&files, layer), model.held(&cpu, layer.target.module).unwrap().unwrap());
            expect_best(layer, &whole);
            assert_eq!(held, layer.taken_from(&whole).unwrap());
        }
    }

    #[test]
    fn loftq_makes_up_for_quantising() {
        let nf4 = Base::Quantized { format: Format::Nf4, block_size: 64, double_quant: true };
        let (cpu, files, mut model, adapter) = begun(nf4, Init::LoftQ);
        for layer in &adapter.layers {
            let (mut lost, held) = (original(&files, layer), model.held(&cpu, layer.target.module).unwrap().unwrap());
            lost.iter_mut().zip(held).for_each(|(whole, held)| *whole -= held);
            expect_best(layer, &lost);
        }
        assert!(model.take(&cpu, &adapter).unwrap_err().to_string().contains("it is in 4 bits"));
    }
}
