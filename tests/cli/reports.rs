//! `halfbyte report`, for a run that was killed.

use crate::{halfbyte, small_model, text, until};
use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

#[test]
fn a_killed_run_has_a_report_too() {
    let (model, output) = (small_model(), tempfile::tempdir().unwrap());
    let mut command = model.train(&["--epochs", "100000", "--logging-steps", "1", "--output", text(output.path())]);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    until(&mut BufReader::new(child.stderr.take().unwrap()).lines(), "step 3/");
    child.kill().unwrap();
    child.wait().unwrap();
    let report = || Command::new(halfbyte()).arg("report").arg(output.path()).output().unwrap();
    let done = report();
    let said = String::from_utf8([&*done.stdout, &done.stderr].concat()).unwrap();
    assert!(done.status.success() && said.contains("report.html\n") && said.contains("loss.svg\n"), "{said}");
    let page = fs::read_to_string(output.path().join("report.html")).unwrap();
    assert!(page.contains("not finished: ") && page.contains(" of 400000 steps"), "{page}");
    assert!(page.contains("<code>lora_r</code> = 16") && page.contains("base: nf4"), "{page}");
    assert!(output.path().join("metrics.partial.jsonl").exists(), "what a run that goes on needs is gone");
    fs::remove_file(output.path().join("metrics.partial.jsonl")).unwrap();
    let refused = String::from_utf8(report().stderr).unwrap();
    assert!(refused.contains("has no metrics.jsonl") && refused.contains("--output"), "{refused}");
}

#[test]
fn as_much_is_told_as_is_asked_for() {
    let (model, output) = (small_model(), tempfile::tempdir().unwrap());
    let run = |level: &str, more: &[&str]| {
        let mut command = model.train(&["--max-steps", "2", "--output", text(output.path()), "--log-level", level]);
        let done = command.args(more).output().unwrap();
        (done.status.success(), String::from_utf8(done.stderr).unwrap())
    };
    assert_eq!(run("error", &[]), (true, String::new()));
    let (done, said) = run("error", &[]);
    assert!(!done && said.starts_with("error: ") && said.lines().count() == 1, "{said}");
    let levels = [("warn", 0), ("info", 1), ("debug", 2), ("trace", 3)];
    let events =
        [" INFO halfbyte_runtime::model::load: ", "DEBUG halfbyte_runtime::train::run::steps: step step=2", "TRACE "];
    for (level, known) in levels {
        let (done, said) = run(level, &["--overwrite", "--save-steps", "1"]);
        let has = events.map(|event| said.contains(event));
        assert!(done && said.contains("step 2/2"), "{said}");
        assert_eq!(has, [known > 0, known > 1, known > 2], "{level}: {said}");
    }
}
