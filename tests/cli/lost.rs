//! Nothing that was trained is lost, and nothing of the user's is overwritten.

use crate::{example, saved, send, small_model, text, until};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

#[test]
fn a_closed_standard_output_loses_nothing() {
    let (model, output) = (small_model(), tempfile::tempdir().unwrap());
    let mut command = model.train(&["--max-steps", "3", "--output", text(output.path())]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    assert!(saved(output.path()) && !said.contains("panicked"), "{said}");
}

#[test]
fn a_full_standard_output_is_an_error_after_the_work() {
    let (model, output) = (small_model(), tempfile::tempdir().unwrap());
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let adapter = output.path().join("adapter");
    let mut training = model.train(&["--max-steps", "3", "--output", text(&adapter)]);
    let quantized = output.path().join("quantized");
    let mut quantizing = Command::new(example("quantize"));
    quantizing.args(["--device", "cpu", "--model", text(model.path()), "--output", text(&quantized)]);
    let mut inference = Command::new(example("infer"));
    inference.args(["--device", "cpu", "--prompt", "The", "--max-new-tokens", "2"]);
    let csv = output.path().join("speed.csv");
    let mut measuring = Command::new(example("decode_speed"));
    measuring.args(["--shape", "tiny", "--device", "cpu", "--context", "8", "--new-tokens", "4", "--csv", text(&csv)]);
    let info = Command::new(example("device_info"));
    let programs = [("train", &mut training), ("quantize", &mut quantizing), ("infer", &mut inference)];
    let others = [("decode_speed", &mut measuring), ("device_info", &mut { info })];
    for (name, command) in programs.into_iter().chain(others) {
        let done = command.stdout(full()).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(1), "{name}: {said}");
        assert!(said.contains("standard output") && !said.contains("panicked"), "{name}: {said}");
    }
    assert!(saved(&adapter) && quantized.join("model.safetensors").exists() && csv.exists());
}

/// `--help` and `--version` are what was asked for: not to have printed them is an error, unless nobody reads any more.
#[test]
fn help_that_cannot_be_printed_is_an_error() {
    let programs = ["train_qwen3_lora", "infer", "quantize", "logits", "device_info", "decode_speed", "train_speed"];
    for (name, option) in programs.iter().flat_map(|name| [(name, "--help"), (name, "--version")]) {
        let run = |stdout: Stdio| {
            let done = Command::new(example(name)).arg(option).stdout(stdout).stderr(Stdio::piped()).output().unwrap();
            (done.status.code(), String::from_utf8(done.stderr).unwrap())
        };
        let (code, said) = run(File::options().write(true).open("/dev/full").unwrap().into());
        assert!(
            code == Some(1) && said.contains("cannot write to standard output"),
            "{name} {option}: {code:?}, {said}"
        );
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(run(writer.into()), (Some(0), String::new()), "{name} {option}");
    }
}

#[test]
fn a_gone_standard_error_stops_nothing() {
    let (model, output) = (small_model(), tempfile::tempdir().unwrap());
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command = model.train(&["--max-steps", "3", "--output", text(output.path())]);
    assert!(command.stdout(Stdio::null()).stderr(full).status().unwrap().success());
    assert!(saved(output.path()));
}

#[test]
fn an_adapter_is_not_overwritten_unasked() {
    let (model, output) = (small_model(), tempfile::tempdir().unwrap());
    let run = |more: &[&str]| model.train(&["--max-steps", "1", "--output", text(output.path())]).args(more).output();
    assert!(run(&[]).unwrap().status.success());
    let first = fs::read(output.path().join("adapter_model.safetensors")).unwrap();
    let said = String::from_utf8(run(&["--seed", "1"]).unwrap().stderr).unwrap();
    assert!(said.contains("--overwrite") && said.contains("adapter_model.safetensors"), "{said}");
    assert_eq!(fs::read(output.path().join("adapter_model.safetensors")).unwrap(), first);
    assert!(run(&["--seed", "1", "--overwrite"]).unwrap().status.success());
    assert_ne!(fs::read(output.path().join("adapter_model.safetensors")).unwrap(), first);
}

/// What a terminal, a scheduler and a closed connection send.
#[test]
fn every_signal_that_asks_to_end_saves_first() {
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let (model, output) = (small_model(), tempfile::tempdir().unwrap());
        let mut command = model.train(&["--epochs", "100000", "--logging-steps", "1", "--output", text(output.path())]);
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        until(&mut lines, "step 3/");
        send(signal, &child);
        lines.for_each(drop);
        assert_eq!(child.wait().unwrap().code(), Some(code), "{signal}");
        assert!(saved(output.path()), "{signal}");
        let metrics = fs::read_to_string(output.path().join("metrics.jsonl")).unwrap();
        assert!(metrics.lines().count() >= 3, "{metrics}");
    }
}

#[test]
fn an_interrupted_answer_says_so() {
    let model = small_model();
    let mut command = Command::new(example("infer"));
    command.args(["--device", "cpu", "--prompt", "The", "--max-new-tokens", "100000"]);
    command.args(["--model", text(model.path()), "--raw"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut byte = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
    send("INT", &child);
    let mut rest = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn results_are_as_readable_as_other_files() {
    let (model, output) = (small_model(), tempfile::tempdir().unwrap());
    assert!(model.train(&["--max-steps", "1", "--output", text(output.path())]).output().unwrap().status.success());
    let other = output.path().join("other");
    fs::write(&other, "").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&output.path().join("adapter_model.safetensors")), mode(&other));
}
