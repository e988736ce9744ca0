//! Tokens that the base never learnt: named before training, and trained where that is asked for.

use crate::{refused, root, text, train};
use std::{fs, path::Path};

/// Two conversations, whose markers the embedded model never saw.
fn conversations(folder: &Path) -> String {
    let line =
        r#"{"messages": [{"role": "user", "content": "Who rings?"}, {"role": "assistant", "content": "Nobody."}]}"#;
    let path = folder.join("chat.jsonl");
    fs::write(&path, format!("{line}\n{line}\n")).unwrap();
    text(&path).to_owned()
}

/// What a run of one step on them says on standard error.
fn said(data: &str, output: &Path, options: &[&str]) -> String {
    let done = train(&["--data", data, "--max-steps", "1", "--output", text(output)]).args(options).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{said}");
    said
}

#[test]
fn tokens_that_the_base_never_learnt_are_named_until_their_rows_are_trained() {
    let folder = tempfile::tempdir().unwrap();
    let (data, output) = (conversations(folder.path()), folder.path().join("adapter"));
    let without = said(&data, &output, &[]);
    let parts =
        ["4093 \"<|im_end|>\"", "2 times a target", "4092 \"<|im_start|>\"", "--trainable-token-indices '4093,4092'"];
    for part in parts {
        assert!(without.contains(part), "the note lacks {part:?}: {without}");
    }
    let with = said(&data, &output, &["--overwrite", "--trainable-token-indices", "4093,4092"]);
    assert!(!with.contains("never learnt"), "{with}");
    let config = fs::read_to_string(output.join("adapter_config.json")).unwrap();
    assert!(config.contains("\"trainable_token_indices\": [\n    4093,\n    4092\n  ]"), "{config}");
    let weights = fs::read(output.join("adapter_model.safetensors")).unwrap();
    let key = b"base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta";
    assert!(weights.windows(key.len()).any(|window| window == key));
    // Nor are they of what the by-laws train.
    let town = text(&root().join("runtime/assets/town/train.jsonl")).to_owned();
    assert!(!said(&town, &output, &["--overwrite"]).contains("never learnt"));
}

#[test]
fn tokens_that_have_no_row_are_refused() {
    let output = tempfile::tempdir().unwrap();
    let refuses =
        |value: &str, wanted: &[&str]| refused(train(&["--trainable-token-indices", value]), output.path(), wanted);
    refuses("4096", &["`4096` of `trainable_token_indices`", "4096 ids"]);
    refuses("7,7", &["`7` of `trainable_token_indices`", "twice"]);
    refuses("{\"lm_head\": [7]}", &["`lm_head` of `trainable_token_indices`", "it is the embedding"]);
    refuses("seven", &["--trainable-token-indices", "it must be ids, as 1,2,3"]);
}
