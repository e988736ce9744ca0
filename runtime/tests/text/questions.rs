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
        id: "x".into(),
        context: "context".into(),
        instruction: "choose".into(),
        question: "why?".into(),
        options: ["one", "two\n  more", "three", "four"].map(String::from).to_vec(),
        answer: Some(2),
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
        (with("選択肢", json!("a one\nb \nc three\nd four")), "sample 1: option b is empty"),
        (with("選択肢", json!("a one\nb two\nc\nd four")), "sample 1: option c is empty"),
        (with("選択肢", json!("a one\nb two\nc one\nd four")), "sample 1: options a and c are the same"),
        (with("問題文", json!(null)), "sample 1: invalid type: null"),
        (with("問題文", json!(" ")), "sample 1: the question is empty"),
        (with("選択肢", json!("a one\nb two\nc one")), "sample 1: options a and c are the same, \"one\""),
        (with("選択肢", json!("a one\nb\u{3000}\nc three")), "sample 1: option b is empty"),
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
fn several_questions_of_one_file_name_are_told_apart() {
    let mut other = sample();
    other["ファイル名"] = json!("y");
    let mut nameless = sample();
    nameless.as_object_mut().unwrap().remove("ファイル名");
    let questions = read(&json!({"samples": [sample(), other, sample(), nameless]}).to_string()).unwrap();
    assert_eq!(questions.iter().map(|q| q.id.as_str()).collect::<Vec<_>>(), ["x [0]", "y", "x [2]", "3"]);
}

#[test]
fn json_lines_by_hand() {
    let text = "\u{feff}\n\
        {\"question\": \"q?\", \"options\": [\"one\", \"two\"], \"answer\": \"B\", \"source\": 3}\r\n\n\
        {\"id\": 7, \"context\": \"c\", \"instruction\": \"i\", \"question\": \"q\", \
         \"options\": {\"B\": \"two\", \"a\": \"one\"}, \"answer\": 0}\n\
        {\"id\": \"x\", \"context\": null, \"question\": \"q\", \"options\": [\"one\", \"two\"], \"answer\": null}";
    let question = |id: &str, context: &str, instruction: &str, question: &str, answer| Question {
        id: id.into(),
        context: context.into(),
        instruction: instruction.into(),
        question: question.into(),
        options: ["one", "two"].map(String::from).to_vec(),
        answer,
    };
    let want =
        [question("0", "", "", "q?", Some(1)), question("7", "c", "i", "q", Some(0)), question("x", "", "", "q", None)];
    // Though the file is called exam.json.
    assert_eq!(read(text).unwrap(), want);
}

