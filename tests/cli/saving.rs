//! A save that fails: the adapter is kept in memory until it is saved, here or elsewhere, or given up.

use crate::{
    Begun, SmallModel, saved, send,
    signals::{DEFAULT, begun},
    small_model, text, until,
};
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// A run that was asked to end, and cannot save.
struct Waiting {
    run: Begun,
    output: PathBuf,
    _folders: (SmallModel, TempDir),
}

impl Waiting {
    fn begin() -> Self {
        let (model, parent) = (small_model(), tempfile::tempdir().unwrap());
        let output = parent.path().join("adapter");
        let mut run = begun(&mut model.train(&[]), &output, DEFAULT, "step 2/");
        take_away(&output);
        send("TERM", &run.child);
        until(&mut run.said, "kept in memory");
        Waiting { run, output, _folders: (model, parent) }
    }

    fn give_back(&self) {
        fs::remove_file(&self.output).unwrap();
        fs::create_dir(&self.output).unwrap();
    }
}

/// Root may write into any folder, but not into a file.
fn take_away(output: &Path) {
    fs::rename(output, output.with_extension("away")).unwrap();
    fs::write(output, "").unwrap();
}

#[test]
fn a_save_that_fails_is_tried_again() {
    for wake in [Some("HUP"), Some("USR1"), None] {
        let waiting = Waiting::begin();
        waiting.give_back();
        let began = Instant::now();
        if let Some(signal) = wake {
            send(signal, &waiting.run.child);
        }
        assert_eq!(waiting.run.end(), Some(143), "{wake:?}");
        assert!(saved(&waiting.output), "{wake:?}");
        assert!(wake.is_none() || began.elapsed() < Duration::from_secs(8), "{wake:?} did not wake it");
    }
}

/// While a save is tried again, no signal that asks for it ends the program, and it ends with the one that came first.
#[test]
fn no_signal_ends_a_wait_at_once() {
    let waiting = Waiting::begin();
    for signal in ["HUP", "USR1", "HUP"] {
        send(signal, &waiting.run.child);
        thread::sleep(Duration::from_millis(30));
    }
    waiting.give_back();
    send("HUP", &waiting.run.child);
    assert_eq!(waiting.run.end(), Some(143));
    assert!(saved(&waiting.output));
}

/// Asked to end while it waits, it tries once more and says what is lost.
#[test]
fn giving_up_is_an_error() {
    let mut waiting = Waiting::begin();
    send("TERM", &waiting.run.child);
    until(&mut waiting.run.said, "lost");
    assert_eq!(waiting.run.end(), Some(1));
}

#[test]
fn another_folder_can_be_typed() {
    let (model, parent) = (small_model(), tempfile::tempdir().unwrap());
    let [output, other] = ["adapter", "other"].map(|name| parent.path().join(name));
    let run = model.train(&["--epochs", "10000", "--output", text(&output)]);
    let words = [run.get_program()].into_iter().chain(run.get_args());
    let line: Vec<_> = words.map(|word| format!("'{}'", word.display())).collect();
    // It listens to a terminal only: `script` makes one, and shows here what is printed on it.
    let mut script = Command::new("script");
    script.args(["-qec", &format!("exec env {DEFAULT} {}", line.join(" ")), "/dev/null"]);
    let Ok(mut child) = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
        eprintln!("skipped: there is no `script` to make a terminal with");
        return;
    };
    let (mut typed, shown) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let mut shown = shown.split(b'\n').map(|line| Ok(String::from_utf8_lossy(&line.unwrap()).into_owned()));
    until(&mut shown, "trainable numbers");
    let metrics = output.join("metrics.partial.jsonl");
    let began = Instant::now();
    while !fs::read_to_string(&metrics).is_ok_and(|text| text.lines().count() > 1) {
        assert!(began.elapsed() < Duration::from_secs(60), "training never began");
        thread::sleep(Duration::from_millis(5));
    }
    take_away(&output);
    // Ctrl-C, which the terminal makes of this byte.
    typed.write_all(b"\x03").unwrap();
    until(&mut shown, "type another folder");
    // One that cannot be used is refused, and asked for again.
    writeln!(typed, "{}", output.join("below").display()).unwrap();
    until(&mut shown, "error:");
    writeln!(typed, "{}", other.display()).unwrap();
    until(&mut shown, &format!("adapter saved in {}", other.display()));
    shown.for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(saved(&other) && other.join("metrics.jsonl").exists());
}
