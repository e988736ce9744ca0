//! The memory that a check tells. Alone in its process, whose buffers are counted together.

use halfbyte::DType;
use halfbyte_runtime::{
    embedded,
    lora::TrainableTokens,
    settings::TrainSettings,
    train::run::{Prepared, run},
};

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
    let mut last = 0;
    for settings in [checkpointed, plain, examined, tokens, dense] {
        let need = Prepared::new(&settings).unwrap().need().unwrap().total();
        let taken = run(&settings, &mut ()).unwrap().memory.peak;
        assert!(last < taken, "{last}, {taken}");
        assert!(need.abs_diff(taken) <= taken / 100, "{need} told, {taken} taken: {settings:?}");
        last = taken;
    }
}
