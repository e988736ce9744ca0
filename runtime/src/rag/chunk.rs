//! Cutting a text into passages.

use std::ops::Range;

use crate::settings::RetrievalSettings;

/// How good a place is to cut before a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Cut {
    Nowhere,
    Word,
    Sentence,
    Paragraph,
}

/// Cuts a text into passages of at most `chunk_size` characters; gives their ranges of bytes.
///
/// A passage ends at the best place of its second half: the last end of a paragraph there, else of a sentence, else of a
/// word. The next one begins at most `chunk_overlap` characters before that end, with a sentence or a word where one
/// begins. Together they hold all of the text but white space.
pub fn chunks(text: &str, settings: &RetrievalSettings) -> Vec<Range<usize>> {
    let cuts = Cuts::new(text);
    let (mut ranges, mut start) = (Vec::new(), 0);
    while start < cuts.len() {
        let end = cuts.end(start, settings.chunk_size);
        let range = trimmed(text, cuts.bytes[start]..cuts.bytes[end]);
        let (begin, blank) = (cuts.place(range.start), range.is_empty());
        // All but white space of it may be in the one before already.
        if !blank && ranges.last().is_none_or(|last: &Range<usize>| last.end < range.end) {
            ranges.push(range);
        }
        // A passage takes more than half of `chunk_size`, and the overlap is no more than that: each begins later.
        start = if end == cuts.len() || blank { end } else { cuts.next(begin, end, settings.chunk_overlap) };
    }
    ranges
}

/// Without white space around.
fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let piece = &text[range.clone()];
    let start = range.start + (piece.len() - piece.trim_start().len());
    start..start + piece.trim().len()
}

/// The places before each character and at the end.
struct Cuts {
    bytes: Vec<usize>,
    kinds: Vec<Cut>,
}

impl Cuts {
    fn new(text: &str) -> Self {
        let mut cuts = Self { bytes: Vec::new(), kinds: Vec::new() };
        let mut before = Before::default();
        for (byte, c) in text.char_indices() {
            cuts.bytes.push(byte);
            cuts.kinds.push(before.cut(c));
            before.pass(c);
        }
        cuts.bytes.push(text.len());
        cuts.kinds.push(Cut::Paragraph);
        cuts
    }

    /// The number of characters.
    fn len(&self) -> usize {
        self.bytes.len() - 1
    }

    /// The place at a byte.
    fn place(&self, byte: usize) -> usize {
        self.bytes.partition_point(|&place| place < byte)
    }

    /// Where a passage that begins at `start` ends.
    fn end(&self, start: usize, size: usize) -> usize {
        let last = start.saturating_add(size);
        if last >= self.len() {
            return self.len();
        }
        // The last of equals.
        (start + size / 2 + 1..=last).max_by_key(|&place| self.kinds[place]).unwrap_or(last)
    }

    /// Where the passage after `start..end` begins.
    fn next(&self, start: usize, end: usize, overlap: usize) -> usize {
        let first = end.saturating_sub(overlap).max(start + 1);
        let places = first..end;
        let begins = |least: Cut| places.clone().find(|&place| self.kinds[place] >= least);
        begins(Cut::Sentence).or_else(|| begins(Cut::Word)).unwrap_or(first)
    }
}

/// What lies before a place.
#[derive(Default)]
struct Before {
    /// Line breaks, with nothing but white space between them and the place.
    breaks: usize,
    /// A sentence has ended, with nothing but closing brackets and white space since.
    ended: bool,
    /// The end was one that needs white space behind it.
    ended_western: bool,
    space: bool,
}

impl Before {
    fn cut(&self, next: char) -> Cut {
        let sentence = self.ended && !is_closing(next) && (!self.ended_western || self.space);
        match () {
            () if next.is_whitespace() => Cut::Nowhere,
            () if self.breaks > 1 => Cut::Paragraph,
            () if self.breaks == 1 || sentence => Cut::Sentence,
            () if self.space => Cut::Word,
            () => Cut::Nowhere,
        }
    }

