//! What passages are found by: words, and pairs of characters where a script has no spaces between words.

use std::iter;

use tantivy::tokenizer::{Token, TokenStream, Tokenizer};
use unicode_normalization::UnicodeNormalization;

/// Longer words are cut.
const LONGEST_WORD: usize = 64;

/// The terms of a text, in its order: words in lower case, and in Chinese, Japanese and Korean each two characters of one
/// script that follow each other, or one that stands alone in its script. Forms of the same character (full and half
/// width) are one, by Unicode's NFKC.
pub fn terms(text: &str) -> Vec<String> {
    let mut stream = Terms::new(text);
    iter::from_fn(|| stream.next().map(|token| token.text.clone())).collect()
}

/// Those of [`terms`] for tantivy that are hiragana, or those that are not.
#[derive(Clone)]
pub(super) struct Bigrams {
    pub hiragana: bool,
}

impl Tokenizer for Bigrams {
    type TokenStream<'a> = Terms;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> Terms {
        Terms { only: Some(self.hiragana), ..Terms::new(text) }
    }
}

pub(super) struct Terms {
    chars: Vec<char>,
    at: usize,
    token: Token,
    /// Whether only hiragana are wanted, or all else.
    only: Option<bool>,
}

impl Terms {
    fn new(text: &str) -> Self {
        let chars = text.nfkc().flat_map(char::to_lowercase).collect();
        Self { chars, at: 0, token: Token::default(), only: None }
    }

    /// The characters of the next term, and where the one after it begins.
    fn term(&self) -> Option<(&[char], usize)> {
        let rest = &self.chars[self.at..];
        let skipped = rest.iter().position(|&c| c.is_alphanumeric())?;
        let (start, rest) = (self.at + skipped, &rest[skipped..]);
        let script = Script::of(rest[0]);
        let most = if script == Script::Spaced { LONGEST_WORD } else { 3 };
        let len = rest.iter().take(most).take_while(|&&c| c.is_alphanumeric() && Script::of(c) == script).count();
        if script == Script::Spaced {
            return Some((&rest[..len], start + len));
        }
        // The last pair of a run is its end, and not the beginning of a term of one.
        Some((&rest[..len.min(2)], start + if len > 2 { 1 } else { len }))
    }
}

impl TokenStream for Terms {
    fn advance(&mut self) -> bool {
        while let Some((term, next)) = self.term() {
            let text: String = term.iter().collect();
            self.at = next;
            if self.only.is_none_or(|hiragana| hiragana == is_hiragana(&text)) {
                self.token.text = text;
                self.token.position = self.token.position.wrapping_add(1);
                return true;
            }
        }
        false
    }

    fn token(&self) -> &Token {
        &self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        &mut self.token
    }
}

/// Characters that make terms together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Script {
    /// Words have spaces between them.
    Spaced,
    Hiragana,
    Katakana,
    Hangul,
    Kanji,
}

impl Script {
    fn of(c: char) -> Self {
        match c {
            'ぁ'..='ゟ' => Self::Hiragana,
            '゠'..='ヿ' | 'ㇰ'..='ㇿ' => Self::Katakana,
            '가'..='힣' => Self::Hangul,
            c if is_unspaced(c) => Self::Kanji,
            _ => Self::Spaced,
        }
    }
}

/// Whether a term is made of hiragana, which write endings and particles more than words.
pub(super) fn is_hiragana(term: &str) -> bool {
    term.starts_with(|c| Script::of(c) == Script::Hiragana)
}

/// Whether a letter is of a script whose words nothing separates, or whose words carry their endings.
pub(super) fn is_unspaced(c: char) -> bool {
    matches!(c, '々'..='〇' | 'ぁ'..='ヿ' | 'ㇰ'..='ㇿ' | '㐀'..='䶿' | '一'..='鿿' | '가'..='힣' | '豈'..='﫿')
        || ('\u{20000}'..='\u{3ffff}').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_and_pairs_of_characters() {
        assert_eq!(terms("金融商品取引法"), ["金融", "融商", "商品", "品取", "取引", "引法"]);
        assert_eq!(terms("第５条・第6項 ｶﾞｽ"), ["第", "5", "条", "第", "6", "項", "ガス"]);
        assert_eq!(terms("The Qwen3 model's, ＡＢＣ!"), ["the", "qwen3", "model", "s", "abc"]);
        assert_eq!(terms("大文字"), ["大文", "文字"]);
        assert_eq!(terms("税は行う、りんごのケーキ"), ["税", "は", "行", "う", "りん", "んご", "ごの", "ケー", "ーキ"]);
        assert_eq!(terms("세금은 내다"), ["세금", "금은", "내다"]);
        assert_eq!(terms(" 。、!? \n"), [""; 0]);
        assert_eq!(terms(&"x".repeat(100)).iter().map(String::len).collect::<Vec<_>>(), [64, 36]);
    }

    #[test]
    fn hiragana_and_all_else_are_told_apart() {
        let split = |hiragana| {
            let mut bigrams = Bigrams { hiragana };
            let mut stream = bigrams.token_stream("税は払わない。Tax!");
            iter::from_fn(|| stream.next().map(|token| token.text.clone())).collect::<Vec<_>>()
        };
        assert_eq!(split(false), ["税", "払", "tax"]);
        assert_eq!(split(true), ["は", "わな", "ない"]);
    }

    proptest! {
        #[test]
        fn any_text_has_terms_of_its_letters(text in ".{0,60}") {
            let letters = text.nfkc().flat_map(char::to_lowercase).any(char::is_alphanumeric);
            let terms = terms(&text);
            prop_assert_eq!(letters, !terms.is_empty());
            prop_assert!(terms.iter().all(|term| !term.is_empty() && term.chars().all(char::is_alphanumeric)));
        }
    }
}
