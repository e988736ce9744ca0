//! The results of scored questions: what they sum up to, what the files say, and how an interrupted run goes on.

use std::fs;
use std::path::Path;

use halfbyte_runtime::evaluate::output::ScoringOutput;
use halfbyte_runtime::evaluate::questions::Question;
use halfbyte_runtime::evaluate::report::{Letter, Report};
use halfbyte_runtime::evaluate::row::Row;
use halfbyte_runtime::evaluate::score::Scores;
use halfbyte_runtime::evaluate::shuffle::{Item, as_given, shuffled};
use halfbyte_runtime::files::{Fault, with_fault};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::names;

fn question(id: &str, answer: Option<usize>) -> Question {
    Question {
        id: id.into(),
        context: String::new(),
        instruction: String::new(),
        question: "どれか。".into(),
        options: ["一", "二", "三"].map(String::from).to_vec(),
        answer,
    }
}

/// Right are a, b, b, c, and one that nobody knows.
fn questions() -> Vec<Question> {
    let answers = [Some(0), Some(1), Some(1), Some(2), None];
    answers.into_iter().enumerate().map(|(i, answer)| question(&format!("q{i}"), answer)).collect()
}

fn answered(item: &Item, text: &str) -> Row {
    Row::generated(item, "hash".into(), text.into(), 10, 0.5)
}

/// Losses in thirds, which no decimal number of a few digits is.
fn scores(losses: [f32; 3]) -> Scores {
    let losses = losses.map(|loss| vec![loss / 3.0, 0.25]);
    Scores::new(&questions()[0].options, &losses.each_ref().map(Vec::as_slice)).unwrap()
}

fn report(rows: &[Row]) -> Report {
    Report::new(rows, "q".into(), "r".into(), json!({"mode": "generate"})).unwrap()
}

#[test]
fn a_report_by_hand() {
    let items = as_given(&questions());
    let texts = ["a", "b", "c", "わかりません", "a"];
    let mut rows: Vec<_> = items.iter().zip(texts).map(|(item, text)| answered(item, text)).collect();
    let all = report(&rows);
    let counts = (all.n_rows, all.n_scored, all.n_right, all.n_unparsable, all.n_too_long);
    assert_eq!(counts, (5, 4, 2, 1, 0));
    assert_eq!((all.tokens, all.seconds), (50, 2.5));
    let score = all.score.unwrap();
    assert_eq!((score.accuracy, score.majority, score.majority_baseline), (0.5, 'b', 0.5));
    // Wilson's for 2 of 4.
    let [low, high] = score.accuracy_interval;
    assert!((low - 0.150_036).abs() <= 1e-5 && (high - 0.849_964).abs() <= 1e-5, "{low} to {high}");
    // f1: a 1, b 2·1 / (2 + 1), c 0.
    assert_eq!(score.letters[&'b'], Letter { right: 2, given: 1, hit: 1, f1: 2.0 / 3.0 });
    assert_eq!(score.letters[&'c'], Letter { right: 1, given: 1, hit: 0, f1: 0.0 });
    assert!((score.macro_f1 - 5.0 / 9.0).abs() <= 1e-15);
    assert_eq!(json!(score.confusion), json!({"a": {"a": 1}, "b": {"b": 1, "c": 1}, "c": {"none": 1}}));
    assert_eq!((score.orders, score.accuracy_per_token, score.accuracy_per_char), (None, None, None));
    rows[0] = Row::too_long(&items[0], "hash".into(), 5000, 4096);
    let worse = report(&rows);
    assert_eq!((worse.n_too_long, worse.n_right), (1, 1));
    assert_eq!(rows[0].note(), "it needs 5000 tokens with its answer, and the model takes 4096");
    let unscored = serde_json::to_value(report(&rows[4..])).unwrap();
    assert!(
        unscored.get("accuracy").is_none() && unscored["n_scored"] == 0 && unscored["settings"]["mode"] == "generate"
    );
}

