//! When checkpoints are made, and which of them are kept.

use super::{
    identity::Identity,
    saved::{self, State},
};
use crate::{
    error::Result,
    files,
    lora::Adapter,
    settings::TrainSettings,
    train::{output::RunOutput, trainer::HostMoments},
};
use std::{
    mem,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Keeps the checkpoints of one run.
#[derive(Debug)]
pub(crate) struct Keeper {
    /// Steps from one to the next; 0 is none.
    every: u64,
    /// Time from one to the next.
    pause: Option<Duration>,
    /// The most that are kept.
    limit: Option<usize>,
    /// When the last one was made.
    last: Instant,
    /// Steps of this run's checkpoints, the oldest first.
    own: Vec<u64>,
    /// The one of the lowest held-out loss, which is kept beside the newest.
    best: Option<u64>,
    /// Whether one was made since the oldest were removed.
    too_many: bool,
    /// Of the run.
    pub identity: Identity,
}

impl Keeper {
    /// For a run that goes on after the checkpoints `own`, of which that of step `best` is the best.
    pub fn new(settings: &TrainSettings, own: Vec<u64>, best: Option<u64>, identity: Identity) -> Self {
        let TrainSettings { save_steps: every, save_minutes, save_total_limit: limit, .. } = *settings;
        let pause = (save_minutes > 0.0).then(|| Duration::from_secs_f64(60.0 * save_minutes));
        Keeper { every, pause, limit, last: Instant::now(), own, best, too_many: false, identity }
    }

    /// Whether checkpoints are asked for.
    pub fn is_on(&self) -> bool {
        self.every > 0 || self.pause.is_some()
    }

    /// How many of this run's are kept.
    pub fn n_kept(&self) -> usize {
        self.own.len() - self.old().count()
    }

    /// Steps of those that are too many.
    fn old(&self) -> impl Iterator<Item = u64> {
        let n_old = self.own.len().saturating_sub(self.limit.unwrap_or(usize::MAX));
        self.own[..n_old].iter().copied().filter(|&step| self.best != Some(step))
    }

    /// Whether there is one after so many steps.
    pub fn has(&self, step: u64) -> bool {
        self.own.contains(&step)
    }

    /// Whether it is time for one.
    pub fn is_due(&self, step: u64) -> bool {
        let by_step = self.every > 0 && step.is_multiple_of(self.every);
        by_step || self.pause.is_some_and(|pause| self.last.elapsed() >= pause)
    }

    /// Makes one; gives its place.
    ///
    /// # Errors
    /// [`Error::Io`](crate::error::Error::Io). Those that were there still are.
    pub fn save(
        &mut self,
        output: &RunOutput,
        state: &State,
        moments: &HostMoments,
        adapter: &Adapter,
    ) -> Result<PathBuf> {
        // Also where it fails: the next try is when the next one is due.
        self.last = Instant::now();
        let path = state.save(output.path(), moments, adapter, output.lines())?;
        self.own.retain(|&step| step != state.step);
        self.own.push(state.step);
        if state.evaluations.is_best(state.step) {
            self.best = Some(state.step);
        }
        self.too_many = true;
        Ok(path)
    }

    /// As [`Keeper::clear`], if there is one more than when that was last called. A step after it: so the one before is
    /// there still where the new one turns out to be worth nothing.
    ///
    /// # Errors
    /// [`Error::Io`](crate::error::Error::Io).
    pub fn clear_after_step(&mut self, output: &Path) -> Result<()> {
        if mem::take(&mut self.too_many) { self.clear(output) } else { Ok(()) }
    }

    /// Removes those of after so many steps or more; gives the last one that is left.
    ///
    /// # Errors
    /// [`Error::Io`](crate::error::Error::Io).
    pub fn drop_from(&mut self, output: &Path, step: u64) -> Result<Option<PathBuf>> {
        let place = |step: u64| output.join(saved::name(step));
        while let Some(last) = self.own.pop_if(|last| *last >= step) {
            files::remove_folder(&place(last))?;
        }
        Ok(self.own.last().copied().map(place))
    }

    /// Removes checkpoints that are too many, and those of a run that was there before.
    ///
    /// # Errors
    /// [`Error::Io`](crate::error::Error::Io).
    pub fn clear(&mut self, output: &Path) -> Result<()> {
        let others = saved::whole(output).into_iter().filter(|(step, _)| !self.own.contains(step));
        others.into_iter().try_for_each(|(_, path)| files::remove_folder(&path))?;
        for step in self.old().collect::<Vec<_>>() {
            files::remove_folder(&output.join(saved::name(step)))?;
            self.own.retain(|&own| own != step);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Qwen3Config,
        embedded,
        files::{Fault, with_fault},
        lora::{LoraConfig, Targets},
        train::checkpoint::saved::Saved,
    };
    use std::fs;

    fn model() -> Qwen3Config {
        Qwen3Config::open(&embedded::model()).unwrap()
    }

    fn adapter() -> Adapter {
        Adapter::of_layers(LoraConfig::new(1, 1.0, Targets::from_text("q_proj")), &model(), 0).unwrap()
    }

    /// Of every kind.
    fn moments(step: u64) -> HostMoments {
        HostMoments {
            codes: [vec![step as u8, 255], vec![7, 8]],
            absmax: [vec![0.25], vec![4.0]],
            wide: [vec![step as f32], vec![0.5]],
        }
    }

    /// Saves a checkpoint of a run that keeps one and has made those before it.
    fn save(dir: &Path, step: u64, adapter: &Adapter) -> Result<()> {
        let output = RunOutput::create(dir, true)?;
        let settings = TrainSettings { save_total_limit: Some(1), ..TrainSettings::default() };
        let mut keeper = Keeper::new(&settings, (1..step).collect(), None, Identity::default());
        let state = State { version: State::VERSION, step, ..State::default() };
        keeper.save(&output, &state, &moments(step), adapter)?;
        keeper.clear_after_step(dir)
    }

    /// The steps of the checkpoints in a folder, all of which are whole.
    fn steps(dir: &Path) -> Vec<u64> {
        let open = |(step, path): (u64, PathBuf)| {
            let saved = Saved::open(&path).unwrap_or_else(|e| panic!("{e}"));
            assert!(saved.state.step == step && saved.adapter(&model()).unwrap().layers == adapter().layers);
            assert_eq!(saved.trainer().unwrap().moments, moments(step));
            assert_eq!(saved.metrics().unwrap(), "");
            step
        };
        saved::whole(dir).into_iter().map(open).collect()
    }

    #[test]
    fn whatever_fails_a_whole_checkpoint_is_left() {
        let adapter = adapter();
        for fault in [Fault::Error, Fault::Stop] {
            let mut at = 0;
            loop {
                let dir = tempfile::tempdir().unwrap();
                save(dir.path(), 1, &adapter).unwrap();
                let (result, done) = with_fault(at, fault, || save(dir.path(), 2, &adapter));
                if done <= at {
                    assert!(at > 20, "only {at} operations");
                    break;
                }
                let place = format!("operation {at}, {fault:?}, {result:?}");
                let left = steps(dir.path());
                assert!([&[1][..], &[1, 2], &[2]].contains(&left.as_slice()), "{left:?}: {place}");
                assert!(result.is_err() || left == [2], "a failure was not reported: {place}");
                save(dir.path(), 3, &adapter).unwrap_or_else(|e| panic!("a later one is refused: {e}; {place}"));
                assert_eq!(steps(dir.path()), [3], "{place}");
                let n = fs::read_dir(dir.path()).unwrap().count();
                assert_eq!(n, 1, "something is left behind: {place}");
                at += 1;
            }
        }
    }
}
