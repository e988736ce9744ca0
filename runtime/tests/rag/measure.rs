//! Measurements, printed as tables: `docs/retrieval.md` has the commands.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use halfbyte_runtime::evaluate::questions::{Question, read_questions};
use halfbyte_runtime::rag::{Document, Index, RetrievalSettings, chunks, read_documents};
use serde_json::json;

/// `HALFBYTE_TEST_DATA/lawqa_jp/selection.json`.
fn questions() -> (PathBuf, Vec<Question>) {
    let root = std::env::var_os("HALFBYTE_TEST_DATA").expect("set HALFBYTE_TEST_DATA");
    let path = Path::new(&root).join("lawqa_jp/selection.json");
    (path.clone(), read_questions(path).unwrap())
}

/// Other texts: the file that `HALFBYTE_RAG_TEXTS` names.
fn other_texts() -> Vec<Document> {
    let path = std::env::var_os("HALFBYTE_RAG_TEXTS").expect("set HALFBYTE_RAG_TEXTS to a .jsonl file or a folder");
    read_documents(&[path.into()]).unwrap()
}

fn write_lines<'a>(path: &Path, texts: impl Iterator<Item = &'a str>) -> PathBuf {
    let lines: Vec<_> = texts.map(|text| json!({ "text": text }).to_string()).collect();
    fs::write(path, lines.join("\n")).unwrap();
    path.to_owned()
}

/// 10,000 passages that answer no question.
fn distractors(path: &Path, settings: &RetrievalSettings) -> PathBuf {
    let texts = other_texts();
    let passages = texts.iter().flat_map(|d| chunks(&d.text, settings).into_iter().map(|range| &d.text[range]));
    let passages: Vec<_> = passages.take(10_000).collect();
    assert_eq!(passages.len(), 10_000, "HALFBYTE_RAG_TEXTS has too little text");
    write_lines(path, passages.into_iter())
}

/// The share of questions with a passage of their own context among the first `k`.
fn recall(index: &Index, questions: &[(String, &str)], k: usize) -> f64 {
    let hit = |(query, context): &&(String, &str)| {
        index.search(query, k).unwrap().iter().any(|passage| context.contains(&passage.text))
    };
    questions.iter().filter(hit).count() as f64 / questions.len() as f64
}

/// How often a query is asked.
const ROUNDS: usize = 5;

fn percentile(times: &mut [Duration], share: f64) -> f64 {
    times.sort();
    times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3
}

#[test]
#[ignore = "prints a table"]
fn recall_of_the_right_context() {
    let (path, questions) = questions();
    let contexts: HashSet<_> = questions.iter().map(|q| q.context.as_str()).collect();
    println!("{} questions, {} contexts", questions.len(), contexts.len());
    let alone: Vec<_> = questions.iter().map(|q| (q.question.clone(), q.context.as_str())).collect();
    let with_options = |q: &Question| format!("{}\n{}", q.question, q.options.join("\n"));
    let options: Vec<_> = questions.iter().map(|q| (with_options(q), q.context.as_str())).collect();
    println!("| chunk | passages | query | recall@1 | recall@5 | ms a query |");
    for (chunk_size, chunk_overlap) in [(200, 40), (300, 60), (500, 100), (800, 160), (2000, 0)] {
        let settings = RetrievalSettings { chunk_size, chunk_overlap, ..Default::default() };
        let dir = tempfile::tempdir().unwrap();
        let others = distractors(&dir.path().join("others.jsonl"), &settings);
        for sources in [vec![path.clone()], vec![path.clone(), others]] {
            let folder = dir.path().join(sources.len().to_string());
            let index = Index::build(&folder, &sources, &settings).unwrap();
            for (name, queries) in [("question", &alone), ("with options", &options)] {
                let start = Instant::now();
                let found = [recall(&index, queries, 1), recall(&index, queries, 5)].map(|share| 100.0 * share);
                let ms = start.elapsed().as_secs_f64() * 1e3 / (2 * queries.len()) as f64;
                let n = index.info().n_passages;
                println!("| {chunk_size} | {n} | {name} | {:.1} % | {:.1} % | {ms:.2} |", found[0], found[1]);
            }
        }
    }
}

#[test]
#[ignore = "takes minutes"]
fn speed_on_100_megabytes() {
    let dir = tempfile::tempdir().unwrap();
    let texts = other_texts();
    let mut bytes = 0;
    let lines = texts.iter().cycle().take_while(|document| {
        bytes += document.text.len();
        bytes < 100_000_000
    });
    let file = write_lines(&dir.path().join("texts.jsonl"), lines.map(|document| document.text.as_str()));
    let (questions_file, questions) = questions();
    let folder = dir.path().join("index");
    let start = Instant::now();
    let index = Index::build(&folder, &[file, questions_file], &RetrievalSettings::default()).unwrap();
    println!("built in {:.1} s: {:?}", start.elapsed().as_secs_f64(), index.info());
    let size: u64 = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    println!("{:.1} MB on the disk", size as f64 / 1e6);
    drop(index);
    let start = Instant::now();
    let index = Index::open(&folder).unwrap();
    println!("opened in {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    let start = Instant::now();
    index.search(&questions[0].question, 5).unwrap();
    println!("first query: {:.2} ms", start.elapsed().as_secs_f64() * 1e3);
    let with_options = |q: &Question| format!("{}{}", q.question, q.options.join("\n"));
    let alone: Vec<_> = questions.iter().map(|question| question.question.clone()).collect();
    print_times("question", &index, &alone);
    print_times("with options", &index, &questions.iter().map(with_options).collect::<Vec<_>>());
}

/// How long queries take when each is asked for the first time, and the fastest of several times: what else the machine
/// does at a moment is not in that.
fn print_times(name: &str, index: &Index, queries: &[String]) {
    let time = |query: &String| {
        let start = Instant::now();
        index.search(query, 5).unwrap();
        start.elapsed()
    };
    let rounds: Vec<Vec<_>> = (0..ROUNDS).map(|_| queries.iter().map(time).collect()).collect();
    let fastest = (0..queries.len()).map(|i| rounds.iter().map(|round| round[i]).min().unwrap()).collect();
    for (which, mut times) in [("first time", rounds[0].clone()), (&format!("fastest of {ROUNDS}"), fastest)] {
        let [median, nearly_all, all] = [0.5, 0.95, 1.0].map(|share| percentile(&mut times, share));
        println!("{name}, {which}: median {median:.2} ms, 95 % within {nearly_all:.2} ms, slowest {all:.2} ms");
    }
}
