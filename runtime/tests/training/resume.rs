//! Runs that are cut short and go on: to the same bytes, or not at all.

use super::{files, refused, samples, settings, trained};
use halfbyte::DType;
use halfbyte_runtime::{
    checkpoint::Checkpoint,
    lora::{Init, Targets},
    settings::{Optim, Resume, TrainSettings},
    train::{
        data::{DataFile, DataFiles},
        metrics::Record,
        run::{Outcome, Prepared, Watch, run},
    },
};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// With dropout, and steps of two micro-batches.
fn eventful(folder: &Path, output: &str) -> TrainSettings {
    TrainSettings {
        lora_dropout: 0.1,
        batch_size: Some(3),
        gradient_accumulation_steps: 2,
        max_steps: Some(5),
        eval_steps: 2,
        ..settings(folder, output)
    }
}

pub fn resumed(settings: TrainSettings) -> TrainSettings {
    TrainSettings { resume: Some(Resume::Auto), ..settings }
}

/// Ends a run after so many steps, and notes what is said.
#[derive(Default)]
struct Until {
    steps: u64,
    done: u64,
    said: String,
}

impl Watch for Until {
    fn say(&mut self, line: &str) {
        self.said += line;
        self.said += "\n";
    }

    fn note(&mut self, line: &str) {
        self.say(line);
    }

    fn step(&mut self, record: &Record) {
        self.done = record.step;
    }

    fn ends(&mut self) -> bool {
        self.done >= self.steps
    }
}

pub fn until(steps: u64, settings: &TrainSettings) -> (Outcome, String) {
    let mut watch = Until { steps, ..Until::default() };
    let outcome = run(settings, &mut watch).unwrap_or_else(|e| panic!("{e}"));
    (outcome, watch.said)
}

/// Lines of metrics without what time decides.
pub fn metrics(dir: &Path) -> Vec<Value> {
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        let keys = line.as_object_mut().unwrap();
        let times = ["tokens_per_s", "elapsed_s"].map(|key| keys.remove(key).and_then(|value| value.as_f64()).unwrap());
        assert!(times[0] > 0.0 && times[1] > 0.0, "{times:?}");
        line
    };
    let all = fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    all.lines().filter(|line| line.contains("\"lr\"")).map(line).collect()
}

/// What is in a folder, sorted.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub fn checkpoints(dir: &Path) -> Vec<String> {
    names(dir).into_iter().filter(|name| name.starts_with("checkpoint-")).collect()
}

#[test]
fn a_run_that_was_cut_short_ends_as_one_that_was_not() {
    let folder = samples();
    let (whole, losses) = trained(&TrainSettings { save_steps: 0, ..eventful(folder.path(), "whole") });
    let (cut, said) = until(2, &eventful(folder.path(), "cut"));
    assert!(said.contains("first 2 of 5 steps\n--resume auto goes on with it"), "{said}");
    assert_eq!((cut.steps, checkpoints(&cut.output)), (2, vec!["checkpoint-2".into()]));
    let loss_then = metrics(&cut.output)[1]["eval_loss"].as_f64();
    let (further, further_losses) = trained(&resumed(eventful(folder.path(), "cut")));
    assert_eq!(further_losses, losses[2..]);
    assert_eq!((further.steps, further.n_tokens), (5, whole.n_tokens));
    assert!(files(&further.output) == files(&whole.output), "another adapter");
    assert_eq!(metrics(&further.output), metrics(&whole.output));
    assert_eq!((further.before.heldout_loss, further.after), (loss_then, whole.after));
    // Once it is done, the steps behind its last checkpoint are done again.
    assert_eq!(checkpoints(&further.output), ["checkpoint-2", "checkpoint-4"]);
    let (again, last_losses) = trained(&resumed(eventful(folder.path(), "cut")));
    assert!(last_losses == losses[4..] && files(&again.output) == files(&whole.output));
}

/// In 8 bits and, of small tensors, in 32; where they lie makes no difference.
#[test]
fn moments_go_on_in_8_bits() {
    let folder = samples();
    let of = |optim, output: &str| TrainSettings {
        optim,
        loraplus_lr_ratio: 4.0,
        lora_r: 16,
        ..eventful(folder.path(), output)
    };
    let (whole, losses) = trained(&of(Optim::AdamW8bit, "whole"));
    until(2, &of(Optim::AdamW8bit, "cut"));
    let moments = Checkpoint::open_file(&folder.path().join("cut/checkpoint-2/training_state.safetensors")).unwrap();
    let names: Vec<_> = moments.names().collect();
    assert_eq!(names, ["absmax1", "absmax2", "exp_avg", "exp_avg_sq", "state1", "state2"]);
    let (further, further_losses) = trained(&resumed(of(Optim::PagedAdamW8bit, "cut")));
    assert_eq!(further_losses, losses[2..]);
    assert!(files(&further.output) == files(&whole.output), "another adapter");
    let (wide, _) = trained(&of(Optim::AdamW, "wide"));
    assert!(files(&wide.output) != files(&whole.output), "8 bits do as 32 do");
    let said = refused(&resumed(of(Optim::AdamW, "cut")));
    assert!(said.contains("optim was adamw_8bit and is adamw_torch"), "{said}");
}

