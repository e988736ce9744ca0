//! What is kept for the backward pass, and where.

use super::need::Extent;
use crate::{
    config::Qwen3Config,
    error::{Error, Result},
    model::{Home, Keep, Kept},
    settings::ActivationMemory,
};
use halfbyte::Count;
use std::fmt;

/// What is kept for the backward pass, and where the embedding lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What each layer keeps.
    pub kept: Kept,
    /// Where the embedding lies.
    pub embedding: Home,
    /// Of the model.
    n_layers: usize,
}

impl Plan {
    /// The one that was asked for, of a model of this shape; all is kept where that is to depend on what is free.
    pub fn of(asked: ActivationMemory, config: &Qwen3Config) -> Plan {
        match asked {
            ActivationMemory::Full | ActivationMemory::Auto => Self::of_all(config, Keep::Everything),
            ActivationMemory::MlpRecompute => Self::of_all(config, Keep::AllButMlp),
            ActivationMemory::Checkpoint => Self::of_all(config, Keep::Residual),
            ActivationMemory::Offload => Self::of_all(config, Keep::Host),
        }
    }

    /// The same for all layers. What lies on the host lets the embedding lie there, too, but for one that is the output
    /// head, all of which is read.
    fn of_all(config: &Qwen3Config, keep: Keep) -> Plan {
        let away = keep == Keep::Host && !config.tie_word_embeddings;
        let embedding = if away { Home::Host } else { Home::Device };
        Plan { kept: keep.into(), embedding, n_layers: config.n_layers }
    }
}

