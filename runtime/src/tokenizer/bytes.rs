//! Bytes as characters.

use std::collections::HashMap;
use std::sync::LazyLock;

/// GPT-2's byte alphabet, backwards: printable Latin-1 characters stand for themselves, the other bytes, in order, for
/// the characters from U+0100 on.
pub(super) static BYTES: LazyLock<HashMap<char, u8>> = LazyLock::new(|| {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let (plain, moved): (Vec<u8>, Vec<u8>) = (0..=255).partition(printable);
    let plain = plain.into_iter().map(|byte| (char::from(byte), byte));
    plain.chain(('\u{100}'..).zip(moved)).collect()
});
