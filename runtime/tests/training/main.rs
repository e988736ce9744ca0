//! Training runs, as a program that has settings starts them.

mod best;
mod init;
mod report;
mod resume;

use halfbyte::DType;
use halfbyte_runtime::{
    config::Qwen3Config,
    embedded, files,
    lora::Adapter,
    settings::{ActivationMemory, PackingStrategy, Program, Sources, TrainSettings},
    train::{
        data::DataFiles,
        metrics::Record,
        run::{Marks, Outcome, Prepared, Watch, run},
        schedule::ScheduleKind,
    },
};
use std::{fs, path::Path};
use tempfile::TempDir;

/// A few of the embedded samples, to train on and to evaluate on.
fn samples() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = files::read_to_string(&embedded::town("train.jsonl").unwrap()).unwrap();
    let lines: Vec<_> = text.lines().take(12).collect();
    fs::write(folder.path().join("data.jsonl"), lines.join("\n")).unwrap();
    folder
}

/// Short runs on the CPU with a constant learning rate.
fn settings(folder: &Path, output: &str) -> TrainSettings {
    let data = Some(folder.join("data.jsonl").into());
    TrainSettings {
        data: data.clone(),
        eval_data: data,
        output: folder.join(output),
        use_4bit: true,
        device: "cpu".parse().unwrap(),
        lora_r: 4,
        batch_size: Some(6),
        max_steps: Some(4),
        lr_scheduler_type: ScheduleKind::Constant,
        warmup_ratio: 0.0,
        ..TrainSettings::default()
    }
}

/// The settings to go on with the adapter in `from`.
fn further(folder: &Path, from: &str, output: &str) -> TrainSettings {
    let TrainSettings { lora_r, .. } = TrainSettings::default();
    TrainSettings { lora_r, lora_path: Some(folder.join(from)), ..settings(folder, output) }
}

/// Notes the loss of every step.
#[derive(Default)]
struct Losses(Vec<f64>);

impl Watch for Losses {
    fn step(&mut self, record: &Record) {
        self.0.extend(record.loss);
    }
}

fn trained(settings: &TrainSettings) -> (Outcome, Vec<f64>) {
    let mut losses = Losses::default();
    let outcome = run(settings, &mut losses).unwrap_or_else(|e| panic!("{e}"));
    (outcome, losses.0)
}

fn files(dir: &Path) -> [Vec<u8>; 2] {
    ["adapter_model.safetensors", "adapter_config.json"].map(|name| fs::read(dir.join(name)).unwrap())
}

#[test]
fn training_goes_on_from_a_saved_adapter() {
    let folder = samples();
    let (first, losses) = trained(&settings(folder.path(), "first"));
    let before = files(&first.output);
    let (second, further_losses) = trained(&further(folder.path(), "first", "second"));
    let heldout = |outcome: &Outcome| outcome.after.as_ref().unwrap().heldout_loss.unwrap();
    // To the bit: the same samples through the same weights.
    assert_eq!(second.before.heldout_loss, Some(heldout(&first)));
    assert!(heldout(&second) < heldout(&first), "{} after {}", heldout(&second), heldout(&first));
    assert!(further_losses[0] < losses[0] - 0.1, "{further_losses:?} after {losses:?}");
    assert!(files(&first.output) == before, "the adapter that was gone on with was changed");
    let config = Qwen3Config::open(&embedded::model()).unwrap();
    let (adapter, _) = Adapter::open(&second.output, &config).unwrap();
    assert_eq!(adapter.config.r, 4, "its rank counts, not that of the settings");
}

#[test]
fn training_begins_with_the_weights_of_the_file() {
    let folder = samples();
    let (first, _) = trained(&settings(folder.path(), "first"));
    let still = TrainSettings { learning_rate: Some(0.0), ..further(folder.path(), "first", "still") };
    let (second, _) = trained(&still);
    assert!(files(&first.output)[0] == files(&second.output)[0], "a learning rate of 0 changed the weights");
}

#[test]
fn an_adapter_is_replaced_by_its_own_training_only_where_that_is_asked_for() {
    let folder = samples();
    let (first, _) = trained(&settings(folder.path(), "adapter"));
    let before = files(&first.output);
    let same = further(folder.path(), "adapter", "adapter");
    let refused = run(&same, &mut ()).unwrap_err().to_string();
    assert!(refused.contains("--overwrite") && files(&first.output) == before, "{refused}");
    trained(&TrainSettings { overwrite: true, ..same });
    assert!(files(&first.output)[0] != before[0], "nothing was learnt");
}

#[test]
fn a_check_writes_nothing() {
    let folder = samples();
    let prepared = Prepared::new(&settings(folder.path(), "adapter")).unwrap();
    let found = prepared.check().unwrap();
    assert!(found.contains("12 samples") && found.contains("4 steps") && found.contains("memory: about"), "{found}");
    assert!(!folder.path().join("adapter").exists());
}

