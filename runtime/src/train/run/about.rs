//! What a run is, for its metrics and its report.

use super::{plan::Plan, prepared::Prepared, preview::bins};
use crate::{
    error::Result,
    settings::{Section, TrainSettings},
    train::about::{About, Room},
};
use serde_json::Value;

impl Prepared {
    /// All that is known before the first step, of a run on this device.
    pub(super) fn about(&self, device: String, plan: Plan, n_trainable: usize) -> Result<About> {
        let (settings, defaults) = (&self.settings, TrainSettings::default());
        let (data, batcher) = (&self.texts.train, self.batcher()?);
        let changed = |name: &&str| settings.show(name) != defaults.show(name);
        let names = settings.fields().into_iter().map(|field| field.name);
        let told = [data.told(), batcher.first_epoch().to_string()];
        let lengths: Vec<_> = data.samples.iter().map(|sample| sample.ids.len()).collect();
        let parts = self.extent().need(plan)?.parts.into_iter().filter(|part| part.bytes > 0);
        Ok(About {
            version: env!("CARGO_PKG_VERSION").into(),
            model: settings.model_name.clone(),
            device,
            total_steps: batcher.total_steps(),
            n_trainable,
            in_force: self.in_force(),
            data: told.into_iter().chain(data.note()).collect(),
            lengths: bins(&lengths),
            memory: parts.map(|part| Room { name: part.name.into(), bytes: part.bytes as u64 }).collect(),
            settings: match settings.json() {
                Value::Object(all) => all,
                _ => Default::default(),
            },
            changed: names.filter(changed).map(Into::into).collect(),
        })
    }
}
