//! What a run trains on, for people to look at before it.

use super::prepared::Prepared;
use crate::{
    batch::Sample,
    error::Result,
    screen::{Flow, Stream},
    tokenizer::Tokenizer,
    train::about::Bin,
};
use halfbyte::Count;
use std::env;

/// Samples that are shown.
const SHOWN: usize = 3;
/// Parts of a sample, and characters of a part, that are shown.
const PARTS: usize = 12;
const CHARACTERS: usize = 300;
/// Columns where there is no terminal, and the most that a histogram takes of one.
const COLUMNS: usize = 72;

/// How trained tokens are told from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// In green.
    Colour,
    /// Between « and ».
    Quotes,
}

impl Marks {
    /// Colour on a terminal, unless `NO_COLOR` is set (<https://no-color.org>) or the terminal has none.
    pub fn of(stream: Stream) -> Self {
        let set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        if stream.columns().is_some() && !set("NO_COLOR") && !dumb { Marks::Colour } else { Marks::Quotes }
    }

    fn around(self, text: &str) -> String {
        match self {
            Marks::Colour => format!("\x1b[32m{text}\x1b[0m"),
            Marks::Quotes => format!("«{text}»"),
        }
    }
}

impl Prepared {
    /// The data by numbers, the lengths of samples as a histogram, and the first samples with what is trained marked.
    ///
    /// # Errors
    /// The samples come to no step.
    pub fn preview(&self, stream: Stream) -> Result<String> {
        self.preview_within(stream.columns(), Marks::of(stream))
    }

    /// [`Prepared::preview`] for so many columns.
    ///
    /// # Errors
    /// The samples come to no step.
    pub fn preview_within(&self, columns: Option<usize>, marks: Marks) -> Result<String> {
        let data = &self.texts.train;
        let (cut, left_out) = (data.n_truncated, data.n_skipped);
        let lengths: Vec<_> = data.samples.iter().map(|sample| sample.ids.len()).collect();
        let mut said = vec![
            self.batcher()?.first_epoch().to_string(),
            format!("cut to the length limit: {cut}; left out: {left_out}"),
        ];
        said.extend(histogram(&lengths, columns.unwrap_or(COLUMNS).min(COLUMNS)));
        for (i, sample) in data.samples.iter().take(SHOWN).enumerate() {
            let (n, targets) = (Count(sample.ids.len(), "token"), sample.n_targets());
            let trained = if marks == Marks::Colour { "in green" } else { "in « »" };
            said.push(format!("sample {} of {}: {n}, {targets} trained ({trained})", i + 1, data.samples.len()));
            said.push(shown(sample, &self.tokenizer, columns, marks));
        }
        Ok(said.join("\n"))
    }
}

/// The text of a sample.
fn shown(sample: &Sample, tokenizer: &Tokenizer, columns: Option<usize>, marks: Marks) -> String {
    let mut text = String::new();
    let mut rest = (&sample.ids[..], &sample.mask[..]);
    for part in 0.. {
        let Some(&trained) = rest.1.first() else { break };
        if part == PARTS {
            text += &format!(" … {} more", Count(rest.0.len(), "token"));
            break;
        }
        let len = rest.1.iter().take_while(|&&other| other == trained).count();
        let plain = printable(&shortened(&tokenizer.decode(&rest.0[..len], false)));
        text += &if trained { marks.around(&plain) } else { plain };
        rest = (&rest.0[len..], &rest.1[len..]);
    }
    let mut flow = Flow::within(columns.map(|columns| columns.saturating_sub(2).max(1)));
    let text = flow.push(&text) + &flow.finish();
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

/// The beginning and the end of a long text.
fn shortened(text: &str) -> String {
    let characters: Vec<_> = text.chars().collect();
    if characters.len() <= CHARACTERS {
        return text.into();
    }
    let (half, end) = (CHARACTERS / 2, characters.len() - CHARACTERS / 2);
    characters[..half].iter().chain(&[' ', '…', ' ']).chain(&characters[end..]).collect()
}

/// Without what a terminal would obey.
fn printable(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' => c.to_string(),
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    };
    text.chars().map(shown).collect()
}

/// How many samples have how many tokens.
pub(super) fn bins(lengths: &[usize]) -> Vec<Bin> {
    const BINS: usize = 10;
    let (Some(&least), Some(&most)) = (lengths.iter().min(), lengths.iter().max()) else { return Vec::new() };
    let width = round_width((most - least) / BINS + 1);
    let first = least / width;
    let bin = |i: usize| Bin { from: i * width, to: (i + 1) * width - 1, n: 0 };
    let mut bins: Vec<_> = (first..=most / width).map(bin).collect();
    lengths.iter().for_each(|length| bins[length / width - first].n += 1);
    bins
}

/// How many samples have how many tokens, in lines of so many columns.
fn histogram(lengths: &[usize], columns: usize) -> Vec<String> {
    let bins = bins(lengths);
    let (Some(&most), Some(largest)) = (lengths.iter().max(), bins.iter().map(|bin| bin.n).max()) else {
        return Vec::new();
    };
    let digits = most.to_string().len();
    let label = if bins[0].from == bins[0].to { 2 + digits } else { 6 + 2 * digits };
    let room = columns.saturating_sub(label + 2 + largest.to_string().len()).max(1);
    let line = |Bin { from, to, n }: &Bin| {
        let bar = "#".repeat((n * room).div_ceil(largest));
        let to = if from == to { String::new() } else { format!(" to {to:<digits$}") };
        format!("  {from:>digits$}{to} {bar} {n}")
    };
    let heading = format!("samples by their tokens; the longest has {most}:");
    [heading].into_iter().chain(bins.iter().map(line)).collect()
}

/// At least `width`: 1, 2 or 5 times a power of ten.
fn round_width(width: usize) -> usize {
    let mut power = 1;
    loop {
        for step in [1, 2, 5] {
            if step * power >= width {
                return step * power;
            }
        }
        power *= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_every_sample_within_its_columns() {
        let lengths: Vec<_> = (0..500).map(|i| 7 + i * i / 400).chain([40_000]).collect();
        for columns in [20, 40, 60, 72] {
            let lines = histogram(&lengths, columns);
            let count = |line: &String| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap();
            assert_eq!(lines[1..].iter().map(count).sum::<usize>(), 501);
            assert!(lines[1..].iter().all(|line| line.chars().count() <= columns.max(24)), "{lines:#?}");
        }
        let lines = histogram(&[3, 4, 4, 5], 40);
        let bars =
            [(3, 17, 1), (4, 34, 2), (5, 17, 1)].map(|(n, bar, count)| format!("  {n} {} {count}", "#".repeat(bar)));
        assert_eq!(lines[1..], bars);
        assert_eq!(histogram(&[5, 25, 26], 60).len(), 1 + 5, "a width of 3 becomes 5");
        assert!(histogram(&[], 60).is_empty());
    }

    #[test]
    fn long_texts_keep_their_ends_and_no_text_moves_the_cursor() {
        let long: String = ('a'..='z').cycle().take(1000).collect();
        let short = shortened(&long);
        assert!(
            short.chars().count() == CHARACTERS + 3 && short.starts_with(&long[..150]) && short.ends_with(&long[850..])
        );
        assert_eq!(shortened("é"), "é");
        assert_eq!(printable("a\u{1b}[2J\tb\u{9b}\nc"), "a\\u{1b}[2J\\tb\\u{9b}\nc");
    }
}
