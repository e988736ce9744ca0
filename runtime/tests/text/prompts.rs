//! How questions are put to a model.

use halfbyte_runtime::chat::{Chat, ChatTemplate};
use halfbyte_runtime::evaluate::prompt::{Continuations, asks_for_letter, hash, messages};
use halfbyte_runtime::evaluate::questions::{Question, read_questions};
use halfbyte_runtime::evaluate::shuffle::shuffled;
use halfbyte_runtime::tokenizer::Tokenizer;

use crate::{test_data, tiny_model};

fn question() -> Question {
    Question {
        id: "1".into(),
        context: "第5条\n六月とする。".into(),
        instruction: "<following_context>１つ選んでください。".into(),
        question: "期間はどれか。".into(),
        options: ["三月", "六月", "一年"].map(String::from).to_vec(),
        answer: Some(1),
    }
}

#[test]
fn a_japanese_question_in_full() {
    let passages = ["一つ目".to_owned(), "二つ目".to_owned()];
    let want = "\
１つ選んでください。

コンテキスト:
第5条
六月とする。

検索された資料:
[1] 一つ目
[2] 二つ目

問題:
期間はどれか。

選択肢:
a. 三月
b. 六月
c. 一年

選択肢の記号(a、b、c)を1つだけ答えてください。記号のほかは何も書かないでください。";
    assert_eq!(asks_for_letter(&question(), &passages), want);
    assert_eq!(messages(&question(), &passages), [serde_json::json!({"role": "user", "content": want})]);
}

#[test]
fn an_english_question_without_context() {
    let question = Question {
        context: String::new(),
        instruction: " ".into(),
        question: "How long?".into(),
        options: ["3 months", "6 months"].map(String::from).to_vec(),
        ..question()
    };
    let want = "\
Choose the right answer to the following question.

Question:
How long?

Options:
a. 3 months
b. 6 months

Answer with the letter of one option only (a, b), and nothing else.";
    assert_eq!(asks_for_letter(&question, &[]), want);
}

#[test]
fn continuations_are_encoded_apart_from_the_prompt() {
    let tokenizer = Tokenizer::open(tiny_model()).unwrap();
    let texts = Continuations::of_texts(&question(), &["資料".into()]);
    assert_eq!(texts.prompt, "資料\n第5条\n六月とする。\n期間はどれか。");
    assert_eq!(texts.options, [" 三月", " 六月", " 一年"]);
    let bare = Continuations::of_texts(&Question { context: String::new(), ..question() }, &[]);
    assert_eq!(bare.prompt, "期間はどれか。");
    let encoded = texts.encode(&tokenizer).unwrap();
    assert_eq!(tokenizer.decode(&encoded.prompt, false), texts.prompt);
    let decoded: Vec<_> = encoded.options.iter().map(|ids| tokenizer.decode(ids, false)).collect();
    assert_eq!(decoded, texts.options);
    let longest = encoded.options.iter().map(|option| encoded.prompt.len() + option.len()).max();
    assert_eq!(Some(encoded.longest()), longest);
    let letters = Continuations::of_letters(&question(), "…assistant\n".into());
    assert_eq!(
        (letters.prompt.as_str(), letters.options.as_slice()),
        ("…assistant\n", &["a", "b", "c"].map(String::from)[..])
    );
}

#[test]
fn the_hash_is_that_of_all_that_the_model_is_given() {
    assert_eq!(hash("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    let of = |prompt: &str, options: [&str; 2]| {
        Continuations { prompt: prompt.into(), options: options.map(String::from).to_vec() }.hash()
    };
    let all = [of("p", ["a", "b"]), of("q", ["a", "b"]), of("p", ["b", "a"]), of("pa", ["", "b"])];
    assert!((1..4).all(|i| !all[..i].contains(&all[i])));
    assert_eq!(of("p", ["a", "b"]), hash("p\0a\0b"));
}

/// What lawqa_jp costs with Qwen3's tokenizer; the orders of the options change the letters' prompts and not their length.
#[test]
fn lawqa_jp_in_tokens() {
    let (Some(data), Some(folder)) = (test_data("lawqa_jp/selection.json"), test_data("qwen3-tokenizer")) else {
        return;
    };
    let questions = read_questions(data).unwrap();
    let tokenizer = Tokenizer::open(&folder).unwrap();
    let template = ChatTemplate::open(&folder, &tokenizer).unwrap();
    let (mut shared, mut repeated, mut asked, mut longest) = (0, 0, 0, 0);
    for question in &questions {
        let encoded = Continuations::of_texts(question, &[]).encode(&tokenizer).unwrap();
        let of_options: usize = encoded.options.iter().map(Vec::len).sum();
        shared += encoded.prompt.len() + of_options;
        repeated += encoded.options.len() * encoded.prompt.len() + of_options;
        longest = longest.max(encoded.longest());
        let messages = messages(question, &[]);
        let chat =
            Chat { messages: &messages, add_generation_prompt: true, enable_thinking: Some(false), ..Chat::default() };
        let rendered = template.render(&chat).unwrap();
        let letters = Continuations::of_letters(question, rendered).encode(&tokenizer).unwrap();
        assert!(letters.options.iter().all(|option| option.len() == 1));
        asked += letters.prompt.len();
    }
    println!("texts: {shared} tokens with the prompt once, {repeated} with it for each option, longest {longest}");
    println!("letters: {asked} tokens");
    assert_eq!((shared, repeated, longest, asked), (81_778, 265_147, 703, 95_286));
    assert_eq!(shuffled(&questions, 4, 0).unwrap().len(), 560);
}
