//! What is kept of data that was read before.

use std::fs;
use std::path::{Path, PathBuf};

use halfbyte_runtime::chat::ChatTemplate;
use halfbyte_runtime::train::data::{Cached, DataOptions, DataReader, Dataset, Overlong};
use serde_json::json;

use crate::data::{Bench, OPTIONS, tiny};

/// More than what is read in no time.
fn large(bench: &Bench, name: &str, word: &str) -> PathBuf {
    let path = bench.folder.path().join(name);
    let text = format!("{word} ").repeat(120);
    let line = |i: usize| json!({"prompt": format!("{i}?"), "completion": text}).to_string();
    fs::write(&path, (0..2000).map(line).collect::<Vec<_>>().join("\n")).unwrap();
    assert!(fs::metadata(&path).unwrap().len() > 1 << 20);
    path
}

fn read(bench: &Bench, path: &Path, options: DataOptions, folder: &Path) -> Dataset {
    let reader = DataReader::new(&bench.tokenizer, Some(&bench.template), options).cached_in(Some(folder.to_owned()));
    reader.read(&path.to_owned().into()).unwrap()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(folder.join("tokens")).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

/// `cached` apart, which tells them from each other.
fn same(a: &Dataset, b: &Dataset) -> bool {
    let counts = |data: &Dataset| {
        let part = &data.parts[0];
        (data.n_truncated, data.n_skipped, part.n_samples, part.n_truncated, part.n_skipped, part.formats.clone())
    };
    a.samples == b.samples && counts(a) == counts(b) && a.hash() == b.hash()
}

#[test]
fn what_was_read_before_is_read_from_the_cache() {
    let bench = tiny();
    let cache = bench.folder.path().join("cache");
    let options = OPTIONS.max_seq_length(260).overlong(Overlong::Truncate);
    let path = large(&bench, "a.jsonl", "house");
    let plain = Dataset::read(&path, &bench.tokenizer, Some(&bench.template), &options).unwrap();
    assert_eq!(plain.parts[0].cached, Cached::No);
    let first = read(&bench, &path, options, &cache);
    let again = read(&bench, &path, options, &cache);
    assert_eq!((&first.parts[0].cached, &again.parts[0].cached), (&Cached::Written, &Cached::Read));
    assert!(same(&plain, &first) && same(&plain, &again));
    assert!(again.parts[0].to_string().ends_with("2000 of prompt-completion, tokenised before"), "{}", again.parts[0]);
    // By content: another name is the same.
    let copy = bench.folder.path().join("b.jsonl");
    fs::copy(&path, &copy).unwrap();
    assert_eq!(read(&bench, &copy, options, &cache).parts[0].cached, Cached::Read);
    assert_eq!(entries(&cache).len(), 1);
    // A small file is not kept.
    let small = bench.folder.path().join("small.jsonl");
    fs::write(&small, json!({"text": "a b"}).to_string()).unwrap();
    assert_eq!(read(&bench, &small, options, &cache).parts[0].cached, Cached::No);
}

#[test]
fn other_content_options_or_templates_are_read_anew() {
    let mut bench = tiny();
    let cache = bench.folder.path().join("cache");
    let path = large(&bench, "a.jsonl", "house");
    let first = read(&bench, &path, OPTIONS, &cache);
    let longest = first.samples.iter().map(|sample| sample.ids.len()).max().unwrap();
    let shorter = OPTIONS.max_seq_length(longest - 1).overlong(Overlong::Skip);
    let mut n = 1;
    let mut anew = |data: Dataset| {
        assert_eq!(data.parts[0].cached, Cached::Written);
        n += 1;
        assert_eq!(entries(&cache).len(), n);
        data
    };
    assert!(anew(read(&bench, &path, shorter, &cache)).samples.len() < first.samples.len());
    let open = anew(read(&bench, &path, OPTIONS.append_eos(false), &cache));
    assert_eq!(open.n_tokens(), first.n_tokens() - 2000);
    large(&bench, "a.jsonl", "mouse");
    let other = anew(read(&bench, &path, OPTIONS, &cache));
    assert_ne!(other.hash(), first.hash());
    bench.template = ChatTemplate::from_source("other.jinja", "{{ messages }}").unwrap();
    assert!(same(&anew(read(&bench, &path, OPTIONS, &cache)), &other));
    // Where the time has a say, nothing is kept.
    bench.template = ChatTemplate::from_source("other.jinja", "{{ strftime_now('%Y') }}").unwrap();
    assert_eq!(read(&bench, &path, OPTIONS, &cache).parts[0].cached, Cached::No);
}

/// Whatever happened to the cache, the samples are those of the file.
#[test]
fn a_damaged_cache_is_written_again() {
    let bench = tiny();
    let cache = bench.folder.path().join("cache");
    let path = large(&bench, "a.jsonl", "house");
    let first = read(&bench, &path, OPTIONS, &cache);
    let [entry] = &entries(&cache)[..] else { panic!("one file") };
    let whole = fs::read(entry).unwrap();
    let flipped = |at: usize| whole.iter().enumerate().map(|(i, byte)| byte ^ u8::from(i == at)).collect();
    let half = whole.len() / 2;
    let damages: [Vec<u8>; 7] = [
        vec![],
        whole[..half].to_vec(),
        flipped(2),
        flipped(22),
        flipped(half),
        flipped(whole.len() - 1),
        vec![0xff; half],
    ];
    for damaged in damages {
        fs::write(entry, &damaged).unwrap();
        let data = read(&bench, &path, OPTIONS, &cache);
        assert!(same(&data, &first) && data.parts[0].cached == Cached::Written);
        assert!(fs::read(entry).unwrap() == whole);
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_told_and_does_no_harm() {
    let bench = tiny();
    let cache = bench.folder.path().join("cache");
    fs::write(&cache, "no folder").unwrap();
    let path = large(&bench, "a.jsonl", "house");
    let data = read(&bench, &path, OPTIONS, &cache);
    assert_eq!(data.samples.len(), 2000);
    let told = data.parts[0].to_string();
    assert!(matches!(data.parts[0].cached, Cached::Failed(_)) && told.contains(", not cached: cannot "), "{told}");
}
