//! Where a run leaves its results, and how one that was interrupted goes on.
//!
//! Each row is noted in `details.partial.jsonl` as soon as it is known. When all are, `metrics.json` and `details.csv`
//! appear together, in place of older ones, and the partial file goes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::details;
use super::prompt::hash;
use super::questions::Accuracy;
use super::report::{Report, accuracy};
use super::row::Row;
use super::shuffle::Item;
use crate::error::{Error, Result};
use crate::files::{self, Journal, OutputFolder};

/// What a run is summed up in.
pub const METRICS: &str = "metrics.json";
/// What became of each question.
pub const DETAILS: &str = "details.csv";
/// The rows of a run that is not done.
pub const PARTIAL: &str = "details.partial.jsonl";

/// What rows belong to: the first line of the partial file.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Run {
    /// Answers may change with the program.
    halfbyte: String,
    questions_sha256: String,
    settings: Value,
}

/// The output folder of a run, with the rows so far.
#[derive(Debug)]
pub struct ScoringOutput {
    run: Run,
    items: Vec<Item>,
    /// The index in `items` of a question's name and order.
    places: HashMap<(String, usize), usize>,
    /// In the order of `items`.
    rows: Vec<Option<Row>>,
    /// The partial file, from the first row on: until then that of another run stays.
    journal: Option<Journal>,
    /// The last to be dropped: it removes folders that are empty.
    folder: OutputFolder,
}

impl ScoringOutput {
    /// Takes a folder, which is made if need be, for questions and settings. A run of the same ones that was interrupted
    /// there goes on, whether or not `overwrite` is set; with it, results and rows of other runs make room.
    ///
    /// # Errors
    /// The folder cannot be written, or `overwrite` is not set and it has results, or rows of a run that differs; two items
    /// are of the same question and order.
    pub fn open(dir: &Path, items: Vec<Item>, settings: Value, overwrite: bool) -> Result<Self> {
        let places = places(&items)?;
        let folder = OutputFolder::claim(dir)?;
        let hint = "it is another run's result; choose another --output, or pass --overwrite";
        if !overwrite {
            files::refuse_existing(folder.path(), &[METRICS, DETAILS], hint)?;
        }
        let questions = serde_json::to_string(&items).map_err(Error::json(dir))?;
        let halfbyte = env!("CARGO_PKG_VERSION").to_owned();
        let run = Run { halfbyte, questions_sha256: hash(&questions), settings };
        let rows = vec![None; items.len()];
        let mut output = Self { run, items, places, rows, journal: None, folder };
        output.resume(overwrite)?;
        Ok(output)
    }

    /// Takes over the rows of an interrupted run, where there is one.
    fn resume(&mut self, overwrite: bool) -> Result<()> {
        let path = self.path().join(PARTIAL);
        let Some((journal, lines)) = Journal::open(&path)? else { return Ok(()) };
        let (first, rows) = lines.split_first().map_or(("", &[][..]), |(first, rows)| (first, rows));
        let resumed = self.check_run(first).and_then(|()| rows.iter().try_for_each(|row| self.take(row)));
        // Only its removal may have failed.
        let published = published(self.path()).is_some_and(|hash| hash == self.rows_sha256());
        match resumed {
            Ok(()) if !published => self.journal = Some(journal),
            Err(reason) if !overwrite => return Err(Error::Data { path, reason }),
            _ => self.rows.fill(None),
        }
        Ok(())
    }

    fn check_run(&self, line: &str) -> Result<(), String> {
        let advice = "go on with those of that run, choose another --output, or pass --overwrite";
        let other: Run = serde_json::from_str(line).map_err(|e| format!("it is no run's rows ({e}); {advice}"))?;
        match difference(&other, &self.run) {
            Some(what) => Err(format!("it has the rows of an interrupted run {what}; {advice}")),
            None => Ok(()),
        }
    }

