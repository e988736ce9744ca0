//! What is embedded is part of the program, wherever that is.

use crate::{example, root, text};
use std::{fs, process::Command};

/// A copy of it, where the checkout that it was built in cannot be seen.
#[test]
fn a_moved_program_needs_no_checkout() {
    let folder = tempfile::tempdir().unwrap();
    let script = r#"mount -t tmpfs tmpfs "$1" && ! test -e "$1/Cargo.toml" || exit 99; cd "$2"
        ./infer --device cpu --raw --prompt "The ferry" --max-new-tokens 4 &&
        ./train_qwen3_lora --device cpu --use-4bit --max-steps 1 --batch-size 2 --output adapter"#;
    for name in ["infer", "train_qwen3_lora"] {
        fs::copy(example(name), folder.path().join(name)).unwrap();
    }
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", text(&root())]);
    let done = unshare.arg(folder.path()).env_remove("HALFBYTE_ROOT").output().unwrap();
    if [Some(99), None].contains(&done.status.code()) {
        eprintln!("skipped: this machine lets no user hide a folder ({done:?})");
        return;
    }
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    assert!(crate::saved(&folder.path().join("adapter")), "{said}");
}
