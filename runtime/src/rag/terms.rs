//! What passages are found by: words, and pairs of characters where a script has no spaces between words.

use std::iter;

use tantivy::tokenizer::{Token, TokenStream, Tokenizer};
use unicode_normalization::UnicodeNormalization;

/// Longer words are cut.
const LONGEST_WORD: usize = 64;

/// The terms of a text, in its order: words in lower case, and each two characters that follow each other in Chinese,
/// Japanese and Korean. Forms of the same character (full and half width) are one, by Unicode's NFKC.
pub fn terms(text: &str) -> Vec<String> {
    let mut stream = Terms::new(text);
    iter::from_fn(|| stream.next().map(|token| token.text.clone())).collect()
}

/// [`terms`] for tantivy.
#[derive(Clone)]
pub(super) struct Bigrams;

impl Tokenizer for Bigrams {
    type TokenStream<'a> = Terms;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> Terms {
        Terms::new(text)
    }
}

pub(super) struct Terms {
    chars: Vec<char>,
    at: usize,
    token: Token,
}

impl Terms {
    fn new(text: &str) -> Self {
        let chars = text.nfkc().flat_map(char::to_lowercase).collect();
        Self { chars, at: 0, token: Token::default() }
    }

    /// The characters of the next term, and where the one after it begins.
    fn term(&self) -> Option<(&[char], usize)> {
        let rest = &self.chars[self.at..];
        let skipped = rest.iter().position(|&c| c.is_alphanumeric())?;
        let (start, rest) = (self.at + skipped, &rest[skipped..]);
        if !is_unspaced(rest[0]) {
            let word = |c: &char| c.is_alphanumeric() && !is_unspaced(*c);
            let len = rest.iter().take(LONGEST_WORD).take_while(|c| word(c)).count();
            return Some((&rest[..len], start + len));
        }
        let follows = |i: usize| rest.get(i).is_some_and(|&c| c.is_alphanumeric() && is_unspaced(c));
        let len = 1 + usize::from(follows(1));
        // The last pair of a run is its end, and not the beginning of a term of one.
        Some((&rest[..len], start + if follows(2) { 1 } else { len }))
    }
}

impl TokenStream for Terms {
    fn advance(&mut self) -> bool {
        let Some((term, next)) = self.term() else { return false };
        let text = term.iter().collect();
        self.token.text = text;
        self.token.position = self.token.position.wrapping_add(1);
        self.at = next;
        true
    }

    fn token(&self) -> &Token {
        &self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        &mut self.token
    }
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
        assert_eq!(terms(" 。、!? \n"), [""; 0]);
        assert_eq!(terms(&"x".repeat(100)).iter().map(String::len).collect::<Vec<_>>(), [64, 36]);
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
