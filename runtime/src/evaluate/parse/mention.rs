//! Letters that stand by themselves, and what is said of them.

use std::sync::LazyLock;

use regex::Regex;

/// A letter that stands for an option.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mention<'a> {
    /// The byte of the text where it stands.
    pub at: usize,
    /// The index of its option, which the question may not have.
    pub index: usize,
    /// What precedes it, without brackets and without what only says that it is an option.
    before: &'a str,
    /// What follows it.
    rest: &'a str,
    /// Whether the text says that it is not the answer.
    denied: bool,
}

type Pattern = LazyLock<Regex>;

macro_rules! pattern {
    ($($part:literal)+) => {
        LazyLock::new(|| Regex::new(concat!("(?i)", $($part),+)).expect("a constant pattern"))
    };
}

/// What leads to a verdict: the answer is, 答えは.
static LEADS: Pattern = pattern!(
    r"(?:\b(?:answer|choice|option|conclusion)(?:\s+(?:is|would\s+be|should\s+be|must\s+be)\s*:?|\s*(?:[:=\]→]|->))"
    r"|\b(?:i|we|i'll|i'd|i\s+would)\s+(?:choose|chose|pick|select|answer|go\s+with)"
    r"|(?:答え?|解答|回答|正解|正答|結論|正しいの|適切なの|正しいもの|適切なもの|選択肢)"
    r"(?:として)?\s*(?:は|[:=→】\]]|->)+[、,]?)\s*$"
);

/// What makes a verdict of the letter before it: is correct, です.
static FOLLOWS: Pattern = pattern!(
    r"^(?:(?:が|は)、?(?:最も|もっとも)?(?:正解|正答|正しい|適切|答え)"
    r"|(?:です|だ|である|でしょう|とな(?:る|り)|にな(?:る|ります)|を選|と思|と考え|と判断)(?:[^か]|$)"
    r"|\s+is\s+(?:the\s+)?(?:most\s+|only\s+|best\s+)?(?:correct|right|answer|appropriate|true|option|choice))"
);

/// What denies the letter before it: is wrong, ではなく.
static DENIED_AFTER: Pattern = pattern!(
    r"^(?:で(?:は|も)?(?:な[いくか]|ありませ)|じゃ|とは(?:限|言|い)|以外"
    r"|(?:も|は|が|について|については)、?(?:明らかに|明確に)?(?:誤|間違|不正解|不正確|不適切|違[ういっ])"
    r"|(?:も|は|が)、?(?:最も)?(?:正しい?|適切|正解|正答|該当)"
    r"(?:く|とは|わけ|しな|しま|じゃ|で(?:(?:は|も)(?:な|あり)|な|ありませ))"
    r"|\s+(?:is|are|was|seems)\s+(?:also\s+|clearly\s+)?(?:wrong|incorrect|not|false|inaccurate)"
    r"|\s+(?:isn't|aren't|cannot|can't))"
);

/// What denies the letter after it.
static DENIED_BEFORE: Pattern =
    pattern!(r"(?:\bnot|n't(?:\s+be)?|\bneither|\bnor|\bexcept|\bother\s+than|\brather\s+than)\s*$");

/// What only says that a letter is an option's.
static LABEL: Pattern = pattern!(r"(?:選択肢|肢|記号|番号|\b(?:the\s+)?(?:option|choice|letter|answer))\s*$");

/// What stands between letters that are named together. A comma may also end a clause.
static JOINT: Pattern = pattern!(
    r"^[\s()「」]*(?:と|か|や|又は|または|及び|および|並びに|若しくは|もしくは|,?\s(?:or|and|nor)\s|[&/])[\s()「」]*$"
);
static COMMA: Pattern = pattern!(r"^[\s()「」]*[,、・][\s()「」]*$");
static NEW_CLAUSE: Pattern = pattern!(r"^(?:は|が|\s+is\b)");

/// Kanji before and after a letter that do not make a word with it.
static KANJI_BEFORE: Pattern = pattern!(r"(?:選択肢|肢|記号|番号|解答|回答|正解|正答|答)$");
static KANJI_AFTER: Pattern = pattern!(r"^(?:又は|及び|並びに|若しくは|以外|正解|選択)");

/// A word after the letter a, and not after the article; after the letter I, and not after the pronoun.
static AFTER_NAME: Pattern = pattern!(r"^\s+(?:is|are|and|or|because|since|as|seems|isn't|cannot)\b");

/// A verdict in words, up to the end of its line: the answer is "…", 答えは「…」です.
static QUOTE: Pattern = pattern!(
    r"(?m)(?:\b(?:answer|choice)(?:\s+is\b|\s*:)|(?:答え|解答|回答|正解|正答|正しいの|適切なの)\s*(?:は|:))"
    r"\s*([^\n]+?)(?:です|である|となります|だ)?[。.\s]*$"
);

