//! Whatever operation on the disk fails, and whenever a process is killed: a folder holds its old contents or its new
//! ones, whole.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use halfbyte_runtime::Result;
use halfbyte_runtime::checkpoint::{Checkpoint, CheckpointWriter, Dtype, Tensor};
use halfbyte_runtime::config::Qwen3Config;
use halfbyte_runtime::files::{Fault, OutputFolder, with_fault};
use halfbyte_runtime::lora::Adapter;
use halfbyte_runtime::train::metrics::Record;
use halfbyte_runtime::train::output::RunOutput;

use super::{golden, names};

fn adapter(name: &str) -> Adapter {
    let model = Qwen3Config::open(&golden("qwen3-tiny/untied")).unwrap();
    Adapter::open(&golden(&format!("qwen3-tiny/{name}")), &model).unwrap().0
}

/// What a reader finds.
fn found(dir: &Path) -> Option<(Adapter, String)> {
    let model = Qwen3Config::open(&golden("qwen3-tiny/untied")).unwrap();
    let any = names(dir).iter().any(|name| name.starts_with("adapter_"));
    let open = || Adapter::open(dir, &model).unwrap_or_else(|e| panic!("half an adapter: {e}; {:?}", names(dir))).0;
    any.then(open).map(|adapter| (adapter, fs::read_to_string(dir.join("metrics.jsonl")).unwrap()))
}

/// A run of one step that ends with this adapter.
fn run(dir: &Path, step: u64, adapter: &Adapter) -> Result<()> {
    let mut output = RunOutput::create(dir, true)?;
    output.reserve(100_000)?;
    output.record(&Record { step, ..Record::default() })?;
    output.save(adapter)
}

const FILES: [&str; 6] =
    ["README.md", "adapter_config.json", "adapter_model.safetensors", "loss.svg", "metrics.jsonl", "report.html"];

/// Every operation of a run fails once, over an adapter that exists and in a new folder.
#[test]
fn a_run_that_fails_anywhere_leaves_the_old_adapter_or_the_new() {
    let (old, new) = (adapter("adapter-plain"), adapter("adapter-rslora"));
    let (old_lines, new_lines) = ("{\"step\":1}\n".to_owned(), "{\"step\":2}\n".to_owned());
    for exists in [false, true] {
        let before = exists.then(|| (old.clone(), old_lines.clone()));
        let after = Some((new.clone(), new_lines.clone()));
        for fault in [Fault::Error, Fault::Stop] {
            let mut at = 0;
            loop {
                let parent = tempfile::tempdir().unwrap();
                let dir = parent.path().join("runs/adapter");
                if exists {
                    run(&dir, 1, &old).unwrap();
                }
                let (result, done) = with_fault(at, fault, || run(&dir, 2, &new));
                if done <= at {
                    assert!(at > 20, "only {at} operations");
                    break;
                }
                let now = if dir.exists() { found(&dir) } else { None };
                let place = format!("operation {at}, {fault:?}, exists: {exists}, {result:?}");
                assert!(now == before || now == after, "neither old nor new: {place}");
                assert!(result.is_err() || now == after, "a failure was not reported: {place}");
                run(&dir, 2, &new).unwrap_or_else(|e| panic!("a later run is refused: {e}; {place}"));
                assert_eq!(names(&dir), FILES, "{place}");
                assert!(found(&dir) == after, "{place}");
                at += 1;
            }
        }
    }
}

/// Metrics that cannot be followed any more are begun again with the next step, and saved with the adapter.
#[test]
fn a_step_that_could_not_be_noted_is_not_lost() {
    let lines = "{\"step\":1}\n{\"step\":2}\n";
    for at in 0..2 {
        let dir = tempfile::tempdir().unwrap();
        let record = |step| Record { step, ..Record::default() };
        let mut output = RunOutput::create(dir.path(), false).unwrap();
        let (failed, _) = with_fault(at, Fault::Error, || output.record(&record(1)));
        assert!(failed.is_err(), "operation {at} is none of this crate's");
        output.record(&record(2)).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("metrics.partial.jsonl")).unwrap(), lines);
        output.save(&adapter("adapter-plain")).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap(), lines);
    }
}

/// A save that failed can be tried again, in the room that was set aside for the first.
#[test]
fn a_second_try_has_the_room_of_the_first() {
    let (old, new) = (adapter("adapter-plain"), adapter("adapter-rslora"));
    let mut at = 0;
    let mut kept = 0;
    loop {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path(), 1, &old).unwrap();
        let mut output = RunOutput::create(dir.path(), true).unwrap();
        output.reserve(100_000).unwrap();
        output.record(&Record { step: 2, ..Record::default() }).unwrap();
        let (saved, done) = with_fault(at, Fault::Error, || output.save(&new));
        if done <= at {
            break;
        }
        let place = format!("operation {at}, {saved:?}, {:?}", names(dir.path()));
        if saved.is_err() && found(dir.path()).unwrap().0 == old {
            let room = names(dir.path()).into_iter().find(|name| name.starts_with(".adapter_model.safetensors."));
            let room = room.unwrap_or_else(|| panic!("the room is gone: {place}"));
            assert!(fs::metadata(dir.path().join(room)).unwrap().len() >= 20_000, "{place}");
            kept += 1;
        }
        output.save(&new).unwrap_or_else(|e| panic!("a second try is refused: {e}; {place}"));
        drop(output);
        assert!(found(dir.path()) == Some((new.clone(), "{\"step\":2}\n".to_owned())), "{place}");
        OutputFolder::claim(dir.path()).unwrap();
        assert_eq!(names(dir.path()), FILES, "{place}");
        at += 1;
    }
    assert!(kept > 5, "only {kept} of {at} tries");
}

