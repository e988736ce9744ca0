//! Which option a generated answer names.
//!
//! Thoughts (`<think>…</think>`), emphasis and the width of letters aside, the first of these rules that applies decides:
//!
//! 1. The answer is one letter, in whatever brackets or quotes, or the text of one option, with its letter or without.
//! 2. It has a verdict: `the answer is b`, `答えは b`, `b です`, `b is correct`. The last one counts; it may name one
//!    letter only, or quote the text of one option.
//! 3. It has lines with nothing but a letter, and all have the same one.
//! 4. It mentions one letter only.
//!
//! Everything else is unparsable, and says why. A letter stands by itself: not in a word (`A社`, `B型`, `e.g.`, a plan
//! `C-3`), not the English words `a` and `I`, and where the answer denies it (`a is wrong`, `bではなく`) it is not named.
//! Digits, アイウ and so on are not the options' letters, and are not read as such.

use std::borrow::Cow;
use std::fmt;

use super::questions::{MAX_OPTIONS, letter};

mod mention;

use mention::{Mention, mentions};

/// What an answer names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The option of this index.
    Letter(usize),
    /// No option.
    Unparsable(Reason),
}

/// Why an answer names no option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is no text.
    Empty,
    /// The text ends before the thought does.
    UnfinishedThought,
    /// It declines to answer.
    Refusal,
    /// It has no letter that stands by itself.
    NoLetter,
    /// It names several options.
    Several(Vec<usize>),
    /// Its verdict is a letter that the question does not have.
    NoSuchOption(usize),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "the answer is empty"),
            Self::UnfinishedThought => write!(f, "the answer ends within its thought; raise the number of new tokens"),
            Self::Refusal => write!(f, "the answer declines"),
            Self::NoLetter => write!(f, "the answer names no letter"),
            Self::NoSuchOption(index) => write!(f, "the answer is {}, which is no option", letter(*index)),
            Self::Several(indices) => {
                let letters: Vec<_> = indices.iter().map(|&index| letter(index).to_string()).collect();
                write!(f, "the answer names {} and settles on none", letters.join(", "))
            }
        }
    }
}

/// What declines to answer, where no letter is named.
const REFUSALS: &[&str] = &[
    "cannot",
    "can't",
    "can not",
    "unable",
    "sorry",
    "don't know",
    "do not know",
    "not sure",
    "no answer",
    "わかりません",
    "分かりません",
    "わからない",
    "分からない",
    "できません",
    "できない",
    "答えられ",
    "申し訳",
    "判断でき",
    "該当なし",
    "ありません",
];

/// Reads a generated answer to a question with these options, which its prompt called a, b and so on.
pub fn parse_answer(text: &str, options: &[String]) -> Parsed {
    let Some(said) = without_thoughts(text) else { return Parsed::Unparsable(Reason::UnfinishedThought) };
    let said = normalized(said.trim());
    let said = said.trim();
    if said.is_empty() {
        return Parsed::Unparsable(Reason::Empty);
    }
    let options: Vec<_> = options.iter().map(|option| normalized(option.trim()).trim().to_owned()).collect();
    let mentions = mentions(said, &options);
    let rules = [whole, verdict, alone, only];
    let decided = rules.iter().find_map(|rule| rule(said, &mentions, &options));
    decided.unwrap_or_else(|| Parsed::Unparsable(no_letter(said)))
}

fn no_letter(said: &str) -> Reason {
    let lower = said.to_lowercase();
    if REFUSALS.iter().any(|words| lower.contains(words)) { Reason::Refusal } else { Reason::NoLetter }
}

/// What is said after and between thoughts; none if there is nothing but one without an end.
///
/// The prompt may have opened the first thought.
fn without_thoughts(text: &str) -> Option<Cow<'_, str>> {
    const OPEN: &str = "<think>";
    const CLOSE: &str = "</think>";
    let (before, after) = text.rsplit_once(CLOSE).unwrap_or(("", text));
    let Some((said, _)) = after.split_once(OPEN) else { return Some(after.into()) };
    let between = before.rsplit_once(CLOSE).map_or(before, |(_, last)| last).split_once(OPEN).map_or("", |(s, _)| s);
    let said = if said.trim().is_empty() { between } else { said };
    (!said.trim().is_empty()).then(|| said.into())
}

