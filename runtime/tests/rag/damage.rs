use std::fs;
use std::path::{Path, PathBuf};

use halfbyte_runtime::rag::Index;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{build, names};

const MANIFEST: &str = "halfbyte-index.json";

fn refusal(dir: &Path) -> String {
    Index::open(dir).expect_err("a damaged index was opened").to_string()
}

/// An index's files, and the folder that they are in.
fn written(dir: &Path) -> (PathBuf, Vec<(String, Vec<u8>)>) {
    drop(build(dir));
    let folder = dir.join("index");
    let files = names(&folder).into_iter().map(|name| (name.clone(), fs::read(folder.join(name)).unwrap()));
    let files = files.collect();
    (folder, files)
}

#[test]
fn any_damage_is_refused_and_never_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, files) = written(dir.path());
    let damages = (0..files.len(), any::<prop::sample::Index>(), 1_u8.., 0..4_u8);
    let mut runner = TestRunner::new(Config { cases: 300, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&damages, |(file, at, flip, kind)| {
        let (name, bytes) = &files[file];
        let at = at.index(bytes.len());
        let mut damaged = bytes.clone();
        match kind {
            0 => damaged[at] ^= flip,
            1 => damaged.truncate(at),
            2 => damaged.insert(at, flip),
            _ => damaged.clear(),
        }
        fs::write(folder.join(name), &damaged).unwrap();
        let opened = Index::open(&folder).map(|index| index.search("town bridge 有価証券", 9).map(|found| found.len()));
        fs::write(folder.join(name), bytes).unwrap();
        match opened {
            Err(error) => prop_assert!(error.to_string().contains(&folder.display().to_string()), "{}", error),
            // A setting in the manifest may be another one, and white space may be more.
            Ok(found) => prop_assert!(name == MANIFEST && found.unwrap() == 3, "{} at {}", name, at),
        }
        Ok(())
    });
    outcome.unwrap();
    assert!(Index::open(&folder).is_ok());
}

#[test]
fn missing_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, files) = written(dir.path());
    for (name, bytes) in &files {
        fs::remove_file(folder.join(name)).unwrap();
        assert!(refusal(&folder).contains(name.as_str()));
        fs::write(folder.join(name), bytes).unwrap();
    }
    assert!(refusal(&dir.path().join("none")).contains("none"));
    assert!(refusal(&dir.path().join("texts")).contains("has no halfbyte-index.json; give the folder"));
}

#[test]
fn another_version_is_told_to_build_again() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, _) = written(dir.path());
    let path = folder.join(MANIFEST);
    let text = fs::read_to_string(&path).unwrap();
    for newer in [text.replace("halfbyte_index v2", "halfbyte_index v3"), r#"{"format": "v9"}"#.to_owned()] {
        assert_ne!(newer, text);
        fs::write(&path, newer).unwrap();
        let error = refusal(&folder);
        assert!(error.contains("build it again") && error.contains("halfbyte_index v2"), "{error}");
    }
}

#[test]
fn a_manifest_cannot_name_files_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, _) = written(dir.path());
    let path = folder.join(MANIFEST);
    let text = fs::read_to_string(&path).unwrap();
    for name in ["../texts/a.txt", "", ".."] {
        fs::write(&path, text.replace("\"meta.json\"", &format!("{name:?}"))).unwrap();
        assert!(refusal(&folder).contains("it names the file"), "{name}");
    }
}

#[cfg(unix)]
#[test]
fn an_index_in_a_read_only_folder_is_searched() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (folder, files) = written(dir.path());
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
    let found = Index::open(&folder).unwrap().search("bridge", 1).unwrap().len();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(found, 1);
    assert_eq!(names(&folder).len(), files.len(), "reading wrote a file");
}
