//! `halfbyte`, whose subcommands are the examples.

use crate::{effects::version, example, halfbyte};
use std::process::{Command, Output};

const TWINS: [(&str, &str); 11] = [
    ("train", "train_qwen3_lora"),
    ("infer", "infer"),
    ("evaluate", "evaluate_multiple_choice"),
    ("rag", "rag"),
    ("quantize", "quantize"),
    ("merge", "merge_lora"),
    ("export", "export_gguf"),
    ("logits", "logits"),
    ("speed-decode", "decode_speed"),
    ("speed-train", "train_speed"),
    ("doctor", "device_info"),
];

fn run(command: &mut Command) -> (Output, String) {
    let done = command.output().unwrap();
    let said = [&*done.stdout, &done.stderr].concat();
    (done, String::from_utf8(said).unwrap())
}

fn said(arguments: &[&str]) -> String {
    let (done, said) = run(Command::new(halfbyte()).args(arguments));
    assert!(done.status.success(), "{said}");
    said
}

#[test]
fn a_subcommand_is_what_its_example_is() {
    let all = said(&["--help"]);
    for (name, twin) in TWINS {
        let help = said(&[name, "--help"]);
        let (_, other) = run(Command::new(example(twin)).arg("--help"));
        assert_eq!(help, other.replacen(&format!("Usage: {twin}"), &format!("Usage: halfbyte {name}"), 1));
        assert!(all.contains(&format!("\n  {name} ")), "{all}");
        assert_eq!(said(&[name, "--version"]).trim_end(), version(&format!("halfbyte {name}")));
    }
    assert_eq!(said(&["--version"]).trim_end(), version("halfbyte"));
}

#[test]
fn a_subcommand_that_is_none_is_refused() {
    for (arguments, wanted) in
        [(&["trian"][..], "'train'"), (&[], "Commands:"), (&["infer", "--lora-r", "1"], "--lora")]
    {
        let (done, said) = run(Command::new(halfbyte()).args(arguments));
        assert!(done.status.code() == Some(2) && done.stdout.is_empty() && said.contains(wanted), "{said}");
    }
}

#[test]
fn a_shell_completes_subcommands_and_options() {
    let script = r#"source /dev/stdin <<<"$("$1" completions bash)"
        COMP_WORDS=(halfbyte tr); COMP_CWORD=1; _halfbyte halfbyte tr halfbyte; echo "${COMPREPLY[@]}"
        COMP_WORDS=(halfbyte train --lora-dr); COMP_CWORD=2; _halfbyte halfbyte --lora-dr train; echo "${COMPREPLY[@]}""#;
    let (_, said) = run(Command::new("bash").args(["-c", script, "bash"]).arg(halfbyte()));
    assert_eq!(said, "train\n--lora-dropout\n");
}

#[test]
fn the_doctor_says_what_there_is() {
    let (done, said) = run(Command::new(halfbyte()).arg("doctor").env("HALFBYTE_CPU", "portable"));
    assert!(done.status.success(), "{said}");
    for line in ["halfbyte", "built for", "kernels", "driver", "cuBLASLt", "CPU", "threads", "memory", "device"] {
        assert!(said.lines().any(|said| said.starts_with(&format!("{line:<10} "))), "{line}: {said}");
    }
    assert!(said.contains("cpu (portable") && said.contains("HALFBYTE_CPU=portable"), "{said}");
}