#[test]
fn sums_and_lengths_have_their_own_accuracy() {
    let items = as_given(&questions()[..2]);
    let mut lists = [scores([1.0, 2.0, 3.0]), scores([1.0, 2.0, 3.0])];
    lists[1].per_token = vec![-3.0, -1.0, -2.0];
    let rows: Vec<_> =
        items.iter().zip(lists).map(|(item, scores)| Row::scored(item, "h".into(), scores, 1, 0.0)).collect();
    let score = report(&rows).score.unwrap();
    assert_eq!((score.accuracy, score.accuracy_per_token, score.accuracy_per_char), (0.5, Some(1.0), Some(0.5)));
}

#[test]
fn over_orders() {
    // One who always says a, and one who knows q1.
    let items = shuffled(&questions()[..2], 3, 1).unwrap();
    let answer = |item: &Item| match item.question.id.as_str() {
        "q0" => "a".to_owned(),
        _ => char::from(b'a' + item.question.answer.unwrap() as u8).to_string(),
    };
    let mut rows: Vec<_> = items.iter().map(|item| answered(item, &answer(item))).collect();
    let score = report(&rows).score.unwrap();
    let orders = score.orders.unwrap();
    assert_eq!((orders.n_questions, orders.right_in_all, orders.consistent), (2, 0.5, 0.5));
    assert_eq!(orders.accuracy, [1.0, 0.5, 0.5]);
    assert!((orders.mean - 2.0 / 3.0).abs() <= 1e-15 && (score.accuracy - 2.0 / 3.0).abs() <= 1e-15);
    // The interval is that of two answers, not of six: (p + z²/4 ± z √(p(1 − p)/2 + z²/16)) / (1 + z²/2) at p = 2/3.
    let [low, high] = score.accuracy_interval;
    assert!((low - 0.159_38).abs() <= 1e-4 && (high - 0.954_74).abs() <= 1e-4, "{low} to {high}");
    // Always wrong with the same option is consistent, no answer at all is not.
    rows[3..].iter_mut().zip(&items[3..]).for_each(|(row, item)| {
        let third = item.places.iter().position(|&option| option == 2).unwrap();
        *row = answered(item, &char::from(b'a' + third as u8).to_string());
    });
    let orders = report(&rows).score.unwrap().orders.unwrap();
    assert_eq!((orders.right_in_all, orders.consistent), (0.0, 0.5));
    rows[3..].iter_mut().zip(&items[3..]).for_each(|(row, item)| *row = answered(item, "?"));
    assert_eq!(report(&rows).score.unwrap().orders.unwrap().consistent, 0.0);
}

#[test]
fn numbers_that_json_does_not_have_are_refused() {
    let item = &as_given(&questions())[0];
    let bad = |change: fn(&mut Scores)| {
        let mut scores = scores([1.0, 2.0, 3.0]);
        change(&mut scores);
        let row = Row::scored(item, "h".into(), scores, 1, 0.0);
        let error =
            Report::new(std::slice::from_ref(&row), String::new(), String::new(), json!(null)).unwrap_err().to_string();
        let dir = tempfile::tempdir().unwrap();
        let mut output = open(dir.path(), false);
        assert_eq!(output.record(row).unwrap_err().to_string(), error);
        drop(output);
        assert_eq!(names(dir.path()), [""; 0]);
        error
    };
    assert!(bad(|s| s.sum[1] = f64::NAN).starts_with("a result is NaN for question \"q0\", but it must be a finite"));
    assert!(bad(|s| s.per_token[0] = f64::NEG_INFINITY).starts_with("a result is -inf for question \"q0\""));
    assert!(bad(|s| s.per_char.truncate(2)).contains("one for each option"));
    let row = Row { seconds: f64::INFINITY, ..answered(item, "a") };
    assert!(row.check().unwrap_err().to_string().contains("finite"));
    let rows = vec![Row { seconds: f64::MAX, ..answered(item, "a") }; 2];
    assert!(Report::new(&rows, String::new(), String::new(), json!(null)).unwrap_err().to_string().contains("is inf"));
}

