//! Room around dense weights for the factors of an adapter that is trained.

use super::{
    qwen3::Qwen3,
    weights::{MergedLinear, Weight, copy_rows},
};
use crate::{
    error::Result,
    lora::{Layout, LoraConfig},
};
use halfbyte::{Backend, DType, DenseBuf, Float};

/// Whether products of dense weights take adapters along, for which they need room.
pub(crate) fn products_take_adapters(on_gpu: bool, dtype: DType) -> bool {
    on_gpu && dtype != DType::F32
}

impl<B: Backend, T: Float> Qwen3<B, T> {
    /// Leaves room around weights that are not in 4 bits, for adapters like this, so that a GPU trains them in fewer passes
    /// ([`halfbyte::DenseBuf`]). Nothing else changes; and nothing at all where no product would use it: on the CPU, and
    /// in f32.
    ///
    /// # Errors
    /// The adapter does not fit the model, or the device has too little memory.
    pub fn make_room(&mut self, backend: &B, lora: &LoraConfig) -> Result<()> {
        if !products_take_adapters(backend.runs_behind(), T::DTYPE) {
            return Ok(());
        }
        let layout = Layout::new(lora.resolve(&self.config)?, None)?;
        self.leave(backend, &layout)
    }

    fn leave(&mut self, backend: &B, layout: &Layout) -> Result<()> {
        for (i, layer) in self.layers.iter_mut().enumerate() {
            for linear in layer.linears_mut() {
                let room = layout.room_of(i, linear.modules.iter().map(|(projection, _)| *projection));
                linear.leave(backend, room)?;
            }
        }
        Ok(backend.synchronize()?) // ops may read them early (`Linear::settled`)
    }
}

impl<B: Backend, T: Float> MergedLinear<B, T> {
    fn leave(&mut self, backend: &B, room: usize) -> Result<()> {
        let [(Weight::Dense(weight), _)] = &mut self.parts[..] else { return Ok(()) };
        if weight.room() < room {
            let mut roomy = DenseBuf::zeros(backend, weight.shape(), room)?;
            copy_rows(backend, weight.weight().mat(), roomy.mat_mut())?;
            *weight = roomy;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Module, Projection},
        lora::Targets,
        model::Base,
        speed::SHAPES,
    };
    use halfbyte::{Cpu, half::bf16};

    /// Weights stay what they are, can still be replaced, and the room is as large as is told.
    #[test]
    fn room_changes_no_weight() {
        let (cpu, mut config) = (Cpu::new(), SHAPES[0].config());
        config.n_layers = 2;
        let mut model = Qwen3::<Cpu, bf16>::random(&cpu, &config, Base::Unquantized, 0).unwrap();
        let modules = || (0..2).flat_map(|layer| Projection::ALL.map(|projection| Module::Layer(layer, projection)));
        let all =
            |model: &Qwen3<Cpu, bf16>| modules().map(|module| model.held(&cpu, module).unwrap()).collect::<Vec<_>>();
        let before = all(&model);
        let lora = LoraConfig::new(24, 32.0, Targets::from_text("q_proj,v_proj,gate_proj,up_proj,down_proj"));
        let layout = Layout::new(lora.resolve(&config).unwrap(), None).unwrap();
        model.leave(&cpu, &layout).unwrap();
        assert!(all(&model) == before);
        let rooms = model.layers[1].linears().map(|linear| match &linear.parts[..] {
            [(Weight::Dense(weight), _)] => (weight.room(), weight.len()),
            _ => panic!("the model is not in 4 bits"),
        });
        assert_eq!(rooms.map(|(room, _)| room), [64, 0, 64, 64]);
        let numbers: usize = before.iter().flatten().map(Vec::len).sum();
        let held: usize = rooms.iter().map(|(_, len)| 2 * len).sum();
        assert_eq!(held - numbers, layout.room_around(&config).unwrap());

        let up = Module::Layer(1, Projection::Up);
        let other: Vec<f32> = model.held(&cpu, up).unwrap().unwrap().iter().map(|x| 2.0 * x).collect();
        assert!(model.hold(&cpu, up, &other).unwrap());
        for ((module, now), before) in modules().zip(all(&model)).zip(before) {
            assert!(if module == up { now.as_ref() == Some(&other) } else { now == before }, "{module}");
        }
    }
}
