//! Folders that runs write into: one run at a time, nothing of a killed one in the way.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs};

use halfbyte_runtime::checkpoint::{Checkpoint, CheckpointWriter, Dtype, Tensor, write_file};
use halfbyte_runtime::config::Qwen3Config;
use halfbyte_runtime::files::OutputFolder;
use halfbyte_runtime::lora::Adapter;
use halfbyte_runtime::train::metrics::Record;
use halfbyte_runtime::train::output::RunOutput;

use super::{golden, names};

fn adapter() -> Adapter {
    let model = Qwen3Config::open(&golden("qwen3-tiny/untied")).unwrap();
    Adapter::open(&golden("qwen3-tiny/adapter-plain"), &model).unwrap().0
}

/// A run in a folder that has noted its first step.
fn begun(dir: &Path) -> RunOutput {
    let mut run = RunOutput::create(dir, false).unwrap();
    run.record(&Record { step: 1, ..Record::default() }).unwrap();
    run
}

#[test]
fn a_second_run_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = RunOutput::create(dir.path(), false).unwrap();
    let error = RunOutput::create(dir.path(), true).unwrap_err().to_string();
    assert!(error.contains("another run") && error.contains(&*dir.path().to_string_lossy()), "{error}");
    drop(first);
    RunOutput::create(dir.path(), false).unwrap();
}

#[test]
fn an_adapter_is_not_overwritten_unasked() {
    let dir = tempfile::tempdir().unwrap();
    adapter().save(dir.path()).unwrap();
    let error = RunOutput::create(dir.path(), false).unwrap_err().to_string();
    assert!(error.contains("adapter_model.safetensors") && error.contains("--overwrite"), "{error}");
    RunOutput::create(dir.path(), true).unwrap();
    fs::remove_file(dir.path().join("adapter_model.safetensors")).unwrap();
    assert!(RunOutput::create(dir.path(), false).is_err(), "half an adapter is somebody's, too");
}

/// Process ids repeat in containers, and a name from one must not stand in the way of the next run's.
#[test]
fn what_killed_runs_left_is_cleared_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let stale = [".adapter_model.safetensors.1-0.tmp", ".probe.0123456789abcdef.partial", "metrics.partial.jsonl"];
    let foreign = [".hidden.tmp", "notes.partial", ".a.12-x.tmp", "a.0123456789abcdef.partial", "README.md"];
    for name in stale.iter().chain(&foreign) {
        fs::write(dir.path().join(name), "x").unwrap();
    }
    for id in 0..64 {
        fs::write(dir.path().join(format!(".probe.{}-{id}.tmp", std::process::id())), "x").unwrap();
    }
    drop(OutputFolder::claim(dir.path()).unwrap());
    let mut left = foreign.to_vec();
    left.sort_unstable();
    assert_eq!(names(dir.path()), left);
}

#[test]
fn a_run_without_a_step_leaves_no_trace() {
    let parent = tempfile::tempdir().unwrap();
    let mut output = RunOutput::create(&parent.path().join("a/b"), false).unwrap();
    output.reserve(1 << 20).unwrap();
    drop(output);
    assert_eq!(names(parent.path()), [""; 0]);
}

/// Until the adapter is saved, the metrics beside the old one are the old one's.
#[test]
fn metrics_belong_to_the_adapter_beside_them() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = || fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
    begun(dir.path()).save(&adapter()).unwrap();
    let mut run = RunOutput::create(dir.path(), true).unwrap();
    run.record(&Record { step: 7, ..Record::default() }).unwrap();
    assert_eq!(metrics(), "{\"step\":1}\n");
    assert_eq!(fs::read_to_string(dir.path().join("metrics.partial.jsonl")).unwrap(), "{\"step\":7}\n");
    run.save(&adapter()).unwrap();
    assert_eq!(metrics(), "{\"step\":7}\n");
    assert!(!names(dir.path()).iter().any(|name| name.contains("partial")), "{:?}", names(dir.path()));
}

