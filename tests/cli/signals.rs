//! Signals as those who send them send them: early, twice, in a row, or to who ignores them.

use crate::{Begun, example, large_model, saved, send, small_model, text, train, until};
use std::{
    ffi::OsString,
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

pub const DEFAULT: &str = "--default-signal=INT,TERM,HUP";

const KINDS: [(&str, i32); 3] = [("INT", 130), ("TERM", 143), ("HUP", 129)];

/// `dispositions` is what `env` is told of signals: who runs the tests in the background may ignore some.
fn with_signals(run: &Command, dispositions: &str) -> Command {
    let mut command = Command::new("env");
    command.arg(dispositions).arg(run.get_program()).args(run.get_args()).stdin(Stdio::null());
    command
}

/// Starts a run without an end; returns when it says that this step is done.
pub fn begun(run: &mut Command, output: &Path, dispositions: &str, step: &str) -> Begun {
    run.args(["--epochs", "10000", "--logging-steps", "1", "--output", text(output)]);
    let mut command = with_signals(run, dispositions);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    until(&mut said, step);
    Begun { child, said }
}

/// The embedded model with so many micro-batches of 16 in each step, which take about 0.2 s each.
fn long_steps(micro_batches: &str) -> Command {
    let data = crate::root().join("runtime/assets/town/train.jsonl");
    train(&["--data", text(&data), "--gradient-accumulation-steps", micro_batches])
}

/// What a program said that was sent a signal when `moment` had come.
struct Interrupted {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn interrupted(mut command: Command, signal: &str, moment: impl Fn(&mut Child) -> bool) -> Interrupted {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while !moment(&mut child) {
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none() && began.elapsed() < Duration::from_secs(60), "it never came to that: {ended:?}");
        thread::sleep(Duration::from_millis(1));
    }
    send(signal, &child);
    // Open, or who reads it would see its end.
    let _stdin = child.stdin.take();
    let done = child.wait_with_output().unwrap();
    let [stdout, stderr] = [done.stdout, done.stderr].map(|said| String::from_utf8(said).unwrap());
    Interrupted { code: done.status.code(), stdout, stderr }
}

fn names(dir: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = fs::read_dir(dir).into_iter().flatten().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    names
}

/// Something of this name is being written there.
fn partial(dir: &Path, name: &str) -> bool {
    let (begin, end) = (format!(".{name}."), ".partial");
    names(dir).iter().map(|name| name.to_string_lossy()).any(|name| name.starts_with(&begin) && name.ends_with(end))
}

/// Signals are heard, the last of which is SIGHUP, the lowest bit.
fn listens(child: &Child) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(caught.trim(), 16).unwrap() & 1 == 1
}

/// The checkpoint is open: what follows is loading.
fn loads(child: &Child) -> bool {
    let maps = fs::read_to_string(format!("/proc/{}/maps", child.id()));
    maps.is_ok_and(|maps| maps.contains("model.safetensors"))
}

/// Until it says this on its standard output.
fn says(child: &mut Child, word: &str) -> bool {
    // Not buffered: what comes after that is for others.
    let (mut line, mut byte) = (Vec::new(), [0]);
    while child.stdout.as_mut().unwrap().read(&mut byte).unwrap() == 1 {
        line.push(byte[0]);
        if line.ends_with(word.as_bytes()) {
            return true;
        }
    }
    panic!("it never said `{word}`");
}

/// A training run that ends at once when `moment` has come, before it says `next`, and leaves its folder as it was.
fn nothing_trained(run: impl Fn() -> Command, moment: impl Fn(&mut Child, &Path) -> bool, next: &str) {
    let parent = tempfile::tempdir().unwrap();
    let [fresh, old] = ["made/for/it", "old"].map(|name| parent.path().join(name));
    fs::create_dir(&old).unwrap();
    fs::write(old.join("notes.txt"), "the user's").unwrap();
    for ((signal, code), output) in KINDS.into_iter().flat_map(|kind| [(kind, &fresh), (kind, &old)]) {
        let command = with_signals(run().args(["--output", text(output)]), DEFAULT);
        let Interrupted { code: ended, stdout, stderr } = interrupted(command, signal, |child| moment(child, output));
        assert!(!stdout.contains(next) && !stderr.contains(next), "{signal} waited for that: {stdout}{stderr}");
        assert_eq!(ended, Some(code), "{signal}: {stdout}{stderr}");
        assert!(stderr.ends_with("nothing was trained, and nothing is saved\n"), "{signal}: {stderr}");
        assert_eq!(names(parent.path()), ["old"], "{signal}");
        assert_eq!(names(&old), ["notes.txt"], "{signal}");
    }
}

#[test]
fn reading_texts_is_ended_at_once() {
    let model = small_model();
    let data = fs::read_to_string(model.path().join("data.jsonl")).unwrap() + "\n";
    fs::write(model.path().join("data.jsonl"), data.repeat(20_000)).unwrap();
    nothing_trained(|| model.train(&[]), |child, output| listens(child) && output.exists(), "loaded in");
}

#[test]
fn loading_is_ended_at_once() {
    let model = large_model();
    let reserved = |_: &mut Child, output: &Path| partial(output, "adapter_model.safetensors");
    nothing_trained(|| model.train(&[]), reserved, "loaded in");
}

#[test]
fn the_exam_before_training_is_ended_at_once() {
    nothing_trained(|| train(&[]), |child, _| says(child, "trainable numbers\n"), "before: exam");
}

#[test]
fn the_first_step_is_ended_at_once() {
    nothing_trained(|| long_steps("1000"), |child, _| says(child, "trainable numbers\n"), "step 1/");
}

