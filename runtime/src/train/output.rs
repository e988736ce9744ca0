//! Where a training run leaves what it made: adapter and metrics, all of one run.

use std::path::{Path, PathBuf};

use super::checkpoint::{name, whole};
use super::metrics::{MetricsLog, Record};
use super::report::{not_ours, stage};
use super::tensorboard::Events;
use crate::error::{Error, Result};
use crate::files::{self, OutputFolder, PARTIAL_METRICS, Staged};
use crate::lora::{Adapter, CONFIG, LoraConfig, WEIGHTS};

/// The metrics of the run whose adapter is in the folder.
pub const METRICS: &str = "metrics.jsonl";

/// The folder of a training run. Nothing in it changes before the first step, and an adapter in it not before the new one
/// is saved; then adapter and metrics change together.
#[derive(Debug)]
pub struct RunOutput {
    /// Metrics that can be followed during the run, from the first on.
    log: Option<MetricsLog>,
    /// The same, whether or not they could be written.
    lines: String,
    /// The same for TensorBoard, where it is asked for.
    events: Option<Events>,
    /// Where the weights will go, as large as they will be.
    reserved: Option<Staged>,
    /// The last to be dropped: it removes folders that are empty.
    folder: OutputFolder,
}

impl RunOutput {
    /// Takes a folder, which is made if need be.
    ///
    /// # Errors
    /// Another process writes into it, it cannot be written, or it has an adapter or checkpoints and `overwrite` is not set.
    pub fn create(dir: &Path, overwrite: bool) -> Result<Self> {
        let folder = OutputFolder::claim(dir)?;
        Self::expect_free(dir, overwrite)?;
        Ok(Self { folder, log: None, lines: String::new(), events: None, reserved: None })
    }

