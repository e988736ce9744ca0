//! Generated answers, as models write them.

use halfbyte_runtime::evaluate::parse::{Parsed, Reason, parse_answer};
use proptest::prelude::*;

fn options(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn law() -> Vec<String> {
    options(&[
        "金融商品取引法第2条第2項第1号",
        "六月以内に提出する必要がある",
        "A社が、英語で記載する",
        "Paris is the capital",
    ])
}

/// A letter, `several`, `none`, `refusal`, `empty`, `thought` or `e?` for an option that is not there.
fn parsed(text: &str) -> String {
    match parse_answer(text, &law()) {
        Parsed::Letter(index) => char::from(b'a' + index as u8).to_string(),
        Parsed::Unparsable(Reason::Empty) => "empty".into(),
        Parsed::Unparsable(Reason::UnfinishedThought) => "thought".into(),
        Parsed::Unparsable(Reason::Refusal) => "refusal".into(),
        Parsed::Unparsable(Reason::NoLetter) => "none".into(),
        Parsed::Unparsable(Reason::Several(_)) => "several".into(),
        Parsed::Unparsable(Reason::NoSuchOption(index)) => format!("{}?", char::from(b'a' + index as u8)),
    }
}

#[track_caller]
fn check(cases: &[(&str, &str)]) {
    let wrong: Vec<_> = cases.iter().filter(|(text, want)| parsed(text) != *want).collect();
    let shown: Vec<_> = wrong.iter().map(|(text, want)| format!("{text:?}: {}, wanted {want}", parsed(text))).collect();
    assert!(wrong.is_empty(), "\n{}", shown.join("\n"));
}

#[test]
fn one_letter() {
    check(&[
        ("b", "b"),
        (" B\n", "b"),
        ("C.", "c"),
        ("c)", "c"),
        ("(c)", "c"),
        ("[d]", "d"),
        ("**b**", "b"),
        ("`b`", "b"),
        ("### b", "b"),
        ("- b", "b"),
        ("\"b\"", "b"),
        ("'b'", "b"),
        ("ａ", "a"),
        ("Ａ。", "a"),
        ("（ｂ）", "b"),
        ("「c」", "c"),
        ("【ｄ】", "d"),
        ("ⓑ", "b"),
        ("⒝", "b"),
        ("b\u{3000}", "b"),
        ("$\\boxed{b}$", "b"),
        ("\\boxed{\\text{c}}", "c"),
        ("e", "e?"),
        ("z", "z?"),
        ("選択肢b", "b"),
        ("選択肢 ｂ", "b"),
        ("Option C", "c"),
        ("b.\n", "b"),
    ]);
}

#[test]
fn thoughts_do_not_count() {
    check(&[
        ("<think>\n\n</think>\n\nb", "b"),
        ("<think>the answer is a, or c?</think>b", "b"),
        ("maybe a. The answer is a.\n</think>\n\nd", "d"),
        ("<think>a</think><think>c</think> b", "b"),
        ("<think>a</think> b <think>no, c", "b"),
        ("<think>the answer is a", "thought"),
        ("<think>a</think><think>c", "thought"),
        ("<think>b</think>", "empty"),
        ("", "empty"),
        (" \n\u{3000}", "empty"),
        ("**", "empty"),
    ]);
}

#[test]
fn verdicts() {
    check(&[
        ("答えは b です", "b"),
        ("「答えは b です」", "b"),
        ("正解はｂ。", "b"),
        ("答え：ｃ", "c"),
        ("【答え】 d", "d"),
        ("解答は選択肢「c」です。", "c"),
        ("正しいのはdである。", "d"),
        ("したがって、bが正解です。", "b"),
        ("cが最も適切です。aとbは誤りです。", "c"),
        ("bとなります。aは要件を満たしません。", "b"),
        ("aではなくbです。", "b"),
        ("aは誤り。bは正しい。cは間違い。dは不適切。", "b"),
        ("aは条文に反する。cは期間が違う。よって答えはb。", "b"),
        ("bだと思います。dも検討したが期間が合わない。", "b"),
        ("bを選びます。aの期間は長い。", "b"),
        ("bが適切であり、aの根拠はない。", "b"),
        ("bは正しいとは言えない。正解はd。", "d"),
        ("答え: b（六月以内に限る。aの期間ではない）", "b"),
        ("答えは\n\nb\n\n理由: aは長い", "b"),
        ("a、b、c、dの中から選ぶと、bです", "b"),
        ("「a」「b」「c」のうち「b」が正しい", "b"),
        ("最も適切な選択肢はｂです。", "b"),
        ("Answer: d", "d"),
        ("The correct option is b; a is too long.", "b"),
        ("b is the best answer, a the worst.", "b"),
        ("**Answer:** d", "d"),
        ("The answer is (c).", "c"),
        ("The correct answer is **B**, because a and c say otherwise.", "b"),
        ("Final answer: option c", "c"),
        ("Looking at a, b and c: the best choice is c.", "c"),
        ("B is correct. A is about Paris, and C is not.", "b"),
        ("The answer is not a. The answer is b.", "b"),
        ("I would choose d over a.", "d"),
        ("First I thought the answer is a. But the answer is c.", "c"),
        ("The answer is e.", "e?"),
        ("The answer is a.", "a"),
        ("The answer: a", "a"),
    ]);
}

#[test]
fn a_verdict_for_two_is_none() {
    check(&[
        ("The answer is a or b.", "several"),
        ("答えはaとbです。", "several"),
        ("正解は a、c です。", "several"),
        ("aまたはbが正しい。", "several"),
        ("Both a and c are possible.", "several"),
        ("aですか、bですか。", "several"),
        ("a: 期間が長い\nb: 期間が短い", "several"),
        ("a\n長い\nb\n短い", "several"),
        ("a/b", "several"),
        ("a b", "several"),
    ]);
}

#[test]
fn letters_without_a_verdict() {
    check(&[
        ("b）六月以内", "b"),
        ("b．六月以内", "b"),
        ("bの「第5条」", "b"),
        ("b\n\naは要件を満たさず、cは期間が長い。", "b"),
        ("考えると、aは長く、cは短い。\n\nb", "b"),
        ("b 第1項に定めるとおり", "b"),
        ("b: 理由は第1項", "b"),
        ("b. Because a is wrong and c isn't in the text.", "b"),
        ("c\nAはBに対して請求できる。", "c"),
        ("Neither a nor c; b remains.", "b"),
        ("aとcとdは誤り", "none"),
        ("a is wrong", "none"),
        ("bではない", "none"),
        ("bは違法である", "b"),
        ("a and d are wrong", "none"),
    ]);
}

#[test]
fn letters_in_words_are_not_answers() {
    check(&[
        ("A社の主張は認められない", "none"),
        ("ビタミンC", "none"),
        ("B型肝炎", "none"),
        ("cat", "none"),
        ("e.g. i.e. etc.", "none"),
        ("a company must file", "none"),
        ("The answer is a matter of debate.", "none"),
        ("I think that a company needs it", "none"),
        ("plan C-3", "none"),
        ("R&D", "none"),
        ("don't", "none"),
        ("I'd say b", "b"),
        ("It's a hard question, but b.", "b"),
        ("x_b", "none"),
        ("ア", "none"),
        ("2", "none"),
        ("第2号", "none"),
    ]);
}

#[test]
fn an_options_text_counts_in_place_of_its_letter() {
    check(&[
        ("六月以内に提出する必要がある", "b"),
        ("六月以内に提出する必要がある。", "b"),
        ("「六月以内に提出する必要がある」", "b"),
        ("金融商品取引法第２条第２項第１号", "a"),
        ("b 六月以内に提出する必要がある", "b"),
        ("A社が、英語で記載する", "c"),
        ("c. A社が、英語で記載する", "c"),
        ("Paris is the capital.", "d"),
        ("d) Paris is the capital", "d"),
        ("The answer is \"Paris is the capital\".", "d"),
        ("答えは「六月以内に提出する必要がある」です。", "b"),
        ("Parisian", "none"),
        ("六月以内", "none"),
    ]);
    assert_eq!(parse_answer("A a thing", &options(&["a thing", "b"])), Parsed::Letter(0));
    // A letter is a letter, whatever options say; what differs by brackets only is told apart where it can be.
    assert_eq!(parse_answer("a", &options(&["b", "a"])), Parsed::Letter(0));
    let alike = options(&["-1", "1"]);
    assert_eq!(parse_answer("-1", &alike), Parsed::Letter(0));
    assert_eq!(parse_answer("1", &alike), Parsed::Letter(1));
    assert_eq!(parse_answer("(1)", &alike), Parsed::Unparsable(Reason::NoLetter));
}

#[test]
fn refusals() {
    check(&[
        ("わかりません。", "refusal"),
        ("申し訳ありませんが、お答えできません。", "refusal"),
        ("該当する選択肢はありません", "refusal"),
        ("I'm sorry, but I cannot answer that.", "refusal"),
        ("None of them", "none"),
        ("I cannot decide between a and c.", "several"),
    ]);
}

#[test]
fn reasons_are_said() {
    let reason = |text: &str| match parse_answer(text, &law()) {
        Parsed::Unparsable(reason) => reason.to_string(),
        Parsed::Letter(_) => "a letter".into(),
    };
    assert_eq!(reason("a or c"), "the answer names a, c and settles on none");
    assert_eq!(reason("<think>"), "the answer ends within its thought; raise the number of new tokens");
    assert_eq!(reason("e"), "the answer is e, which is no option");
}

proptest! {
    #[test]
    fn any_text_is_read(text in ".*", options in prop::collection::vec(".{0,8}", 0..5)) {
        if let Parsed::Letter(index) = parse_answer(&text, &options) {
            prop_assert!(index < options.len());
        }
    }

    /// Of pieces that answers are made of, so that rules meet in every way.
    #[test]
    fn any_answer_is_read(pieces in prop::collection::vec(prop::sample::select(vec![
        "a", "b", "Ｃ", "e", " ", "\n", "、", "。", "は", "です", "ではな", "答えは", "answer is ", "or", "と", "not ",
        "<think>", "</think>", "「", "」", "(", ")", "選択肢", "社", "is correct", "**", ":", ".", "'", "-", "ー", "é",
    ]), 0..16)) {
        if let Parsed::Letter(index) = parse_answer(&pieces.concat(), &law()) {
            prop_assert!(index < 4);
        }
    }

    #[test]
    fn a_letter_in_any_dress_is_itself(index in 0..4usize, upper: bool, around in prop::sample::select(vec![
        ("", ""), ("(", ")"), ("「", "」"), ("**", "**"), ("答えは", "です"), ("答え: ", "。"), ("The answer is ", "."),
        ("選択肢", ""), ("<think>a b c</think>", ""), ("", "が正解です"), ("", " is correct"),
    ])) {
        let letter = char::from(if upper { b'A' } else { b'a' } + index as u8);
        prop_assert_eq!(parse_answer(&format!("{}{letter}{}", around.0, around.1), &law()), Parsed::Letter(index));
    }
}
