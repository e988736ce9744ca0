use halfbyte::rng::philox;
use halfbyte_runtime::generate::stream::TextStream;
use halfbyte_runtime::tokenizer::Tokenizer;

use crate::{test_data, tiny_model};

const TEXT: &str = "日本国憲法第9条、金融商品取引法。👩‍👩‍👧 🇯🇵 ½ naïve — «ok»\n\n\tend �<|im_end|>\n<|im_start|>x";

/// The pieces of a stream over `ids`, the last one from its end.
fn pieces(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> Vec<String> {
    let mut stream = TextStream::new(tokenizer, skip_special);
    let mut pieces: Vec<_> = ids.iter().map(|&id| stream.push(id)).collect();
    pieces.push(stream.finish());
    pieces
}

fn check(tokenizer: &Tokenizer) {
    let ids = tokenizer.encode(TEXT).unwrap();
    let streamed = pieces(tokenizer, &ids, false);
    assert_eq!(streamed.concat(), TEXT);
    let split = streamed.iter().filter(|piece| piece.contains('\u{FFFD}')).count();
    assert_eq!(split, 1, "only the one that is in the text: {streamed:?}");
    assert!(streamed.iter().any(String::is_empty), "some characters here take several tokens");
    assert_eq!(pieces(tokenizer, &ids, true).concat(), TEXT.replace("<|im_end|>", "").replace("<|im_start|>", ""));
}

#[test]
fn characters_are_never_split() {
    check(&Tokenizer::open(tiny_model()).unwrap());
    let Some(qwen3) = test_data("qwen3-tokenizer") else { return };
    check(&Tokenizer::open(qwen3).unwrap());
}

#[test]
fn any_ids_give_the_text_of_the_full_decode() {
    let tokenizer = Tokenizer::open(tiny_model()).unwrap();
    let reference = tokenizers::Tokenizer::from_file(tiny_model().join("tokenizer.json")).unwrap();
    // The first 256 ids are single bytes, so that broken characters of all kinds turn up.
    for seed in 0..200 {
        let below = if seed % 2 == 0 { 256 } else { tokenizer.vocab_size() as u32 };
        let ids: Vec<u32> = (0..40).map(|at| philox([at, 0, 0, 0], seed)[0] % below).collect();
        for skip_special in [false, true] {
            let whole = reference.decode(&ids, skip_special).unwrap();
            assert_eq!(tokenizer.decode(&ids, skip_special), whole);
            assert_eq!(pieces(&tokenizer, &ids, skip_special).concat(), whole);
        }
    }
}
