//! Every option of the programs that score and that answer from texts: an effect or a refusal for each.

use crate::{
    effects::{Driven, Files, Output, Refused, of_every_program, of_sampling, of_the_base, row, says, show, words},
    example, root, small_model, text,
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
    let index = index(files.folder.path(), "index", &root().join("runtime/assets/town/bylaws.txt"));
    let (few, done) = (files.folder.path().join("questions.jsonl"), files.folder.path().join("done"));
    fs::write(&few, r#"{"question": "Is it?", "options": ["yes", "no"], "answer": "b"}"#).unwrap();
    let line = words("--device cpu --limit 3");
    let driven = Driven { name: "evaluate_multiple_choice", line, output: Some("") };
    assert!(driven.run(&words(&show("--output", &done))).done);
    let idle = |option: &str| row(option, Refused("nothing is written in likelihood mode"));
    let generate = "--mode generate --max-new-tokens 2";
    let rows = vec![
        row(&show("--questions", &few), says("1 asked")),
        row("--mode generate", says("answers without a letter: 3")),
        row("--limit 2", says("2 asked")),
        row("--shuffle-options", says("12 asked")),
        row("--batch-size 1", says("1 at once")),
        row(&show("--output", &files.other()), says(format!("are in {}", files.other().display()))),
        row("--overwrite", says("3 asked")).beside(&show("--output", &done)),
        row(&show("--index", &index), says("in place of each question's context")),
        row("--top-k 1", says("up to 1 passage ")).beside(&show("--index", &index)),
        row("--context-tokens 64", says("64 tokens")).beside(&show("--index", &index)),
        row("--chunk-size 90", Refused("no index is made here")),
        row("--chunk-overlap 9", Refused("no index is made here")),
        row(&files.model(), says("hidden 32")).beside("--raw --mode generate --check"),
        row(&show("--lora-path", &files.adapter), says("adapter: /"))
            .beside(&format!("{} --raw --check {generate}", files.model())),
        row("--max-new-tokens 2", says("up to 2 tokens")).beside("--mode generate --max-new-tokens 3"),
        row("--kv-cache-8bit", says("; keys and values in 8 bits")).beside(generate),
        idle("--kv-cache-8bit"),
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
        row("--check", says("MiB for the base, ")),
        row("--check", says(" for keys and values, ")).beside("--mode generate"),
    ];
    let shared = [of_the_base(), of_every_program("evaluate_multiple_choice")];
    driven.see(&shared.into_iter().flatten().chain(rows).collect::<Vec<_>>());
}

#[test]
fn every_option_of_answering_from_texts_is_seen() {
    let files = Files::new("[retrieval]\ntop_k = 2\n");
    let town = root().join("runtime/assets/town");
    let [first, second] = [("one", "bylaws.txt"), ("two", "README.md")]
        .map(|(name, document)| index(files.folder.path(), name, &town.join(document)));
    // Short answers on the CPU by a file: on the command line they would be refused where nothing is answered.
    let short = files.folder.path().join("short.toml");
    fs::write(&short, "[llm]\nmax_new_tokens = 6\ndevice = 'cpu'\n").unwrap();
    let line = format!("{} --question bride {}", show("--index", &first), show("--config", &short));
    let driven = Driven { name: "rag", line: words(&line), output: None };
    let small = format!("{} --raw", files.model());
    let rows = vec![
        row(&show("--index", &second), Output),
        row("--top-k 1", Output),
        row("--chunk-size 90", Refused("the index is made already")),
        row("--chunk-overlap 9", Refused("the index is made already")),
        row("--context-tokens 60", Output),
        row(&show("--documents", &town.join("bylaws.txt")), says("indexed in"))
            .beside(&show("--index", &files.other())),
        row("--question bell", Output),
        row("--passages", Output),
        row("--passages", Refused("no answer is written")).beside("--max-new-tokens 5"),
        row(&files.model(), says("hidden 32")).beside("--raw"),
        row(&show("--lora-path", &files.adapter), says("adapter: /")).beside(&small),
        row("--max-new-tokens 2", says("up to 2 tokens")),
        row("--system Answer", Output).beside(&format!("{} --temperature 2", files.model())),
        row("--raw", Output).beside(&files.model()),
        row(&show("--config", &files.settings), says("top_k                        = 2 ")).beside("--print-config"),
        row("--print-config", says("[retrieval]")),
        row("--check", says("the index is whole: ")),
        row(&show("--documents", &town), says("texts can be indexed")).beside("--check"),
    ];
    let shared = [of_the_base(), of_sampling("--llm-top-k"), of_every_program("rag")];
    driven.see(&shared.into_iter().flatten().chain(rows).collect::<Vec<_>>());
}

/// Questions and options are read as they are: a checkpoint without a template can be scored, but not asked to answer.
#[test]
fn likelihoods_need_no_chat_template() {
    let model = small_model();
    let path = model.path().join("tokenizer.json");
    let without = fs::read_to_string(&path).unwrap().replace("<|im_start|>", "<|other_start|>");
    fs::write(&path, without).unwrap();
    let line = format!("--limit 2 --device cpu --model-name {}", text(model.path()));
    let driven = Driven { name: "evaluate_multiple_choice", line: words(&line), output: Some("") };
    let (scored, written) = (driven.run(&[]), driven.run(&words("--mode generate")));
    assert!(scored.done && scored.said.contains("2 asked"), "{}", scored.said);
    assert!(!written.done && written.said.contains("chat_template.jinja"), "{}", written.said);
}

/// A file serves all programs: what one of them has no use for is another's.
#[test]
fn a_file_may_hold_what_a_program_has_no_use_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("all.toml");
    fs::write(&file, "[llm]\ntemperature = 0.5\n[retrieval]\ntop_k = 3\nchunk_size = 300\n").unwrap();
    let line = format!("--limit 2 --device cpu {}", show("--config", &file));
    let driven = Driven { name: "evaluate_multiple_choice", line: words(&line), output: Some("") };
    let (ran, refused) = (driven.run(&[]), driven.run(&words("--temperature 0.5")));
    assert!(ran.done, "{}", ran.said);
    assert!(!refused.done && refused.said.contains("--temperature: llm.temperature has no effect"), "{}", refused.said);
}
