//! Which files data is read from, and how they hold it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use halfbyte_runtime::train::data::{DataFile, DataFiles, DataReader, Dataset, Overlong};
use halfbyte_runtime::train::packing::{BatchOptions, Batcher, Share, TrainLength};
use serde_json::json;

use crate::data::{Bench, OPTIONS, tiny};

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(text).unwrap();
    packed.finish().unwrap()
}

fn zstd(text: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest)
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|i| json!({"text": format!("number {i} [\"}}\n")}).to_string()).collect()
}

/// However a file holds its records, they are the same.
#[test]
fn lines_arrays_and_packed_files_hold_the_same() {
    let bench = tiny();
    let all = numbers(0..300);
    let lines = all.join("\n");
    let want = bench.read(&lines, &OPTIONS).unwrap();
    assert_eq!(want.samples.len(), 300);
    let array = format!("[{}]", all.join(",\n"));
    let object = format!("{{\"version\": \"1\",\n \"data\":\n{array}, \"n\": 300}}");
    let on_one_line = format!("{{\"rows\": [{}]}}", all.join(","));
    // A frame that is to be skipped, and two with text.
    let (one, two) = lines.as_bytes().split_at(lines.len() / 2);
    let frames = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3], &zstd(one)[..], &zstd(two)].concat();
    let members = [gzip(one), gzip(two)].concat();
    let with_mark = [b"\xEF\xBB\xBF", lines.as_bytes()].concat();
    let files: [(&str, Vec<u8>); 14] = [
        ("a.json", lines.clone().into()),
        ("a.txt.jsonl", with_mark.clone()),
        ("plain", lines.clone().into()),
        ("b.json", array.clone().into()),
        ("c.json", object.clone().into()),
        ("d.json", on_one_line.into()),
        ("e.JSON", format!("\n\n {array}\n").into()),
        ("a.jsonl.gz", gzip(lines.as_bytes())),
        ("b.jsonl.gz", members),
        ("c.json.gz", gzip(array.as_bytes())),
        ("a.jsonl.zst", zstd(lines.as_bytes())),
        ("b.jsonl.zst", frames),
        ("c.json.zst", zstd(object.as_bytes())),
        ("d.jsonl.zst", zstd(&with_mark)),
    ];
    for (name, content) in files {
        let data = bench.read_as(name, content, &OPTIONS).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(data.samples == want.samples, "{name}");
    }
}

#[test]
fn a_text_file_is_one_sample() {
    let bench = tiny();
    let text = "One house.\n\nAnother \"house\".\n";
    let want = bench.sample(&json!({ "text": text }));
    assert_eq!(bench.read_as("a.txt", text, &OPTIONS).unwrap().samples, std::slice::from_ref(&want));
    assert_eq!(bench.read_as("a.txt.gz", gzip(text.as_bytes()), &OPTIONS).unwrap().samples, [want]);
    let refused = bench.read_as("b.txt", b"a\xFFb", &OPTIONS).unwrap_err().to_string();
    assert!(refused.contains("byte 2 is not valid UTF-8"), "{refused}");
}

#[test]
fn what_is_wrong_in_a_file_has_its_line() {
    let bench = tiny();
    let array = "[\n {\"text\": \"a b\"},\n {\"text\":\n  5}\n]";
    let object = format!("{{\n\"data\": {array}}}");
    let refused = |name: &str, content: &[u8]| bench.read_as(name, content, &OPTIONS).unwrap_err().to_string();
    for (name, content, want) in [
        ("a.json", array.as_bytes(), "line 3: `text` is 5, but must be a string"),
        ("b.json", object.as_bytes(), "line 4: `text` is 5, but must be a string"),
        ("c.json", b"[{\"text\": \"a b\"},\n{\"text\": }]", "line 2: not valid JSON: expected value"),
        ("d.json", b"[{\"text\": \"a b\"}", "line 1: not valid JSON: EOF"),
        ("e.json", b"{\n\"a\": 1}", "this object has 0 arrays"),
        ("f.json", b"{\"a\": [], \"b\": []}", "found the keys [\"a\", \"b\"], expected `text`"),
        ("g.json", b"{\n\"a\": [], \"b\": []}", "this object has 2 arrays: [\"a\", \"b\"]"),
        ("h.json", b"{\n\"a\": [1], \"a\": [2]}", "the key `a` is given twice"),
        ("i.json", b"[1]", "line 1: expected a JSON object, found 1"),
        ("j.json", b"[]", "the file is empty"),
        ("k.jsonl", b"[{\"text\": \"a b\"}]", "line 1: expected a JSON object, found [{"),
        ("m.json", b"[{\"text\": \"a b\", \"text\": \"c\"}]", "line 1: not valid JSON: the key `text` is given twice"),
    ] {
        let said = refused(name, content);
        assert!(said.contains(want) && said.contains(name), "{name}: {said}");
    }
}

