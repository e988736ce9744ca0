//! Going on with a run that was cut short.

use super::{prepared::Prepared, watch::Watch};
use crate::{
    error::Result,
    lora::Adapter,
    settings::{Resume, TrainSettings},
    train::{
        checkpoint::{Identity, Keeper, Parts, Saved, whole},
        output::RunOutput,
        trainer::Trainer,
    },
};
use halfbyte::{Backend, Float};

/// The checkpoint to go on from, if there is one.
pub(super) fn find(settings: &TrainSettings) -> Result<Option<Saved>> {
    match &settings.resume {
        None => Ok(None),
        Some(Resume::Auto) => Saved::newest(&settings.output),
        Some(Resume::From(dir)) => Saved::open(dir).map(Some),
    }
}

impl Prepared {
    /// What decides how the run ends.
    fn identity(&self) -> Result<Identity> {
        Identity::of(&Parts {
            settings: &self.settings,
            lora: &self.lora,
            train: &self.texts.train.samples,
            shares: self.texts.train.shares(),
            heldout: self.texts.heldout.as_ref().map(|data| data.samples.as_slice()),
            base: &self.files,
        })
    }

    /// With the checkpoint's adapter to go on with, where it is one of this run.
    pub(super) fn going_on(mut self) -> Result<Self> {
        match &self.saved {
            Some(saved) => {
                saved.expect_same(&self.identity()?)?;
                self.adapter = Some(Adapter { config: self.lora.clone(), ..saved.adapter(&self.config)? });
            }
            None if self.settings.resume.is_some() => {
                let output = self.settings.output.display();
                self.notes.push(format!("`{output}` has no checkpoint to resume: the run begins"));
            }
            None => {}
        }
        Ok(self)
    }

    /// What keeps the run's checkpoints, of which there may be some.
    pub(super) fn keeper(&self) -> Result<Keeper> {
        let output = &self.settings.output;
        let before = |saved: &Saved| {
            whole(output).into_iter().map(|(step, _)| step).filter(|&s| s <= saved.state.step).collect()
        };
        let own = self.saved.as_ref().filter(|saved| saved.is_in(output)).map(before).unwrap_or_default();
        let best = self.saved.as_ref().and_then(|saved| saved.state.evaluations.best).map(|(step, _)| step);
        Ok(Keeper::new(&self.settings, own, best, self.identity()?))
    }

    /// Sets the trainer and the metrics to where the checkpoint has them.
    pub(super) fn restore<B: Backend, T: Float>(
        &self,
        trainer: &mut Trainer<'_, B, T>,
        output: &mut RunOutput,
        watch: &mut dyn Watch,
    ) -> Result<()> {
        let Some(saved) = &self.saved else { return Ok(()) };
        trainer.restore(&saved.trainer()?)?;
        output.go_on(saved.metrics()?);
        let (state, now) = (&saved.state, trainer.device());
        watch.say(&format!(
            "going on from {}, after step {} of {}",
            saved.path().display(),
            state.step,
            state.total_steps
        ));
        if state.device != now {
            let was = &state.device;
            watch.note(&format!("until there it ran on {was}: on {now} the adapter may differ in its last bits"));
        }
        Ok(())
    }
}