/// What fails before the first name changes leaves nothing of itself behind.
#[test]
fn an_error_leaves_no_stray_files() {
    let mut at = 0;
    loop {
        let dir = tempfile::tempdir().unwrap();
        let (result, done) = with_fault(at, Fault::Error, || run(dir.path(), 1, &adapter("adapter-plain")));
        if done <= at {
            break;
        }
        let allowed = |name: &String| FILES.contains(&name.as_str()) || name == "metrics.partial.jsonl";
        assert!(names(dir.path()).iter().all(allowed), "operation {at}: {result:?}, {:?}", names(dir.path()));
        at += 1;
    }
}

/// A sharded checkpoint with its index and another file.
fn write(dir: &Path) -> Result<()> {
    let mut writer = CheckpointWriter::create(dir, 100)?;
    for (name, byte) in [("a", 1), ("b", 2), ("c", 3)] {
        writer.put(Tensor { name, dtype: Dtype::U8, shape: &[80], data: &[byte; 80] })?;
    }
    writer.put_file("config.json", b"{}".as_slice())?;
    writer.finish().map(drop)
}

#[test]
fn a_checkpoint_is_whole_or_absent() {
    for fault in [Fault::Error, Fault::Stop] {
        let mut at = 0;
        loop {
            let dir = tempfile::tempdir().unwrap();
            let (result, done) = with_fault(at, fault, || write(dir.path()));
            if done <= at {
                assert!(at > 20, "only {at} operations");
                break;
            }
            let place = format!("operation {at}, {fault:?}, {result:?}");
            let decided = dir.path().join(".halfbyte-commit").exists();
            let config = Qwen3Config::open(dir.path()).unwrap_err().to_string();
            assert!(!decided || !config.contains("has no config.json"), "it was decided: {config}; {place}");
            match Checkpoint::open(dir.path()) {
                Ok(checkpoint) => {
                    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b", "c"], "{place}");
                    assert_eq!(fs::read(dir.path().join("config.json")).unwrap(), b"{}", "{place}");
                    assert_eq!(names(dir.path()).len(), 5, "{place}: {:?}", names(dir.path()));
                }
                Err(e) => {
                    assert!(result.is_err(), "{place}: {e}");
                    assert!(fault == Fault::Stop || names(dir.path()).is_empty(), "{place}: {:?}", names(dir.path()));
                    write(dir.path()).unwrap_or_else(|e| panic!("a later one is refused: {e}; {place}"));
                }
            }
            at += 1;
        }
    }
}

/// A folder that cannot be written, with a save in it that was cut short: neither adapter is read, and what to do is said.
#[test]
fn a_save_that_cannot_be_ended_is_told() {
    let (old, new) = (adapter("adapter-plain"), adapter("adapter-rslora"));
    let model = Qwen3Config::open(&golden("qwen3-tiny/untied")).unwrap();
    let cut = (0..).find_map(|at| {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path(), 1, &old).unwrap();
        let _ = with_fault(at, Fault::Stop, || run(dir.path(), 2, &new));
        dir.path().join(".halfbyte-commit").exists().then_some(dir)
    });
    let dir = cut.unwrap();
    let open = || Adapter::open(dir.path(), &model);
    let error = with_fault(0, Fault::Stop, open).0.unwrap_err().to_string();
    assert!(error.contains("cut short") && error.contains("where the folder can be written"), "{error}");
    assert!(open().unwrap().0 == new);
    assert!(!dir.path().join(".halfbyte-commit").exists());
}

/// While one thread replaces an adapter again and again, another reads it.
#[test]
fn a_reader_sees_no_mixture() {
    let dir = tempfile::tempdir().unwrap();
    let both = [adapter("adapter-plain"), adapter("adapter-rslora")];
    both[0].save(dir.path()).unwrap();
    let model = Qwen3Config::open(&golden("qwen3-tiny/untied")).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for both in both.iter().cycle().take_while(|_| !done.load(SeqCst)) {
                both.save(dir.path()).unwrap();
                // A reader waits for its turn, but not for ever.
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let whole = |_| Adapter::open(dir.path(), &model).map(|(now, _)| both.contains(&now));
        let read: Result<Vec<bool>, _> = (0..200).map(whole).collect();
        done.store(true, SeqCst);
        assert!(read.unwrap().iter().all(|&whole| whole), "weights of one adapter with the configuration of another");
    });
}