fn settings() -> Value {
    json!({"mode": "generate", "llm": {"temperature": 0.1f32, "seed": 7}, "limit": null})
}

fn open(dir: &Path, overwrite: bool) -> ScoringOutput {
    ScoringOutput::open(dir, as_given(&questions()), settings(), overwrite).unwrap()
}

fn text_of(item: &Item) -> &'static str {
    ["a", "=b or\n\"c\"?", "答えは「b」です", "か、き", "-"][item.question.id[1..].parse::<usize>().unwrap()]
}

/// Runs whatever is left, and finishes.
fn run(dir: &Path, overwrite: bool) -> halfbyte_runtime::Result<Report> {
    let mut output = ScoringOutput::open(dir, as_given(&questions()), settings(), overwrite)?;
    for item in output.left() {
        output.record(answered(&item, text_of(&item)))?;
    }
    output.finish()
}

const RESULTS: [&str; 2] = ["details.csv", "metrics.json"];

#[test]
fn results_in_full() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), false).unwrap();
    assert_eq!(names(dir.path()), RESULTS);
    let details = fs::read_to_string(dir.path().join("details.csv")).unwrap();
    let want = "\u{feff}id,order,options,prompt_sha256,right,given,correct,answer,tokens,seconds,note\r\n\
        q0,0,abc,hash,a,a,1,a,10,0.5,\r\n\
        q1,0,abc,hash,b,,0,\"'=b or\n\"\"c\"\"?\",10,0.5,\"the answer names b, c and settles on none\"\r\n\
        q2,0,abc,hash,b,b,1,答えは「b」です,10,0.5,\r\n\
        q3,0,abc,hash,c,,0,か、き,10,0.5,the answer names no letter\r\n\
        q4,0,abc,hash,,,,'-,10,0.5,the answer names no letter\r\n";
    assert_eq!(details, want);
    let metrics: Value = serde_json::from_slice(&fs::read(dir.path().join("metrics.json")).unwrap()).unwrap();
    assert_eq!(
        (&metrics["accuracy"], &metrics["n_unparsable"], &metrics["settings"]),
        (&json!(0.5), &json!(3), &settings())
    );
    let mut keys: Vec<_> = metrics.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    let want = "accuracy accuracy_interval confusion letters macro_f1 majority majority_baseline n_right n_rows n_scored \
        n_too_long n_unparsable questions_sha256 rows_sha256 seconds settings tokens";
    assert_eq!(keys.join(" "), want);
}

#[test]
fn scores_have_columns() {
    let dir = tempfile::tempdir().unwrap();
    let mut output = open(dir.path(), false);
    for item in output.left() {
        let row = match item.question.id.as_str() {
            "q4" => Row::too_long(&item, "h".into(), 9, 8),
            _ => Row::scored(&item, "h".into(), scores([1.0, 2.0, 0.5]), 3, 0.25),
        };
        output.record(row).unwrap();
    }
    output.finish().unwrap();
    let bytes = fs::read(dir.path().join("details.csv")).unwrap();
    let mut reader = csv::Reader::from_reader(bytes.strip_prefix("\u{feff}".as_bytes()).unwrap());
    let header = reader.headers().unwrap().clone();
    let want = "id order options prompt_sha256 right given correct answer sum_a sum_b sum_c sum_choice per_token_a \
        per_token_b per_token_c per_token_choice per_char_a per_char_b per_char_c per_char_choice tokens seconds note";
    assert_eq!(header.iter().collect::<Vec<_>>().join(" "), want);
    let rows: Vec<_> = reader.records().map(Result::unwrap).collect();
    let sum = scores([1.0, 2.0, 0.5]).sum;
    assert_eq!(rows[0].iter().skip(8).take(3).map(|x| x.parse().unwrap()).collect::<Vec<f64>>(), sum);
    assert_eq!((&rows[0][11], &rows[0][5], &rows[4][8], &rows[4][11]), ("c", "c", "", ""));
    assert_eq!(&rows[4][22], "it needs 9 tokens with its answer, and the model takes 8");
}