/// Longer than what is read at once.
#[test]
fn long_lines_and_many_of_them_are_read_whole() {
    let bench = tiny();
    let long = "house ".repeat(800_000);
    let lines = format!("{}\n{}\n{}", json!({"text": "a b"}), json!({ "text": long }), json!({"text": "c d"}));
    let options = OPTIONS.max_seq_length(4).overlong(Overlong::Truncate);
    for (name, content) in [("long.jsonl", lines.clone().into_bytes()), ("long.jsonl.gz", gzip(lines.as_bytes()))] {
        let data = bench.read_as(name, content, &options).unwrap();
        assert_eq!((data.samples.len(), data.n_truncated), (3, 1));
        assert_eq!(bench.tokenizer.decode(&data.samples[2].ids, true), "c d");
    }
    let many = format!("{}\n", json!({"text": "a b c", "note": "x".repeat(1000)})).repeat(10_000);
    assert_eq!(bench.read_as("many.jsonl", many, &OPTIONS).unwrap().samples.len(), 10_000);
}

#[test]
fn damaged_packed_files_are_refused() {
    let bench = tiny();
    let lines = numbers(0..200).join("\n");
    for (name, whole) in [("a.jsonl.gz", gzip(lines.as_bytes())), ("a.jsonl.zst", zstd(lines.as_bytes()))] {
        let cut = bench.read_as(name, &whole[..whole.len() - 9], &OPTIONS).unwrap_err().to_string();
        assert!(cut.contains("cannot read") && cut.contains(name), "{cut}");
        let mut flipped = whole.clone();
        let last = flipped.len() - 3;
        flipped[last] ^= 1;
        let said = bench.read_as(name, flipped, &OPTIONS).unwrap_err().to_string();
        assert!(said.contains("cannot read") && said.contains(name), "{said}");
    }
}

fn write(path: &Path, text: impl AsRef<[u8]>) -> PathBuf {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    path.to_owned()
}

fn read_all(bench: &Bench, text: &str) -> halfbyte_runtime::Result<Dataset> {
    DataReader::new(&bench.tokenizer, Some(&bench.template), OPTIONS).read(&DataFiles::from_text(text).unwrap())
}

#[test]
fn a_folder_is_its_data_in_the_order_of_their_names() {
    let bench = tiny();
    let folder = bench.folder.path().join("data");
    let files = [("b.jsonl", 2..4), ("a/z.json", 0..2), (".hidden/a.jsonl", 9..10), ("c.jsonl.gz", 4..6)];
    for (name, range) in files {
        let lines = numbers(range).join("\n");
        write(&folder.join(name), if name.ends_with(".gz") { gzip(lines.as_bytes()) } else { lines.into() });
    }
    for name in ["README.md", "LICENSE.txt", "b.jsonl.md5"] {
        write(&folder.join(name), "no data");
    }
    let data = read_all(&bench, folder.to_str().unwrap()).unwrap();
    assert_eq!(data.samples, bench.read(numbers(0..6).join("\n"), &OPTIONS).unwrap().samples);
    assert_eq!(data.parts.iter().map(|part| part.n_samples).collect::<Vec<_>>(), [2, 2, 2]);
    assert!(data.parts[0].to_string().ends_with("a/z.json: 2 of text"), "{}", data.parts[0]);
    let texts = bench.folder.path().join("texts");
    for name in ["b.txt", "a.txt"] {
        write(&texts.join(name), format!("The text of {name}"));
    }
    assert_eq!(read_all(&bench, texts.to_str().unwrap()).unwrap().samples.len(), 2);
    let none = bench.folder.path().join("none");
    write(&none.join("README.md"), "no data");
    let said = read_all(&bench, none.to_str().unwrap()).unwrap_err().to_string();
    assert!(said.contains("none`: the folder has no .jsonl"), "{said}");
}

