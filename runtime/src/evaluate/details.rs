//! `details.csv`: a row for each question.
//!
//! It begins with UTF-8's byte order mark: without one, Excel reads a file in the code page of the system and Japanese
//! turns to noise; pandas and LibreOffice skip it, Python's `csv` does with `encoding="utf-8-sig"`. Lines end as RFC 4180
//! has it. A text that a spreadsheet would run as a formula gets an apostrophe in front, since a model wrote it.

use std::borrow::Cow;

use super::questions::letter;
use super::row::Row;
use super::score::{Scores, best};

/// What stands before the scores, and behind them.
const FIRST: [&str; 8] = ["id", "order", "options", "prompt_sha256", "right", "given", "correct", "answer"];
const LAST: [&str; 3] = ["tokens", "seconds", "note"];

type ScoreOf = fn(&Scores) -> &Vec<f64>;

/// The scores, each with a column for each letter and one for its choice.
const SCORES: [(&str, ScoreOf); 3] =
    [("sum", |s| &s.sum), ("per_token", |s| &s.per_token), ("per_char", |s| &s.per_char)];

/// The file's contents.
///
/// # Errors
/// Those of the `csv` crate.
pub(super) fn write(rows: &[Row]) -> Result<Vec<u8>, csv::Error> {
    let n_options = rows.iter().filter_map(Row::scores).map(|scores| scores.sum.len()).max().unwrap_or(0);
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer("\u{feff}".into());
    writer.write_record(header(n_options))?;
    for row in rows {
        writer.write_record(record(row, n_options))?;
    }
    writer.into_inner().map_err(|e| csv::Error::from(e.into_error()))
}

fn header(n_options: usize) -> Vec<String> {
    let of = |name: &str| {
        let letters = (0..n_options).map(|index| format!("{name}_{}", letter(index)));
        let choice = (n_options > 0).then(|| format!("{name}_choice"));
        letters.chain(choice).collect::<Vec<_>>()
    };
    let first = FIRST.iter().map(ToString::to_string);
    let scores = SCORES.iter().flat_map(|(name, _)| of(name));
    first.chain(scores).chain(LAST.iter().map(ToString::to_string)).collect()
}

fn record(row: &Row, n_options: usize) -> Vec<String> {
    let letter_of = |index: Option<usize>| index.map_or(String::new(), |index| letter(index).to_string());
    let mut fields = vec![
        inert(&row.id).into_owned(),
        row.order.to_string(),
        row.places.iter().map(|&place| letter(place)).collect(),
        row.prompt_sha256.clone(),
        letter_of(row.right),
        letter_of(row.given()),
        row.is_right().map_or(String::new(), |right| u8::from(right).to_string()),
        inert(row.text()).into_owned(),
    ];
    if n_options > 0 {
        for (_, score) in SCORES {
            let scores = row.scores().map_or(&[][..], |scores| score(scores));
            fields.extend((0..n_options).map(|index| scores.get(index).map_or(String::new(), f64::to_string)));
            fields.push(letter_of((!scores.is_empty()).then(|| best(scores))));
        }
    }
    fields.extend([row.tokens.to_string(), row.seconds.to_string(), row.note().to_owned()]);
    fields
}

/// A text that a spreadsheet takes for text.
fn inert(text: &str) -> Cow<'_, str> {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}").into() } else { text.into() }
}
