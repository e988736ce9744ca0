//! All of a run that can be known before weights are loaded.

use super::{begin::expect_base, fit::as_begun, idle::idle, resume::find, texts::Texts};
use crate::{
    checkpoint::Checkpoint,
    config::Qwen3Config,
    error::{Error, Result},
    hub::Destination,
    lora::{Adapter, LoraConfig},
    model::{checkpoint_note, untrained_note},
    settings::{Loaded, Section, TrainSettings},
    tokenizer::Tokenizer,
    train::{
        checkpoint::Saved,
        output::RunOutput,
        packing::Batcher,
        trainer::{OptimizerOptions, micro_batch_capacity},
    },
};
use std::path::PathBuf;

/// A run whose files are open and checked.
pub struct Prepared {
    /// As they were given.
    pub settings: TrainSettings,
    /// The checkpoint's folder.
    pub dir: PathBuf,
    /// The model's shape.
    pub config: Qwen3Config,
    /// Its weights, still in their files.
    pub files: Checkpoint,
    /// Text to tokens.
    pub tokenizer: Tokenizer,
    /// What is trained: that of `lora_path`, or a new one.
    pub lora: LoraConfig,
    /// What the user should know.
    pub notes: Vec<String>,
    /// The one to go on with.
    pub(super) adapter: Option<Adapter>,
    pub(super) texts: Texts,
    /// The most tokens that run at once.
    pub(super) capacity: usize,
    /// Where it goes on.
    pub(super) saved: Option<Saved>,
    /// Whether an adapter in the output folder may be replaced.
    pub(super) overwrite: bool,
    /// Where on the hub the adapter goes.
    pub(super) to: Option<Destination>,
}

/// Takes a setting that has no effect, and why.
type Refuse<'a> = &'a dyn Fn(&'static str, &str) -> Result<()>;

impl Prepared {
    /// Opens and checks everything but the weights, without a GPU, and writes nothing.
    ///
    /// # Errors
    /// A file is missing, damaged or contradicts another, a sample does not fit, the output folder has an adapter, a
    /// checkpoint is of another run, or a setting that is not its default would have no effect.
    pub fn new(settings: &TrainSettings) -> Result<Self> {
        let defaults = TrainSettings::default();
        Self::open(settings, &|name, why| {
            let (asked, default) = (settings.show(name), defaults.show(name));
            let refuse = || {
                Err(Error::setting(name, asked.clone().unwrap_or_default(), format!("it has no effect here: {why}")))
            };
            if asked == default { Ok(()) } else { refuse() }
        })
    }

    /// As [`Prepared::new`], of the section `train`.
    ///
    /// # Errors
    /// Those of [`Prepared::new`]; also for a setting without effect that was asked for, whatever its value, with the
    /// place where it was.
    pub fn of(loaded: &Loaded) -> Result<Self> {
        Self::open(&loaded.config.train, &|name, why| loaded.refuse("train", name, why))
    }

    fn open(settings: &TrainSettings, refuse: Refuse<'_>) -> Result<Self> {
        let dir = settings.model_dir()?;
        let (config, tokenizer) = (Qwen3Config::open(&dir)?, Tokenizer::open(&dir)?);
        let files = Checkpoint::open(&dir)?;
        let idle = idle(settings, &files)?;
        idle.iter().try_for_each(|(name, why)| refuse(name, why))?;
        let saved = find(settings)?;
        let settings = &as_begun(settings, saved.as_ref())?;
        let overwrite = settings.overwrite || saved.as_ref().is_some_and(|saved| saved.is_in(&settings.output));
        RunOutput::expect_free(&settings.output, overwrite)?;
        let to = settings.push_to_hub.as_ref().map(|name| Destination::open(name, settings.overwrite)).transpose()?;
        let adapter = settings.adapter_dir()?.map(|dir| Adapter::open(&dir, &config)).transpose()?;
        let (adapter, adapter_note) = adapter.unzip();
        let lora = adapter.as_ref().map_or_else(|| settings.lora(), |adapter| Ok(adapter.config.clone()))?;
        let targets = lora.resolve(&config)?;
        let rates = OptimizerOptions::default().lora_plus(settings.loraplus_lr_ratio);
        rates.expect_for(targets.iter().map(|target| target.module))?;
        expect_base(settings, &files, &lora, &targets)?;
        let (texts, no_template) = Texts::read(settings, &dir, &config, &tokenizer)?;
        let untrained = untrained_note(&files, &config, &tokenizer, &texts.train.samples, &lora)?;
        let notes = [checkpoint_note(&files, &config)?, adapter_note.flatten(), no_template, untrained];
        let notes = notes.into_iter().flatten().collect();
        let longest = micro_batch_capacity(&texts.train.samples, texts.train.times(), &settings.batches());
        let (settings, capacity) = (settings.clone(), longest.max(texts.longest_evaluated()));
        let run = Prepared {
            settings,
            dir,
            config,
            files,
            tokenizer,
            lora,
            notes,
            adapter,
            texts,
            capacity,
            saved,
            overwrite,
            to,
        };
        run.going_on()?.fitted_to_host()
    }

    /// The steps of the run.
    pub(super) fn batcher(&self) -> Result<Batcher<'_>> {
        Batcher::mixed(&self.texts.train.samples, self.texts.train.shares(), self.settings.batches())
    }
}