/// Waiting for its prompt, loading, or reading the prompt, `infer` has nothing to end in order.
#[test]
fn an_answer_that_has_not_begun_is_ended_at_once() {
    let (small, large) = (small_model(), large_model());
    let infer = |arguments: &[&str]| {
        let mut run = Command::new(example("infer"));
        run.args(["--device", "cpu", "--raw"]).args(arguments);
        with_signals(&run, DEFAULT)
    };
    let mut waiting = infer(&["--model", text(small.path())]);
    waiting.stdin(Stdio::piped());
    let long = "The ferry bell shall be rung. ".repeat(4000);
    let reading = infer(&["--model", text(small.path()), "--prompt", &long]);
    let loading = infer(&["--model", text(large.path()), "--prompt", "The"]);
    let soon = |after: fn(&Child) -> bool| {
        move |child: &Child| {
            let come = after(child);
            thread::sleep(Duration::from_millis(if come { 300 } else { 0 }));
            come
        }
    };
    for (run, moment) in [
        (waiting, Box::new(soon(listens)) as Box<dyn Fn(&Child) -> bool>),
        (loading, Box::new(loads)),
        (reading, Box::new(soon(loads))),
    ] {
        let Interrupted { code, stdout, stderr } = interrupted(run, "TERM", |child| moment(child));
        assert_eq!(code, Some(143), "{stderr}");
        assert!(stdout.is_empty() && stderr.ends_with("interrupted: nothing was written\n"), "{stdout}{stderr}");
    }
}

#[test]
fn an_unfinished_checkpoint_is_removed() {
    let (model, parent) = (large_model(), tempfile::tempdir().unwrap());
    for ((signal, code), name) in KINDS.into_iter().zip(["fresh", "made/for/it", "old"]) {
        let output = parent.path().join(name);
        if name == "old" {
            fs::create_dir(&output).unwrap();
            fs::write(output.join("notes.txt"), "the user's").unwrap();
        }
        let mut run = Command::new(example("quantize"));
        run.args(["--device", "cpu", "--model", text(model.path()), "--output", text(&output)]);
        let ended = interrupted(with_signals(&run, DEFAULT), signal, |_| partial(&output, "model.safetensors"));
        assert_eq!(ended.code, Some(code), "{}", ended.stderr);
        assert!(ended.stderr.ends_with("interrupted: unfinished files are removed\n"), "{}", ended.stderr);
        assert!(!ended.stdout.contains("written to"), "{}", ended.stdout);
        let left = if name == "old" { vec![OsString::from("notes.txt")] } else { vec![] };
        assert_eq!((output.exists(), names(&output)), (name == "old", left), "{signal}");
    }
    assert_eq!(names(parent.path()), ["old"]);
}

/// While it loads, and while it writes: then the file may be whole already, but nothing else is there.
#[test]
fn unfinished_logits_are_removed() {
    let (small, large, parent) = (small_model(), large_model(), tempfile::tempdir().unwrap());
    let output = parent.path().join("logits");
    let logits = |model: &Path, prompt: &str| {
        let mut run = Command::new(example("logits"));
        run.args(["--device", "cpu", "--model", text(model), "--prompt", prompt, "--output", text(&output)]);
        with_signals(&run, DEFAULT)
    };
    let loading = interrupted(logits(large.path(), "The"), "INT", |child| loads(child));
    assert_eq!(loading.code, Some(130), "{}", loading.stderr);
    assert_eq!(names(parent.path()), [""; 0]);
    let long = "The ferry bell shall be rung. ".repeat(1000);
    let writing = interrupted(logits(small.path(), &long), "HUP", |_| partial(parent.path(), "logits"));
    assert_eq!(writing.code, Some(129), "{}", writing.stderr);
    assert!(names(parent.path()).iter().all(|name| name == "logits"), "{:?}", names(parent.path()));
}

/// `timeout` sends its signal to the process and then to its group; a terminal that closes sends several SIGHUP.
#[test]
fn signals_in_a_row_are_one() {
    for (signal, pause, code) in [("TERM", 5, 143), ("INT", 60, 130), ("HUP", 5, 129), ("HUP", 300, 129)] {
        let output = tempfile::tempdir().unwrap();
        let run = begun(&mut long_steps("3"), output.path(), DEFAULT, "step 1/");
        send(signal, &run.child);
        thread::sleep(Duration::from_millis(pause));
        send(signal, &run.child);
        assert_eq!(run.end(), Some(code), "{signal}, {pause} ms");
        assert!(saved(output.path()), "{signal}, {pause} ms: the run was lost");
    }
}

#[test]
fn what_nohup_ignores_stays_ignored() {
    let (model, output) = (small_model(), tempfile::tempdir().unwrap());
    let mut run = begun(&mut model.train(&[]), output.path(), "--ignore-signal=HUP", "step 2/");
    send("HUP", &run.child);
    thread::sleep(Duration::from_millis(300));
    assert!(run.child.try_wait().unwrap().is_none(), "SIGHUP ended it");
    send("TERM", &run.child);
    until(&mut run.said, "interrupted");
    assert_eq!(run.end(), Some(143));
}

#[test]
fn a_second_signal_ends_at_once() {
    let output = tempfile::tempdir().unwrap();
    let mut run = begun(&mut long_steps("30"), output.path(), DEFAULT, "step 1/");
    send("INT", &run.child);
    thread::sleep(Duration::from_millis(300));
    let ended = run.child.try_wait().unwrap();
    assert!(ended.is_none(), "the first signal ended it: {ended:?}");
    send("TERM", &run.child);
    assert_eq!(run.end(), Some(143));
    assert_eq!(names(output.path()), ["metrics.partial.jsonl"]);
}