/// A folder that cannot take the adapter any more: the run goes on in another.
#[test]
fn a_save_that_failed_can_go_elsewhere() {
    let parent = tempfile::tempdir().unwrap();
    let (gone, other) = (parent.path().join("gone"), parent.path().join("other"));
    let mut run = begun(&gone);
    fs::remove_dir_all(&gone).unwrap();
    run.save(&adapter()).unwrap_err();
    run.move_to(&other).unwrap();
    run.save(&adapter()).unwrap();
    assert!(names(&other).iter().any(|name| name == "adapter_model.safetensors"), "{:?}", names(&other));
}

#[test]
fn a_run_that_moves_takes_its_metrics_along() {
    let parent = tempfile::tempdir().unwrap();
    let (first, other) = (parent.path().join("first"), parent.path().join("other"));
    let mut run = begun(&first);
    run.move_to(&first.join(".")).unwrap_or_else(|e| panic!("its own folder is refused: {e}"));
    run.move_to(&other).unwrap();
    run.save(&adapter()).unwrap();
    drop(run);
    assert_eq!(names(parent.path()), ["other"]);
    assert_eq!(fs::read_to_string(other.join("metrics.jsonl")).unwrap(), "{\"step\":1}\n");
}

#[test]
fn room_that_is_not_there_is_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let error = RunOutput::create(dir.path(), false).unwrap().reserve(1 << 60).unwrap_err().to_string();
    assert!(error.contains("iB are free"), "{error}");
    let writer = CheckpointWriter::create(dir.path(), 1 << 30).unwrap();
    assert!(writer.expect_bytes(1 << 60).unwrap_err().to_string().contains("iB are free"));
}

/// A record in a downloaded folder must not reach out of it.
#[test]
fn a_forged_record_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let temporary = ".x.0123456789abcdef.partial";
    fs::write(dir.path().join(temporary), "x").unwrap();
    for [from, to] in [[temporary, "../x"], ["../.x.0123456789abcdef.partial", "x"], ["/etc/passwd", "x"], ["a", "b"]] {
        fs::write(dir.path().join(".halfbyte-commit"), format!(r#"{{"files": [["{from}", "{to}"]]}}"#)).unwrap();
        let error = Checkpoint::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(".halfbyte-commit"), "{error}");
    }
    assert!(dir.path().join(temporary).exists());
}

#[cfg(unix)]
#[test]
fn pipes_are_refused_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["model.safetensors", "config.json", "adapter_config.json", "tokenizer.json"] {
        let made = Command::new("mkfifo").arg(dir.path().join(name)).status().unwrap();
        assert!(made.success());
    }
    let began = Instant::now();
    let model = Qwen3Config::open(&golden("qwen3-tiny/untied")).unwrap();
    let errors = [
        Checkpoint::open(dir.path()).unwrap_err(),
        Qwen3Config::open(dir.path()).unwrap_err(),
        Adapter::open(dir.path(), &model).unwrap_err(),
        halfbyte_runtime::tokenizer::Tokenizer::open(dir.path()).unwrap_err(),
    ];
    assert!(began.elapsed() < Duration::from_secs(5));
    for error in errors.map(|e| e.to_string()) {
        assert!(error.contains("not a regular file"), "{error}");
    }
}

/// Names the file to the test that maps it.
const MAPPED: &str = "HALFBYTE_TEST_MAPPED";

/// Runs itself again to map a file and cut it short.
#[cfg(unix)]
#[test]
fn a_file_cut_short_while_it_is_mapped_is_named() {
    if let Some(path) = env::var_os(MAPPED) {
        return read_what_is_gone(Path::new(&path));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.safetensors");
    write_file(&path, &[Tensor { name: "a", dtype: Dtype::U8, shape: &[1 << 20], data: &[7; 1 << 20] }]).unwrap();
    let test = "folders::a_file_cut_short_while_it_is_mapped_is_named";
    let mut child = Command::new(env::current_exe().unwrap());
    let done = child.args([test, "--exact", "--nocapture"]).env(MAPPED, &path).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.contains("cut.safetensors` has become shorter"), "{said}");
    assert_eq!(done.status.code(), Some(1));
}

fn read_what_is_gone(path: &Path) {
    let checkpoint = Checkpoint::open_file(path).unwrap();
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(4096).unwrap();
    let sum: u64 = checkpoint.get("a").unwrap().data.iter().map(|&b| u64::from(b)).sum();
    panic!("it could be read: {sum}");
}
