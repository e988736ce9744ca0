use halfbyte_runtime::evaluate::questions::{Accuracy, Question, letter, read_questions};
use serde_json::{Value, json};

use crate::test_data;

fn sample() -> Value {
    json!({
        "ファイル名": "x", "コンテキスト": "context", "指示": "choose", "問題文": "why?",
        "選択肢": "a one\nb two\n  more\nc\u{3000}three\nd four ", "output": "c", "references": [],
    })
}

fn read(content: &str) -> halfbyte_runtime::Result<Vec<Question>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("exam.json");
    std::fs::write(&path, content).unwrap();
    read_questions(&path)
}

#[test]
fn a_question_by_hand() {
    let questions = read(&json!({"samples": [sample()]}).to_string()).unwrap();
    let want = Question {
        context: "context".into(),
        instruction: "choose".into(),
        question: "why?".into(),
        options: ["one", "two\n  more", "three", "four"].map(String::from).to_vec(),
        answer: 2,
    };
    assert_eq!(questions, [want]);
}

#[test]
fn bad_samples_are_named_by_their_index() {
    let with = |key: &str, value: Value| {
        let mut bad = sample();
        bad[key] = value;
        read(&json!({"samples": [sample(), bad]}).to_string()).unwrap_err().to_string()
    };
    let cases = [
        (with("output", json!("e")), "sample 1: `output` is \"e\", expected one of a to d"),
        (with("output", json!(3)), "sample 1: invalid type"),
        (with("選択肢", json!("a one")), "sample 1: `選択肢` is \"a one\", expected lines"),
        (with("選択肢", json!("one\ntwo")), "sample 1: `選択肢`"),
        (with("選択肢", json!("a one\nb \nc three\nd four")), "sample 1: choice b of `選択肢` is empty"),
        (with("選択肢", json!("a one\nb two\nc\nd four")), "sample 1: choice c of `選択肢` is empty"),
        (with("選択肢", json!("a one\nb two\nc one\nd four")), "sample 1: choice c of `選択肢` is also one before it"),
        (with("問題文", json!(null)), "sample 1: invalid type: null"),
        (read("{\"samples\": [{}]}").unwrap_err().to_string(), "sample 0: missing field `コンテキスト`"),
        (read("{\"samples\": []}").unwrap_err().to_string(), "there are no samples"),
        (read("[]").unwrap_err().to_string(), "lawqa_jp's format"),
        (read("{\"samples\": [").unwrap_err().to_string(), "EOF while parsing"),
        (read_questions("no/such.json").unwrap_err().to_string(), "no/such.json"),
    ];
    for (message, want) in cases {
        assert!(message.contains(want), "{message}\nwanted: {want}");
    }
    let twice =
        json!({"samples": [sample()]}).to_string().replace("\"output\":\"c\"", "\"output\":\"c\",\"output\":\"a\"");
    assert!(read(&twice).unwrap_err().to_string().contains("the key `output` is given twice"));
}

#[test]
fn a_byte_order_mark_is_no_part_of_an_exam() {
    let marked = format!("\u{FEFF}{}", json!({"samples": [sample()]}));
    assert_eq!(read(&marked).unwrap().len(), 1);
}

/// What stands behind z in ASCII is no letter.
#[test]
fn there_are_as_many_choices_as_letters() {
    let mut many = sample();
    let choices = ('a'..='z').map(|c| format!("{c} choice {c}\n")).collect::<String>() + "{ more\n? and more";
    many["選択肢"] = choices.into();
    let questions = read(&json!({"samples": [many]}).to_string()).unwrap();
    assert_eq!(questions[0].options.len(), 26);
    assert_eq!(questions[0].options[25], "choice z\n{ more\n? and more");
    assert_eq!(letter(26), '?');
}

#[test]
fn accuracy_with_its_interval_and_the_majority_baseline() {
    let question = |answer| Question {
        context: String::new(),
        instruction: String::new(),
        question: String::new(),
        options: vec![String::new(); 4],
        answer,
    };
    let questions: Vec<_> = [0, 1, 1, 2, 2, 3, 1, 2, 0, 3].map(question).to_vec();
    let accuracy = Accuracy::new(&questions, &[1; 10]).unwrap();
    assert_eq!(accuracy, Accuracy { n: 10, n_correct: 3, majority: 1, n_majority: 3 });
    // (0.3 + z² / 20 ± z √(0.021 + z² / 400)) / (1 + z² / 10) with z = 1.96 (more precisely 1.9599640)
    let (low, high) = accuracy.interval();
    assert!((low - 0.107_791_3).abs() <= 1e-6 && (high - 0.603_221_9).abs() <= 1e-6, "{low} to {high}");
    let text = "30.0 % (3 of 10; 95 % interval 10.8 to 60.3 %; always answering b: 30.0 %)";
    assert_eq!(accuracy.to_string(), text);
    let all = Accuracy::new(&questions, &questions.iter().map(|q| q.answer).collect::<Vec<_>>()).unwrap();
    assert!(all.interval().1 <= 1.0 && all.value() == 1.0);
    assert!(Accuracy::new(&questions, &[1; 9]).unwrap_err().to_string().contains("number of answers is 9"));
    assert!(Accuracy::new(&[], &[]).is_err());
    assert_eq!((letter(0), letter(25)), ('a', 'z'));
}

#[test]
fn lawqa_jp_is_read_whole() {
    let Some(path) = test_data("lawqa_jp/selection.json") else { return };
    let questions = read_questions(path).unwrap();
    assert!(questions.iter().all(|q| q.options.len() == 4 && q.options.iter().all(|option| !option.is_empty())));
    let answers: Vec<usize> = (0..4).map(|answer| questions.iter().filter(|q| q.answer == answer).count()).collect();
    assert_eq!(answers, [23, 37, 48, 32]);
    let always_c = Accuracy::new(&questions, &[2; 140]).unwrap();
    assert!(always_c.value() == always_c.baseline() && always_c.to_string().starts_with("34.3 % (48 of 140"));
}