/// One step over all samples, in f32: however they are packed, its loss and gradient are the same, up to the order in
/// which some hundreds of targets are summed, and so is the adapter.
#[test]
fn packed_samples_do_not_see_each_other() {
    let folder = samples();
    let step = |output: &str, packing, packing_strategy, batch_size| {
        let once = TrainSettings {
            packing,
            packing_strategy,
            batch_size: Some(batch_size),
            max_seq_length: 64,
            gradient_accumulation_steps: 100,
            max_steps: Some(1),
            bnb_4bit_compute_dtype: DType::F32,
            ..settings(folder.path(), output)
        };
        let (outcome, losses) = trained(&once);
        let norm = grad_norm(&outcome);
        (losses[0], norm)
    };
    let (loss, norm) = step("alone", false, PackingStrategy::FirstFit, 1);
    assert!(loss > 1.0 && norm > 0.0, "{loss} {norm}");
    for (output, strategy, batch_size) in [
        ("first", PackingStrategy::FirstFit, 1),
        ("best", PackingStrategy::BestFit, 1),
        ("large", PackingStrategy::BestFit, 6),
    ] {
        let (packed, packed_norm) = step(output, true, strategy, batch_size);
        // Some hundreds of f32 roundings of 6e-8.
        assert!((packed - loss).abs() <= 2e-5 * loss, "{output}: {packed}, alone {loss}");
        assert!((packed_norm - norm).abs() <= 2e-4 * norm, "{output}: {packed_norm}, alone {norm}");
    }
}

/// A micro-batch may have more tokens than the file.
#[test]
fn samples_of_weight_are_trained_as_often() {
    let folder = samples();
    let data = format!("{}:3", folder.path().join("data.jsonl").display());
    let data = DataFiles::from_text(&data);
    let (outcome, _) = trained(&TrainSettings {
        data,
        batch_size: Some(36),
        max_steps: None,
        epochs: Some(1.0),
        ..settings(folder.path(), "thrice")
    });
    let (once, _) =
        trained(&TrainSettings { batch_size: Some(36), max_steps: Some(1), ..settings(folder.path(), "once") });
    assert_eq!((outcome.steps, outcome.n_tokens), (1, 3 * once.n_tokens));
    let held_out = DataFiles::from_text(&format!("{}:2", folder.path().join("data.jsonl").display()));
    let said = refused(&TrainSettings { eval_data: held_out, ..settings(folder.path(), "other") });
    assert!(said.contains("held-out data is read once"), "{said}");
}

/// Of the first step.
fn grad_norm(outcome: &Outcome) -> f64 {
    let metrics = fs::read_to_string(outcome.output.join("metrics.jsonl")).unwrap();
    let first = metrics.lines().find(|line| line.contains("\"grad_norm\"")).unwrap();
    let record: serde_json::Value = serde_json::from_str(first).unwrap();
    record["grad_norm"].as_f64().unwrap()
}

/// Numbers, lengths and the first samples, in lines that fit; marked in colour or without.
#[test]
fn a_preview_shows_what_is_trained() {
    let folder = samples();
    let prepared = Prepared::new(&settings(folder.path(), "adapter")).unwrap();
    let plain = prepared.preview_within(None, Marks::Quotes).unwrap();
    let first = "sample 1 of 12: 24 tokens, 23 trained (in « »)\n  «Article 1. The ferry bell shall be rung by the \
                 schoolmistress.<|endoftext|>»\n";
    assert!(plain.contains(first), "{plain}");
    assert!(
        plain.starts_with("an epoch: 12 samples, 338 tokens, 2 steps\ncut to the length limit: 0; left out: 0\n"),
        "{plain}"
    );
    let coloured = prepared.preview_within(Some(60), Marks::Colour).unwrap();
    assert!(coloured.contains("  \u{1b}[32mArticle 1.") && coloured.contains("<|endoftext|>\u{1b}[0m"), "{coloured}");
    let bare = coloured.replace("\u{1b}[32m", "").replace("\u{1b}[0m", "");
    let widest = bare.lines().map(|line| line.chars().count()).max().unwrap();
    assert!(
        widest <= 78 && bare.lines().filter(|line| line.starts_with(' ')).all(|line| line.chars().count() <= 60),
        "{bare}"
    );
    let packed = TrainSettings { packing: true, max_seq_length: 64, ..settings(folder.path(), "adapter") };
    let packed = Prepared::new(&packed).unwrap().preview_within(None, Marks::Quotes).unwrap();
    assert!(packed.contains("1 step; micro-batches: 1, filled to 88.0 %"), "{packed}");
}

fn refused(settings: &TrainSettings) -> String {
    Prepared::new(settings).err().map(|e| e.to_string()).unwrap_or_default()
}

