//! The memory that a run will need.

use super::{plan::Plan, prepared::Prepared};
use crate::{
    config::Qwen3Config,
    error::Result,
    llm::{AdapterRoom, Work, base_parts, held},
    lora::LoraConfig,
    model::{Base, Part, products_take_adapters},
    settings::{ActivationMemory, Optim},
    train::trainer::shorter,
};
use halfbyte::{
    Count, DType, Size, host,
    quant::{BLOCK8, n_blocks},
};
use std::fmt;
use tracing::{debug, info};

/// Bytes, buffer by buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// What is allocated, small things left out.
    pub parts: Vec<Part>,
}

impl Need {
    /// What lies on the device.
    pub fn total(&self) -> usize {
        Part::on_device(&self.parts)
    }

    /// What lies in the host's memory, where the device has its own.
    pub fn on_host(&self) -> usize {
        self.parts.iter().map(|part| part.bytes).sum::<usize>() - self.total()
    }
}

/// A line for each part.
impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = self.parts.iter().filter(|part| part.bytes > 0).map(|part| {
            let size = Size(part.bytes as u64).to_string();
            format!("{size:>12}  {}", part.name)
        });
        let first = lines.next().unwrap_or_default();
        lines.try_fold(f.write_str(&first)?, |(), line| write!(f, "\n{line}"))
    }
}

/// What decides about the memory of a run.
#[derive(Clone, Copy, Debug)]
pub struct Extent<'a> {
    /// The model's shape.
    pub config: &'a Qwen3Config,
    /// How its linear layers are held.
    pub base: Base,
    /// The compute type.
    pub dtype: DType,
    /// The adapter.
    pub lora: &'a LoraConfig,
    /// How its moments are kept.
    pub optim: Optim,
    /// The most tokens at once, of a micro-batch or of what is evaluated.
    pub capacity: usize,
    /// What is written between steps.
    pub writes: Option<Work>,
    /// Whether a GPU computes, which has memory of its own, and whose kernels need some.
    pub on_gpu: bool,
}

impl Extent<'_> {
    /// What the run takes, small things not counted.
    ///
    /// # Errors
    /// The adapter has a target that cannot be trained, or no memory could hold it.
    pub fn need(&self, plan: Plan) -> Result<Need> {
        let Extent { config, base, dtype, capacity: n, .. } = *self;
        let size = dtype.bytes();
        let adapter = AdapterRoom::of(self.lora, config)?;
        let AdapterRoom { numbers, large, tables, n_rows, dora_bytes, room_around, .. } = adapter;
        let mut parts = base_parts(config, base, false, dtype, plan.embedding);
        if base == Base::Unquantized && products_take_adapters(self.on_gpu, dtype) {
            parts.push(Part::new("room for adapters around linear layers", room_around * size));
        }
        let f32s = |name, count: usize| Part::new(name, count * numbers * size_of::<f32>());
        let copies = (numbers + tables) * size;
        // Rows of tokens find their gradients by a product with rows of the vocabulary, and of a micro-batch.
        let picked = (config.vocab_size + n) * n_rows * size;
        parts.extend([
            f32s("adapter", 1),
            Part::new("adapter in the compute type, copies of tables", copies),
            self.moments(numbers, large),
            f32s("gradient of the adapter", 1),
            Part::new("rows of trained tokens", picked),
            Part::new("norms of DoRA", dora_bytes),
        ]);
        let room = adapter.room(config, size);
        parts.extend(room.activations(n, &plan.kept.layers(config.n_layers)));
        parts.extend([room.gradients(n), room.seen(n), room.targets(n)]);
        parts.extend(self.writes.map(|work| Part::new("replies to prompts", work.bytes(&room))));
        if self.on_gpu {
            parts.push(Part::new("scratch of kernels", self.scratch(room.room)));
        } else {
            // There is no other memory.
            parts.iter_mut().for_each(|part| part.on_host = false);
        }
        Ok(Need { parts })
    }

    /// The optimiser's, of so many numbers, of which so many may be in 8 bits.
    fn moments(&self, numbers: usize, large: usize) -> Part {
        let narrow = if self.optim.in_8_bits() { large } else { 0 };
        let scales = n_blocks(narrow, BLOCK8) * size_of::<f32>();
        let bytes = 2 * (narrow + scales + (numbers - narrow) * size_of::<f32>());
        match self.optim {
            Optim::AdamW => Part::new("moments of the optimiser", bytes),
            Optim::AdamW8bit => Part::new("moments of the optimiser, in 8 bits", bytes),
            Optim::PagedAdamW => Part::on_host("moments of the optimiser, on the host", bytes),
            Optim::PagedAdamW8bit => Part::on_host("moments of the optimiser, in 8 bits, on the host", bytes),
        }
    }

    /// What kernels of a GPU hand to each other: the largest weight of a layer decoded, with adapters beside it, what
    /// cuBLASLt works in, and f32 sums of the gradient of queries; other sums are small beside them.
    fn scratch(&self, room: usize) -> usize {
        const BLAS: usize = 32 << 20;
        let Extent { config, base, dtype, capacity, .. } = *self;
        let sums = if dtype.bytes() == 2 { capacity * config.q_size() * size_of::<f32>() } else { 0 };
        let (hidden, inter) = (config.hidden_size, config.intermediate_size);
        let weights = [[2 * inter, hidden], [config.q_size() + 2 * config.kv_size(), hidden], [hidden, inter]];
        let decoded = |[rows, cols]: [usize; 2]| rows * (cols + room) * dtype.bytes();
        let largest = weights.map(decoded).into_iter().fold(0, usize::max);
        BLAS + sums + if base == Base::Unquantized { 0 } else { largest }
    }
}