/// Of noise on embeddings, too, with the embedding and the head adapted, with DoRA, whose magnitudes are part of the state,
/// and with PiSSA, whose base is.
#[test]
fn methods_go_on_to_the_same_bytes() {
    let folder = samples();
    let plain = |output: &str| TrainSettings {
        lora_dropout: 0.0,
        use_4bit: false,
        bnb_4bit_compute_dtype: DType::F32,
        ..eventful(folder.path(), output)
    };
    let (other, _) = trained(&plain("plain"));
    type Method = fn(TrainSettings) -> TrainSettings;
    let methods: [(&str, Method); 5] = [
        ("noise", |plain| TrainSettings { neftune_alpha: 5.0, ..plain }),
        ("dora", |plain| TrainSettings { use_dora: true, lora_dropout: 0.1, use_4bit: true, ..plain }),
        ("pissa", |plain| TrainSettings { init_lora_weights: Init::Pissa(Some(2)), lora_dropout: 0.1, ..plain }),
        ("embedding and head", |plain| TrainSettings {
            target_modules: Targets::from_text("q_proj,embed_tokens,lm_head"),
            lora_dropout: 0.1,
            ..plain
        }),
        ("loftq", |plain| TrainSettings { init_lora_weights: Init::LoftQ, use_4bit: true, ..plain }),
    ];
    for (name, with) in methods {
        let [whole, cut] = ["whole", "cut"].map(|output| with(plain(&format!("{name}-{output}"))));
        let (whole, losses) = trained(&whole);
        if !cut.use_4bit {
            // Only what is trained on has noise, and PiSSA begins as the base, but for roundings: what is evaluated first
            // is the same.
            let [before, plain_before] = [&whole, &other].map(|outcome| outcome.before.heldout_loss.unwrap());
            assert!((before - plain_before).abs() <= 2e-5, "{name}: {before}, {plain_before}");
        }
        until(2, &cut);
        let (further, further_losses) = trained(&resumed(cut));
        assert_eq!(further_losses, losses[2..], "{name}");
        assert!(files(&further.output) == files(&whole.output), "{name}: another adapter");
        assert!(files(&whole.output) != files(&other.output), "{name} does nothing");
    }
}

#[test]
fn any_checkpoint_can_be_gone_on_from() {
    let folder = samples();
    let every = TrainSettings { save_steps: 1, save_total_limit: None, ..eventful(folder.path(), "every") };
    let (whole, _) = trained(&every);
    let all = ["checkpoint-1", "checkpoint-2", "checkpoint-3", "checkpoint-4"];
    assert_eq!(checkpoints(&whole.output), all);
    let (bytes, lines) = (files(&whole.output), metrics(&whole.output));
    let from = |name: &str| Some(Resume::From(whole.output.join(name)));
    // In its own folder what came later is made again, as many as are kept.
    let (same, _) =
        trained(&TrainSettings { resume: from("checkpoint-3"), save_total_limit: Some(2), ..every.clone() });
    assert!(files(&same.output) == bytes && metrics(&same.output) == lines);
    assert_eq!(checkpoints(&same.output), all[2..]);
    // Into another.
    let elsewhere = TrainSettings { output: folder.path().join("elsewhere"), ..every };
    let (other, _) = trained(&TrainSettings { resume: from("checkpoint-4"), ..elsewhere });
    assert!(files(&other.output) == bytes && metrics(&other.output) == lines);
    assert_eq!(checkpoints(&other.output), [""; 0]);
}

#[test]
fn a_checkpoint_is_an_adapter() {
    let folder = samples();
    let (whole, _) = trained(&TrainSettings { save_steps: 4, ..eventful(folder.path(), "whole") });
    let short = TrainSettings { max_steps: Some(4), ..eventful(folder.path(), "short") };
    let (short, _) = trained(&short);
    assert!(files(&whole.output.join("checkpoint-4")) == files(&short.output), "not what four steps make");
}

