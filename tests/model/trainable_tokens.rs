//! Rows of the embedding and the head that an adapter trains, against PEFT: `tests/data/golden/trainable-tokens`.
use crate::common::{
    golden::Golden,
    tiny::{check_adapter, load, loss, samples, step, train_like_peft, trainer_options},
};
use half::bf16;
use halfbyte::Backend;
use halfbyte_runtime::{
    checkpoint::Checkpoint,
    config::Qwen3Config,
    lora::{Adapter, LoraConfig, Table, Targets, TrainableTokens},
    model::{Keep, Qwen3},
    train::trainer::Trainer,
};

/// Each adapter of the goldens, and the checkpoint that it is for.
const CASES: [(&str, &str); 4] = [("tied", "tied"), ("untied", "untied"), ("both", "untied"), ("head", "untied")];

fn forward_equals_peft<B: Backend>(backend: &B) {
    for (case, base) in CASES {
        check_adapter(backend, &Golden::of_trainable_tokens(), case, base);
    }
}

fn training_equals_peft<B: Backend>(backend: &B) {
    for (case, base) in CASES {
        train_like_peft(backend, &Golden::of_trainable_tokens(), case, base, Keep::Everything);
        train_like_peft(backend, &Golden::of_trainable_tokens(), case, base, Keep::Host);
    }
}

/// From the checkpoint's rows, which change nothing, through training, a folder and back, in a 4-bit base.
fn a_new_adapter_trains_its_rows_and_keeps_them<B: Backend>(backend: &B) {
    let bases = Golden::open();
    let samples = samples(&Golden::of_trainable_tokens());
    for name in ["tied-nf4-dq", "untied-nf4-dq"] {
        let model = load::<B, bf16>(backend, &bases, name);
        let files = Checkpoint::open(&bases.dir(name)).unwrap();
        let mut config = LoraConfig::new(8, 16.0, Targets::Names(vec!["v_proj".into()]));
        let plain = Adapter::init(config.clone(), &model.config, &files, 0).unwrap();
        config.trainable_tokens = match model.config.tie_word_embeddings {
            true => TrainableTokens::Ids(vec![203, 3]),
            false => TrainableTokens::from_text(r#"{"lm_head": [3, 251], "embed_tokens": [203]}"#).unwrap(),
        };
        let adapter = Adapter::init(config, &model.config, &files, 0).unwrap();
        let before = loss(backend, &model, &adapter, &samples);
        assert_eq!(before, loss(backend, &model, &plain, &samples), "{name}: rows of the checkpoint are its own");
        let step = step(&samples);
        let mut trainer =
            Trainer::new(backend, &model, &adapter, trainer_options(step.micro_batches[0].n_tokens(), Keep::Residual))
                .unwrap();
        trainer.step(&step).unwrap();
        let trained = trainer.adapter().unwrap();
        for (new, old) in trained.tokens.iter().zip(&adapter.tokens) {
            let hidden = model.config.hidden_size;
            let moved = new.weight.chunks(hidden).zip(old.weight.chunks(hidden)).map(|(new, old)| new != old);
            // Token 3 is never read and never a target, but it is a logit of every target.
            let is_logit = new.table == Table::Head || model.config.tie_word_embeddings;
            let want = new.ids.iter().map(|&id| id != 3 || is_logit);
            assert_eq!(moved.collect::<Vec<_>>(), want.collect::<Vec<_>>(), "{name}: {:?}", new.table);
        }
        let dir = tempfile::tempdir().unwrap();
        trained.save(dir.path()).unwrap();
        let (opened, _) = Adapter::open(dir.path(), &model.config).unwrap();
        assert!(opened.layers == trained.layers && opened.tokens == trained.tokens, "{name}: saved and opened again");
        let after = loss(backend, &model, &opened, &samples);
        // The head's products come in chunks of another size there, and may be summed in another order: in f32.
        let error = (after / trainer.evaluate(&samples).unwrap() - 1.0).abs();
        assert!(error <= 1e-6, "{name}: what the trainer has is what was saved, but for {error}");
        assert!(after < before, "{name}: {after} is no less than {before}");
    }
}

/// config.json says that they are one.
fn rows_of_a_tied_embedding_beside_another_head_are_refused<B: Backend>(backend: &B) {
    let bases = Golden::open();
    let dir = bases.dir("untied");
    let config = Qwen3Config { tie_word_embeddings: true, ..Qwen3Config::open(&dir).unwrap() };
    let files = Checkpoint::open(&dir).unwrap();
    let model = Qwen3::<B, f32>::load(backend, &files, &config, halfbyte_runtime::model::Base::Unquantized).unwrap();
    let mut lora = LoraConfig::new(8, 16.0, Targets::AllLinear);
    lora.trainable_tokens = TrainableTokens::Ids(vec![3]);
    let adapter = Adapter::init(lora, &config, &files, 0).unwrap();
    let error = model.adapt(backend, &adapter).expect_err("it was not refused").to_string();
    assert!(error.contains("trainable_token_indices") && error.contains("remove `lm_head.weight`"), "{error}");
}

crate::backends!(
    forward_equals_peft,
    training_equals_peft,
    a_new_adapter_trains_its_rows_and_keeps_them,
    rows_of_a_tied_embedding_beside_another_head_are_refused,
);
