//! What is embedded is part of the program, wherever that is.

use crate::{halfbyte, root, saved, text};
use std::{fs, process::Command};

/// A copy of it, where the checkout that it was built in cannot be seen.
#[test]
fn a_moved_program_needs_no_checkout() {
    let folder = tempfile::tempdir().unwrap();
    let script = r#"mount -t tmpfs tmpfs "$1" && ! test -e "$1/Cargo.toml" || exit 99; cd "$2"
        ./halfbyte infer --device cpu --raw --prompt "The ferry" --max-new-tokens 4 &&
        ./halfbyte train --device cpu --use-4bit --max-steps 1 --batch-size 2 --output adapter"#;
    fs::copy(halfbyte(), folder.path().join("halfbyte")).unwrap();
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", text(&root())]);
    let done = unshare.arg(folder.path()).env_remove("HALFBYTE_ROOT").output().unwrap();
    if [Some(99), None].contains(&done.status.code()) {
        eprintln!("skipped: this machine lets no user hide a folder ({done:?})");
        return;
    }
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    assert!(saved(&folder.path().join("adapter")), "{said}");
}