impl Prepared {
    pub(super) fn extent(&self) -> Extent<'_> {
        let Prepared { config, settings, lora, capacity, .. } = self;
        Extent {
            config,
            base: held(settings.base(), self.files.quantized_as()),
            dtype: settings.bnb_4bit_compute_dtype,
            lora,
            optim: settings.optim,
            capacity: *capacity,
            writes: self.texts.prompts.work(),
            on_gpu: settings.device.may_be_gpu(),
        }
    }

    /// What is kept for the backward pass, where `free` bytes are free on the device.
    ///
    /// # Errors
    /// Those of [`Extent::need`].
    pub fn plan(&self, free: Option<usize>) -> Result<Plan> {
        self.extent().plan(self.activation_memory(), free)
    }

    /// Notes what is kept, and every buffer.
    pub(super) fn log_plan(&self, plan: Plan) -> Result<()> {
        let need = self.extent().need(plan)?;
        info!(total = need.total(), on_host = need.on_host(), tokens = self.capacity, "memory: {plan}");
        need.parts.iter().for_each(|part| debug!(bytes = part.bytes, on_host = part.on_host, "memory: {}", part.name));
        Ok(())
    }

    /// What is asked for.
    pub(super) fn activation_memory(&self) -> ActivationMemory {
        match self.settings.gradient_checkpointing {
            false => self.settings.activation_memory,
            true if self.extent().on_gpu => ActivationMemory::Offload,
            true => ActivationMemory::Checkpoint,
        }
    }

    /// What is kept as far as that is known before a GPU is opened.
    pub(super) fn expected_plan(&self) -> Result<Plan> {
        self.plan(if self.settings.device.may_be_gpu() { None } else { host::free() })
    }

    /// What the run will take, as far as that is known before a GPU is opened.
    ///
    /// # Errors
    /// Those of [`Extent::need`].
    pub fn need(&self) -> Result<Need> {
        self.extent().need(self.expected_plan()?)
    }

    /// Compares what the run will take with what is free on the device, as far as that is known before a GPU is opened,
    /// and says how it stands.
    ///
    /// # Errors
    /// So much is not free, or as for [`Prepared::need`].
    pub fn expect_room(&self) -> Result<String> {
        let plan = self.expected_plan()?;
        self.settings.device.expect_room(self.extent().need(plan)?.total(), shorter(plan.kept))
    }

    /// What is known without having loaded weights.
    ///
    /// # Errors
    /// The samples come to no step, or as for [`Prepared::need`].
    pub fn check(&self) -> Result<String> {
        let (plan, steps) = (self.expected_plan()?, self.batcher()?.total_steps());
        self.settings.trainer(self.capacity, plan.kept, steps)?;
        let (extent, size) = (self.extent(), |bytes: usize| Size(bytes as u64));
        let need = extent.need(plan)?;
        let mut said = format!(
            "checked: {}; {}\nmemory: about {} for up to {} at once; {plan}\n{need}",
            self.texts.train.told(),
            Count(steps, "step"),
            size(need.total()),
            Count(self.capacity, "token"),
        );
        if self.asks_gpu() {
            said += "\nmicro-batches are chosen once the GPU is opened (--auto-batch-size)";
        }
        if extent.on_gpu && self.activation_memory() == ActivationMemory::Auto {
            let least = extent.need(extent.plan(ActivationMemory::Offload, None)?)?;
            let (least, on_host) = (size(least.total()), size(least.on_host()));
            said += &format!("\nwhere less is free, as few as {least}, and {on_host} of the host's memory");
        }
        Ok(said)
    }
}
