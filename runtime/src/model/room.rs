//! What activations, gradients and the loss will take, before there is a device.

use super::{Keep, loss::CHUNK};
use crate::config::Qwen3Config;

/// Bytes of buffers, as their constructors allocate them.
pub(crate) struct Room<'a> {
    pub config: &'a Qwen3Config,
    /// [`crate::lora::Layout::xa_columns`], 0 without an adapter.
    pub xa_columns: usize,
    /// Bytes of a number of the compute type.
    pub size: usize,
}

impl Room<'_> {
    /// Of [`super::Activations`].
    pub fn activations(&self, capacity: usize, keep: Keep) -> usize {
        let Qwen3Config { n_layers, hidden_size, intermediate_size, n_heads, .. } = *self.config;
        let (q, kv) = (self.config.q_size(), self.config.kv_size());
        let layer = (3 * q + 3 * kv + 2 * intermediate_size + self.xa_columns) * self.size + n_heads * size_of::<f32>();
        let states = keep.states(n_layers) * hidden_size;
        let scratch = hidden_size + intermediate_size;
        // Ids, positions, and where sequences begin.
        let tokens = (3 * capacity + 1) * size_of::<u32>();
        capacity * (keep.layers(n_layers) * layer + (states + scratch) * self.size) + tokens
    }

    /// Of [`super::Gradients`], those of the adapter not counted.
    pub fn gradients(&self, capacity: usize) -> usize {
        let Qwen3Config { hidden_size, intermediate_size, n_heads, .. } = *self.config;
        let (q, kv) = (self.config.q_size(), self.config.kv_size());
        let numbers = 2 * hidden_size + 3 * q + 3 * kv + 3 * intermediate_size + self.xa_columns;
        capacity * (numbers * self.size + n_heads * size_of::<f32>())
    }

    /// Of [`super::LossBuffers`].
    pub fn loss(&self, capacity: usize) -> usize {
        let (word, rows) = (size_of::<f32>(), CHUNK.min(capacity));
        let logits = (rows * self.size).div_ceil(word).max(1) * self.config.vocab_size * word;
        // Rows, labels and losses, and the summed loss; then inputs of the head and their gradients.
        (3 * capacity + 1) * word + 4 * capacity * self.config.hidden_size * self.size + logits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Result,
        checkpoint::Checkpoint,
        embedded,
        lora::{Adapter, DeviceAdapter, Layout, LoraConfig, Targets},
        model::{Activations, Base, ForwardContext, Gradients, LossBuffers, Qwen3},
        settings::EMBEDDED,
    };
    use half::bf16;
    use halfbyte::{Backend, Cpu, Float};

    fn allocated<X>(backend: &Cpu, make: impl FnOnce() -> Result<X>) -> usize {
        let before = backend.memory().allocated;
        let _made = make().unwrap();
        backend.memory().allocated - before
    }

    fn equals_what_is_allocated<T: Float>(capacity: usize) {
        let (backend, dir) = (Cpu::new(), embedded::resolve(EMBEDDED).unwrap());
        let (config, files) = (Qwen3Config::open(&dir).unwrap(), Checkpoint::open(&dir).unwrap());
        let model = Qwen3::<_, T>::load(&backend, &files, &config, Base::Unquantized).unwrap();
        let adapter = Adapter::init(LoraConfig::new(5, 8.0, Targets::AllLinear), &config, &files, 0).unwrap();
        let (layout, flat) = Layout::of(&adapter).unwrap();
        let room = Room { config: &config, xa_columns: layout.xa_columns, size: size_of::<T>() };
        let on_device = DeviceAdapter::<_, T>::new(&backend, layout, &flat).unwrap();
        let ctx = ForwardContext::new(&backend, Some(&on_device));
        for keep in [Keep::Everything, Keep::Residual, Keep::Nothing] {
            let want = allocated(&backend, || Activations::new(ctx, &model, capacity, keep));
            assert_eq!(room.activations(capacity, keep), want, "{keep:?}");
        }
        let want = allocated(&backend, || Gradients::new(ctx, &model, capacity));
        assert_eq!(room.gradients(capacity) + flat.len() * size_of::<f32>(), want);
        let want = allocated(&backend, || LossBuffers::new(&backend, &model, capacity));
        assert_eq!(room.loss(capacity), want);
    }

    #[test]
    fn it_is_what_the_constructors_allocate() {
        equals_what_is_allocated::<bf16>(1500);
        equals_what_is_allocated::<bf16>(7);
        equals_what_is_allocated::<f32>(33);
    }
}
