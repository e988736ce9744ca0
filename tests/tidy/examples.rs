//! Every op shows in its documentation how it is called. (That the example compiles and is right is seen by `cargo test`.)

use super::{File, assert_none, checkout};

/// The structs that `impl … Op<B> for` names in a file.
fn ops(text: &str) -> Vec<&str> {
    let after = text.match_indices(" Op<B> for ").map(|(at, found)| &text[at + found.len()..]);
    after.map(|rest| rest.split('<').next().unwrap_or_default()).collect()
}

/// The lines of documentation and attributes above `pub struct name`.
fn documentation<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let Some(at) = text.find(&format!("pub struct {name}<")) else { return Vec::new() };
    text[..at].lines().rev().take_while(|line| line.starts_with("///") || line.starts_with("#[")).collect()
}

/// Ops without a block of code that runs one of them.
fn without_example(files: &[File]) -> Vec<String> {
    let mut problems = Vec::new();
    for file in files.iter().filter(|f| f.path.starts_with("src/ops/")) {
        for op in ops(&file.text) {
            let lines = documentation(&file.text, op);
            let fences = lines.iter().filter(|line| **line == "/// ```").count();
            let runs = lines.iter().any(|line| line.contains(".run("));
            let names =
                lines.iter().any(|line| line.contains(&format!("{op} {{")) || line.contains(&format!("{op}::<")));
            if fences < 2 || !runs || !names {
                problems.push(format!("{}: the documentation of {op} has no example that runs it", file.path));
            }
        }
    }
    problems
}

#[test]
fn every_op_has_an_example() {
    let files = checkout();
    assert!(files.iter().any(|f| f.path.starts_with("src/ops/") && !ops(&f.text).is_empty()), "no ops were found");
    assert_none(&without_example(&files));
}

#[test]
fn an_op_without_an_example_is_found() {
    let example = "/// A.\n///\n/// ```\n/// A { x }.run(&cpu)?;\n/// ```\n#[derive(Debug)]\n";
    let op = |docs: &str| format!("{docs}pub struct A<'a> {{}}\nimpl<B: Storage> Op<B> for A<'_> {{}}\n");
    assert_none(&without_example(&[File::new("src/ops/a.rs", &op(example)), File::new("src/cpu/a.rs", &op(""))]));
    let bad = ["", "/// A.\n", "/// ```\n/// A { x };\n/// ```\n", "/// ```\n/// B { x }.run(&cpu)?;\n/// ```\n"];
    for docs in bad {
        let problem = "src/ops/a.rs: the documentation of A has no example that runs it";
        assert_eq!(without_example(&[File::new("src/ops/a.rs", &op(docs))]), [problem], "{docs}");
    }
}
