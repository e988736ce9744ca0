//! Retrieval: reading texts, searching them, damaged indexes, prompts. `measure` prints what `docs/retrieval.md` says.
#![cfg(feature = "rag")]

mod damage;
mod index;
mod measure;
mod prompt;
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use halfbyte_runtime::rag::{Index, RetrievalSettings};

/// A folder of texts in both languages.
fn texts(dir: &Path) -> PathBuf {
    let folder = dir.join("texts");
    let files = [
        ("b/law.md", "有価証券とは、国債証券、地方債証券その他の証券をいう。\n\n賃借人は原状回復の義務を負う。"),
        ("a.txt", "\u{feff}The town of Halfbyte lies on a river. Its bridge was built in 1887."),
        ("c.TXT", "The baker of the town sells bread. 税金は別である。"),
        ("empty.txt", " \n"),
        ("other.pdf", "bridge bridge bridge"),
    ];
    for (name, text) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn build(dir: &Path) -> Index {
    Index::build(&dir.join("index"), &[texts(dir)], &RetrievalSettings::default()).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
