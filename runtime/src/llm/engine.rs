//! A model on a device, whatever the device and the compute type.

use crate::{
    batch::Branches,
    checkpoint::{Checkpoint, QuantizedAs},
    config::Qwen3Config,
    device::{self, Device, Job},
    error::Result,
    generate::generator::{GenerateOptions, Generated, generate_all},
    lora::{Adapter, DeviceAdapter},
    model::{Activations, Base, ForwardContext, Keep, LossBuffers, Qwen3, branch_losses},
    tokenizer::Tokenizer,
};
use halfbyte::{Backend, DType, Float, MemoryUse};
use std::ops::ControlFlow;

/// Takes pieces of the texts by their number, and may end all.
pub type Stream<'a> = &'a mut dyn FnMut(usize, &str) -> ControlFlow<()>;

/// What any backend and type can do for an [`super::Llm`].
pub(super) trait Engine: Send + Sync {
    /// Continues all prompts together.
    fn generate(
        &self,
        tokenizer: &Tokenizer,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
        stream: Stream<'_>,
    ) -> Result<Vec<Generated>>;

    /// The loss in nats of each token of each option of each prompt; as many tokens as `capacity` at once.
    fn losses(&self, all: &[Branches], capacity: usize) -> Result<Vec<Vec<Vec<f32>>>>;

    /// The name of the device.
    fn device(&self) -> String;

    /// What its buffers take.
    fn memory(&self) -> MemoryUse;
}

/// Loads a model.
pub(super) struct Load<'a> {
    pub files: &'a Checkpoint,
    pub config: &'a Qwen3Config,
    pub base: Base,
    /// How to hold the output head, if not as the checkpoint has it.
    pub head: Option<QuantizedAs>,
    pub adapter: Option<&'a Adapter>,
}

impl Load<'_> {
    pub fn on(self, device: Device, threads: Option<usize>, dtype: DType) -> Result<Box<dyn Engine>> {
        device::run(device, threads, dtype, self)
    }
}

impl Job for Load<'_> {
    type Output = Box<dyn Engine>;

    fn run<B: Backend, T: Float>(self, backend: B) -> Result<Box<dyn Engine>> {
        let mut model = Qwen3::<B, T>::load(&backend, self.files, self.config, self.base)?;
        let adapter = self.adapter.map(|adapter| model.adapt(&backend, adapter)).transpose()?;
        if let Some(QuantizedAs { format, double_quant }) = self.head {
            model.quantize_head(&backend, format, double_quant)?;
        }
        Ok(Box::new(Loaded { backend, model, adapter }))
    }
}

struct Loaded<B: Backend, T: Float> {
    backend: B,
    model: Qwen3<B, T>,
    adapter: Option<DeviceAdapter<B, T>>,
}

impl<B: Backend, T: Float> Loaded<B, T> {
    fn context(&self) -> ForwardContext<'_, B, T> {
        ForwardContext::new(&self.backend, self.adapter.as_ref())
    }
}

impl<B: Backend, T: Float> Engine for Loaded<B, T> {
    fn generate(
        &self,
        tokenizer: &Tokenizer,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
        stream: Stream<'_>,
    ) -> Result<Vec<Generated>> {
        if options.sample.screens(prompts.len(), self.backend.most_screened()).is_some() {
            self.model.screen_head(self.context())?;
        }
        generate_all(&self.model, self.context(), tokenizer, prompts, options, stream)
    }

    fn losses(&self, all: &[Branches], capacity: usize) -> Result<Vec<Vec<Vec<f32>>>> {
        let longest = all.iter().map(Branches::n_tokens).max().unwrap_or(0);
        let (ctx, capacity) = (self.context(), capacity.max(longest));
        let mut acts = Activations::new(ctx, &self.model, capacity, Keep::Nothing)?;
        let mut buffers = LossBuffers::new(&self.backend, &self.model, capacity)?;
        branch_losses(&self.model, ctx, &mut acts, &mut buffers, all)
    }

    fn device(&self) -> String {
        self.backend.name()
    }

    fn memory(&self) -> MemoryUse {
        self.backend.memory()
    }
}