/// Who calls the library is told as who calls the program is, where a value shows the wish.
#[test]
fn settings_without_effect_are_refused() {
    let folder = samples();
    let plain = || settings(folder.path(), "adapter");
    trained(&plain());
    let fp4 = "fp4".parse().unwrap();
    for (name, settings) in [
        ("bnb_4bit_quant_type", TrainSettings { use_4bit: false, bnb_4bit_quant_type: fp4, ..plain() }),
        ("bnb_4bit_use_double_quant", TrainSettings { use_4bit: false, bnb_4bit_use_double_quant: false, ..plain() }),
        ("eval_steps", TrainSettings { eval_data: None, eval_steps: 1, ..plain() }),
        ("min_lr", TrainSettings { min_lr: Some(1e-5), ..plain() }),
        ("decay_ratio", TrainSettings { decay_ratio: 0.2, ..plain() }),
        ("lr_power", TrainSettings { lr_power: 2.0, ..plain() }),
        ("load_best_at_end", TrainSettings { load_best_at_end: true, ..plain() }),
        ("early_stopping_patience", TrainSettings { early_stopping_patience: Some(1), ..plain() }),
        ("epochs", TrainSettings { epochs: Some(1.0), ..plain() }),
        (
            "gradient_checkpointing",
            TrainSettings { gradient_checkpointing: true, activation_memory: ActivationMemory::Full, ..plain() },
        ),
        ("lora_r", TrainSettings { lora_r: 4, ..further(folder.path(), "adapter", "second") }),
        ("lora_dropout", TrainSettings { lora_dropout: 0.5, ..further(folder.path(), "adapter", "second") }),
    ] {
        let said = refused(&settings);
        assert!(said.starts_with(name) && said.contains("it has no effect here"), "{name}: {said}");
    }
}

/// As of a program: the place of each is named, also where the default is asked for.
#[test]
fn options_without_effect_are_refused_by_their_place() {
    let folder = samples();
    let (adapter, data) = (folder.path().join("adapter"), folder.path().join("data.jsonl"));
    trained(&settings(folder.path(), "adapter"));
    let (lora, data) = (format!("--lora-path={}", adapter.display()), format!("--data={}", data.display()));
    let refused = |options: &[&str]| {
        let line = ["program", &data, "--output=none-such"].into_iter().chain(options.iter().copied()).map(Into::into);
        let program = Program::new(clap::Command::new("program"), &["train"]);
        let asked = program.read(line, Sources::default()).unwrap();
        Prepared::of(&asked.loaded).err().map(|e| e.to_string()).unwrap_or_default()
    };
    for options in [
        &["--bnb-4bit-quant-type=nf4"][..],
        &["--bnb-4bit-use-double-quant=true"],
        &["--eval-steps=1"],
        &["--epochs=1", "--max-steps=2"],
        &["--packing-strategy=first-fit"],
        &["--lora-r=16", &lora],
        &["--lora-alpha=32", &lora],
        &["--lora-dropout=0", &lora],
        &["--target-modules=all-linear", &lora],
        &["--use-rslora=false", &lora],
        &["--modules-to-save=none", &lora],
        &["--exam=none", "--data=none"],
        &["--eval-data=none", "--data=none"],
    ] {
        let said = refused(options);
        let name = options[0].split('=').next().unwrap();
        assert!(said.starts_with(&format!("{name}: ")) && said.contains("no effect here"), "{options:?}: {said}");
    }
    assert_eq!(refused(&["--use-4bit", "--bnb-4bit-quant-type=fp4"]), "");
}

/// A checkpoint in 4 bits is trained with or without `use_4bit`, and stays as it is.
#[test]
fn a_checkpoint_in_4_bits_says_how() {
    use halfbyte_runtime::{checkpoint::BnbConfig, model::quantize_checkpoint};
    let folder = samples();
    let (model, bnb) = (folder.path().join("model"), BnbConfig::new("fp4".parse().unwrap(), DType::Bf16));
    let embedded = embedded::model();
    let go_on = |_, _| std::ops::ControlFlow::Continue(());
    quantize_checkpoint(&halfbyte::Cpu::new(), &embedded, &model, bnb, 64, go_on).unwrap().unwrap();
    let model_name = model.display().to_string();
    let plain = TrainSettings { model_name: model_name.clone(), use_4bit: false, ..settings(folder.path(), "adapter") };
    let lines = Prepared::new(&plain).unwrap().in_force();
    assert_eq!(lines[1], "base: fp4 in 4 bits, double-quantised (as the checkpoint has it); computing in bfloat16");
    let said = refused(&TrainSettings { bnb_4bit_use_double_quant: false, ..plain });
    assert!(said.contains("in 4 bits already, with true"), "{said}");
    let program = Program::new(clap::Command::new("program"), &["train"]);
    for option in ["--use-4bit=false", "--bnb-4bit-quant-type=nf4"] {
        let line = ["program", "--model", &model_name, "--output=none-such", option].map(Into::into);
        let asked = program.read(line, Sources::default()).unwrap();
        let said = Prepared::of(&asked.loaded).err().unwrap().to_string();
        let name = option.split('=').next().unwrap();
        assert!(said.starts_with(name) && said.contains("already"), "{said}");
    }
}
