//! Metrics, read again.

use crate::{
    error::{Error, Result},
    files::{self, PARTIAL_METRICS},
    train::{
        about::{About, Reply, Worst},
        checkpoint::whole,
        metrics::Record,
        output::METRICS,
        sample_losses::worst,
    },
};
use std::path::{Path, PathBuf};

/// A number of each of some steps.
pub(super) type Series = Vec<(f64, f64)>;

/// What a run's metrics say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct History {
    pub about: About,
    /// All lines, in their order.
    pub records: Vec<Record>,
    pub worst: Vec<Worst>,
}

impl History {
    /// What is no line of metrics is passed over: a killed run may leave half of one.
    pub fn parse(metrics: &str) -> Self {
        let mut records: Vec<Record> = metrics.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let about = records.iter_mut().find_map(|record| record.run.take()).map(|run| *run).unwrap_or_default();
        let told = records.iter_mut().rev().find_map(|record| record.worst.take());
        let numbers = || {
            let all = worst(metrics, 10).into_iter();
            all.map(|(seen, step)| Worst { sample: seen.sample, step, loss: seen.loss, ..Worst::default() }).collect()
        };
        History { about, worst: told.unwrap_or_else(numbers), records }
    }

    /// The steps that were done.
    pub fn steps(&self) -> impl DoubleEndedIterator<Item = &Record> {
        self.records.iter().filter(|record| record.loss.is_some() || record.lr.is_some())
    }

    /// The last step that was done.
    pub fn done(&self) -> u64 {
        self.steps().next_back().map_or(0, |record| record.step)
    }

    /// What was found out after the last step, if the run came so far.
    pub fn end(&self) -> Option<&Record> {
        self.records.last().filter(|record| record.step > 0 && record.loss.is_none() && record.lr.is_none())
    }

    /// A number of all lines that have it and in which it is finite.
    pub fn series(&self, of: impl Fn(&Record) -> Option<f64>) -> Series {
        let point = |record: &Record| Some((record.step as f64, of(record).filter(|value| value.is_finite())?));
        self.records.iter().filter_map(point).collect()
    }

    /// The replies of each time that there were some, with the steps before.
    pub fn replies(&self) -> Vec<(u64, &[Reply])> {
        self.records.iter().filter_map(|record| Some((record.step, record.replies.as_deref()?))).collect()
    }
}

/// The metrics of the newest run in a folder, finished or not.
///
/// # Errors
/// There are none, or they cannot be read.
pub(super) fn find(dir: &Path) -> Result<PathBuf> {
    let of_checkpoint = || whole(dir).pop().map(|(_, checkpoint)| checkpoint.join(METRICS));
    let own = [PARTIAL_METRICS, METRICS].map(|name| dir.join(name)).into_iter().find(|path| files::exists(path));
    own.or_else(of_checkpoint).filter(|path| files::exists(path)).ok_or_else(|| Error::MissingFile {
        dir: dir.to_owned(),
        wanted: format!("{METRICS}, {PARTIAL_METRICS} or checkpoint"),
        hint: "name the --output folder of a training run that has done a step",
    })
}

/// The exponential mean of a series, over about a thirtieth of it, without the pull of its beginning.
pub(super) fn smoothed(series: &[(f64, f64)]) -> Series {
    let keep = 1.0 - 1.0 / (series.len() as f64 / 30.0).max(1.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    let mut next = |&(step, value): &(f64, f64)| {
        sum = keep * sum + (1.0 - keep) * value;
        weight = keep * weight + (1.0 - keep);
        (step, sum / weight)
    };
    series.iter().map(&mut next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_of_a_killed_run_are_read_as_far_as_they_go() {
        let text = r#"{"step":0,"run":{"model":"m","total_steps":9},"eval_loss":4.0}
{"step":1,"loss":3.5,"lr":0.1,"sample_losses":[{"sample":3,"loss":9.0,"targets":2}]}
{"step":2,"loss":null,"lr":0.1,"sample_losses":[{"sample":4,"loss":null,"targets":2}]}
{"step":3,"loss":2.5,"lr":0.1,"eval_loss":2.0,"of_another_version":[1]}
{"step":4,"lo"#;
        let history = History::parse(text);
        assert_eq!((history.about.model.as_str(), history.done(), history.end()), ("m", 3, None));
        assert_eq!(history.series(|record| record.loss), [(1.0, 3.5), (3.0, 2.5)]);
        assert_eq!(history.series(|record| record.eval_loss), [(0.0, 4.0), (3.0, 2.0)]);
        assert_eq!(history.worst, [Worst { sample: 3, step: 1, loss: 9.0, text: String::new() }]);
        let ended = History::parse(&format!("{text}\n{}", r#"{"step":3,"worst":[{"sample":1,"text":"T"}]}"#));
        assert_eq!((ended.end().map(|end| end.step), ended.worst[0].text.as_str()), (Some(3), "T"));
    }

    #[test]
    fn a_smooth_line_begins_where_the_raw_one_does_and_keeps_a_constant() {
        let constant: Series = (0..300).map(|i| (f64::from(i), 2.5)).collect();
        assert!(smoothed(&constant).iter().all(|(_, value)| (value - 2.5).abs() < 1e-12));
        let few = [(1.0, 3.0), (2.0, 1.0)];
        assert_eq!(smoothed(&few), few, "too few to smooth");
        let saw: Series = (0..300).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        let late = smoothed(&saw).split_off(100);
        assert!(late.iter().all(|(_, value)| (value - 0.5).abs() <= 0.06), "{late:?}");
    }
}
