use halfbyte_runtime::embedded;
use halfbyte_runtime::rag::{Passage, RagPipeline, RetrievalSettings, context, prompt};
use halfbyte_runtime::tokenizer::Tokenizer;

use super::build;

fn tokenizer() -> Tokenizer {
    Tokenizer::open(embedded::model()).unwrap()
}

fn passage(text: &str, title: Option<&str>) -> Passage {
    let title = title.map(str::to_owned);
    Passage { text: text.into(), source: "a.txt".into(), title, id: None, part: 0, score: 1.0 }
}

#[test]
fn prompts_number_their_sources_in_the_question_s_language() {
    let passages = [passage("一つ目。", Some("民法")), passage("second", None)];
    let japanese = prompt("有価証券とは?", &passages);
    assert_eq!(japanese[0]["role"], "system");
    assert!(japanese[0]["content"].as_str().unwrap().contains("資料に基づいて"));
    let user = "# 資料\n\n[1] 民法\n一つ目。\n\n[2] a.txt\nsecond\n\n# 質問\n\n有価証券とは?";
    assert_eq!((&japanese[1]["role"], &japanese[1]["content"]), (&"user".into(), &user.into()));
    let english = prompt("What is it?", &passages[1..]);
    assert!(english[0]["content"].as_str().unwrap().contains("answer questions from sources"));
    assert_eq!(english[1]["content"], "# Sources\n\n[1] a.txt\nsecond\n\n# Question\n\nWhat is it?");
    assert!(prompt("何?", &[])[1]["content"].as_str().unwrap().contains("見つかりませんでした"));
}

#[test]
fn the_context_is_within_its_budget_to_the_token() {
    let tokenizer = tokenizer();
    let passages = [passage("alpha beta", None), passage(&"long ".repeat(99), None), passage("gamma", None)];
    let tokens = |passages: &[Passage]| {
        let texts = passages.iter().enumerate().map(|(i, p)| format!("[{}] a.txt\n{}\n\n", i + 1, p.text));
        tokenizer.encode(&texts.collect::<String>()).unwrap().len()
    };
    let fit = |budget| context(&passages, budget, &tokenizer).unwrap();
    let short = [passages[0].clone(), passages[2].clone()];
    assert_eq!(fit(tokens(&passages)), passages);
    assert_eq!(fit(tokens(&passages) - 1), passages[..2]);
    assert_eq!(fit(tokens(&short)), short);
    assert_eq!(fit(tokens(&short) - 1), short[..1]);
    assert_eq!(fit(1), []);
}

#[test]
fn a_pipeline_answers_with_its_sources() {
    let dir = tempfile::tempdir().unwrap();
    let mut asked = Vec::new();
    let answerer = |messages: &[serde_json::Value]| {
        asked.push(messages.to_vec());
        Ok("In 1887 [1].".to_owned())
    };
    let settings = RetrievalSettings { top_k: 1, ..Default::default() };
    let mut pipeline = RagPipeline::with(build(dir.path()), settings, tokenizer(), answerer).unwrap();
    let answer = pipeline.answer("When was the bridge built?").unwrap();
    assert_eq!(answer.text, "In 1887 [1].");
    assert_eq!(answer.sources.iter().map(|p| p.source.as_str()).collect::<Vec<_>>(), ["a.txt"]);
    let json = serde_json::to_value(&answer).unwrap();
    assert_eq!(json["sources"][0]["source"], "a.txt");
    drop(pipeline);
    assert_eq!(asked, [prompt("When was the bridge built?", &answer.sources)]);
}

#[test]
fn an_answerer_s_error_is_the_pipeline_s() {
    let dir = tempfile::tempdir().unwrap();
    let fail = |_: &[serde_json::Value]| {
        Err(halfbyte_runtime::Error::Setting {
            name: "the answerer",
            got: "broken".into(),
            want: "it must work".into(),
        })
    };
    let index = build(dir.path());
    let mut pipeline = RagPipeline::with(index, RetrievalSettings::default(), tokenizer(), fail).unwrap();
    assert!(pipeline.answer("bridge").unwrap_err().to_string().contains("broken"));
    let bad = RetrievalSettings { top_k: 0, ..Default::default() };
    assert!(RagPipeline::with(build(&dir.path().join("b")), bad, tokenizer(), fail).is_err());
}