#[test]
fn an_interrupted_run_goes_on_and_ends_as_if_it_had_not_been() {
    let whole = tempfile::tempdir().unwrap();
    run(whole.path(), false).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for done in 0..5 {
        let mut output = open(dir.path(), done % 2 == 0);
        assert_eq!(output.left().len(), 5 - done);
        // From the end: batches may be of any order.
        let item = output.left().pop().unwrap();
        output.record(answered(&item, text_of(&item))).unwrap();
        let error = output.record(answered(&item, "a")).unwrap_err().to_string();
        assert!(error.contains("it has a row already"), "{error}");
        if done < 4 {
            assert!(output.finish().unwrap_err().to_string().contains("without a row is"));
        }
        drop(output);
        // A killed process.
        let partial = dir.path().join("details.partial.jsonl");
        let mut text = fs::read_to_string(&partial).unwrap();
        text += "{\"id\": \"q0\", \"order\"";
        fs::write(&partial, text).unwrap();
    }
    let output = open(dir.path(), false);
    assert!(output.left().is_empty());
    assert_eq!(output.accuracy().unwrap().n_correct, 2);
    output.finish().unwrap();
    drop(output);
    for name in RESULTS {
        super::assert_same(&dir.path().join(name), &whole.path().join(name));
    }
    assert_eq!(names(dir.path()), RESULTS);
}

#[test]
fn rows_of_another_run_are_refused_or_make_room() {
    let dir = tempfile::tempdir().unwrap();
    let mut output = open(dir.path(), false);
    let item = output.left().remove(0);
    output.record(answered(&item, "a")).unwrap();
    drop(output);
    let partial = dir.path().join("details.partial.jsonl");
    let before = fs::read_to_string(&partial).unwrap();
    let open_with = |questions: &[Question], settings: Value, overwrite| {
        ScoringOutput::open(dir.path(), as_given(questions), settings, overwrite)
    };
    let refused = |questions: &[Question], settings| open_with(questions, settings, false).unwrap_err().to_string();
    let mut other = settings();
    other["llm"]["temperature"] = json!(0.7);
    let error = refused(&questions(), other.clone());
    assert!(
        error.contains("with the setting llm.temperature = 0.1") && error.contains(", which is 0.7 now; go on with"),
        "{error}"
    );
    let error = refused(&questions(), json!({"mode": "generate", "llm": {"temperature": 0.1f32}, "limit": null}));
    assert!(error.contains("with the setting llm.seed = 7, which is not set now"), "{error}");
    assert!(refused(&questions()[1..], settings()).contains("an interrupted run with other questions"));
    for (damaged, want) in [
        (before.replace("\"q0\"", "\"q9\""), "this run has no such one"),
        (before.replace("\"q0\"", "1"), "it has a damaged row"),
        (before.replace("[0,1,2]", "[0,2,1]"), "this run has its options otherwise"),
        ("a letter to a friend\n".into(), "it is no run's rows"),
    ] {
        fs::write(&partial, damaged).unwrap();
        let error = refused(&questions(), settings());
        assert!(error.contains(want) && error.contains("--overwrite"), "{error}\nwanted: {want}");
    }
    fs::write(&partial, &before).unwrap();
    // Even so nothing changes before the first row.
    let mut output = open_with(&questions(), other, true).unwrap();
    assert_eq!(output.left().len(), 5);
    assert_eq!(fs::read_to_string(&partial).unwrap(), before);
    output.record(answered(&item, "b")).unwrap();
    let lines = fs::read_to_string(&partial).unwrap();
    assert!(lines.contains("0.7") && lines.lines().count() == 2, "{lines}");
}

#[test]
fn results_are_replaced_only_if_told_and_only_by_whole_ones() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), false).unwrap();
    let error = run(dir.path(), false).unwrap_err().to_string();
    assert!(error.contains("metrics.json") && error.contains("pass --overwrite"), "{error}");
    let old = fs::read(dir.path().join("metrics.json")).unwrap();
    let mut output = open(dir.path(), true);
    let item = output.left().remove(0);
    output.record(answered(&item, "c")).unwrap();
    drop(output);
    assert_eq!(fs::read(dir.path().join("metrics.json")).unwrap(), old);
    // The interrupted second run goes on.
    assert_eq!(open(dir.path(), true).left().len(), 4);
    assert_eq!(run(dir.path(), true).unwrap().n_right, 1);
    assert_eq!(names(dir.path()), RESULTS);
}

