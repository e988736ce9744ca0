use std::fs;

use halfbyte_runtime::files::{Fault, with_fault};
use halfbyte_runtime::rag::{Index, RetrievalSettings};
use proptest::prelude::*;

use super::{build, names, texts};

fn found(index: &Index, query: &str) -> Vec<String> {
    index.search(query, 9).unwrap().into_iter().map(|passage| passage.source).collect()
}

#[test]
fn passages_are_found_by_their_words_in_both_languages() {
    let dir = tempfile::tempdir().unwrap();
    let index = build(dir.path());
    assert_eq!(index.info().n_documents, 3);
    assert_eq!(index.info().n_passages, 3);
    assert_eq!(found(&index, "When was the BRIDGE built?")[0], "a.txt");
    assert_eq!(found(&index, "who sells bread"), ["c.TXT"]);
    assert_eq!(found(&index, "有価証券の定義を教えてください。"), ["b/law.md"]);
    assert_eq!(found(&index, "税金"), ["c.TXT"]);
    assert_eq!(found(&index, "zebra"), [""; 0]);
    assert_eq!(found(&index, "!? 。\"(+-[~^*:"), [""; 0]);
    let best = &index.search("bridge", 1).unwrap()[0];
    assert_eq!(best.text, "The town of Halfbyte lies on a river. Its bridge was built in 1887.");
    assert!(best.score > 0.0 && best.part == 0 && best.title.is_none());
    for k in [0, usize::MAX] {
        assert!(index.search("bridge", k).unwrap_err().to_string().starts_with("the number of passages is"));
    }
}

#[test]
fn more_of_the_words_is_better_and_equals_stay_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.jsonl");
    let lines = ["x y", "x y z", "q", "x y", "q q q q x"].map(|text| format!("{{\"text\": \"{text}\"}}\n"));
    fs::write(&file, lines.concat()).unwrap();
    let index = Index::build(&dir.path().join("index"), &[file], &RetrievalSettings::default()).unwrap();
    let lines: Vec<_> = found(&index, "x y z").iter().map(|s| s.rsplit(' ').next().unwrap().to_owned()).collect();
    assert_eq!(lines, ["2", "1", "4", "5"]);
    let scores: Vec<_> = index.search("x y", 9).unwrap().iter().map(|passage| passage.score).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
}

#[test]
fn titles_find_passages_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.jsonl");
    let line = r#"{"text": "第一章。第二章。", "title": "民法", "id": 7, "source": "laws", "other": [1]}"#;
    fs::write(&file, format!("\n{line}\n")).unwrap();
    let settings = RetrievalSettings { chunk_size: 4, chunk_overlap: 0, ..Default::default() };
    let index = Index::build(&dir.path().join("index"), &[file], &settings).unwrap();
    let passages = index.search("民法", 9).unwrap();
    assert_eq!(
        passages.iter().map(|p| (p.text.as_str(), p.part)).collect::<Vec<_>>(),
        [("第一章。", 0), ("第二章。", 1)]
    );
    let first = &passages[0];
    let (title, id) = (first.title.as_deref(), first.id.as_deref());
    assert_eq!((title, id, first.source.as_str()), (Some("民法"), Some("7"), "laws"));
}

#[test]
fn an_index_goes_into_a_new_folder_only() {
    let dir = tempfile::tempdir().unwrap();
    let (texts, index) = (texts(dir.path()), dir.path().join("index"));
    let build = || Index::build(&index, std::slice::from_ref(&texts), &RetrievalSettings::default());
    drop(build().unwrap());
    let before = names(&index);
    let error = build().err().unwrap().to_string();
    assert!(error.contains("not empty") && error.contains("index"), "{error}");
    assert_eq!(names(&index), before);
    let error =
        Index::build(&texts, std::slice::from_ref(&texts), &RetrievalSettings::default()).err().unwrap().to_string();
    assert!(error.contains("not empty"), "{error}");
}

#[test]
fn settings_are_checked_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let texts = texts(dir.path());
    let base = RetrievalSettings::default();
    let cases = [
        (RetrievalSettings { chunk_size: 1, ..base.clone() }, "the chunk size is 1"),
        (RetrievalSettings { chunk_size: usize::MAX, ..base.clone() }, "the chunk size is 18446744073709551615"),
        (RetrievalSettings { chunk_overlap: 251, ..base.clone() }, "it must be at most 250, half of the chunk size"),
        (RetrievalSettings { top_k: 0, ..base.clone() }, "the number of passages is 0"),
        (RetrievalSettings { context_tokens: 0, ..base.clone() }, "the tokens of the context is 0"),
    ];
    for (settings, reason) in cases {
        let error =
            Index::build(&dir.path().join("index"), std::slice::from_ref(&texts), &settings).err().unwrap().to_string();
        assert!(error.contains(reason), "{error}");
    }
    assert_eq!(names(dir.path()), ["texts"]);
}

/// Every operation on the disk fails once, or is the last.
#[test]
fn a_build_that_fails_anywhere_leaves_no_index_or_a_whole_one() {
    for fault in [Fault::Error, Fault::Stop] {
        let mut at = 0;
        loop {
            let dir = tempfile::tempdir().unwrap();
            let (texts, folder) = (texts(dir.path()), dir.path().join("index"));
            let build = || Index::build(&folder, std::slice::from_ref(&texts), &RetrievalSettings::default());
            let (result, done) = with_fault(at, fault, build);
            if done <= at {
                assert!(at > 20, "only {at} operations");
                break;
            }
            let opened = Index::open(&folder);
            match (result, opened) {
                (Ok(_), opened) => assert_eq!(found(&opened.unwrap(), "bridge"), ["a.txt"]),
                (Err(_), Ok(index)) => assert_eq!(found(&index, "bridge"), ["a.txt"]),
                (Err(_), Err(error)) => {
                    let error = error.to_string();
                    let absent = error.contains("has no halfbyte-index.json") || error.contains("cannot read");
                    assert!(absent, "{fault:?} at {at}: {error}");
                }
            }
            at += 1;
        }
    }
}

/// A question's polite words say nothing of the answer, but a word in hiragana does.
#[test]
fn hiragana_counts_less_than_other_terms_and_not_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.jsonl");
    let texts = [
        "教えてください、教えてくださいとはどのような言葉か",
        "税の額",
        "りんごの値段",
        "みかんの値段",
        "いちごの値段",
    ];
    let lines = texts.map(|text| format!("{{\"text\": \"{text}\", \"source\": \"{text}\"}}\n"));
    fs::write(&file, lines.concat()).unwrap();
    let index = Index::build(&dir.path().join("index"), &[file], &RetrievalSettings::default()).unwrap();
    assert_eq!(found(&index, "税とはどのようなものかを言ってください")[0], "税の額");
    assert_eq!(found(&index, "みかんの値段")[0], "みかんの値段");
    assert_eq!(found(&index, "りんご")[0], "りんごの値段");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// What is in one text only finds that text.
    #[test]
    fn every_text_is_found_by_its_own_words(words in proptest::collection::hash_set("[a-z]{3,8}|[あ-ん]{4}", 2..9)) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.jsonl");
        let words: Vec<_> = words.into_iter().collect();
        let lines = words.iter().map(|word| format!("{{\"text\": \"{word} common\", \"source\": \"{word}\"}}\n"));
        fs::write(&file, lines.collect::<String>()).unwrap();
        let index = Index::build(&dir.path().join("index"), &[file], &RetrievalSettings::default()).unwrap();
        for word in &words {
            prop_assert_eq!(&found(&index, word)[0], word);
        }
    }
}
