//! What a trainer must know, beside the adapter, to go on as if it had never stopped.

use super::Trainer;
use crate::{
    error::{Error, Result},
    lora::{Adapter, Layout, OfWhole},
    train::{loss_scale::LossScale, optimizer::HostMoments},
};
use halfbyte::{Backend, Float, host};
use serde::{Deserialize, Serialize};

/// How far a trainer is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    /// Updates of the adapter; a step that f16 left out is none.
    pub updates: u32,
    /// Micro-batches, by which dropout masks differ.
    pub micro_batches: u64,
    /// What the next loss is multiplied by.
    pub loss_scale: LossScale,
}

/// A trainer between two steps; its adapter is the other half.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainerState {
    /// How far it is.
    pub counters: Counters,
    /// AdamW's, of all numbers of the adapter as they lie in memory.
    pub moments: HostMoments,
}

impl<B: Backend, T: Float> Trainer<'_, B, T> {
    /// What it must know to go on; waits. What every queued step did must have been told.
    ///
    /// # Errors
    /// The device refuses, or the host has too little memory.
    pub fn state(&self) -> Result<TrainerState> {
        let Trainer { backend, optimizer, micro_batches, loss_scale, .. } = self;
        let counters = Counters { updates: optimizer.steps, micro_batches: *micro_batches, loss_scale: *loss_scale };
        Ok(TrainerState { counters, moments: optimizer.moments.fetch(backend)? })
    }

    /// What it saves is an adapter for the base as it was before PiSSA's `taken` was taken out of it: one of twice the rank.
    ///
    /// # Errors
    /// The host has too little memory.
    pub fn save_for_whole(&mut self, taken: &Adapter) -> Result<()> {
        self.whole = Some(OfWhole::new(taken)?);
        Ok(())
    }

    /// The adapter as it is now, in memory that was taken at the start; waits.
    ///
    /// # Errors
    /// The device refuses.
    pub fn adapter(&mut self) -> Result<&Adapter> {
        self.adapter.layout.fetch(self.backend, &self.optimizer.weights, &mut self.copy)?;
        Ok(match &mut self.whole {
            Some(whole) => whole.with(&self.copy),
            None => &self.copy,
        })
    }

    /// Takes the numbers of `adapter`, which [`Trainer::adapter`] gave, in place of its own.
    ///
    /// # Errors
    /// It has another shape, the device refuses, or the host has too little memory.
    pub fn load(&mut self, adapter: &Adapter) -> Result<()> {
        let (layout, flat) = match &self.whole {
            Some(_) => Layout::of(&adapter.parted(&self.config)?[0])?,
            None => Layout::of(adapter)?,
        };
        if layout != self.adapter.layout {
            return Err(Error::setting(
                "an adapter to load",
                "of another shape",
                "it must have that of the trained one",
            ));
        }
        let compute = host::collect(flat.len(), flat.iter().map(|&v| T::from_f32(v)))?;
        self.backend.write(&flat, self.optimizer.weights.view_mut())?;
        self.backend.write(&compute, self.adapter.compute.view_mut())?;
        self.model.follow(self.backend, &mut self.adapter, &self.optimizer.weights)
    }

    /// Goes on from `state`, whose adapter it was made with.
    ///
    /// # Errors
    /// The moments are not as many as the adapter has numbers, or the device refuses.
    pub fn restore(&mut self, state: &TrainerState) -> Result<()> {
        let TrainerState { counters, moments } = state;
        self.optimizer.moments.restore(self.backend, moments)?;
        self.optimizer.steps = counters.updates;
        self.micro_batches = counters.micro_batches;
        self.loss_scale = counters.loss_scale;
        Ok(())
    }
}
