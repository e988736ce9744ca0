//! Where a training run leaves what it made: adapter and metrics, all of one run.

use std::path::{Path, PathBuf};

use super::metrics::{MetricsLog, Record};
use crate::files::{self, OutputFolder, PARTIAL_METRICS, Staged};
use crate::lora::{Adapter, CONFIG, WEIGHTS};
use crate::{Error, Result};

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
    /// Where the weights will go, as large as they will be.
    reserved: Option<Staged>,
    /// The last to be dropped: it removes folders that are empty.
    folder: OutputFolder,
}

impl RunOutput {
    /// Takes a folder, which is made if need be.
    ///
    /// # Errors
    /// Another process writes into it, it cannot be written, or it has an adapter and `overwrite` is not set.
    pub fn create(dir: &Path, overwrite: bool) -> Result<Self> {
        let folder = OutputFolder::claim(dir)?;
        if !overwrite {
            folder.refuse_existing(
                &[WEIGHTS, CONFIG],
                "it is a trained adapter; choose another --output, or pass --overwrite",
            )?;
        }
        Ok(Self { folder, log: None, lines: String::new(), reserved: None })
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
        let log = match &mut self.log {
            Some(log) => log,
            none => none.insert(MetricsLog::create(self.folder.path().join(PARTIAL_METRICS))?),
        };
        log.write_line(&line)
    }

    /// Saves the adapter with the metrics of its run.
    ///
    /// # Errors
    /// [`Error::Io`]. The folder is as it was then, and it can be tried again, here or after [`RunOutput::move_to`].
    pub fn save(&mut self, adapter: &Adapter) -> Result<()> {
        let dir = self.folder.path();
        let weights = self.reserved.take().map_or_else(|| Staged::create(&dir.join(WEIGHTS)), Ok)?;
        let mut transaction = self.folder.transaction();
        adapter.stage(dir, weights, &mut transaction)?;
        let metrics = dir.join(METRICS);
        let lines = self.lines.as_bytes();
        transaction.add(files::stage(&metrics, |w| w.write_all(lines).map_err(Error::io("write", &metrics)))?);
        transaction.commit()?;
        self.log = None;
        // The next run would remove it, too.
        let _ = self.folder.remove(PARTIAL_METRICS);
        Ok(())
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
        let lines = std::mem::take(&mut self.lines);
        self.log = None;
        // The metrics go along; what stays would be a killed run's to the next one.
        let _ = self.folder.remove(PARTIAL_METRICS);
        *self = Self { lines, ..other };
        Ok(())
    }
}
