//! Where the assistant's turns lie in a rendered conversation.

use std::collections::HashSet;

use serde_json::Value;

use crate::chat::{TURN_END, TURN_START};
use crate::settings::TrainOnEos;

/// Cuts a rendered conversation into pieces, with whether each is trained: the assistant's turns are that `trained` says
/// so of, from after the header up to and including the end marker.
pub(super) fn assistant_turns<'a>(text: &'a str, trained: &[bool]) -> Result<Vec<(&'a str, bool)>, String> {
    let header = format!("{TURN_START}assistant\n");
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut turns = trained.iter();
    while let Some(at) = rest.find(&header) {
        let (before, turn) = rest.split_at(at + header.len());
        let end = turn.find(TURN_END).ok_or("the chat template leaves an assistant's turn without an end")?;
        let (turn, after) = turn.split_at(end + TURN_END.len());
        pieces.extend([(before, false), (turn, turns.next() == Some(&true))]);
        rest = after;
    }
    pieces.push((rest, false));
    match pieces.len() / 2 {
        0 => Err("there is no assistant message to train on".into()),
        n if n == trained.len() => Ok(pieces),
        n => Err(format!(
            "the chat template wrote {n} assistant turns for {} assistant messages, so that they cannot be told \
             apart; use `prompt` and `completion`, or `text`",
            trained.len()
        )),
    }
}

/// The pieces with the ends of turns apart, of which those are trained that `eos` says so of.
pub(super) fn with_ends(pieces: Vec<(&str, bool)>, eos: TrainOnEos) -> Vec<(&str, bool)> {
    if eos == TrainOnEos::Turn {
        return pieces;
    }
    let mut all = Vec::new();
    for (mut piece, trained) in pieces {
        while let Some(at) = piece.find(TURN_END) {
            let (body, rest) = piece.split_at(at);
            let (end, rest) = rest.split_at(TURN_END.len());
            all.extend([(body, trained), (end, eos == TrainOnEos::All)]);
            piece = rest;
        }
        all.push((piece, trained));
    }
    if eos == TrainOnEos::Last
        && let Some(last) = all.iter_mut().rfind(|(piece, _)| *piece == TURN_END)
    {
        last.1 = true;
    }
    all
}

/// Characters that stand for the turn markers within messages while the template's own are looked for.
pub(super) struct HeldMarkers([(&'static str, String); 2]);

impl HeldMarkers {
    /// Takes two private-use characters that the record does not contain.
    pub(super) fn choose(record: &Value) -> Result<Self, String> {
        let private = '\u{F0000}'..='\u{FFFFD}';
        let text = record.to_string();
        let used: HashSet<char> = text.chars().filter(|c| private.contains(c)).collect();
        let mut free = private.filter(|c| !used.contains(c)).map(String::from);
        match (free.next(), free.next()) {
            (Some(start), Some(end)) => Ok(Self([(TURN_START, start), (TURN_END, end)])),
            _ => Err("the messages use all private characters of Unicode".into()),
        }
    }

    /// The value with the markers in all its strings replaced.
    pub(super) fn hide(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => {
                self.0.iter().fold(text.clone(), |text, (marker, held)| text.replace(marker, held)).into()
            }
            Value::Array(items) => items.iter().map(|item| self.hide(item)).collect(),
            Value::Object(entries) => entries.iter().map(|(key, value)| (key.clone(), self.hide(value))).collect(),
            other => other.clone(),
        }
    }

    pub(super) fn restore(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (marker, held)| text.replace(held, marker))
    }
}