    /// Refuses a folder that has an adapter or checkpoints, unless `overwrite` is set.
    pub(crate) fn expect_free(dir: &Path, overwrite: bool) -> Result<()> {
        if overwrite {
            return Ok(());
        }
        let hint = "it is a trained adapter; choose another --output, or pass --overwrite";
        files::refuse_existing(dir, &[WEIGHTS, CONFIG], hint)?;
        let checkpoints: Vec<_> = whole(dir).into_iter().map(|(step, _)| name(step)).collect();
        let hint = "it is of a run that can go on with --resume auto; or choose another --output, or pass --overwrite";
        files::refuse_existing(dir, &checkpoints, hint)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Sets room for an adapter of `bytes` aside, so that the disk is not found to be full at the end.
    ///
    /// # Errors
    /// There is too little.
    pub fn reserve(&mut self, bytes: u64) -> Result<()> {
        // For names and shapes of tensors, the configuration and metrics.
        const OTHERS: u64 = 1 << 20;
        self.folder.expect_space(bytes.saturating_add(OTHERS))?;
        let weights = Staged::create(&self.path().join(WEIGHTS))?;
        weights.reserve(bytes)?;
        self.reserved = Some(weights);
        Ok(())
    }

    /// Notes a step. Until the adapter is saved the metrics are in `metrics.partial.jsonl`.
    ///
    /// # Errors
    /// They could not be written. They are not lost: [`RunOutput::save`] writes them again.
    pub fn record(&mut self, record: &Record) -> Result<()> {
        let line = record.to_line();
        self.lines += &line;
        if let Some(events) = &mut self.events {
            events.note(record);
            // What fails is tried again with the next step.
            let _ = events.flush();
        }
        let written = match &mut self.log {
            Some(log) => log.write_lines(&line),
            None => self.begin_log(),
        };
        if written.is_err() {
            // It may end with half a line: the next step begins it again.
            self.log = None;
        }
        written
    }

    /// Notes what was known before the first step, with which the metrics will begin.
    pub(crate) fn begin(&mut self, record: &Record) {
        self.lines += &record.to_line();
        self.events.iter_mut().for_each(|events| events.note(record));
    }

    /// Writes events for TensorBoard into a folder from now on, where `done` steps are done.
    pub(crate) fn tell_tensorboard(&mut self, dir: PathBuf, done: u64) {
        self.events = Some(Events::new(dir, done));
    }

    /// The metrics so far.
    pub(crate) fn lines(&self) -> &str {
        &self.lines
    }

    /// Goes on behind the metrics of a run that was cut short.
    pub(crate) fn go_on(&mut self, lines: String) {
        self.lines = lines;
    }

    /// Begins the metrics that can be followed with all lines so far.
    fn begin_log(&mut self) -> Result<()> {
        let log = MetricsLog::create(self.path().join(PARTIAL_METRICS))?;
        self.log.insert(log).write_lines(&self.lines)
    }

    /// Saves the adapter with the metrics of its run, its report and its card. Those that somebody has made his own stay
    /// as they are, and are named in the log.
    ///
    /// # Errors
    /// [`Error::Io`]. The folder is as it was then, with the room that was set aside, and it can be tried again, here or
    /// after [`RunOutput::move_to`].
    pub fn save(&mut self, adapter: &Adapter) -> Result<()> {
        let reserved = self.reserved.take().filter(Staged::is_there);
        let mut weights = reserved.map_or_else(|| Staged::create(&self.path().join(WEIGHTS)), Ok)?;
        let saved = self.save_all(adapter, &mut weights);
        if saved.is_err() {
            self.reserved = Some(weights);
            return saved;
        }
        self.log = None;
        // The next run would remove it, too.
        let _ = self.folder.remove(PARTIAL_METRICS);
        Ok(())
    }

    fn save_all(&self, adapter: &Adapter, weights: &mut Staged) -> Result<()> {
        let mut config = adapter.stage(self.path(), weights)?;
        let mut metrics = self.stage_metrics()?;
        let mut shown = stage(self.path(), &self.lines, &adapter.config)?;
        let mut transaction = self.folder.transaction();
        [weights, &mut config, &mut metrics].into_iter().chain(&mut shown).for_each(|file| transaction.add(file));
        transaction.commit()
    }

    /// Notes what was found out after the adapter was saved, in the metrics and the report.
    ///
    /// # Errors
    /// [`Error::Io`]. Both are as they were then.
    pub(crate) fn end(&mut self, record: &Record, lora: &LoraConfig) -> Result<()> {
        self.lines += &record.to_line();
        self.events.iter_mut().for_each(|events| events.note(record));
        let mut metrics = self.stage_metrics()?;
        let mut shown = stage(self.path(), &self.lines, lora)?;
        let mut transaction = self.folder.transaction();
        [&mut metrics].into_iter().chain(&mut shown).for_each(|file| transaction.add(file));
        transaction.commit()?;
        self.events.iter_mut().try_for_each(Events::flush)
    }

    fn stage_metrics(&self) -> Result<Staged> {
        let path = self.path().join(METRICS);
        files::stage(&path, |w| w.write_all(self.lines.as_bytes()).map_err(Error::io("write", &path)))
    }

    /// Reports and cards in the folder that are somebody's own, and stay as they are.
    pub(crate) fn not_ours(&self) -> Vec<PathBuf> {
        not_ours(self.path())
    }

    /// Goes on in another folder, with the metrics so far.
    ///
    /// # Errors
    /// As for [`RunOutput::create`]; this one stays in force then.
    pub fn move_to(&mut self, dir: &Path) -> Result<()> {
        let same = |there: PathBuf| self.path().canonicalize().is_ok_and(|here| here == there);
        if dir.canonicalize().is_ok_and(same) {
            return Ok(());
        }
        let other = Self::create(dir, false)?;
        let (lines, events) = (std::mem::take(&mut self.lines), self.events.take());
        self.log = None;
        // The metrics go along; what stays would be a killed run's to the next one.
        let _ = self.folder.remove(PARTIAL_METRICS);
        *self = Self { lines, events, ..other };
        Ok(())
    }
}
