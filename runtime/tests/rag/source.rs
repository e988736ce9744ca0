use std::fs;
use std::path::{Path, PathBuf};

use halfbyte_runtime::rag::{Index, RetrievalSettings, read_documents};

use super::{names, texts};

fn refusal(sources: &[PathBuf]) -> String {
    read_documents(sources).unwrap_err().to_string()
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_folder_is_read_in_the_order_of_its_paths() {
    let dir = tempfile::tempdir().unwrap();
    let documents = read_documents(&[texts(dir.path())]).unwrap();
    let sources: Vec<_> = documents.iter().map(|document| document.source.as_str()).collect();
    assert_eq!(sources, ["a.txt", "b/law.md", "c.TXT"]);
    assert!(documents[0].text.starts_with("The town"));
}

#[test]
fn contexts_of_questions_are_read_once_each() {
    let dir = tempfile::tempdir().unwrap();
    let sample = |context: &str| {
        format!(r#"{{"コンテキスト": "{context}", "指示": "", "問題文": "?", "選択肢": "a x\nb y", "output": "a"}}"#)
    };
    let samples = ["一", "二", "一", ""].map(sample).join(",");
    let path = write(dir.path(), "q.json", format!("{{\"samples\": [{samples}]}}").as_bytes());
    let documents = read_documents(&[path]).unwrap();
    assert_eq!(documents.iter().map(|d| d.text.as_str()).collect::<Vec<_>>(), ["一", "二"]);
    assert!(documents[1].source.ends_with("q.json, sample 1"), "{}", documents[1].source);
}

#[test]
fn what_cannot_be_read_is_named_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let long = [b"{\"text\": \"a\"}\n".as_slice(), b"{\"text\": \"\xff\"}\n"].concat();
    let cases: [(&str, &[u8], &str); 10] = [
        ("a.jsonl", b"{\"text\": \"x\"}\n{\"text\": 3}\n", "line 2: `text` is 3, expected a string"),
        ("a.jsonl", b"{\"text\": \"x\"}\n\nnot json\n", "line 3: expected a JSON object"),
        ("a.jsonl", b"[1]", "line 1: expected a JSON object"),
        ("a.jsonl", b"{\"body\": \"x\"}", "line 1: found the keys [\"body\"], expected `text`"),
        ("a.jsonl", b"{\"text\": \"x\", \"title\": {}}", "line 1: `title` is {}, expected a string"),
        ("a.jsonl", &long, "line 2: it is not valid UTF-8"),
        ("a.jsonl", b"\n\n", "there is no text in it"),
        ("a.txt", b"one\ntwo\n\x82\xa0", "line 3: it is not valid UTF-8"),
        ("a.json", b"{\"samples\": 3}", "lawqa_jp"),
        ("a.docx", b"x", "it is no text"),
    ];
    for (name, bytes, reason) in cases {
        let path = write(dir, name, bytes);
        let error = refusal(std::slice::from_ref(&path));
        assert!(error.contains(reason) && error.contains(&path.display().to_string()), "{error}");
    }
    assert!(refusal(&[dir.join("none")]).contains("cannot read"));
    assert!(refusal(&[]).contains("the list of texts is empty"));
    let empty = dir.join("empty");
    fs::create_dir(&empty).unwrap();
    assert!(refusal(&[empty]).contains("there is no text in it"));
}

#[test]
fn a_failed_build_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "a.jsonl", b"{\"text\": 3}");
    assert!(Index::build(&dir.path().join("new/index"), &[path], &RetrievalSettings::default()).is_err());
    assert_eq!(names(dir.path()), ["a.jsonl"]);
}

#[cfg(unix)]
#[test]
fn links_to_texts_are_followed_and_loops_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    fs::create_dir(&folder).unwrap();
    let text = write(dir.path(), "a.txt", b"text");
    std::os::unix::fs::symlink(text, folder.join("link.txt")).unwrap();
    assert_eq!(read_documents(std::slice::from_ref(&folder)).unwrap().len(), 1);
    std::os::unix::fs::symlink(&folder, folder.join("loop")).unwrap();
    assert!(refusal(&[folder]).contains("loop"));
}
