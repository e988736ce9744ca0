//! Adapters of the embedding and the output head.

use halfbyte_runtime::checkpoint::Checkpoint;
use halfbyte_runtime::config::{Module, Qwen3Config};
use halfbyte_runtime::lora::{Adapter, LoraConfig, Targets, TrainableTokens};

use super::{assert_same, golden, names};

/// Of what PEFT saves unless it is told otherwise, the base's weights are left.
#[test]
fn adapters_of_embedding_and_head_are_written_as_peft_wrote_them() {
    let (embedding, head) = ("model.embed_tokens", "lm_head");
    for (case, base, want) in [
        ("head", "untied", &[head][..]),
        ("tied-head", "tied", &[head]),
        ("embedding", "untied", &[embedding]),
        ("tied-embedding", "tied", &[embedding]),
        ("tied-both", "tied", &[embedding, head]),
    ] {
        let model = Qwen3Config::open(&golden(&format!("qwen3-tiny/{base}"))).unwrap();
        let dir = golden(&format!("ends/adapter-{case}"));
        let (adapter, note) = Adapter::open(&dir, &model).unwrap();
        let ends = adapter.layers.iter().map(|layer| layer.target.module);
        let ends: Vec<_> = ends.filter(|m| !matches!(m, Module::Layer(..))).map(|m| m.to_string()).collect();
        assert_eq!(ends, want, "{case}");
        let out = tempfile::tempdir().unwrap();
        adapter.save(out.path()).unwrap();
        if case != "tied-both" {
            assert_eq!(note, None);
            names(out.path()).iter().for_each(|file| assert_same(&out.path().join(file), &dir.join(file)));
            continue;
        }
        let note = note.expect("nothing is said of the base's weights");
        assert!(note.contains("the base's weights of model.embed_tokens and lm_head, too"), "{note}");
        let [theirs, ours] = [&dir, out.path()].map(|dir| dir.join("adapter_model.safetensors"));
        let [theirs, ours] = [theirs, ours].map(|path| Checkpoint::open_file(&path).unwrap());
        assert!(theirs.names().filter(|name| !name.ends_with("base_layer.weight")).eq(ours.names()));
        assert!(ours.names().all(|name| ours.tensor(name).unwrap().data == theirs.tensor(name).unwrap().data));
    }
}

#[test]
fn the_embedding_and_the_head_are_adapted_one_way_at_a_time() {
    let untied = || Qwen3Config::open(&golden("qwen3-tiny/untied")).unwrap();
    type Edit = fn(&mut LoraConfig);
    let refusal = |tied: bool, names: &str, edit: Edit| {
        let model = Qwen3Config { tie_word_embeddings: tied, ..untied() };
        let mut config = LoraConfig::new(8, 16.0, Targets::from_text(names));
        edit(&mut config);
        let targets = config.resolve(&model).and_then(|_| config.tokens(&model));
        targets.map(|_| ()).map_err(|e| e.to_string())
    };
    let tokens = |config: &mut LoraConfig| config.trainable_tokens = TrainableTokens::Ids(vec![1]);
    let of_head =
        |config: &mut LoraConfig| config.trainable_tokens = TrainableTokens::from_text("{\"lm_head\": [1]}").unwrap();
    let dora = |config: &mut LoraConfig| config.use_dora = true;
    assert_eq!(refusal(false, "lm_head", tokens), Ok(()), "those are the embedding's");
    assert_eq!(refusal(false, "embed_tokens", of_head), Ok(()), "those are the head's");
    let rows = "rows of it are trained whole (`trainable_token_indices`); leave one of the two out";
    let cases: [(bool, &str, Edit, &str); 5] = [
        (true, "lm_head", tokens, rows),
        (false, "lm_head", of_head, rows),
        (false, "embed_tokens", tokens, rows),
        (
            false,
            "q_proj,lm_head",
            dora,
            "`lm_head` of `target_modules`: DoRA (`use_dora`) is for the layers' linear maps",
        ),
        (false, "embed_tokens", dora, "`model.embed_tokens` of `target_modules`: DoRA"),
    ];
    for (tied, names, edit, want) in cases {
        let error = refusal(tied, names, edit).unwrap_err();
        assert!(error.contains(want), "{names}: {error}");
    }
}
