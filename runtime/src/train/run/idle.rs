//! Settings that would have no effect.

use crate::{
    checkpoint::Checkpoint,
    error::Result,
    llm::idle as idle_base,
    settings::{ActivationMemory, TrainSettings, Value},
    train::schedule::ScheduleKind,
};

/// What an adapter that is trained further brings along.
const OF_THE_ADAPTER: [&str; 12] = [
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "use_rslora",
    "use_dora",
    "init_lora_weights",
    "modules_to_save",
    "trainable_token_indices",
];

/// Settings that have no effect, should they have been asked for, and why.
pub(super) fn idle(settings: &TrainSettings, files: &Checkpoint) -> Result<Vec<(&'static str, String)>> {
    let mut all = idle_base(settings, settings.use_4bit, files);
    if let Some(found) = files.quantized_as().filter(|_| !settings.use_4bit) {
        all.push(("use_4bit", format!("the checkpoint is in {found} already; take the original one to train without")));
    }
    if settings.eval_steps > 0 && settings.heldout_files()?.is_none() && settings.sample_prompts.is_none() {
        let why = "there is no held-out data, and no prompt: name some by eval_data or sample_prompts";
        all.push(("eval_steps", why.into()));
    }
    if settings.eval_steps == 0 || settings.heldout_files()?.is_none() {
        let why = "nothing is evaluated between steps: set eval_steps, and name held-out data by eval_data";
        all.extend(["load_best_at_end", "early_stopping_patience"].map(|name| (name, why.to_owned())));
    }
    let kind = settings.lr_scheduler_type;
    let of_kinds: [(&str, &[ScheduleKind]); 3] = [
        ("min_lr", &[ScheduleKind::CosineWithMinLr, ScheduleKind::WarmupStableDecay, ScheduleKind::Polynomial]),
        ("decay_ratio", &[ScheduleKind::WarmupStableDecay]),
        ("lr_power", &[ScheduleKind::Polynomial]),
    ];
    let others = of_kinds.into_iter().filter(|(_, kinds)| !kinds.contains(&kind));
    all.extend(others.map(|(name, _)| (name, format!("the schedule {} does not look at it", kind.show()))));
    if settings.activation_memory != ActivationMemory::Auto {
        let kept = settings.activation_memory.show();
        all.push(("gradient_checkpointing", format!("activation_memory is {kept}, and says what is kept; leave one")));
    }
    if !settings.packing {
        all.push(("packing_strategy", "packing is false".into()));
    }
    if let Some(steps) = settings.max_steps {
        all.push(("epochs", format!("max_steps is {steps}, and says how long to train; leave one")));
    }
    if let Some(path) = &settings.lora_path {
        let why = format!("`{}` says it in its adapter_config.json", path.display());
        all.extend(OF_THE_ADAPTER.map(|name| (name, why.clone())));
    }
    // "none" is no way to leave out what comes with the embedded data.
    let none = "the embedded data brings its own; name a file, or data of your own";
    let given = [("eval_data", settings.eval_data.is_some()), ("exam", settings.exam.is_some())];
    let absent = given.into_iter().filter(|(_, given)| settings.data.is_none() && !given);
    all.extend(absent.map(|(name, _)| (name, none.into())));
    Ok(all)
}
