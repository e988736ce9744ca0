//! Data in Parquet, as `tests/data/golden/make_parquet.py` had others write it.

use std::fs;
use std::path::{Path, PathBuf};

use halfbyte_runtime::settings::DataFormat;
use halfbyte_runtime::train::data::{DataOptions, Dataset, Overlong};

use crate::checkout;
use crate::data::{Bench, OPTIONS, qwen3, tiny};

/// Files of which JSON lines have the same records, those of `text` in several ways.
const SAME: [&str; 10] = [
    "alpaca",
    "choices",
    "letters",
    "messages",
    "plain",
    "sharegpt",
    "text-lengths",
    "text-plain",
    "text-prefixes",
    "turns",
];

fn golden(name: &str) -> PathBuf {
    checkout().join("tests/data/golden/parquet").join(name)
}

fn read(bench: &Bench, path: &Path, options: &DataOptions) -> halfbyte_runtime::Result<Dataset> {
    Dataset::read(path, &bench.tokenizer, Some(&bench.template), options)
}

fn refused(bench: &Bench, path: &Path, options: &DataOptions) -> String {
    let said = read(bench, path, options).unwrap_err().to_string();
    assert!(said.contains(path.to_str().unwrap()), "{said}");
    said
}

fn rows_are_records(bench: &Bench, names: &[&str]) {
    for name in names {
        let lines = golden(&format!("{}.jsonl", name.split('-').next().unwrap()));
        let [want, found] =
            [lines, golden(&format!("{name}.parquet"))].map(|path| read(bench, &path, &OPTIONS).unwrap());
        assert!(want.samples.len() > 1 && found.samples == want.samples, "{name}");
        assert_eq!(found.parts[0].formats, want.parts[0].formats, "{name}");
        assert_eq!(found.hash(), want.hash(), "{name}");
    }
}

#[test]
fn rows_are_the_records_of_json_lines() {
    // The tiny model's template knows no tools, and no thoughts that are switched off.
    let names: Vec<_> = SAME.into_iter().filter(|&name| name != "messages").collect();
    rows_are_records(&tiny(), &names);
    if let Some(bench) = qwen3() {
        rows_are_records(&bench, &SAME);
    }
}

#[test]
fn how_a_file_begins_tells_that_it_is_parquet() {
    let bench = tiny();
    let bytes = fs::read(golden("plain.parquet")).unwrap();
    let want = read(&bench, &golden("plain.jsonl"), &OPTIONS).unwrap();
    assert_eq!(bench.read_as("data", &bytes, &OPTIONS).unwrap().samples, want.samples);
    assert_eq!(bench.read_as("0000.PARQUET", &bytes, &OPTIONS).unwrap().samples, want.samples);
    let said = bench.read_as("data.jsonl", &bytes, &OPTIONS).unwrap_err().to_string();
    assert!(said.contains("line 1: "), "{said}");
    let folder = tempfile::tempdir().unwrap();
    for name in ["b/train-00001-of-00002.parquet", "a/train-00000-of-00002.parquet"] {
        fs::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
        fs::copy(golden("plain.parquet"), folder.path().join(name)).unwrap();
    }
    let both = read(&bench, folder.path(), &OPTIONS).unwrap();
    assert_eq!((both.samples.len(), both.parts.len()), (2 * want.samples.len(), 2));
}

#[test]
fn what_is_wrong_has_its_row() {
    let bench = tiny();
    let as_prompts = OPTIONS.format(Some(DataFormat::PromptCompletion));
    let short = OPTIONS.max_seq_length(12);
    for (name, options, want) in [
        ("plain", as_prompts, "row 31: the key `prompt` is missing"),
        ("messages", as_prompts, "row 1: the key `prompt` is missing"),
        ("alpaca", short, "row 1: the sample has"),
        ("bad-mixed", OPTIONS, "row 2: it is messages, but row 1 is text; put each format into a file of its own"),
        ("bad-bytes", OPTIONS, "row 2: `text` is {\"bytes\":3}, but must be a string"),
        (
            "bad-lz4",
            OPTIONS,
            "column `text`: it is packed by LZ4_RAW, which is not read; write it with Snappy, gzip or",
        ),
    ] {
        let said = refused(&bench, &golden(&format!("{name}.parquet")), &options);
        assert!(said.contains(want), "{name}: {said}");
    }
    let says = |name: &str, bytes: &[u8], want: &str| {
        let said = bench.read_as(name, bytes, &OPTIONS).unwrap_err().to_string();
        assert!(said.contains(name) && said.contains(want), "{said}");
    };
    says("a.parquet", b"", "it is too short");
    says("b.parquet", b"{\"text\": \"a b\"}\n", "does not end in `PAR1`");
    says("c.parquet", b"PAR1\0\0\0\0PARE", "it is encrypted");
    says("d.parquet", b"PAR1\xFF\0\0\0PAR1", "its footer has 255 bytes, more than it has in all");
}

/// Nothing that is left of a file is a file, and a damaged one is refused by its name, or read.
#[test]
fn files_that_are_cut_off_or_damaged_are_refused() {
    let bench = tiny();
    let options = OPTIONS.overlong(Overlong::Skip);
    for name in ["letters", "text-lengths"] {
        let whole = fs::read(golden(&format!("{name}.parquet"))).unwrap();
        let path = bench.folder.path().join(format!("{name}.parquet"));
        for at in 0..whole.len() {
            fs::write(&path, &whole[..at]).unwrap();
            refused(&bench, &path, &options);
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(&path, flipped).unwrap();
            if let Err(e) = read(&bench, &path, &options) {
                assert!(e.to_string().contains(path.to_str().unwrap()), "{e}");
            }
        }
    }
}
