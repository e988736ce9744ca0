//! Where `unsafe` stands, and what is said of it.

use super::{File, assert_none, checkout};

/// What a comment that begins with `SAFETY:` may not say: it must name who guarantees what.
const NO_GUARANTOR: &[&str] = &["caller's word", "as above"];

/// Where `unsafe` may stand; every block there says why it is sound.
const UNSAFE_ROOMS: &[&str] = &[
    "src/cuda/blas.rs",
    "src/cuda/blas/algorithm.rs",
    "src/cuda/device.rs",
    "src/cuda/given.rs",
    "src/cuda/graph.rs",
    "src/cuda/kernel.rs",
    "src/cuda/memory.rs",
    "src/cuda/staging.rs",
    "src/cuda/stream.rs",
    "src/cuda/launch/",
    "src/cpu/simd/",
    "src/cpu/memory.rs",
    "src/cpu/pages.rs",
    "src/cpu/pool.rs",
    "src/buffer.rs",
    "src/buffer/foreign.rs",
    "src/dlpack.rs",
    "src/dlpack/",
    "runtime/src/checkpoint/mmap.rs",
];

/// `unsafe` code outside its rooms.
fn unsafe_outside(files: &[File]) -> Vec<String> {
    let checked =
        files.iter().filter(|f| f.path.ends_with(".rs") && !UNSAFE_ROOMS.iter().any(|r| f.path.starts_with(r)));
    let lines = checked.flat_map(|f| f.text.lines().enumerate().map(move |(n, line)| (f, n + 1, line)));
    lines.filter(|(_, _, line)| has_unsafe(line)).map(|(f, n, _)| format!("{}:{n}: unsafe", f.path)).collect()
}

/// Whether a line of Rust has the keyword, comments and strings aside.
fn has_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let unquoted: String = code.split('"').step_by(2).collect();
    unquoted.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe")
}

#[test]
fn unsafe_stays_in_its_rooms() {
    assert_none(&unsafe_outside(&checkout()));
}

#[test]
fn unsafe_outside_its_rooms_is_found() {
    let code = "let x = unsafe { y() };\n// unsafe\n#![deny(unsafe_code)]\nf(\"unsafe\");\n";
    assert_eq!(unsafe_outside(&[File::new("src/a.rs", code)]), ["src/a.rs:1: unsafe"]);
    assert_none(&unsafe_outside(&[File::new("src/cuda/launch/a.rs", code), File::new("src/cpu/simd/x.rs", code)]));
}

/// Comments that claim safety without naming who guarantees it.
fn unguaranteed(files: &[File]) -> Vec<String> {
    let mut problems = Vec::new();
    for file in files.iter().filter(|f| f.path.ends_with(".rs")) {
        let lines: Vec<&str> = file.text.lines().map(str::trim_start).collect();
        for (n, _) in lines.iter().enumerate().filter(|(_, line)| line.starts_with("// SAFETY:")) {
            let comment =
                lines[n..].iter().take_while(|line| line.starts_with("//")).map(|line| line.trim_matches('/'));
            let text = comment.collect::<Vec<_>>().join("").to_lowercase();
            let found = NO_GUARANTOR.iter().filter(|words| text.contains(**words));
            problems.extend(found.map(|words| format!("{}:{}: SAFETY: {words}", file.path, n + 1)));
        }
    }
    problems
}

#[test]
fn safety_names_its_guarantor() {
    assert_none(&unguaranteed(&checkout()));
}

#[test]
fn safety_without_a_guarantor_is_found() {
    let code =
        "// SAFETY: the\n// caller's word.\nunsafe {}\n// SAFETY: As above.\n// SAFETY: `len` was checked by `new`.\n";
    let sample = File::new("src/buffer.rs", code);
    let problems = ["src/buffer.rs:1: SAFETY: caller's word", "src/buffer.rs:4: SAFETY: as above"];
    assert_eq!(unguaranteed(&[sample]), problems);
    assert_none(&unguaranteed(&[File::new("a.rs", "// As above.\n")]));
}
