//! Every option of the programs that score and that answer from texts: an effect or a refusal for each.

use crate::{
    effects::{Driven, File, Files, Output, Refused, row, says, show, words},
    example, root, text,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// An index of one text.
fn index(folder: &Path, name: &str, document: &Path) -> PathBuf {
    let index = folder.join(name);
    let mut command = Command::new(example("rag"));
    let done = command.args(["--index", text(&index), "--documents", text(document)]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    index
}

#[test]
fn every_option_of_scoring_is_seen() {
    let files = Files::new("[evaluation]\nbatch_size = 2\n");
    let index = index(files.folder.path(), "index", &root().join("examples/assets/town/bylaws.txt"));
    let (few, done) = (files.folder.path().join("questions.jsonl"), files.folder.path().join("done"));
    fs::write(&few, r#"{"question": "Is it?", "options": ["yes", "no"], "answer": "b"}"#).unwrap();
    let line = words("--device cpu --limit 3");
    let driven = Driven { name: "evaluate_multiple_choice", line, output: Some("") };
    assert!(driven.run(&words(&show("--output", &done))).done);
    let idle = |option: &str| row(option, Refused("nothing is written in likelihood mode"));
    let generate = "--mode generate --max-new-tokens 2";
    driven.see(&[
        row(&show("--questions", &few), says("1 asked")),
        row("--mode generate", says("answers without a letter: 3")),
        row("--limit 2", says("2 asked")),
        row("--shuffle-options", says("12 asked")),
        row("--batch-size 1", File("metrics.json")),
        row(&show("--output", &files.other()), says(format!("are in {}", files.other().display()))),
        row("--overwrite", says("3 asked")).beside(&show("--output", &done)),
        row(&show("--index", &index), says("in place of each question's context")),
        row("--top-k 1", says("up to 1 passages")).beside(&show("--index", &index)),
        row("--context-tokens 64", says("64 tokens")).beside(&show("--index", &index)),
        row("--chunk-size 90", Refused("no index is made here")),
        row("--chunk-overlap 9", Refused("no index is made here")),
        row(&files.model(), says("hidden 32")).beside("--raw --mode generate --check"),
        row(&show("--lora-path", &files.adapter), says("adapter: /"))
            .beside(&format!("{} --raw --check {generate}", files.model())),
        row("--device cuda:99", Refused("CUDA")),
        row("--load-in-4bit false", says("base: unquantised")),
        row("--bnb-4bit-compute-dtype float32", says("computing in float32")),
        row("--bnb-4bit-quant-type fp4", says("base: fp4")),
        row("--bnb-4bit-use-double-quant false", says("base: nf4 in 4 bits (")),
        row("--max-new-tokens 2", says("up to 2 tokens")).beside("--mode generate --max-new-tokens 3"),
        idle("--temperature 1"),
        idle("--llm-top-k 1"),
        idle("--top-p 0.5"),
        idle("--min-p 0.5"),
        idle("--repetition-penalty 2"),
        idle("--system Answer"),
        idle("--enable-thinking true"),
        idle("--raw"),
        idle("--use-generation-config"),
        row("--seed 1", Refused("nothing is shuffled")),
        row(&show("--config", &files.settings), says("batch_size                   = 2 ")).beside("--print-config"),
        row("--print-config", says("[evaluation]")),
        row("--check", says("everything fits")),
        row("--help", says("Usage:")),
        row("--version", says(concat!("evaluate_multiple_choice ", env!("CARGO_PKG_VERSION")))),
    ]);
}

#[test]
fn every_option_of_answering_from_texts_is_seen() {
    let files = Files::new("[retrieval]\ntop_k = 2\n");
    let town = root().join("examples/assets/town");
    let [first, second] = [("one", "bylaws.txt"), ("two", "README.md")]
        .map(|(name, document)| index(files.folder.path(), name, &town.join(document)));
    let line = format!("{} --question bride --device cpu --max-new-tokens 6", show("--index", &first));
    let driven = Driven { name: "rag", line: words(&line), output: None };
    let (small, hot) = (format!("{} --raw", files.model()), "--temperature 9");
    driven.see(&[
        row(&show("--index", &second), Output),
        row("--top-k 1", Output),
        row("--chunk-size 90", Refused("the index is made already")),
        row("--chunk-overlap 9", Refused("the index is made already")),
        row("--context-tokens 60", Output),
        row(&show("--documents", &town.join("bylaws.txt")), says("indexed in"))
            .beside(&show("--index", &files.other())),
        row("--question bell", Output),
        row("--passages", Output),
        row(&files.model(), says("hidden 32")).beside("--raw"),
        row(&show("--lora-path", &files.adapter), says("adapter: /")).beside(&small),
        row("--device cuda:99", Refused("CUDA")),
        row("--load-in-4bit false", says("base: unquantised")),
        row("--bnb-4bit-compute-dtype float32", says("computing in float32")),
        row("--bnb-4bit-quant-type fp4", says("base: fp4")),
        row("--bnb-4bit-use-double-quant false", says("base: nf4 in 4 bits (")),
        row("--max-new-tokens 2", says("up to 2 tokens")),
        row("--temperature 9", Output),
        row("--llm-top-k 1", Output).beside(hot),
        row("--top-p 0.01", Output).beside(hot),
        row("--min-p 0.99", Output).beside(hot),
        row("--repetition-penalty 50", Output),
        row("--seed 1", Output).beside(hot),
        row("--system Answer", Refused("system is set")),
        row("--enable-thinking true", Refused("enable_thinking is set")),
        row("--raw", Output).beside(&files.model()),
        row("--use-generation-config", says("temperature 0.8")),
        row(&show("--config", &files.settings), says("top_k                        = 2 ")).beside("--print-config"),
        row("--print-config", says("[retrieval]")),
        row("--check", says("everything fits")),
        row("--help", says("Usage:")),
        row("--version", says(concat!("rag ", env!("CARGO_PKG_VERSION")))),
    ]);
}
