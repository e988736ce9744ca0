//! Every number that a user can set has a range, and is refused outside of it before anything is opened or written.

use crate::{example, refused, text, train};
use std::{fs, path::Path, process::Command};

/// Refused for this value, by the option's name and its range.
fn refuses(command: Command, option: &str, value: &str, output: &Path) {
    let mut command = command;
    command.arg(format!("{option}={value}"));
    refused(command, output, &[option, value, "it must be a"]);
}

const TRAINING: [(&str, &[&str]); 23] = [
    ("--learning-rate", &["-1", "nan", "inf"]),
    ("--warmup-ratio", &["-0.1", "1.5", "nan"]),
    ("--min-lr", &["-1", "nan"]),
    ("--decay-ratio", &["-0.1", "1.5"]),
    ("--lr-power", &["0", "nan"]),
    ("--loraplus-lr-ratio", &["0", "-1", "nan", "inf"]),
    ("--weight-decay", &["-1", "nan"]),
    ("--max-grad-norm", &["-1", "nan", "inf"]),
    ("--neftune-alpha", &["-1", "nan"]),
    ("--epochs", &["0", "-1", "4e9", "nan"]),
    ("--max-steps", &["0", "-1", "18446744073709551615"]),
    ("--batch-size", &["0", "-1", "18446744073709551615"]),
    ("--gradient-accumulation-steps", &["0", "18446744073709551615"]),
    ("--max-seq-length", &["0", "18446744073709551615"]),
    ("--logging-steps", &["0", "-1"]),
    ("--eval-steps", &["-1", "x"]),
    ("--early-stopping-patience", &["0", "x"]),
    ("--save-steps", &["-1", "x"]),
    ("--save-minutes", &["-1", "nan", "inf"]),
    ("--save-total-limit", &["0", "-1"]),
    ("--lora-r", &["0", "-1", "4611686018427387904"]),
    ("--lora-alpha", &["0", "-1", "nan"]),
    ("--lora-dropout", &["1", "2", "-0.1", "nan"]),
];

const INFERENCE: [(&str, &[&str]); 6] = [
    ("--max-new-tokens", &["0", "18446744073709551615"]),
    ("--temperature", &["-1", "1e-38", "nan", "inf"]),
    ("--top-k", &["-1", "18446744073709551615"]),
    ("--top-p", &["0", "1.1", "nan"]),
    ("--min-p", &["-0.1", "1.1", "nan"]),
    ("--repetition-penalty", &["0", "-1", "nan", "inf"]),
];

#[test]
fn values_out_of_range_are_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("adapter");
    for (option, values) in TRAINING {
        values.iter().for_each(|value| refuses(train(&[]), option, value, &output));
    }
    assert!(!output.exists());
    for (option, values) in INFERENCE {
        for value in values {
            let done = Command::new(example("infer")).arg(format!("{option}={value}")).output().unwrap();
            let said = String::from_utf8_lossy(&done.stderr);
            assert!(!done.status.success() && said.contains(option) && said.contains("it must be a"), "{said}");
        }
    }
}

#[test]
fn epochs_that_come_to_no_step_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    refused(train(&["--epochs", "1e-9"]), &folder.path().join("adapter"), &["no step with", "samples"]);
}

/// docs/options.md is what the programs say of themselves; `HALFBYTE_BLESS=1` writes it again.
#[test]
fn the_documented_options_are_those_of_the_programs() {
    let path = crate::root().join("docs/options.md");
    let mut want = String::from(
        "# Options\n\nWhat `--help` of each program says. Made by `HALFBYTE_BLESS=1 cargo test --release --test cli`.\n",
    );
    for name in [
        "train_qwen3_lora",
        "infer",
        "evaluate_multiple_choice",
        "rag",
        "quantize",
        "merge_lora",
        "export_gguf",
        "logits",
        "decode_speed",
        "train_speed",
    ] {
        let done = Command::new(example(name)).arg("--help").env("COLUMNS", "110").output().unwrap();
        let help = String::from_utf8(done.stdout).unwrap();
        want += &format!("\n## `{name}`\n\n```text\n{}\n```\n", help.trim_end());
    }
    if std::env::var_os("HALFBYTE_BLESS").is_some() {
        fs::write(&path, &want).unwrap();
    }
    let have = fs::read_to_string(&path).unwrap_or_default();
    assert!(want.contains("--lora-dropout <VALUE>") && want.contains("a number, from 0 to below 1"), "{want}");
    assert!(have == want, "{} is not what the programs say: run with HALFBYTE_BLESS=1", text(&path));
}
