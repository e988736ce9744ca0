//! Evaluations between steps: told, and what they decide. What is worth nothing is not saved.

use super::{
    files,
    resume::{checkpoints, metrics, resumed, until},
    samples, settings, trained,
};
use halfbyte_runtime::{
    embedded,
    settings::TrainSettings,
    train::run::{Outcome, run},
};
use std::{fs, path::Path};

/// A run that learns its few samples by heart, and so knows less of others after a while.
fn by_heart(folder: &Path, output: &str) -> TrainSettings {
    let held_out = folder.join("heldout.jsonl");
    let text = halfbyte_runtime::files::read_to_string(&embedded::town("heldout.jsonl").unwrap()).unwrap();
    fs::write(&held_out, text.lines().take(4).collect::<Vec<_>>().join("\n")).unwrap();
    TrainSettings {
        eval_data: Some(held_out.into()),
        eval_steps: 2,
        max_steps: Some(14),
        learning_rate: Some(5e-3),
        save_total_limit: Some(1),
        ..settings(folder, output)
    }
}

/// Held-out losses with their steps.
fn losses(dir: &Path) -> Vec<(u64, f64)> {
    let of =
        |line: &serde_json::Value| Some((line["step"].as_u64().unwrap(), line.get("eval_loss")?.as_f64().unwrap()));
    metrics(dir).iter().filter_map(of).collect()
}

fn lowest(losses: &[(u64, f64)]) -> (u64, f64) {
    losses.iter().copied().fold((0, f64::INFINITY), |best, next| if next.1 < best.1 { next } else { best })
}

#[test]
fn every_evaluation_is_in_the_metrics_and_epochs_have_fractions() {
    let folder = samples();
    let (outcome, _) = trained(&TrainSettings { eval_steps: 2, ..settings(folder.path(), "run") });
    let lines = metrics(&outcome.output);
    let epochs: Vec<_> = lines.iter().map(|line| line["epoch"].as_f64().unwrap()).collect();
    // Twelve samples in batches of six.
    assert_eq!(epochs, [0.5, 1.0, 1.5, 2.0]);
    let evaluated: Vec<_> = losses(&outcome.output);
    assert_eq!(evaluated.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [2, 4]);
    assert_eq!(outcome.after.unwrap().heldout_loss, Some(evaluated[1].1));
}

#[test]
fn the_best_adapter_is_kept_and_taken() {
    let folder = samples();
    let (last, _) = trained(&by_heart(folder.path(), "last"));
    let all = losses(&last.output);
    let (step, loss) = lowest(&all);
    assert!(all.len() == 7 && step > 2 && step < 14, "nothing is to be seen here: {all:?}");
    let kept = last.output.join(format!("checkpoint-{step}"));
    assert!(checkpoints(&last.output).len() == 1 && files(&kept) != files(&last.output));
    let wanted = TrainSettings { load_best_at_end: true, save_steps: 0, ..by_heart(folder.path(), "best") };
    let (best, _) = trained(&wanted);
    assert!(files(&best.output) == files(&kept), "another adapter than that of step {step}");
    assert_eq!((best.steps, heldout(&best)), (14, Some(loss)));
    assert_eq!(losses(&best.output), all);
    // The newest and the best are kept.
    let every = TrainSettings { save_steps: 1, ..by_heart(folder.path(), "every") };
    let (every, _) = trained(&every);
    let mut want = vec![format!("checkpoint-{step}"), "checkpoint-13".into()];
    want.sort();
    assert_eq!(checkpoints(&every.output), want);
}

fn heldout(outcome: &Outcome) -> Option<f64> {
    outcome.after.as_ref().unwrap().heldout_loss
}

#[test]
fn a_run_ends_when_evaluations_bring_nothing_any_more() {
    let folder = samples();
    let early = |output| TrainSettings {
        early_stopping_patience: Some(2),
        load_best_at_end: true,
        ..by_heart(folder.path(), output)
    };
    let (whole, said) = until(u64::MAX, &early("whole"));
    let all = losses(&whole.output);
    let (step, loss) = lowest(&all);
    assert_eq!((whole.steps, whole.total_steps), (step + 4, 14));
    assert!(said.contains("2 evaluations in a row brought no lower held-out loss"), "{said}");
    assert!(said.contains(&format!("held-out loss was lowest after step {step}")), "{said}");
    assert_eq!(heldout(&whole), Some(loss));
    // A run that goes on ends there, too.
    until(step + 1, &early("cut"));
    let (cut, _) = trained(&resumed(early("cut")));
    assert!(cut.steps == whole.steps && files(&cut.output) == files(&whole.output));
    assert_eq!(metrics(&cut.output), metrics(&whole.output));
}

#[test]
fn the_loss_of_each_sample_is_noted() {
    let folder = samples();
    let plain = |output| TrainSettings {
        gradient_accumulation_steps: 2,
        batch_size: Some(2),
        ..settings(folder.path(), output)
    };
    let (without, _) = trained(&plain("without"));
    let (with, said) = until(u64::MAX, &TrainSettings { log_sample_losses: true, ..plain("with") });
    assert!(files(&with.output) == files(&without.output), "to look changes the adapter");
    let (lines, mut seen) = (metrics(&with.output), Vec::new());
    for line in &lines {
        let of_samples = line["sample_losses"].as_array().unwrap();
        let number = |of: &serde_json::Value, key: &str| of[key].as_f64().unwrap();
        let n: f64 = of_samples.iter().map(|of| number(of, "targets")).sum();
        let sum: f64 = of_samples.iter().map(|of| number(of, "targets") * number(of, "loss")).sum();
        // A sum of f32 of some hundred losses, in another order.
        assert!((sum / n - number(line, "loss")).abs() <= 1e-4 * number(line, "loss"), "{line}");
        seen.extend(of_samples.iter().map(|of| of["sample"].as_u64().unwrap()));
    }
    seen[..12].sort();
    assert_eq!(seen[..12], (1..=12).collect::<Vec<_>>());
    let (_, worst) = said.split_once("samples of the highest loss, when they were last seen:\n").unwrap();
    let told: Vec<f64> =
        worst.lines().take(10).map(|line| line.trim().split(' ').next().unwrap().parse().unwrap()).collect();
    assert!(told.len() == 10 && told.is_sorted_by(|a, b| a >= b), "{worst}");
    assert!(worst.lines().all(|line| !line.contains("sample 0,")) && worst.contains(", step 4: "), "{worst}");
}

#[test]
fn a_run_that_comes_apart_ends_and_saves_nothing() {
    let folder = samples();
    // Its first learning rate is 0, and the second one takes it apart.
    let wild = |output| TrainSettings {
        learning_rate: Some(1e3),
        warmup_ratio: 0.05,
        max_steps: Some(20),
        save_steps: 1,
        save_total_limit: Some(1),
        ..settings(folder.path(), output)
    };
    let said = run(&wild("wild"), &mut ()).unwrap_err().to_string();
    let output = folder.path().join("wild");
    assert!(
        said.contains("lower the learning rate") && said.contains("checkpoint-1` is from before, for --lora-path"),
        "{said}"
    );
    assert!(!output.join("adapter_model.safetensors").exists());
    assert_eq!(checkpoints(&output), ["checkpoint-1"]);
    let said = run(&TrainSettings { save_steps: 0, ..wild("none") }, &mut ()).unwrap_err().to_string();
    assert!(said.contains("; nothing is saved"), "{said}");
}