#[test]
fn several_files_have_weights() {
    let bench = tiny();
    let [a, b] = ["a.jsonl", "b,1:2.jsonl"].map(|name| bench.folder.path().join(name));
    write(&a, numbers(0..3).join("\n"));
    write(&b, numbers(3..5).join("\n"));
    let of = |text: String| DataFiles::from_text(&text).map(|files| files.0);
    let file = |path: &Path, weight| DataFile { path: path.to_owned(), weight };
    assert_eq!(of(b.display().to_string()), Some(vec![file(&b, 1.0)]), "a file's own commas and colons");
    assert_eq!(of(format!("{0}:0.5,{0}", a.display())), Some(vec![file(&a, 0.5), file(&a, 1.0)]));
    assert_eq!(of("x:y.jsonl".into()), Some(vec![file(Path::new("x:y.jsonl"), 1.0)]));
    for bad in ["a:0", "a:-1", "a:101", "a:nan", "a,", "", ":2"] {
        assert_eq!(of(bad.into()), None, "{bad}");
    }
    let text = format!("{0}:2,{0}:0.5", a.display());
    assert_eq!(DataFiles::from_text(&text).unwrap().to_string(), text);
    let data = read_all(&bench, &text).unwrap();
    assert_eq!((data.samples.len(), data.times()), (6, 2));
    assert_eq!(data.shares(), [Share { n_samples: 3, weight: 2.0 }, Share { n_samples: 3, weight: 0.5 }]);
    assert!(data.parts[0].to_string().ends_with("a.jsonl: 3 of text, weight 2"), "{}", data.parts[0]);
}

/// Each sample as often as its weight says, in every epoch, and of a fraction each sample equally often over many.
#[test]
fn an_epoch_has_samples_by_their_weights() {
    let sample = |id| halfbyte_runtime::batch::Sample { ids: vec![id, id], mask: vec![false, true] };
    let samples: Vec<_> = (0..14).map(sample).collect();
    let options = BatchOptions::new(1, 2, TrainLength::Epochs(400.0)).seed(3);
    let shares = [(4, 1.0), (6, 2.5), (4, 0.25)].map(|(n_samples, weight)| Share { n_samples, weight });
    let batcher = Batcher::mixed(&samples, shares.to_vec(), options).unwrap();
    assert_eq!((batcher.per_epoch(), batcher.total_steps()), (4 + 15 + 1, 400 * 20));
    let mut all = [0; 14];
    for epoch in 0..400 {
        let mut counts = [0; 14];
        for step in batcher.steps(epoch * 20).take(20) {
            assert_eq!(step.epoch, epoch);
            counts[step.micro_batches[0].ids[0] as usize] += 1;
        }
        assert!(counts[..4].iter().all(|&n| n == 1) && counts[4..10].iter().all(|&n| n == 2 || n == 3), "{counts:?}");
        assert_eq!((counts[4..10].iter().sum::<u32>(), counts[10..].iter().sum::<u32>()), (15, 1));
        all.iter_mut().zip(counts).for_each(|(all, n)| *all += n);
    }
    // 6 samples of which 3 come a third time, 4 of which 1 comes: means 1000 and 100, deviations 10 and 8.7.
    assert!(all[4..10].iter().all(|&n| (940..=1060).contains(&n)), "{all:?}");
    assert!(all[10..].iter().all(|&n| (48..=152).contains(&n)), "{all:?}");
    // Alike where all weights are 1.
    let plain = Batcher::new(&samples, options).unwrap();
    let split = [5, 9].map(|n_samples| Share { n_samples, weight: 1.0 });
    let split = Batcher::mixed(&samples, split.to_vec(), options).unwrap();
    assert!(plain.steps(0).take(50).eq(split.steps(0).take(50)));
    let refused = |weight| {
        let shares = vec![Share { n_samples: 14, weight }];
        Batcher::mixed(&samples, shares, options).err().unwrap().to_string()
    };
    assert!(refused(0.01).contains("samples of an epoch is 0") && refused(f64::NAN).contains("weight"));
}
