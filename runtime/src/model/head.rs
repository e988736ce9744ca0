//! The output head in 4 bits.

use super::{
    qwen3::Qwen3,
    weights::{QuantizedWeight, Weight},
};
use crate::{config::Module, error::Result};
use halfbyte::{Backend, Float, quant::Format};

/// Elements that share a scale.
const BLOCK_SIZE: usize = 64;

impl<B: Backend, T: Float> Qwen3<B, T> {
    /// Holds the output head in 4 bits from now on, a quarter of its bytes for each token. A head that is the embedding
    /// becomes one of its own, and the embedding stays as it is. Nothing changes where the checkpoint has it in 4 bits.
    ///
    /// # Errors
    /// The device has too little memory.
    pub fn quantize_head(&mut self, backend: &B, format: Format, double_quant: bool) -> Result<()> {
        let shape = self.config.shape(Module::LmHead);
        let head = match &self.head {
            Some(Weight::Quantized(_)) => return Ok(()),
            Some(Weight::Dense(head)) => head.packed(),
            None => self.embedding.view(),
        };
        let mut weight = QuantizedWeight::zeros(backend, format, BLOCK_SIZE, double_quant, shape)?;
        weight.quantize(backend, head, 0..head.len())?;
        self.head = Some(Weight::Quantized(weight));
        self.screen.take();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkpoint::Checkpoint,
        config::Qwen3Config,
        embedded,
        model::{
            Base, ForwardContext,
            ends::{Chunk, EndRows},
        },
    };
    use halfbyte::{
        Cpu, DenseBuf,
        ops::{Dequantize, Op},
    };

    fn logits(model: &Qwen3<Cpu, f32>, cpu: &Cpu) -> Vec<f32> {
        let (n, hidden, vocab) = (3, model.config.hidden_size, model.config.vocab_size);
        let x: Vec<f32> = (0..n * hidden).map(|i| (i as f32 * 0.7).sin()).collect();
        let (x, mut out) = (cpu.upload(&x).unwrap(), cpu.zeros::<f32>(n * vocab).unwrap());
        let ctx = ForwardContext::new(cpu, None);
        let mut ends = EndRows::new(ctx, n).unwrap();
        model.head_forward(ctx, x.mat(n, hidden), out.mat_mut(n, vocab), &mut ends, Chunk(0)).unwrap();
        out.to_vec(cpu).unwrap()
    }

    /// Of a head that is the embedding, which stays as it was.
    #[test]
    fn a_head_in_4_bits_gives_the_logits_of_its_decoded_weight() {
        let (cpu, dir) = (Cpu::new(), embedded::model());
        let (files, config) = (Checkpoint::open(&dir).unwrap(), Qwen3Config::open(&dir).unwrap());
        let mut model = Qwen3::<Cpu, f32>::load(&cpu, &files, &config, Base::Unquantized).unwrap();
        assert!(model.head.is_none());
        let (embedding, exact) = (model.embedding.to_vec(&cpu).unwrap(), logits(&model, &cpu));

        model.quantize_head(&cpu, Format::Nf4, true).unwrap();
        let Some(Weight::Quantized(head)) = &model.head else { panic!("the head is dense") };
        let mut decoded = cpu.zeros::<f32>(embedding.len()).unwrap();
        Dequantize { weight: head.view(), out: decoded.view_mut() }.run(&cpu).unwrap();
        let got = logits(&model, &cpu);
        assert!(model.embedding.to_vec(&cpu).unwrap() == embedding);

        model.head = Some(Weight::Dense(DenseBuf::new(decoded, config.shape(Module::LmHead))));
        let want = logits(&model, &cpu);
        let size = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let error = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(error <= 1e-5 * size, "{error} of {size}"); // f32 sums of 256 terms
        assert!(got.iter().zip(&exact).any(|(a, b)| (a - b).abs() > 1e-3 * size), "nothing was quantised");
    }
}
