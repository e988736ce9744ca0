//! What the page of a run shows, as its template takes it.

use super::{
    chart::{Chart, Line},
    history::{History, Series, smoothed},
};
use crate::train::{
    about::{Bin, Reply, Room, Worst},
    metrics::Record,
};
use halfbyte::{Count, Size};
use serde::Serialize;
use serde_json::Value;

/// All of a page.
#[derive(Serialize)]
pub(super) struct Page<'a> {
    name: String,
    version: &'a str,
    /// How the run ended.
    state: String,
    /// Numbers at a glance.
    facts: Vec<Fact>,
    charts: Vec<Drawn>,
    prompts: Vec<Prompt<'a>>,
    worst: &'a [Worst],
    in_force: &'a [String],
    data: &'a [String],
    lengths: Vec<Bar>,
    memory: Vec<Bar>,
    memory_total: Option<String>,
    settings: Vec<Setting<'a>>,
    style: &'static str,
}

#[derive(Serialize)]
struct Fact {
    name: &'static str,
    value: String,
    note: String,
}

#[derive(Serialize)]
struct Drawn {
    title: &'static str,
    /// For a window, where it takes the whole width.
    wide: Option<String>,
    /// For a telephone, or half a window.
    narrow: String,
}

/// A prompt, and how it was continued.
#[derive(Serialize)]
struct Prompt<'a> {
    text: &'a str,
    replies: Vec<Answer<'a>>,
}

#[derive(Serialize)]
struct Answer<'a> {
    when: String,
    reply: &'a Reply,
}

/// A bar of a table.
#[derive(Serialize)]
struct Bar {
    name: String,
    value: String,
    /// Of the longest, in percent.
    share: f64,
}

#[derive(Serialize)]
struct Setting<'a> {
    name: &'a str,
    value: String,
    changed: bool,
}

/// The chart of the loss.
pub(super) fn loss_chart(history: &History) -> Chart {
    let raw = history.series(|record| record.loss);
    let smooth = Line { name: "loss, smoothed", class: "smooth", points: smoothed(&raw) };
    let raw = Line { name: "loss of each step", class: "raw", points: raw };
    let heldout = Line { name: "held-out loss", class: "eval", points: history.series(|record| record.eval_loss) };
    Chart { title: "Loss in nats a token", lines: vec![raw, smooth, heldout] }
}

impl<'a> Page<'a> {
    pub fn of(name: String, history: &'a History) -> Self {
        let about = &history.about;
        Page {
            name,
            version: &about.version,
            state: state(history),
            facts: facts(history),
            charts: charts(history),
            prompts: prompts(history),
            worst: &history.worst,
            in_force: &about.in_force,
            data: &about.data,
            lengths: lengths(&about.lengths),
            memory: memory(&about.memory),
            memory_total: Some(about.memory.iter().map(|room| room.bytes).sum())
                .filter(|&total| total > 0)
                .map(|total| Size(total).to_string()),
            settings: about
                .settings
                .iter()
                .map(|(name, value)| Setting { name, value: plain(value), changed: about.changed.contains(name) })
                .collect(),
            style: super::chart::STYLE,
        }
    }
}

pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "none".into(),
        value => value.to_string(),
    }
}

fn state(history: &History) -> String {
    let (done, total) = (history.done(), history.about.total_steps);
    match (history.end(), total) {
        (Some(_), _) if done >= total => format!("finished: {}", Count(done, "step")),
        (Some(_), _) => format!("ended early: {done} of {}", Count(total, "step")),
        (None, 0) => format!("{} so far", Count(done, "step")),
        (None, _) if done >= total => format!("trained: {}; what it knew after is not noted", Count(done, "step")),
        (None, _) => format!("not finished: {done} of {}", Count(total, "step")),
    }
}

