//! Adapters that begin with a part of the base.

use super::{further, refused, samples, settings, trained};
use halfbyte::DType;
use halfbyte_runtime::{
    config::Qwen3Config,
    embedded,
    lora::{Adapter, Init, Targets},
    settings::TrainSettings,
    train::run::Outcome,
};
use std::{fs, path::Path};

fn unquantised(folder: &Path, output: &str, init: Init) -> TrainSettings {
    TrainSettings {
        use_4bit: false,
        bnb_4bit_compute_dtype: DType::F32,
        init_lora_weights: init,
        learning_rate: Some(1e-3),
        ..settings(folder, output)
    }
}

fn after(outcome: &Outcome) -> f64 {
    outcome.after.as_ref().unwrap().heldout_loss.unwrap()
}

/// It begins as the base, and what is saved is an adapter like any other, of twice the rank.
#[test]
fn pissa_is_saved_for_the_whole_base() {
    // A loss near 4, from weights that are rounded once more.
    const TOLERANCE: f64 = 2e-5;
    let folder = samples();
    let (plain, plain_losses) = trained(&unquantised(folder.path(), "plain", Init::Kaiming));
    for (output, init) in [("exact", Init::Pissa(None)), ("steps", Init::Pissa(Some(2)))] {
        let (outcome, losses) = trained(&unquantised(folder.path(), output, init));
        let [before, plain_before] = [&outcome, &plain].map(|outcome| outcome.before.heldout_loss.unwrap());
        assert!((before - plain_before).abs() <= TOLERANCE, "{output}: {before}, {plain_before}");
        assert!(losses[3] < plain_losses[3] - 0.01, "{output}: {losses:?} are no better than {plain_losses:?}");
        let config = Qwen3Config::open(&embedded::model()).unwrap();
        let (adapter, _) = Adapter::open(&outcome.output, &config).unwrap();
        assert_eq!((adapter.config.r, adapter.config.alpha, adapter.config.init), (8, 64.0, Init::Kaiming));
        let again = TrainSettings {
            use_4bit: false,
            bnb_4bit_compute_dtype: DType::F32,
            ..further(folder.path(), output, &format!("{output}-further"))
        };
        let (again, _) = trained(&again);
        let [saved, left] = [again.before.heldout_loss.unwrap(), after(&outcome)];
        assert!((saved - left).abs() <= TOLERANCE, "{output}: {saved} from the whole base, {left} in training");
    }
}

/// Of steps that are far too large, an early one is the best.
#[test]
fn the_best_step_of_pissa_is_gone_back_to() {
    let folder = samples();
    let best = TrainSettings {
        eval_steps: 1,
        load_best_at_end: true,
        learning_rate: Some(0.03),
        max_steps: Some(6),
        ..unquantised(folder.path(), "best", Init::Pissa(Some(2)))
    };
    let (outcome, _) = trained(&best);
    let text = fs::read_to_string(outcome.output.join("metrics.jsonl")).unwrap();
    let records = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let evaluated =
        |record: serde_json::Value| record["loss"].is_number().then(|| record["eval_loss"].as_f64().unwrap());
    let losses: Vec<f64> = records.filter_map(evaluated).collect();
    let lowest = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(losses.len() == 6 && lowest < losses[5], "the last step is the best: {losses:?}");
    // To the digits of the file.
    assert!((after(&outcome) - lowest).abs() <= 1e-6 * lowest, "{} is not {lowest}", after(&outcome));
}

#[test]
fn what_cannot_begin_is_refused() {
    let folder = samples();
    let plain = |init| TrainSettings { init_lora_weights: init, ..settings(folder.path(), "refused") };
    let says = |settings: TrainSettings, what: &str| {
        let said = refused(&settings);
        assert!(said.contains("init_lora_weights") && said.contains(what), "{said}");
    };
    says(plain(Init::Pissa(None)), "PiSSA leaves the base");
    says(TrainSettings { use_4bit: false, ..plain(Init::LoftQ) }, "set use_4bit");
    let ends =
        |init, names: &str| TrainSettings { target_modules: Targets::from_text(names), use_4bit: false, ..plain(init) };
    for (init, names) in [(Init::LoftQ, "q_proj,lm_head"), (Init::Pissa(None), "embed_tokens")] {
        says(ends(init, names), "leave embed_tokens and lm_head out of target_modules, or begin with true or gaussian");
    }
    let faster = TrainSettings { loraplus_lr_ratio: 4.0, ..ends(Init::Kaiming, "embed_tokens") };
    let said = refused(&faster);
    assert!(said.contains("loraplus_lr_ratio is 4") && said.contains("leave embed_tokens out"), "{said}");
    says(TrainSettings { use_4bit: false, use_dora: true, ..plain(Init::Pissa(Some(4))) }, "does not go with DoRA");
    assert!(!folder.path().join("refused").exists());
}