/// Full-width ASCII, circled and parenthesised letters as plain ones; markup and TeX away.
fn normalized(text: &str) -> String {
    let ascii = |c: char| match c {
        '\u{ff01}'..='\u{ff5e}' => shifted(c, '\u{ff01}', '!'),
        '\u{24b6}'..='\u{24cf}' => shifted(c, '\u{24b6}', 'A'),
        '\u{24d0}'..='\u{24e9}' => shifted(c, '\u{24d0}', 'a'),
        '\u{249c}'..='\u{24b5}' => shifted(c, '\u{249c}', 'a'),
        '\u{3000}' | '\u{a0}' => ' ',
        '’' => '\'',
        c => c,
    };
    let text: String = text.chars().map(ascii).filter(|c| !matches!(c, '*' | '`' | '$' | '\u{200b}')).collect();
    ["\\boxed", "\\text", "\\mathrm", "\\mathbf"].iter().fold(text, |text, command| text.replace(command, ""))
}

fn shifted(c: char, from: char, to: char) -> char {
    char::from_u32(c as u32 - from as u32 + to as u32).unwrap_or(c)
}

/// What may stand around a letter or a quoted option.
fn bare(text: &str) -> &str {
    let around = |c: char| c.is_whitespace() || "()[]{}<>「」『』【】〈〉《》\"'“”‘.,:;!-#、。・".contains(c);
    text.trim_matches(around)
}

/// The option whose text this is, perhaps after its own letter; brackets and stops count only where they tell two apart.
fn quoted(text: &str, options: &[String]) -> Option<usize> {
    if let Some(exact) = options.iter().position(|option| option == text.trim()) {
        return Some(exact);
    }
    let text = bare(text);
    let is = |&index: &usize| {
        let option = bare(&options[index]);
        let own = text.strip_prefix([letter(index), letter(index).to_ascii_uppercase()]);
        !option.is_empty() && (text == option || own.is_some_and(|rest| rest != option && bare(rest) == option))
    };
    let mut found = (0..options.len()).filter(is);
    found.next().filter(|_| found.next().is_none())
}

/// The letter that a text consists of.
fn lone_letter(text: &str) -> Option<usize> {
    let mut chars = bare(text).chars();
    match (chars.next().map(|c| c.to_ascii_lowercase()), chars.next()) {
        (Some(c @ 'a'..='z'), None) => Some(c as usize - 'a' as usize),
        _ => None,
    }
}

fn named(index: usize, options: &[String]) -> Parsed {
    if index < options.len() { Parsed::Letter(index) } else { Parsed::Unparsable(Reason::NoSuchOption(index)) }
}

fn whole(said: &str, _: &[Mention<'_>], options: &[String]) -> Option<Parsed> {
    lone_letter(said).map(|index| named(index, options)).or_else(|| quoted(said, options).map(Parsed::Letter))
}

fn verdict(said: &str, mentions: &[Mention<'_>], options: &[String]) -> Option<Parsed> {
    let quote =
        mention::quotes(said).filter_map(|(at, text)| Some((at, Parsed::Letter(quoted(text, options)?)))).last();
    let last = mentions.iter().rev().find(|mention| mention.is_verdict());
    let letter = last.map(|mention| (mention.at, of_verdict(mention, mentions, options)));
    letter.into_iter().chain(quote).max_by_key(|&(at, _)| at).map(|(_, parsed)| parsed)
}

/// The letter of a verdict, unless it goes on to name another: `the answer is a or b`.
fn of_verdict(verdict: &Mention<'_>, mentions: &[Mention<'_>], options: &[String]) -> Parsed {
    let mut joined = vec![verdict.index];
    let at = mentions.iter().position(|mention| mention.at == verdict.at).unwrap_or(0);
    joined
        .extend(mentions[at..].windows(2).take_while(|pair| pair[0].is_joined_to(&pair[1])).map(|pair| pair[1].index));
    let before = mentions[..=at].windows(2).rev().take_while(|pair| pair[0].is_joined_to(&pair[1]));
    joined.extend(before.map(|pair| pair[0].index));
    match distinct(joined) {
        one if one.len() == 1 => named(one[0], options),
        several => Parsed::Unparsable(Reason::Several(several)),
    }
}

fn alone(said: &str, _: &[Mention<'_>], options: &[String]) -> Option<Parsed> {
    one_of(said.lines().filter_map(lone_letter).collect(), options)
}

fn only(_: &str, mentions: &[Mention<'_>], options: &[String]) -> Option<Parsed> {
    one_of(mentions.iter().map(|mention| mention.index).collect(), options)
}

/// The only one of these that is an option; letters that are none may be names of something else.
fn one_of(mut indices: Vec<usize>, options: &[String]) -> Option<Parsed> {
    indices.retain(|&index| index < options.len().min(MAX_OPTIONS));
    match distinct(indices) {
        none if none.is_empty() => None,
        one if one.len() == 1 => Some(Parsed::Letter(one[0])),
        several => Some(Parsed::Unparsable(Reason::Several(several))),
    }
}

fn distinct(mut indices: Vec<usize>) -> Vec<usize> {
    indices.sort_unstable();
    indices.dedup();
    indices
}
