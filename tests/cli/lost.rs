//! Nothing that was trained is lost, and nothing of the user's is overwritten.

use crate::{example, small_model, text, train};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

fn saved(dir: &Path) -> bool {
    dir.join("adapter_model.safetensors").exists() && dir.join("adapter_config.json").exists()
}

fn send(signal: &str, child: &Child) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

/// Reads lines until one contains `word`.
fn until(lines: &mut impl Iterator<Item = std::io::Result<String>>, word: &str) {
    assert!(lines.any(|line| line.unwrap().contains(word)), "it never said `{word}`");
}

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
    let info = Command::new(example("device_info"));
    let programs = [("train", &mut training), ("quantize", &mut quantizing), ("infer", &mut inference)];
    for (name, command) in programs.into_iter().chain([("device_info", &mut { info })]) {
        let done = command.stdout(full()).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(1), "{name}: {said}");
        assert!(said.contains("standard output") && !said.contains("panicked"), "{name}: {said}");
    }
    assert!(saved(&adapter) && quantized.join("model.safetensors").exists());
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

/// Before the first step there is nothing to save.
#[test]
fn a_signal_before_the_first_step_leaves_the_folder_as_it_was() {
    let parent = tempfile::tempdir().unwrap();
    let output = parent.path().join("adapter");
    // The embedded model, whose exam before the first step takes a while.
    let mut command = train(&["--output", text(&output)]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    until(&mut lines, "trainable numbers");
    send("-INT", &child);
    until(&mut lines, "nothing is saved");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!output.exists());
}

/// What a terminal, a scheduler and a closed connection send.
#[test]
fn every_signal_that_asks_to_end_saves_first() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129)] {
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
    send("-INT", &child);
    let mut rest = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

/// A folder that refuses the adapter at the end: the program waits, and saves as soon as it can.
#[test]
fn a_save_that_fails_is_tried_again() {
    let (model, parent) = (small_model(), tempfile::tempdir().unwrap());
    let output = parent.path().join("adapter");
    let mut command = model.train(&["--epochs", "100000", "--logging-steps", "1", "--output", text(&output)]);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).stdin(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    until(&mut lines, "step 2/");
    // Root may write into any folder, but not into a file.
    fs::rename(&output, parent.path().join("moved")).unwrap();
    fs::write(&output, "").unwrap();
    send("-TERM", &child);
    until(&mut lines, "kept in memory");
    fs::remove_file(&output).unwrap();
    fs::create_dir(&output).unwrap();
    let began = Instant::now();
    send("-HUP", &child);
    lines.for_each(drop);
    child.wait().unwrap();
    assert!(saved(&output) && began.elapsed() < Duration::from_secs(8));
}

/// Asked to end while it waits, it tries once more and says what is lost.
#[test]
fn giving_up_is_an_error() {
    let (model, parent) = (small_model(), tempfile::tempdir().unwrap());
    let output = parent.path().join("adapter");
    let mut command = model.train(&["--epochs", "100000", "--logging-steps", "1", "--output", text(&output)]);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).stdin(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    until(&mut lines, "step 2/");
    fs::remove_dir_all(&output).unwrap();
    fs::write(&output, "").unwrap();
    send("-TERM", &child);
    until(&mut lines, "kept in memory");
    std::thread::sleep(Duration::from_millis(500));
    send("-TERM", &child);
    until(&mut lines, "lost");
    lines.for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(1));
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
