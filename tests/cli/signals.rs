//! Signals as those who send them send them: twice, in a row, or to who ignores them.

use crate::{small_model, text, train};
use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, ChildStderr, Command, Stdio},
    thread,
    time::Duration,
};

/// Starts a run without an end; returns when it says that this step is done. `dispositions` is what `env` is told of
/// signals: who runs the tests in the background may ignore some.
fn begun(run: &mut Command, output: &Path, dispositions: &str, step: &str) -> (Child, BufReader<ChildStderr>) {
    run.args(["--epochs", "10000", "--logging-steps", "1", "--output", text(output)]);
    let mut command = Command::new("env");
    command.arg(dispositions).arg(run.get_program()).args(run.get_args());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    until(&mut said, step);
    (child, said)
}

/// The embedded model with so many micro-batches of 16 in each step, which take about 0.2 s each.
fn long_steps(micro_batches: &str) -> Command {
    let data = crate::root().join("examples/assets/town/train.jsonl");
    train(&["--data", text(&data), "--gradient-accumulation-steps", micro_batches])
}

fn until(said: &mut BufReader<ChildStderr>, word: &str) {
    assert!(said.lines().any(|line| line.unwrap().contains(word)), "it never said `{word}`");
}

fn send(signal: &str, child: &Child) {
    assert!(Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap().success());
}

const DEFAULT: &str = "--default-signal=INT,TERM,HUP";

/// `timeout` sends its signal to the process and then to its group; a terminal that closes sends several SIGHUP.
#[test]
fn signals_in_a_row_are_one() {
    for (signal, pause, code) in [("TERM", 5, 143), ("INT", 60, 130), ("HUP", 5, 129), ("HUP", 300, 129)] {
        let output = tempfile::tempdir().unwrap();
        let (mut child, said) = begun(&mut long_steps("3"), output.path(), DEFAULT, "step 1/");
        send(signal, &child);
        thread::sleep(Duration::from_millis(pause));
        send(signal, &child);
        said.lines().for_each(drop);
        assert_eq!(child.wait().unwrap().code(), Some(code), "{signal}, {pause} ms");
        assert!(output.path().join("adapter_model.safetensors").exists(), "{signal}, {pause} ms: the run was lost");
    }
}

#[test]
fn what_nohup_ignores_stays_ignored() {
    let (model, output) = (small_model(), tempfile::tempdir().unwrap());
    let (mut child, mut said) = begun(&mut model.train(&[]), output.path(), "--ignore-signal=HUP", "step 2/");
    send("HUP", &child);
    thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "SIGHUP ended it");
    send("TERM", &child);
    until(&mut said, "interrupted");
    said.lines().for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

/// While a save is tried again, no signal ends the program, and it ends with the signal that came first.
#[test]
fn no_signal_ends_a_wait_at_once() {
    let (model, parent) = (small_model(), tempfile::tempdir().unwrap());
    let output = parent.path().join("adapter");
    let (mut child, mut said) = begun(&mut model.train(&[]), &output, DEFAULT, "step 2/");
    fs::rename(&output, parent.path().join("moved")).unwrap();
    fs::write(&output, "").unwrap();
    send("TERM", &child);
    until(&mut said, "kept in memory");
    for _ in 0..3 {
        send("HUP", &child);
        thread::sleep(Duration::from_millis(30));
    }
    fs::remove_file(&output).unwrap();
    fs::create_dir(&output).unwrap();
    send("HUP", &child);
    said.lines().for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(output.join("adapter_model.safetensors").exists());
}

#[test]
fn a_second_signal_ends_at_once() {
    let output = tempfile::tempdir().unwrap();
    let mut run = long_steps("1000");
    let (stdout, stderr) = (Stdio::piped(), Stdio::null());
    run.args(["--output", text(output.path())]);
    let mut command = Command::new("env");
    command.arg(DEFAULT).arg(run.get_program()).args(run.get_args());
    let mut child = command.stdout(stdout).stderr(stderr).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map(Result::unwrap).any(|line| line.contains("trainable numbers")));
    thread::sleep(Duration::from_millis(300));
    send("INT", &child);
    thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "the first signal ended it");
    send("TERM", &child);
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(!output.path().join("adapter_model.safetensors").exists());
}