#[test]
fn rows_whose_results_are_there_do_not_become_those_of_the_next_run() {
    let dir = tempfile::tempdir().unwrap();
    let mut output = open(dir.path(), false);
    for item in output.left() {
        output.record(answered(&item, text_of(&item))).unwrap();
    }
    let partial = dir.path().join("details.partial.jsonl");
    let rows = fs::read(&partial).unwrap();
    output.finish().unwrap();
    drop(output);
    // As if the process had been killed before it was removed.
    fs::write(&partial, rows).unwrap();
    assert_eq!(open(dir.path(), true).left().len(), 5);
}

#[test]
fn a_question_that_is_asked_twice_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let twice = [question("q", None), question("q", None)];
    let error = ScoringOutput::open(dir.path(), as_given(&twice), json!({}), false).unwrap_err().to_string();
    assert!(error.contains("a question's name is \"q\""), "{error}");
    let none = ScoringOutput::open(dir.path(), Vec::new(), json!({}), false).unwrap();
    assert!(none.finish().unwrap_err().to_string().contains("there must be one"));
}

/// Every operation of a run fails once, with results there before and without.
#[test]
fn a_run_that_fails_anywhere_leaves_old_results_or_new_and_can_go_on() {
    let reference = tempfile::tempdir().unwrap();
    run(reference.path(), false).unwrap();
    let of = |dir: &Path| RESULTS.map(|name| fs::read(dir.join(name)).ok());
    let new = of(reference.path());
    for exists in [false, true] {
        for fault in [Fault::Error, Fault::Stop] {
            let mut at = 0;
            loop {
                let parent = tempfile::tempdir().unwrap();
                let dir = parent.path().join("scores");
                if exists {
                    let mut output = open(&dir, false);
                    output.left().iter().for_each(|item| output.record(answered(item, "c")).unwrap());
                    output.finish().unwrap();
                }
                let before = of(&dir);
                let (result, done) = with_fault(at, fault, || run(&dir, exists));
                if done <= at {
                    assert!(at > 20, "only {at} operations");
                    break;
                }
                let place = format!("operation {at}, {fault:?}, exists: {exists}, {result:?}");
                let left = open_after(&dir, &place);
                let now = of(&dir);
                assert!(now == before || now == new, "neither old nor new: {place}");
                assert!(result.is_err() || now == new, "a failure was not reported: {place}");
                assert!(left <= 5, "{place}");
                run(&dir, true).unwrap_or_else(|e| panic!("a later run is refused: {e}; {place}"));
                assert_eq!(names(&dir), RESULTS, "{place}");
                assert!(of(&dir) == new, "{place}");
                at += 1;
            }
        }
    }
}

/// Opening settles what was decided; gives the number of questions left.
fn open_after(dir: &Path, place: &str) -> usize {
    let output = ScoringOutput::open(dir, as_given(&questions()), settings(), true);
    output.unwrap_or_else(|e| panic!("a later run is refused: {e}; {place}")).left().len()
}

proptest! {
    /// A row that was noted is the same when it is read: to the last bit of its scores.
    #[test]
    fn rows_survive(losses: [f32; 3], seconds in 0.0..1e9f64, text in ".*") {
        let item = &as_given(&questions())[0];
        let rows = [answered(item, &text), Row { seconds, ..answered(item, &text) }];
        let losses = losses.map(|loss| if loss.is_finite() { loss } else { 1.0 });
        let scored = Row::scored(item, "h".into(), scores(losses), 1, seconds);
        for row in rows.into_iter().chain([scored]) {
            let line = serde_json::to_string(&row).unwrap();
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(serde_json::from_str::<Row>(&line).unwrap(), row);
        }
    }
}