/// The files of a run are those that it began with, or it is told which are not.
#[test]
fn what_differs_is_named() {
    let folder = samples();
    let model = folder.path().join("model");
    fs::create_dir(&model).unwrap();
    for file in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tiny-qwen3")).unwrap().map(Result::unwrap) {
        fs::copy(file.path(), model.join(file.file_name())).unwrap();
    }
    let (data, held_out) = (folder.path().join("data.jsonl"), folder.path().join("heldout.jsonl"));
    fs::copy(&data, &held_out).unwrap();
    let began = TrainSettings {
        model_name: model.display().to_string(),
        eval_data: Some(held_out.clone().into()),
        ..eventful(folder.path(), "cut")
    };
    until(1, &began);
    let again = || resumed(began.clone());
    assert_eq!(refused(&again()), "");
    let named = |settings: TrainSettings, what: &[&str]| {
        let said = refused(&settings);
        assert!(said.contains("checkpoint-1`: ") && said.contains("begin another one without --resume"), "{said}");
        what.iter().for_each(|what| assert!(said.contains(what), "it lacks `{what}`: {said}"));
    };
    named(
        TrainSettings { learning_rate: Some(1e-3), seed: 4, ..again() },
        &["learning_rate was none and is 0.001, ", "seed was 0 and is 4; "],
    );
    named(TrainSettings { max_steps: Some(6), ..again() }, &["max_steps was 5 and is 6; "]);
    named(TrainSettings { lora_r: 2, ..again() }, &["lora_r was 4 and is 2; "]);
    // What decides nothing may change.
    let free = TrainSettings { logging_steps: 3, gradient_checkpointing: true, threads: Some(1), ..again() };
    assert_eq!(refused(&free), "");
    let twice = DataFiles(vec![DataFile { path: data.clone(), weight: 2.0 }]);
    named(TrainSettings { data: Some(twice), ..again() }, &[": the data to train on is another one; "]);
    let changed = |path: &Path, change: &dyn Fn(&mut Vec<u8>), what: &str| {
        let before = fs::read(path).unwrap();
        let mut bytes = before.clone();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
        named(again(), &[what]);
        fs::write(path, before).unwrap();
    };
    // A line less; a token more; a weight's first byte, behind the header.
    let shorter = |bytes: &mut Vec<u8>| bytes.truncate(bytes.iter().rposition(|&b| b == b'\n').unwrap());
    changed(&data, &shorter, ": the data to train on is another one; ");
    changed(&held_out, &shorter, ": the held-out data is another one; ");
    let weights = model.join("model.safetensors");
    let header = 8 + u64::from_le_bytes(fs::read(&weights).unwrap()[..8].try_into().unwrap()) as usize;
    changed(&weights, &|bytes| bytes[header] ^= 1, ": the base model is another one; ");
    let eps = |bytes: &mut Vec<u8>| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert!(text.contains("\"rope_theta\""), "{text}");
        *bytes = text.replacen("\"rope_theta\": ", "\"rope_theta\": 1", 1).into_bytes();
    };
    changed(&model.join("config.json"), &eps, ": the base model is another one; ");
    assert_eq!(refused(&again()), "");
}

#[test]
fn checkpoints_are_not_overwritten_unasked_and_not_mixed_up() {
    let folder = samples();
    let began = TrainSettings { save_steps: 1, max_steps: Some(4), ..settings(folder.path(), "cut") };
    // As after a kill.
    let (cut, _) = until(3, &began);
    for name in ["adapter_model.safetensors", "adapter_config.json"] {
        fs::remove_file(cut.output.join(name)).unwrap();
    }
    let said = refused(&began);
    assert!(said.contains("checkpoint-2") && said.contains("--resume auto") && said.contains("--overwrite"), "{said}");
    // Another run takes the place of the one before, whose checkpoints go once it has something of its own.
    let other = TrainSettings { overwrite: true, seed: 1, save_steps: 0, ..began };
    trained(&other);
    assert!(!names(&cut.output).iter().any(|name| name.contains("checkpoint") || name.contains("partial")));
}

#[test]
fn a_run_without_checkpoints_begins() {
    let folder = samples();
    let (plain, _) = trained(&settings(folder.path(), "plain"));
    let new = resumed(settings(folder.path(), "new"));
    let notes = Prepared::new(&new).unwrap().notes;
    assert!(notes.iter().any(|note| note.contains("has no checkpoint to resume: the run begins")), "{notes:?}");
    let (new, _) = trained(&new);
    assert!(files(&new.output) == files(&plain.output));
    // A finished adapter is none that may be replaced for it.
    let said = refused(&resumed(settings(folder.path(), "plain")));
    assert!(said.contains("--overwrite"), "{said}");
}

#[test]
fn what_is_no_checkpoint_is_refused() {
    let folder = samples();
    let began = TrainSettings { save_steps: 1, max_steps: Some(2), ..settings(folder.path(), "cut") };
    let (cut, _) = trained(&began);
    let from = |dir: PathBuf| TrainSettings { resume: Some(Resume::From(dir)), ..began.clone() };
    let said = refused(&from(cut.output.clone()));
    assert!(said.contains("has no training_state.json") && said.contains("--resume"), "{said}");
    let dir = cut.output.join("checkpoint-1");
    let (state, moments) = (dir.join("training_state.json"), dir.join("training_state.safetensors"));
    let text = fs::read_to_string(&state).unwrap();
    fs::write(&state, text.replacen("\"version\": 2", "\"version\": 3", 1)).unwrap();
    let said = refused(&from(dir.clone()));
    assert!(said.contains("its version is 3, and 2 is wanted"), "{said}");
    fs::write(&state, &text[..text.len() / 2]).unwrap();
    let said = refused(&from(dir.clone()));
    assert!(said.contains("training_state.json` is damaged"), "{said}");
    fs::write(&state, text).unwrap();
    let bytes = fs::read(&moments).unwrap();
    fs::write(&moments, &bytes[..bytes.len() - 4]).unwrap();
    let said = run(&from(dir), &mut ()).unwrap_err().to_string();
    assert!(said.contains("training_state.safetensors` is damaged"), "{said}");
}