    fn pass(&mut self, c: char) {
        if c.is_whitespace() {
            self.breaks += usize::from(c == '\n');
            self.space = true;
            return;
        }
        let closes = self.ended && !self.space && is_closing(c);
        let japanese = matches!(c, '。' | '！' | '？' | '．' | '｡');
        let western = matches!(c, '.' | '!' | '?');
        *self = Self {
            ended: closes || japanese || western,
            ended_western: if closes { self.ended_western } else { western },
            ..Self::default()
        };
    }
}

fn is_closing(c: char) -> bool {
    matches!(c, '」' | '』' | '）' | '】' | '〕' | '］' | ')' | ']' | '"' | '\'' | '”' | '’' | '。' | '！' | '？')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(text: &str, chunk_size: usize, chunk_overlap: usize) -> Vec<&str> {
        let settings = RetrievalSettings { chunk_size, chunk_overlap, ..Default::default() };
        chunks(text, &settings).into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn passages_end_with_sentences_and_paragraphs() {
        assert_eq!(cut("", 10, 0), [""; 0]);
        assert_eq!(cut(" \n　", 10, 0), [""; 0]);
        assert_eq!(cut("短い文。", 10, 0), ["短い文。"]);
        assert_eq!(cut("これは一。「それは二。」あれは三だ。", 12, 0), ["これは一。「それは二。」", "あれは三だ。"]);
        assert_eq!(cut("Pi is 3.14 so. Next one?", 16, 0), ["Pi is 3.14 so.", "Next one?"]);
        assert_eq!(cut("One two. Three.\n\nFour. Five six.", 24, 0), ["One two. Three.", "Four. Five six."]);
        assert_eq!(cut("alpha beta gamma", 12, 0), ["alpha beta", "gamma"]);
        assert_eq!(cut("あいうえおかきくけこ", 4, 0), ["あいうえ", "おかきく", "けこ"]);
    }

    #[test]
    fn passages_overlap_by_sentences() {
        assert_eq!(cut("一二三。四五。六七八九。", 8, 4), ["一二三。四五。", "四五。六七八九。"]);
        assert_eq!(cut("あいうえおかきくけこ", 4, 1), ["あいうえ", "えおかき", "きくけこ"]);
        assert_eq!(cut("alpha beta gamma", 12, 6), ["alpha beta", "beta gamma"]);
    }

    /// Texts with all kinds of places to cut.
    fn texts() -> impl Strategy<Value = String> {
        proptest::collection::vec(
            prop_oneof![
                4 => "[a-zあ-ん漢字]{1,9}",
                2 => prop::sample::select(vec!["。", ". ", "！」", "\n", "\n\n", " ", "　", "3.1", "😀", "e\u{301}"])
                    .prop_map(String::from),
            ],
            0..80,
        )
        .prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn passages_cover_the_text_in_order(text in texts(), size in 2_usize..60, share in 0_usize..=50) {
            let settings = RetrievalSettings { chunk_size: size, chunk_overlap: size * share / 100, ..Default::default() };
            let ranges = chunks(&text, &settings);
            prop_assert_eq!(&ranges, &chunks(&text, &settings));
            let mut covered = 0;
            for (i, range) in ranges.iter().enumerate() {
                let piece = &text[range.clone()];
                prop_assert!(!piece.is_empty() && piece.trim() == piece);
                prop_assert!(piece.chars().count() <= size);
                if range.start > covered {
                    prop_assert!(text[covered..range.start].trim().is_empty());
                } else {
                    prop_assert!(text[range.start..covered].chars().count() <= settings.chunk_overlap);
                }
                prop_assert!(range.end > covered && (i == 0 || range.start > ranges[i - 1].start));
                covered = range.end;
            }
            prop_assert!(text[covered..].trim().is_empty());
        }
    }
}