/// What verdicts say in place of a letter, and where.
pub(super) fn quotes(text: &str) -> impl Iterator<Item = (usize, &str)> {
    QUOTE.captures_iter(text).filter_map(|found| found.get(1)).map(|quote| (quote.start(), quote.as_str()))
}

/// All letters of a normalised text that stand for an option and are not denied, alone or with those they stand beside.
pub(super) fn mentions<'a>(text: &'a str, options: &[String]) -> Vec<Mention<'a>> {
    let letters = text.char_indices().filter(|(_, c)| c.is_ascii_alphabetic());
    let mut all: Vec<_> = letters.filter_map(|(at, c)| mention(text, at, c, options)).collect();
    for i in (1..all.len()).rev() {
        all[i - 1].denied |= all[i].denied && all[i - 1].is_joined_to(&all[i]);
    }
    for i in 1..all.len() {
        all[i].denied |= all[i - 1].denied && all[i - 1].is_joined_to(&all[i]);
    }
    all.retain(|mention| !mention.denied);
    all
}

fn mention<'a>(text: &'a str, at: usize, c: char, options: &[String]) -> Option<Mention<'a>> {
    let (before, rest) = (&text[..at], &text[at + 1..]);
    let index = c.to_ascii_lowercase() as usize - 'a' as usize;
    let echoed = options.get(index).is_some_and(|option| !option.is_empty() && rest.trim_start().starts_with(option));
    if joins_before(before) || joins_after(rest) || (!echoed && is_word(c, before, rest)) {
        return None;
    }
    let opening = |c: char| c.is_whitespace() || "([{「『【\"'“‘<".contains(c);
    let unbracketed = before.trim_end_matches(opening);
    let before = LABEL.find(unbracketed).map_or(unbracketed, |label| &unbracketed[..label.start()]);
    let before = before.trim_end_matches(opening);
    let denied = DENIED_AFTER.is_match(unbracketed_after(rest)) || DENIED_BEFORE.is_match(before);
    Some(Mention { at, index, before, rest, denied })
}

fn unbracketed_after(rest: &str) -> &str {
    let closed = rest.trim_start_matches(|c: char| ")]}」』】\"'”’>".contains(c));
    // Japanese goes on with or without a space; in English the patterns have it.
    let japanese = closed.trim_start();
    if japanese.starts_with(|c: char| c.is_ascii()) { closed } else { japanese }
}

/// Whether the letter ends a word.
fn joins_before(before: &str) -> bool {
    let mut back = before.chars().rev();
    joins(back.next(), back.next()) && !KANJI_BEFORE.is_match(before)
}

/// Whether the letter begins a word.
fn joins_after(rest: &str) -> bool {
    let mut chars = rest.chars();
    joins(chars.next(), chars.next()) && !KANJI_AFTER.is_match(rest)
}

/// Whether what stands beside a letter, and beyond that, makes a word with it: `A社`, `e.g.`, `C-3`, `R&D`.
fn joins(beside: Option<char>, beyond: Option<char>) -> bool {
    let hiragana = |c: char| matches!(c, '\u{3040}'..='\u{309f}');
    match beside {
        Some('.' | '\'' | '-' | '&') => beyond.is_some_and(|c| c.is_ascii_alphanumeric()),
        Some(c) => (c.is_alphanumeric() && !hiragana(c)) || matches!(c, '_' | 'ー' | '\\'),
        None => false,
    }
}

/// Whether it is the English article or pronoun.
fn is_word(c: char, before: &str, rest: &str) -> bool {
    let mut followed = rest.trim_start_matches(' ').chars();
    let word = [followed.next(), followed.next()].iter().all(|c| c.is_some_and(|c| c.is_ascii_alphabetic()));
    let by_word = rest.starts_with(' ') && word;
    matches!(c, 'a' | 'A' | 'I') && by_word && !AFTER_NAME.is_match(rest) && !before.trim_end().ends_with(':')
}

impl Mention<'_> {
    /// Whether the text settles on it.
    pub fn is_verdict(&self) -> bool {
        LEADS.is_match(self.before) || FOLLOWS.is_match(unbracketed_after(self.rest))
    }

    /// Whether the two are named in one breath.
    pub fn is_joined_to(&self, next: &Mention<'_>) -> bool {
        let between = &self.rest[..next.at - self.at - 1];
        let between = LABEL.find(between).map_or(between, |label| &between[..label.start()]);
        JOINT.is_match(between) || (COMMA.is_match(between) && !NEW_CLAUSE.is_match(unbracketed_after(next.rest)))
    }
}
