//! The memory that a check tells. Alone in its process, whose buffers are counted together.

use halfbyte::DType;
use halfbyte_runtime::{
    embedded, llm,
    lora::{Adapter, LoraConfig, Targets, TrainableTokens},
    settings::{LlmSettings, TrainSettings},
    train::run::{Prepared, run},
};
use std::path::Path;

/// Answers take what is told; gives the most that they took.
fn answers(folder: &Path) -> usize {
    let adapter = folder.join("given");
    let model = llm::Prepared::new(&LlmSettings::default()).unwrap();
    let lora = LoraConfig::new(64, 32.0, Targets::AllLinear);
    Adapter::init(lora, &model.config, &model.files, 0).unwrap().save(&adapter).unwrap();
    let mut last = 0;
    for (n, lora_path) in [(200, None), (900, None), (900, Some(adapter))] {
        let device = "cpu".parse().unwrap();
        let settings = LlmSettings { device, lora_path, max_new_tokens: 4, ..LlmSettings::default() };
        let (prepared, prompt) = (llm::Prepared::new(&settings).unwrap(), "the ".repeat(n));
        let need = prepared.need_for(Some(&prompt)).unwrap().total();
        let llm = prepared.load().unwrap();
        llm.invoke(&prompt).unwrap();
        let taken = llm.memory().peak;
        assert!(last < taken, "{last}, {taken}");
        assert!(need.abs_diff(taken) <= taken / 100, "{need} told, {taken} taken: {settings:?}");
        last = taken;
    }
    last
}

#[test]
fn it_is_what_a_run_takes() {
    let folder = tempfile::tempdir().unwrap();
    let plain = TrainSettings {
        data: Some(embedded::town("train.jsonl").unwrap()),
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
    let tokens = TrainSettings {
        trainable_token_indices: TrainableTokens::from_text("4090,4091,4092").unwrap(),
        ..examined.clone()
    };
    let dense = TrainSettings { use_4bit: false, bnb_4bit_compute_dtype: DType::F32, ..examined.clone() };
    // Each takes more than those before it: what is counted is the most so far.
    let mut last = answers(folder.path());
    for settings in [checkpointed, plain, examined, tokens, dense] {
        let need = Prepared::new(&settings).unwrap().need().unwrap().total();
        let taken = run(&settings, &mut ()).unwrap().memory.peak;
        assert!(last < taken, "{last}, {taken}");
        assert!(need.abs_diff(taken) <= taken / 100, "{need} told, {taken} taken: {settings:?}");
        last = taken;
    }
}
