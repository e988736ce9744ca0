//! `src/cuda/params.rs` is what bindgen makes of `kernels/params.h`.
//!
//! `HALFBYTE_BLESS=1` rewrites it. Needs libclang: in `$LIBCLANG_PATH`, in `.toolchain/` (which
//! `scripts/install-cuda-toolchain.sh` fills) or installed; without it the test is skipped and says so, unless
//! `HALFBYTE_REQUIRE_BINDGEN=1`.

use std::path::Path;
use std::process::Command;
use std::{env, fs, panic};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn bindings_are_current() {
    let toolchain = Path::new(ROOT).join(".toolchain/clang/native");
    if env::var_os("LIBCLANG_PATH").is_none() && toolchain.is_dir() {
        return run_again_with(&toolchain);
    }
    if panic::catch_unwind(bindgen::clang_version).is_err() {
        assert!(!is_set("HALFBYTE_REQUIRE_BINDGEN"), "no libclang; run scripts/install-cuda-toolchain.sh");
        eprintln!("skipped: no libclang; scripts/install-cuda-toolchain.sh installs it");
        return;
    }
    let path = Path::new(ROOT).join("src/cuda/params.rs");
    let current = bindings(&Path::new(ROOT).join("kernels/params.h"));
    if is_set("HALFBYTE_BLESS") {
        fs::write(&path, current).unwrap();
    } else {
        let checked_in = fs::read_to_string(&path).unwrap();
        if let Err(difference) = compare(&checked_in, &current) {
            panic!(
                "src/cuda/params.rs is not what kernels/params.h says; \
                 rewrite it with HALFBYTE_BLESS=1 cargo test --test bindings\n{difference}"
            );
        }
    }
}

/// libclang is found through the environment, which a process cannot safely change for itself: so in a child.
fn run_again_with(libclang: &Path) {
    let this = env::current_exe().unwrap();
    let child = Command::new(this).args(["--exact", "bindings_are_current"]).env("LIBCLANG_PATH", libclang).output();
    let child = child.unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{text}");
    assert!(text.contains("1 passed"), "the test did not run again under its own name: {text}");
}

fn bindings(header: &Path) -> String {
    let text = bindgen::builder()
        .header(header.to_str().unwrap())
        .allowlist_file(".*/params.h")
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .use_core()
        .layout_tests(true)
        .disable_header_comment()
        .raw_line("// Made from kernels/params.h by `HALFBYTE_BLESS=1 cargo test --test bindings`; do not edit.")
        .rust_target(bindgen::RustTarget::stable(90, 0).unwrap())
        .rustfmt_configuration_file(Some(Path::new(ROOT).join("rustfmt.toml")))
        .generate()
        .unwrap()
        .to_string();
    constants_as_u32(&text)
}

/// bindgen gives the constants of each C enum a type of their own, an alias of `c_uint`; here they are all `u32`.
fn constants_as_u32(text: &str) -> String {
    let alias = |line: &str| Some(line.strip_prefix("pub type ")?.strip_suffix(" = ::core::ffi::c_uint;")?.to_string());
    let aliases: Vec<String> = text.lines().filter_map(alias).collect();
    let mut out = String::new();
    for line in text.lines().filter(|line| alias(line).is_none()) {
        let constant = line.strip_prefix("pub const ").and_then(|rest| rest.split_once(": "));
        let value = constant.and_then(|(name, rest)| Some((name, rest.split_once(" = ")?)));
        match value {
            Some((name, (kind, value))) if aliases.iter().any(|a| a == kind) => {
                out += &format!("pub const {name}: u32 = {value}\n");
            }
            _ => out += &format!("{line}\n"),
        }
    }
    out
}

/// The first line in which two texts differ.
fn compare(old: &str, new: &str) -> Result<(), String> {
    if old == new {
        return Ok(());
    }
    let n = old.lines().zip(new.lines()).take_while(|(a, b)| a == b).count();
    let line = |text: &str| text.lines().nth(n).unwrap_or("(nothing)").to_string();
    Err(format!("line {}: checked in: {}\nline {}: from the header: {}", n + 1, line(old), n + 1, line(new)))
}

fn is_set(name: &str) -> bool {
    env::var(name).is_ok_and(|v| !matches!(v.as_str(), "" | "0"))
}

#[test]
fn compare_finds_a_changed_and_a_missing_line() {
    assert_eq!(compare("a\nb\n", "a\nb\n"), Ok(()));
    assert!(compare("a\nb\n", "a\nc\n").unwrap_err().contains("line 2: checked in: b"));
    assert!(compare("a\n", "a\nb\n").unwrap_err().contains("checked in: (nothing)"));
}

#[test]
fn constants_of_enums_become_u32() {
    let text = "pub const A: FooConfig = 16;\npub type FooConfig = ::core::ffi::c_uint;\npub const B: Other = 1;\n";
    assert_eq!(constants_as_u32(text), "pub const A: u32 = 16;\npub const B: Other = 1;\n");
}
