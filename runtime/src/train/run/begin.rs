//! What a run's adapter begins with.

use super::prepared::Prepared;
use crate::{
    checkpoint::Checkpoint,
    error::{Error, Result},
    lora::{Adapter, Init, LoraConfig, Target},
    model::Qwen3,
    settings::TrainSettings,
};
use halfbyte::{Backend, Float};

/// Refuses an adapter that cannot begin on this base.
pub(super) fn expect_base(
    settings: &TrainSettings,
    files: &Checkpoint,
    lora: &LoraConfig,
    targets: &[Target],
) -> Result<()> {
    let of_end = |target: &Target| target.module.is_end();
    let found = files.quantized_as();
    let in_4_bits = settings.use_4bit || found.is_some();
    let want = match lora.init {
        Init::Pissa(_) | Init::LoftQ if targets.iter().any(of_end) => {
            "PiSSA and LoftQ begin with a part of a layer's weight: leave embed_tokens and lm_head out of target_modules, or \
             begin with true or gaussian"
        }
        Init::Pissa(_) if in_4_bits => {
            "PiSSA leaves the base without what the adapter begins with, and in 4 bits that rest would be rounded once \
             more: what is trained would fit no base that is saved (PEFT refuses it, too); train without use_4bit, or \
             use loftq"
        }
        Init::Pissa(_) if lora.use_dora => "PiSSA does not go with DoRA, whose norms are those of the whole base",
        Init::LoftQ if found.is_some() => {
            "what quantising took from the checkpoint is not known, since it is in 4 bits already; give the original one"
        }
        Init::LoftQ if !in_4_bits => "LoftQ makes up for quantising: set use_4bit",
        _ => return Ok(()),
    };
    Err(Error::setting("init_lora_weights", &lora.init, want))
}

impl Prepared {
    /// The adapter to train, and what PiSSA has taken out of the model for it.
    pub(super) fn begin<B: Backend, T: Float>(
        &self,
        backend: &B,
        model: &mut Qwen3<B, T>,
    ) -> Result<(Adapter, Option<Adapter>)> {
        let is_pissa = matches!(self.lora.init, Init::Pissa(_));
        if let (true, Some(saved)) = (is_pissa, &self.adapter) {
            let [adapter, taken] = saved.parted(&self.lora)?;
            model.take(backend, &taken)?;
            return Ok((adapter, Some(taken)));
        }
        let new = || Adapter::init(self.lora.clone(), &self.config, &self.files, self.settings.seed);
        let mut adapter = self.adapter.clone().map_or_else(new, Ok)?;
        model.begin(backend, &self.files, &mut adapter)?;
        if is_pissa {
            model.take(backend, &adapter)?;
        }
        model.measure(backend, &mut adapter)?;
        let taken = is_pissa.then(|| adapter.clone());
        Ok((adapter, taken))
    }
}
