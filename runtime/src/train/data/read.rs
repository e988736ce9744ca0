//! Reading files of training data.

use std::path::{Path, PathBuf};
use std::time::Instant;

use halfbyte::host;
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;
use tracing::info;

use super::cache::{Cached, Entry};
use super::encode::{Encoder, Outcome};
use super::records::{Record, Records, expect_room, too_large};
use super::source::{DataFile, DataFiles};
use super::{DataOptions, Dataset, Part};
use crate::batch::Sample;
use crate::chat::ChatTemplate;
use crate::error::Result;
use crate::screen::bars;
use crate::tokenizer::Tokenizer;

/// Bytes of a file that is read in no time: neither is progress shown, nor is what came of it kept.
const SMALL: u64 = 1 << 20;

/// Reads and tokenises files, on all cores and a part of a file at a time.
#[derive(Clone, Debug)]
pub struct DataReader<'a> {
    tokenizer: &'a Tokenizer,
    template: Option<&'a ChatTemplate>,
    options: DataOptions,
    cache: Option<PathBuf>,
}

impl<'a> DataReader<'a> {
    /// `template` may be absent if no record is a conversation.
    pub fn new(tokenizer: &'a Tokenizer, template: Option<&'a ChatTemplate>, options: DataOptions) -> Self {
        Self { tokenizer, template, options, cache: None }
    }

    /// Keeps what it makes of large files in this folder, and takes it from there when it is to read the same content with
    /// the same tokenizer, template and options.
    pub fn cached_in(self, folder: Option<PathBuf>) -> Self {
        Self { cache: folder, ..self }
    }

    /// The samples of all files, in their order.
    ///
    /// # Errors
    /// When a file cannot be read or has no samples; the first record that cannot be used is named with its line.
    pub fn read(&self, files: &DataFiles) -> Result<Dataset> {
        let mut all = Dataset::default();
        for file in files.expand()? {
            let began = Instant::now();
            let part = self.part(file, &mut all.samples)?;
            info!(samples = part.n_samples, took = ?began.elapsed(), "data: {part}");
            all.n_truncated += part.n_truncated;
            all.n_skipped += part.n_skipped;
            all.parts.push(part);
        }
        Ok(all)
    }

    fn part(&self, file: DataFile, samples: &mut Vec<Sample>) -> Result<Part> {
        let bytes = expect_room(&file.path)?;
        let large = bytes >= SMALL;
        let entry = match &self.cache {
            Some(folder) if large => Entry::of(folder, &file.path, self.tokenizer, self.template, &self.options)?,
            _ => None,
        };
        let mut part = Part::new(file);
        if let Some(entry) = &entry
            && entry.load(&mut part, samples)
        {
            part.cached = Cached::Read;
            return Ok(part);
        }
        let first = samples.len();
        let bar = if large { bar(bytes, &part.path) } else { ProgressBar::hidden() };
        let tokenised = self.tokenise(&mut part, samples, &bar);
        bar.finish_and_clear();
        tokenised?;
        part.check()?;
        if let Some(entry) = entry {
            part.cached = entry.store(&part, &samples[first..]);
        }
        Ok(part)
    }

    fn tokenise(&self, part: &mut Part, samples: &mut Vec<Sample>, bar: &ProgressBar) -> Result<()> {
        let encoder = Encoder::new(self.tokenizer, self.template, &self.options);
        let mut records = Records::open(&part.path, bar)?;
        let mut first = None;
        loop {
            let chunk = records.next_chunk()?;
            if chunk.is_empty() {
                return Ok(());
            }
            // As much again for tokens.
            let bytes = chunk.iter().map(|record| record.text.len() + 2 * size_of::<Sample>()).sum::<usize>();
            host::check(2 * bytes).map_err(|e| too_large(&part.path)(e.into()))?;
            let outcomes: Vec<_> = chunk.par_iter().map(|record| encoder.record(&record.text)).collect();
            for (Record { at, .. }, outcome) in chunk.iter().zip(outcomes) {
                let outcome = outcome.and_then(|(found, outcome)| {
                    let (format, first) = first.get_or_insert_with(|| (found, format!("{} {at}", records.unit())));
                    part.admit(found, *format, first)?;
                    Ok(outcome)
                });
                samples.extend(part.take(outcome.map_err(|reason| records.refuse(*at, reason))?));
            }
        }
    }
}

impl Part {
    /// Counts what became of a record.
    fn take(&mut self, outcome: Outcome) -> Option<Sample> {
        let (sample, cut) = match outcome {
            Outcome::Whole(sample) => (sample, 0),
            Outcome::Truncated(sample) => (sample, 1),
            Outcome::Skipped => {
                self.n_skipped += 1;
                return None;
            }
        };
        self.n_truncated += cut;
        self.n_samples += 1;
        Some(sample)
    }
}

/// How far a file was read, for a terminal.
fn bar(bytes: u64, path: &Path) -> ProgressBar {
    let style = ProgressStyle::with_template("tokenising {msg} {wide_bar} {percent} % {eta}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let short: String = name.chars().take(24).collect();
    ProgressBar::with_draw_target(Some(bytes), bars()).with_style(style).with_message(short)
}