fn facts(history: &History) -> Vec<Fact> {
    let last = |of: fn(&Record) -> Option<f64>| history.series(of).last().map(|point| point.1);
    let fact = |name, value: Option<String>, note: String| value.map(|value| Fact { name, value, note });
    let change = |series: Series, show: fn(f64) -> String| match series.as_slice() {
        [] => None,
        [(_, only)] => Some(show(*only)),
        [(_, first), .., (_, last)] => Some(format!("{} → {}", show(*first), show(*last))),
    };
    let nats = |loss: f64| format!("{loss:.3}");
    let percent = |share: f64| format!("{:.1}\u{a0}%", 100.0 * share);
    let heldout = history.series(|record| record.eval_loss);
    let best = heldout.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1));
    let best = best.map_or(String::new(), |(step, loss)| format!("lowest {loss:.3}, after step {step}"));
    let rates = history.series(|record| record.tokens_per_s).into_iter().map(|(_, rate)| rate).collect();
    let epochs = last(|record| record.epoch).map_or(String::new(), |epochs| format!("{epochs:.2} epochs"));
    let tokens = last(|record| record.tokens.map(|n| n as f64));
    let peak = history.records.iter().filter_map(|record| record.peak_bytes).max();
    let trained = grouped(history.about.n_trainable as u64);
    [
        fact("Steps", Some(grouped(history.done())), epochs),
        fact("Loss", change(smoothed(&history.series(|record| record.loss)), nats), "nats a token, smoothed".into()),
        fact("Held-out loss", change(heldout, nats), best),
        fact("Exam", change(history.series(|record| record.eval_accuracy), percent), "before → after".into()),
        fact(
            "Tokens",
            tokens.map(|n| grouped(n as u64)),
            median(rates).map_or(String::new(), |r| format!("{r:.0} a second")),
        ),
        fact("Time", last(|record| record.elapsed_s).map(duration), "training, with evaluations".into()),
        fact("Peak memory", peak.map(|bytes| Size(bytes).to_string()), "in buffers".into()),
        fact("Trained numbers", Some(trained).filter(|_| history.about.n_trainable > 0), history.about.device.clone()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn charts(history: &History) -> Vec<Drawn> {
    let narrow = |chart: &Chart| chart.svg(440.0, 240.0, "");
    let loss = loss_chart(history);
    let line = |class, points| Line { name: "", class, points };
    let plain = |points| vec![line("smooth", points)];
    let noisy = |points: Series| vec![line("smooth", smoothed(&points)), line("raw", points)];
    let others = [
        ("Learning rate", plain(history.series(|record| record.lr))),
        ("Gradient norm", noisy(history.series(|record| record.grad_norm))),
        ("Tokens a second", noisy(history.series(|record| record.tokens_per_s))),
        ("Loss scale", plain(history.series(|record| record.loss_scale))),
    ];
    let others = others.into_iter().filter(|(_, lines)| lines.iter().any(|line| line.points.len() > 1));
    let others = others.map(|(title, lines)| Drawn { title, wide: None, narrow: narrow(&Chart { title, lines }) });
    let loss = Drawn { title: loss.title, wide: Some(loss.svg(1000.0, 330.0, "")), narrow: narrow(&loss) };
    [loss].into_iter().chain(others).collect()
}

/// Each prompt with the first reply, the last, and some between.
fn prompts<'a>(history: &'a History) -> Vec<Prompt<'a>> {
    /// Replies between.
    const BETWEEN: usize = 3;
    // Of two times after one step, the last.
    let mut all = history.replies();
    all.reverse();
    all.dedup_by_key(|(step, _)| *step);
    all.reverse();
    let last = all.len().saturating_sub(1);
    let shown = |i: usize| i == 0 || i == last || i.is_multiple_of(last.div_ceil(BETWEEN + 1).max(1));
    let shown: Vec<_> = all.iter().enumerate().filter(|(i, _)| shown(*i)).map(|(_, told)| told).collect();
    let texts = all.first().map_or(&[][..], |(_, replies)| replies);
    let ended = history.end().is_some();
    let when = |i: usize, step: u64| match step {
        0 => "before".to_owned(),
        _ if ended && i + 1 == shown.len() => "after".into(),
        step => format!("step {step}"),
    };
    let of_prompt = |n: usize| {
        let answer = |(i, &&(step, replies)): (usize, &&(u64, &'a [Reply]))| {
            Some(Answer { when: when(i, step), reply: replies.get(n)? })
        };
        shown.iter().enumerate().filter_map(answer).collect()
    };
    texts.iter().enumerate().map(|(n, first)| Prompt { text: &first.prompt, replies: of_prompt(n) }).collect()
}

fn lengths(bins: &[Bin]) -> Vec<Bar> {
    let most = bins.iter().map(|bin| bin.n).max().unwrap_or(1).max(1);
    let name = |bin: &Bin| if bin.from == bin.to { bin.from.to_string() } else { format!("{}–{}", bin.from, bin.to) };
    let bar = |bin| Bar { name: name(bin), value: grouped(bin.n as u64), share: 100.0 * bin.n as f64 / most as f64 };
    bins.iter().map(bar).collect()
}

fn memory(rooms: &[Room]) -> Vec<Bar> {
    let mut rooms: Vec<_> = rooms.iter().collect();
    rooms.sort_by_key(|room| std::cmp::Reverse(room.bytes));
    let most = rooms.first().map_or(1, |room| room.bytes).max(1);
    let bar = |room: &&Room| Bar {
        name: room.name.clone(),
        value: Size(room.bytes).to_string(),
        share: 100.0 * room.bytes as f64 / most as f64,
    };
    rooms.iter().map(bar).collect()
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// `1 234 567`, with spaces at which no line breaks.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1\u{202f}000", "1\u{202f}234\u{202f}567"]);
        assert_eq!([0.04, 61.4, 7384.0].map(duration), ["0.0 s", "1 min 01 s", "2 h 03 min"]);
        assert_eq!((median(vec![3.0, 1.0, 2.0]), median(Vec::new())), (Some(2.0), None));
    }

    #[test]
    fn the_first_and_the_last_replies_are_shown() {
        let reply = |text: &str| Reply { prompt: "p".into(), text: text.into(), stopped: true };
        let at = |step| Record { step, replies: Some(vec![reply(&step.to_string())]), ..Record::default() };
        for n in [1, 2, 3, 10, 100] {
            let history = History { records: (0..n).map(at).collect(), ..History::default() };
            let prompts = prompts(&history);
            let shown: Vec<_> = prompts[0].replies.iter().map(|answer| answer.reply.text.as_str()).collect();
            assert!(shown.len() <= 6 && shown[0] == "0" && *shown.last().unwrap() == (n - 1).to_string(), "{shown:?}");
            assert!(prompts.len() == 1 && shown.len() >= 2.min(n as usize));
        }
    }
}