impl Extent<'_> {
    /// What is kept, where `free` bytes are free on the device; a tenth of them is left. All is kept where nobody knows
    /// how many there are.
    ///
    /// # Errors
    /// Those of [`Extent::need`].
    pub fn plan(&self, asked: ActivationMemory, free: Option<usize>) -> Result<Plan> {
        match (asked, free) {
            (ActivationMemory::Auto, Some(free)) => self.most_within(free - free / 10),
            _ => Ok(Plan::of(asked, self.config)),
        }
    }

    /// The least, or from the last layer on as much more as does not need more than `bytes`.
    fn most_within(&self, bytes: usize) -> Result<Plan> {
        let fits = |plan: Plan| Ok::<_, Error>(self.need(plan)?.total() <= bytes);
        let all = Plan::of_all(self.config, Keep::Everything);
        if fits(all)? {
            return Ok(all);
        }
        // On the CPU there is no other memory.
        let mut best = Plan::of_all(self.config, if self.on_gpu { Keep::Host } else { Keep::Residual });
        let more: [fn(&mut Kept); 2] = [|kept| kept.everything += 1, |kept| kept.all_but_mlp += 1];
        for add in more {
            for _ in best.kept.everything..self.config.n_layers {
                let mut next = best;
                add(&mut next.kept);
                if !fits(next)? {
                    break;
                }
                best = next;
            }
        }
        Ok(best)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = |keep| self.kept.layers(self.n_layers).iter().filter(|kept| **kept == keep).count();
        let ways = [
            (Keep::Everything, "kept whole"),
            (Keep::AllButMlp, "kept but for gate and up"),
            (Keep::Residual, "computed again"),
            (Keep::Host, "computed again from inputs in the host's memory"),
        ];
        let said = ways.map(|(keep, how)| (counts(keep), how)).into_iter().filter(|(n, _)| *n > 0);
        let said: Vec<_> = said.map(|(n, how)| format!("{} {how}", Count(n, "layer"))).collect();
        let embedding = if self.embedding == Home::Host { "; the embedding in the host's memory" } else { "" };
        write!(f, "activations: {}{embedding}", said.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lora::{LoraConfig, Targets},
        model::Base,
        settings::Optim,
        speed::SHAPES,
    };
    use halfbyte::{DType, quant::Format};

    /// As much as is free is used, and no more.
    #[test]
    fn what_is_free_decides() {
        let config = SHAPES[4].config();
        let base = Base::Quantized { format: Format::Nf4, block_size: 64, double_quant: true };
        let lora = LoraConfig::new(16, 32.0, Targets::AllLinear);
        let extent = Extent {
            config: &config,
            base,
            dtype: DType::Bf16,
            lora: &lora,
            optim: Optim::AdamW,
            capacity: 8192,
            writes: None,
            on_gpu: true,
        };
        let total = |plan| extent.need(plan).unwrap().total();
        let of = |asked, free| extent.plan(asked, free).unwrap();
        let least = of(ActivationMemory::Offload, None);
        let mut before = total(least);
        for gib in [2, 8, 12, 16, 24, 32, 48, 80] {
            let free = gib << 30;
            let plan = of(ActivationMemory::Auto, Some(free));
            let (needs, within) = (total(plan), free / 10 * 9);
            assert!(needs <= within || plan == least, "{gib} GiB: {plan}");
            assert!(needs >= before, "{gib} GiB: {plan}");
            let Kept { everything, all_but_mlp, .. } = plan.kept;
            let more = Plan { kept: Kept { all_but_mlp: all_but_mlp + 1, ..plan.kept }, ..plan };
            let all = plan.kept == Keep::Everything.into() || everything + all_but_mlp == 36;
            assert!(all || total(more) > within, "{gib} GiB: {plan}");
            before = needs;
        }
        assert_eq!(of(ActivationMemory::Auto, Some(80 << 30)), of(ActivationMemory::Full, None));
        assert_eq!(of(ActivationMemory::Auto, None), of(ActivationMemory::Full, None));
        let said = of(ActivationMemory::Auto, Some(16 << 30)).to_string();
        assert!(said.contains("layers kept whole, ") && said.contains("the host's memory; the embedding"), "{said}");
    }

    /// Around dense weights of Qwen3-8B in bf16: 64 columns of 38,912 rows and 64 rows of all columns in each layer.
    #[test]
    fn room_for_adapters_is_counted() {
        let (config, lora) = (SHAPES[4].config(), LoraConfig::new(16, 32.0, Targets::AllLinear));
        let of = |base, dtype, on_gpu| {
            let (lora, optim, writes) = (&lora, Optim::AdamW, None);
            let extent = Extent { config: &config, base, dtype, lora, optim, capacity: 64, writes, on_gpu };
            let need = extent.need(extent.plan(ActivationMemory::Full, None).unwrap()).unwrap();
            need.parts.iter().find(|part| part.name.starts_with("room for adapters")).map(|part| part.bytes)
        };
        let around = 36 * 64 * (6144 + 4096 + 24_576 + 4096 + 3 * 4096 + 12_288 + 4 * 64);
        assert_eq!(of(Base::Unquantized, DType::Bf16, true), Some(2 * around));
        let quantized = Base::Quantized { format: Format::Nf4, block_size: 64, double_quant: true };
        let others = [(Base::Unquantized, DType::F32, true), (Base::Unquantized, DType::Bf16, false)];
        for (base, dtype, on_gpu) in others.into_iter().chain([(quantized, DType::Bf16, true)]) {
            assert_eq!(of(base, dtype, on_gpu), None, "{base:?}, {dtype:?}, {on_gpu}");
        }
    }

    /// Each takes less than the one before it.
    #[test]
    fn the_ways_are_in_order() {
        let config = SHAPES[0].config();
        let lora = LoraConfig::new(4, 8.0, Targets::AllLinear);
        let extent = Extent {
            config: &config,
            base: Base::Unquantized,
            dtype: DType::Bf16,
            lora: &lora,
            optim: Optim::AdamW,
            capacity: 512,
            writes: None,
            on_gpu: true,
        };
        use ActivationMemory::{Checkpoint, Full, MlpRecompute, Offload};
        let totals = [Full, MlpRecompute, Checkpoint, Offload]
            .map(|asked| extent.need(extent.plan(asked, None).unwrap()).unwrap().total());
        assert!(totals.is_sorted_by(|a, b| a > b), "{totals:?}");
    }
}
