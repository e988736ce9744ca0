//! Every option of the programs that write files for others: an effect or a refusal for each.

use crate::effects::{Driven, File, Files, Holds, Refused, of_every_program, row, says, show, words};

#[test]
fn every_option_of_merging_is_seen() {
    let files = Files::new("");
    let line = format!("{} {}", files.model(), show("--lora-path", &files.adapter));
    let driven = Driven { name: "merge_lora", line: words(&line), output: Some("") };
    const NAME: &str = "model.safetensors";
    let second = show("--lora-path", &files.adapter);
    let ties = format!("{second} --combination ties --density 0.5");
    let other = files.other();
    let rows = vec![
        row("--model-name embedded", Refused("expected [")),
        row(&second, File(NAME)),
        row("--weights -0.5", File(NAME)),
        row("--combination linear", File(NAME)).beside(&format!("{second} --weights 1,3")),
        row("--combination cat", Refused("one adapter needs none")),
        row("--density 0.5", File(NAME)).beside(&format!("{second} --combination ties --density 1")),
        row("--density 0.5", Refused("only ties")),
        row("--majority-sign frequency", says("ties, with weights [1.0, 1.0], by frequency")).beside(&ties),
        row("--majority-sign total", Refused("only ties")),
        row(&show("--output", &other), says(format!("written to {}", other.display()))),
        row("--dtype fp16", Holds("config.json", "float16")),
        row("--max-shard-size 0", Refused("from 1 to")),
        row("--use-4bit", says("the rounding to 4 bits by")),
        row("--bnb-4bit-quant-type FP4", Holds("config.json", "fp4")).beside("--use-4bit"),
        row("--bnb-4bit-quant-type nf4", Refused("say --use-4bit")),
        row("--bnb_4bit_use_double_quant=False", File(NAME)).beside("--use-4bit"),
        row("--bnb-4bit-use-double-quant", Refused("say --use-4bit")),
    ];
    driven.see(&rows.into_iter().chain(of_every_program("merge_lora")).collect::<Vec<_>>());
}

#[test]
fn every_option_of_exporting_is_seen() {
    let files = Files::new("");
    const NAME: &str = "model.gguf";
    const PACKED: &str = "model.gguf/model.safetensors";
    let driven = Driven { name: "export_gguf", line: words(&files.model()), output: Some(NAME) };
    let (other, adapter) = (files.other(), show("--lora-path", &files.adapter));
    let ties = format!("{adapter} {adapter} --combination ties --density 0.5");
    let rows = vec![
        row("--model-name embedded", says("tiny-qwen3")),
        row(&adapter, File(NAME)),
        row("--weights -0.5", File(NAME)).beside(&adapter),
        row("--weights 1", Refused("there must be 0")),
        row("--combination linear", File(NAME)).beside(&format!("{adapter} {adapter} --weights 1,3 --adapter-only")),
        row("--density 0.5", Refused("only ties")),
        row("--density 0.5", File(NAME)).beside(&format!("{adapter} {adapter} --combination ties --density 1")),
        row("--majority-sign frequency", says(", by frequency")).beside(&ties),
        row(&show("--output", &other), says(format!("written to {}", other.display()))),
        row("--type Q8_0", says("8 in Q8_0)")),
        row("--type Q8_0", Refused("f32, f16 or bf16")).beside(&format!("{adapter} --adapter-only")),
        row("--type compressed-tensors", Refused("no whole groups; choose 64")),
        row("--group-size 32", File(PACKED)).beside("--type compressed-tensors"),
        row("--group-size 32", Refused("only compressed-tensors")),
        row("--max-shard-size 0", Refused("from 1 to")).beside("--type compressed-tensors --group-size 32"),
        row("--max-shard-size 1", Refused("only compressed-tensors")),
        row("--adapter-only", Refused("vLLM reads PEFT's adapters"))
            .beside(&format!("{adapter} --type compressed-tensors --group-size 32")),
        row("--adapter-only", says("(14 in F32)")).beside(&adapter),
        row("--adapter-only", Refused("the adapter is missing")),
    ];
    driven.see(&rows.into_iter().chain(of_every_program("export_gguf")).collect::<Vec<_>>());
}