/// Long: a table.
#[test]
fn bad_lines_are_named_by_their_number() {
    let second = |line: &str| {
        let first = r#"{"id": "q", "question": "q", "options": ["one", "two"], "answer": 0}"#;
        read(&format!("{first}\n\n{line}\n")).unwrap_err().to_string()
    };
    let with = |options: &str, answer: &str| {
        second(&format!(r#"{{"question": "q", "options": {options}, "answer": {answer}}}"#))
    };
    let many = |n: usize| serde_json::to_string(&(0..n).collect::<Vec<_>>()).unwrap().replace(',', "\",\"");
    let many = |n: usize| many(n).replace('[', "[\"").replace(']', "\"]");
    let two = r#"["one", "two"]"#;
    let cases = [
        (with(two, "2"), "`answer` is 2, expected one of a to b, 0 to 1, or null where it is not scored"),
        (with(two, "-1"), "`answer` is -1, expected"),
        (with(two, "1.0"), "`answer` is 1.0, expected"),
        (with(two, r#""c""#), "`answer` is \"c\", expected one of a to b"),
        (with(two, r#""two""#), "`answer` is \"two\", expected"),
        (with(two, "[0]"), "`answer` is [0], expected"),
        (with(r#"["one", " one "]"#, "0"), "options a and b are the same"),
        (with(r#"["one", ""]"#, "0"), "option b is empty"),
        (with(r#"["one"]"#, "0"), "the number of options is 1, expected 2 to 26"),
        (with("[]", "0"), "the number of options is 0, expected 2 to 26"),
        (with(&many(27), "0"), "the number of options is 27, expected 2 to 26"),
        (with(r#""one""#, "0"), "expected options as a list of texts, or as an object of letters and texts"),
        (with("[1, 2]", "0"), "invalid type: integer `1`, expected a string"),
        (with(r#"{"a": "one", "c": "two"}"#, "0"), "the letters of the options are a, c, expected a, b and so on"),
        (with(r#"{"a": "one", "b": "two", "a": "x"}"#, "0"), "the key `a` is given twice"),
        (with(r#"{"1": "one", "2": "two"}"#, "0"), "the letters of the options are 1, 2, expected"),
        (second(r#"{"question": "q", "options": ["one", "two"]}"#), "missing field `answer`"),
        (second(r#"{"options": ["one", "two"], "answer": 0}"#), "missing field `question`"),
        (second(r#"{"question": "", "options": ["one", "two"], "answer": 0}"#), "the question is empty"),
        (second(r#"{"id": "q", "question": "q", "options": ["1", "2"], "answer": 0}"#), "`id` is \"q\", as on line 1"),
        (second(r#"{"id": [], "question": "q", "options": ["1", "2"], "answer": 0}"#), "`id` is [], expected a text"),
        (second("{\"question\": "), "EOF while parsing"),
        (second("[]"), "expected an object with `question`, `options` and `answer`"),
    ];
    for (message, want) in cases {
        assert!(message.contains(want) && message.contains("exam.json`, line 3: "), "{message}\nwanted: {want}");
    }
    assert_eq!(
        read(&format!(r#"{{"question": "q", "options": {}, "answer": "z"}}"#, many(26))).unwrap()[0].answer,
        Some(25)
    );
}

#[test]
fn the_name_decides_only_where_it_ends_in_jsonl() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("exam.JSONL");
    for (text, want) in [("", "it is empty; write lines such as {\"question\""), ("{\"samples\": []}", "missing field")]
    {
        std::fs::write(&path, text).unwrap();
        let error = read_questions(&path).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
    let error = read("").unwrap_err().to_string();
    assert!(error.contains("expected {\"samples\": […]} in lawqa_jp's format, or JSON lines"), "{error}");
}

#[test]
fn accuracy_with_its_interval_and_the_majority_baseline() {
    let question = |answer| Question {
        id: String::new(),
        context: String::new(),
        instruction: String::new(),
        question: String::new(),
        options: vec![String::new(); 4],
        answer: Some(answer),
    };
    let questions: Vec<_> = [0, 1, 1, 2, 2, 3, 1, 2, 0, 3].map(question).to_vec();
    let accuracy = Accuracy::new(&questions, &[1; 10]).unwrap();
    assert_eq!(accuracy, Accuracy { n: 10, n_correct: 3, majority: 1, n_majority: 3 });
    // (0.3 + z² / 20 ± z √(0.021 + z² / 400)) / (1 + z² / 10) with z = 1.96 (more precisely 1.9599640)
    let (low, high) = accuracy.interval();
    assert!((low - 0.107_791_3).abs() <= 1e-6 && (high - 0.603_221_9).abs() <= 1e-6, "{low} to {high}");
    let text = "30.0 % (3 of 10; 95 % interval 10.8 to 60.3 %; always answering b: 30.0 %)";
    assert_eq!(accuracy.to_string(), text);
    let all = Accuracy::new(&questions, &questions.iter().map(|q| q.answer.unwrap()).collect::<Vec<_>>()).unwrap();
    assert!(all.interval().1 <= 1.0 && all.value() == 1.0);
    assert!(Accuracy::new(&questions, &[1; 9]).unwrap_err().to_string().contains("number of answers is 9"));
    assert!(Accuracy::new(&[], &[]).is_err());
    let unscored = Question { answer: None, ..question(0) };
    let mixed = [unscored.clone(), question(1)];
    assert_eq!(Accuracy::new(&mixed, &[1, 1]).unwrap(), Accuracy { n: 1, n_correct: 1, majority: 1, n_majority: 1 });
    let error = Accuracy::new(&[unscored], &[0]).unwrap_err().to_string();
    assert!(error.contains("number of scored questions is 0"), "{error}");
    assert_eq!((letter(0), letter(25)), ('a', 'z'));
}

#[test]
fn lawqa_jp_is_read_whole() {
    let Some(path) = test_data("lawqa_jp/selection.json") else { return };
    let questions = read_questions(path).unwrap();
    assert!(questions.iter().all(|q| q.options.len() == 4 && q.options.iter().all(|option| !option.is_empty())));
    let answers: Vec<usize> =
        (0..4).map(|answer| questions.iter().filter(|q| q.answer == Some(answer)).count()).collect();
    assert_eq!(answers, [23, 37, 48, 32]);
    let always_c = Accuracy::new(&questions, &[2; 140]).unwrap();
    assert!(always_c.value() == always_c.baseline() && always_c.to_string().starts_with("34.3 % (48 of 140"));
}