    fn take(&mut self, line: &str) -> Result<(), String> {
        let advice = "pass --overwrite to begin anew";
        let row: Row = serde_json::from_str(line).map_err(|e| format!("it has a damaged row ({e}); {advice}"))?;
        self.put(row).map_err(|e| format!("{e}; {advice}"))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The number of questions, in all their orders.
    pub fn n_items(&self) -> usize {
        self.items.len()
    }

    /// The questions that have no row yet.
    pub fn left(&self) -> Vec<Item> {
        let open = self.items.iter().zip(&self.rows).filter(|(_, row)| row.is_none());
        open.map(|(item, _)| item.clone()).collect()
    }

    /// Right answers so far; none before the first question that is scored.
    pub fn accuracy(&self) -> Option<Accuracy> {
        accuracy(self.rows.iter().flatten())
    }

    /// Notes a row.
    ///
    /// # Errors
    /// It is of no question of the run or of one that has a row, it has a number that is not finite, or it could not be
    /// written; it can be tried again then.
    pub fn record(&mut self, row: Row) -> Result<()> {
        row.check()?;
        let place = self.place_of(&row)?;
        let line = serde_json::to_string(&row).map_err(Error::json(self.path()))?;
        match &mut self.journal {
            Some(journal) => journal.append(&line)?,
            none => {
                let run = serde_json::to_string(&self.run).map_err(Error::json(self.folder.path()))?;
                let mut journal = Journal::create(&self.folder.path().join(PARTIAL), &run)?;
                journal.append(&line)?;
                *none = Some(journal);
            }
        }
        self.rows[place] = Some(row);
        Ok(())
    }

    fn put(&mut self, row: Row) -> Result<()> {
        row.check()?;
        let place = self.place_of(&row)?;
        self.rows[place] = Some(row);
        Ok(())
    }

    fn place_of(&self, row: &Row) -> Result<usize> {
        let fail = |want| Err(Error::setting("a row's question", format!("{:?} in order {}", row.id, row.order), want));
        match self.places.get(&(row.id.clone(), row.order)) {
            Some(&place) if self.items[place].places != row.places => fail("this run has its options otherwise"),
            Some(&place) if self.rows[place].is_some() => fail("it has a row already"),
            Some(&place) => Ok(place),
            None => fail("this run has no such one"),
        }
    }

    fn rows_sha256(&self) -> String {
        let lines: Vec<_> = self.rows.iter().map(|row| serde_json::to_string(row).unwrap_or_default()).collect();
        hash(&lines.join("\n"))
    }

    /// Writes the results, of all questions.
    ///
    /// # Errors
    /// Questions are left, or the results cannot be written; the folder is as it was then, and it can be tried again.
    pub fn finish(&self) -> Result<Report> {
        let rows: Vec<Row> = self.rows.iter().flatten().cloned().collect();
        let left = self.items.len() - rows.len();
        if left > 0 || rows.is_empty() {
            return Err(Error::setting(
                "the number of questions without a row",
                left,
                "all must have one, and there must be one",
            ));
        }
        let Run { questions_sha256, settings, .. } = &self.run;
        let report = Report::new(&rows, questions_sha256.clone(), self.rows_sha256(), settings.clone())?;
        let metrics = self.path().join(METRICS);
        let text = serde_json::to_string_pretty(&report).map_err(Error::json(&metrics))? + "\n";
        let details = details::write(&rows).map_err(|e| Error::io("write", &self.path().join(DETAILS))(e.into()))?;
        self.publish([(metrics, text.into_bytes()), (self.path().join(DETAILS), details)])?;
        Ok(report)
    }

    fn publish(&self, contents: [(PathBuf, Vec<u8>); 2]) -> Result<()> {
        let stage = |(path, bytes): &(PathBuf, Vec<u8>)| {
            files::stage(path, |w| w.write_all(bytes).map_err(Error::io("write", path)))
        };
        let [mut metrics, mut details] = [stage(&contents[0])?, stage(&contents[1])?];
        let mut transaction = self.folder.transaction();
        transaction.add(&mut metrics);
        transaction.add(&mut details);
        transaction.commit()?;
        // The next run would find out by its hash that it is done.
        let _ = self.folder.remove(PARTIAL);
        Ok(())
    }
}

/// The rows that the folder's results are of.
fn published(dir: &Path) -> Option<String> {
    let text = files::read_to_string(&dir.join(METRICS)).ok()?;
    let metrics: Value = serde_json::from_str(&text).ok()?;
    metrics["rows_sha256"].as_str().map(str::to_owned)
}

fn places(items: &[Item]) -> Result<HashMap<(String, usize), usize>> {
    let mut places = HashMap::new();
    for (place, Item { question, order, .. }) in items.iter().enumerate() {
        if places.insert((question.id.clone(), *order), place).is_some() {
            let want = "another question has this name; give each its own";
            return Err(Error::setting("a question's name", format!("{:?}", question.id), want));
        }
    }
    Ok(places)
}

/// How two runs differ.
fn difference(old: &Run, new: &Run) -> Option<String> {
    if old.questions_sha256 != new.questions_sha256 {
        return Some("with other questions".into());
    }
    if old.halfbyte != new.halfbyte {
        return Some(format!("by halfbyte {}, which is {} now", old.halfbyte, new.halfbyte));
    }
    let (was, is) = (leaves(&old.settings), leaves(&new.settings));
    let mut keys: Vec<_> = was.keys().chain(is.keys()).filter(|&key| was.get(key) != is.get(key)).collect();
    keys.sort();
    let shown = |value: Option<&&Value>| value.map_or("not set".into(), ToString::to_string);
    keys.first()
        .map(|&key| format!("with the setting {key} = {}, which is {} now", shown(was.get(key)), shown(is.get(key))))
}

/// The settings that have none in them, by their paths.
fn leaves(settings: &Value) -> HashMap<String, &Value> {
    let mut found = HashMap::new();
    let mut open = vec![(String::new(), settings)];
    while let Some((path, value)) = open.pop() {
        match value.as_object().filter(|object| !object.is_empty()) {
            Some(object) => {
                let dot = if path.is_empty() { "" } else { "." };
                open.extend(object.iter().map(|(key, value)| (format!("{path}{dot}{key}"), value)));
            }
            None => {
                found.insert(path, value);
            }
        }
    }
    found
}
