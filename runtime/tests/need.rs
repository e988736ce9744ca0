//! The memory that a check tells. Alone in its process, whose buffers are counted together.

use halfbyte::DType;
use halfbyte_runtime::{
    embedded,
    evaluate::{
        exam::{Exam, items, prepare, run_settings},
        output::ScoringOutput,
    },
    llm,
    lora::{Adapter, LoraConfig, Targets, TrainableTokens},
    settings::{EvaluationSettings, LlmSettings, Mode, Optim, RagConfig, TrainSettings},
    train::run::{Prepared, run},
};
use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

/// A run: what it is, the memory that is told, and what gives the most that was taken once it is over.
type Case = (String, usize, Box<dyn FnOnce() -> usize>);

/// Settings of a model on the CPU.
fn settings() -> LlmSettings {
    LlmSettings { device: "cpu".parse().unwrap(), ..LlmSettings::default() }
}

/// An adapter of the embedded model.
fn adapter(folder: &Path) -> PathBuf {
    let path = folder.join("given");
    let model = llm::Prepared::new(&LlmSettings::default()).unwrap();
    let lora = LoraConfig::new(64, 32.0, Targets::AllLinear);
    Adapter::init(lora, &model.config, &model.files, 0).unwrap().save(&path).unwrap();
    path
}

fn answer(n: usize, settings: LlmSettings) -> Case {
    let (what, prompt) = (format!("{n} words, {settings:?}"), "the ".repeat(n));
    let prepared = llm::Prepared::new(&LlmSettings { max_new_tokens: 4, ..settings }).unwrap();
    let told = prepared.need_for(Some(&prompt)).unwrap().total();
    let take = move || {
        let llm = prepared.load().unwrap();
        llm.invoke(&prompt).unwrap();
        llm.memory().peak
    };
    (what, told, Box::new(take))
}

fn exam(folder: &Path, evaluation: EvaluationSettings, llm: LlmSettings) -> Case {
    let what = format!("{evaluation:?}, {llm:?}");
    let output = folder.join(format!("{:?}{}", evaluation.mode, evaluation.batch_size));
    let config = RagConfig { llm, evaluation, ..RagConfig::default() };
    let (items, prepared) = (items(&config.evaluation, 0).unwrap(), prepare(&config).unwrap());
    let told = Exam::new(&prepared, &config.evaluation, None).check(&items).unwrap().need.total();
    let take = move || {
        let mut output = ScoringOutput::open(&output, items, run_settings(&config), false).unwrap();
        let llm = prepared.load().unwrap();
        let exam = Exam::new(llm.prepared(), &config.evaluation, None);
        exam.sit(&llm, &mut output, |_| ControlFlow::Continue(())).unwrap().expect("all are answered");
        llm.memory().peak
    };
    (what, told, Box::new(take))
}

fn training(settings: TrainSettings) -> Case {
    let told = Prepared::new(&settings).unwrap().need().unwrap().total();
    (format!("{settings:?}"), told, Box::new(move || run(&settings, &mut ()).unwrap().memory.peak))
}

#[test]
fn it_is_what_a_run_takes() {
    let folder = tempfile::tempdir().unwrap();
    let plain = TrainSettings {
        data: Some(embedded::town("train.jsonl").unwrap().into()),
        output: folder.path().join("adapter"),
        overwrite: true,
        use_4bit: true,
        device: "cpu".parse().unwrap(),
        batch_size: Some(16),
        max_steps: Some(1),
        ..TrainSettings::default()
    };
    let checkpointed = TrainSettings { gradient_checkpointing: true, lora_r: 4, ..plain.clone() };
    let examined = TrainSettings { data: None, ..plain.clone() };
    let prompted = TrainSettings { sample_prompts: Some("the ".repeat(900)), ..plain.clone() };
    let dora = TrainSettings { use_dora: true, lora_r: 64, ..plain.clone() };
    let dropped = TrainSettings { lora_dropout: 0.1, ..dora.clone() };
    let tokens = TrainSettings {
        trainable_token_indices: TrainableTokens::from_text("4090,4091,4092").unwrap(),
        ..examined.clone()
    };
    let targets = Targets::from_text("q_proj,embed_tokens,lm_head");
    let ends = TrainSettings { target_modules: targets, lora_r: 48, ..plain.clone() };
    let dense = TrainSettings { use_4bit: false, bnb_4bit_compute_dtype: DType::F32, ..examined.clone() };
    let in_8_bits = TrainSettings { optim: Optim::AdamW8bit, lora_r: 64, ..examined.clone() };
    let adapted = LlmSettings { lora_path: Some(adapter(folder.path())), ..settings() };
    let likelihood = EvaluationSettings::default();
    let generated = EvaluationSettings { mode: Mode::Generate, batch_size: 60, ..EvaluationSettings::default() };
    let written = LlmSettings { max_new_tokens: 300, ..adapted.clone() };
    let mut cases = vec![
        answer(200, settings()),
        answer(900, settings()),
        answer(900, adapted.clone()),
        answer(900, LlmSettings { kv_cache_8bit: true, ..settings() }),
        exam(folder.path(), likelihood, adapted),
        exam(folder.path(), generated, written),
    ];
    cases
        .extend([checkpointed, plain, prompted, examined, dora, dropped, tokens, ends, dense, in_8_bits].map(training));
    // Each takes more than those before it: what is counted is the most so far.
    cases.sort_by_key(|(_, told, _)| *told);
    let mut last = 0;
    for (what, told, take) in cases {
        let taken = take();
        assert!(last < taken, "{last}, {taken}: {what}");
        assert!(told.abs_diff(taken) <= taken / 100, "{told} told, {taken} taken: {what}");
        last = taken;
    }
}
