//! What halfbyte is built from may be used as halfbyte may: the licences that deny.toml allows, by cargo's own metadata.
mod common;

use common::root;
use serde_json::Value;
use std::{fs, process::Command};

/// The licences in deny.toml.
fn allowed() -> Vec<String> {
    let text = fs::read_to_string(root().join("deny.toml")).unwrap();
    let list = text.split_once("allow = [").unwrap().1.split_once(']').unwrap().0;
    list.split(',').map(|name| name.trim().trim_matches('"').to_owned()).filter(|name| !name.is_empty()).collect()
}

/// Whether an SPDX expression without nesting is satisfied: one of its alternatives, all of that one's parts.
fn satisfied(expression: &str, allowed: &[String]) -> bool {
    let part = |part: &str| allowed.iter().any(|name| name == part.trim().trim_matches(['(', ')']));
    let expression = expression.replace('/', " OR ");
    expression.split(" OR ").any(|alternative| alternative.split(" AND ").all(part))
        || expression.split(" AND ").all(|group| group.split(" OR ").any(part))
}

#[test]
fn every_dependency_has_a_licence_that_is_allowed() {
    // Crates for other systems need not have been downloaded.
    let version = String::from_utf8(Command::new("rustc").arg("-vV").output().unwrap().stdout).unwrap();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version", "1", "--offline", "--locked", "--filter-platform", host]);
    cargo.current_dir(root());
    let done = cargo.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let metadata: Value = serde_json::from_slice(&done.stdout).unwrap();
    let allowed = allowed();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 50);
    let wrong: Vec<_> = packages
        .iter()
        .filter(|package| !package["license"].as_str().is_some_and(|licence| satisfied(licence, &allowed)))
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let foreign: Vec<_> = packages
        .iter()
        .filter(|package| package["source"].as_str().is_some_and(|source| !source.starts_with("registry+")))
        .collect();
    assert!(foreign.is_empty(), "not from a registry: {foreign:?}");
}

#[test]
fn expressions_are_read() {
    let allowed = ["MIT".to_owned(), "Unicode-3.0".to_owned()];
    assert!(satisfied("MIT OR GPL-3.0", &allowed) && satisfied("MIT/Apache-2.0", &allowed));
    assert!(satisfied("(MIT OR Apache-2.0) AND Unicode-3.0", &allowed));
    assert!(!satisfied("GPL-3.0", &allowed) && !satisfied("MIT AND GPL-3.0", &allowed));
}
