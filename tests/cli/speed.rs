//! The programs that measure speed, without a checkpoint.

use crate::{
    effects::{Driven, Refused, Row, of_every_program, row, says, show, words},
    example, send, text, until,
};
use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

fn decoding() -> Driven {
    let line = words("--shape tiny --device cpu --context 8 --new-tokens 4");
    Driven { name: "decode_speed", line, output: None }
}

fn training() -> Driven {
    let line = words("--shape tiny --device cpu --batch 1 --length 16 --steps 2");
    Driven { name: "train_speed", line, output: None }
}

/// What both have; `csv` is there.
fn of_both(csv: &Path) -> Vec<Row> {
    let csv = show("--csv", csv);
    vec![
        row("--shape qwen3-0.6b", says("qwen3-0.6b on cpu")),
        row("--unquantised", says("random weights, unquantised")),
        row("--dtype float32", says("computing in float32")),
        row("--device cuda:99", Refused("CUDA")),
        row("--threads 1", says(", 1 thread)")),
        row("--profile", says("calls        ms   share  TFLOP/s")),
        row(&csv, Refused("it has other results")),
        row("--overwrite", says("peak GiB")).beside(&csv),
        row("--overwrite", Refused("--csv")),
    ]
}

/// Sees the options of a program: its own, and those that each has.
fn see(driven: &Driven, own: Vec<Row>) {
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("there.csv");
    fs::write(&csv, "").unwrap();
    driven.see(&[own, of_both(&csv), of_every_program(driven.name)].into_iter().flatten().collect::<Vec<_>>());
    assert!(fs::read_to_string(&csv).unwrap().contains("\ntiny,nf4/bfloat16,"));
}

#[test]
fn every_option_of_decoding_speed_is_seen() {
    let own = vec![
        row("--sequences 2", says("\n        2        8           4  ")),
        row("--context 9", says("\n        1        9           4  ")),
        row("--context 9,10", says("\n        1       10           4  ")),
        row("--new-tokens 5", says("\n        1        8           5  ")),
        row("--head-4bit", says("head: nf4")),
        row("--head-4bit", Refused("--unquantised")).beside("--unquantised"),
        row("--kv-cache-8bit", says("keys and values: int8")),
        row("--top-k 20", says("tokens: top-k 20")),
        row("--lora-r 3", says("adapter: r 3 on all linear layers")),
    ];
    see(&decoding(), own);
}

#[test]
fn every_option_of_training_speed_is_seen() {
    let own = vec![
        row("--batch 2", says("\n    2      16  ")),
        row("--length 17", says("\n    1      17  ")),
        row("--length 17,18", says("\n    1      18  ")),
        row("--gradient-checkpointing", says("2 layers computed again from inputs in the host's memory")),
        row("--activation-memory mlp-recompute", says("2 layers kept but for gate and up")),
        row("--lora-r 3", says("adapter: r 3 on")),
        row("--lora-dropout 0.5", says("dropout 0.5")),
        row("--steps 3", says("3 steps each")),
    ];
    see(&training(), own);
}

/// With the option's name and what would do; no file is begun.
#[test]
fn what_cannot_be_measured_is_refused() {
    let positions = "the model has 4096 positions";
    for (driven, option, wanted) in [
        (decoding(), "--shape=qwen3-9b", "tiny, qwen3-0.6b, qwen3-1.7b, qwen3-4b, qwen3-8b, qwen3-14b or qwen3-32b"),
        (decoding(), "--sequences=1,0", "from 1 to 1000000, or several with commas between them"),
        (decoding(), "--context=x", "it must be a whole number, from 1 to"),
        (decoding(), "--context=8,4089", positions),
        (decoding(), "--new-tokens=0", "it must be a whole number, from 1 to"),
        (decoding(), "--lora-r=0", "from 1 to 65536"),
        (decoding(), "--threads=0", "from 1 to 1024"),
        (decoding(), "--dtype=int8", "bfloat16, float16 or float32"),
        (training(), "--batch=", "from 1 to 1000000, or several"),
        (training(), "--length=1", "from 2 to"),
        (training(), "--length=16,4097", positions),
        (training(), "--lora-dropout=1", "from 0 to below 1"),
        (training(), "--steps=0", "from 1 to"),
        (training(), "--activation-memory=auto", "it must be full, mlp-recompute, checkpoint or offload"),
    ] {
        let ran = driven.run(&words(&format!("{option} --csv new.csv")));
        let name = option.split('=').next().unwrap();
        let said = ran.said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(!ran.done && said.contains(wanted) && said.contains(name), "{option}: {said}");
        assert!(!ran.folder.path().join("new.csv").exists(), "{option}");
    }
}

#[test]
fn a_row_says_what_was_measured() {
    for (driven, options, wanted) in [
        (decoding(), "", "\ntiny,nf4/bfloat16,bfloat16,bfloat16,,,1,8,4,"),
        (decoding(), "--top-k 5", "\ntiny,nf4/bfloat16,bfloat16,bfloat16,,5,1,8,4,"),
        (decoding(), "--head-4bit --lora-r 3", "\ntiny,nf4/bfloat16,nf4,bfloat16,3,,1,8,4,"),
        (decoding(), "--unquantised --dtype fp32", "\ntiny,float32,float32,float32,,,1,8,4,"),
        (decoding(), "--kv-cache-8bit", "\ntiny,nf4/bfloat16,bfloat16,int8,,,1,8,4,"),
        (training(), "", "\ntiny,nf4/bfloat16,16,0.0,full,1,16,"),
        (
            training(),
            "--lora-r 3 --lora-dropout 0.5 --gradient-checkpointing",
            "\ntiny,nf4/bfloat16,3,0.5,offload,1,16,",
        ),
    ] {
        let ran = driven.run(&words(&format!("{options} --csv rows.csv")));
        let csv = fs::read_to_string(ran.folder.path().join("rows.csv")).unwrap();
        assert!(csv.contains(wanted), "{options}: {csv}");
    }
}

/// Also where memory does not suffice for one; the figures in the file are those that are printed.
#[test]
fn every_row_is_printed_and_written() {
    let too_many = "out of memory: ";
    for (driven, options) in
        [(decoding(), "--sequences 1000000,2 --context 4000"), (training(), "--batch 1000000,2 --length 512")]
    {
        let ran = driven.run(&words(&format!("{options} --csv rows.csv")));
        let csv = fs::read_to_string(ran.folder.path().join("rows.csv")).unwrap();
        let printed: Vec<_> = ran.said.lines().skip_while(|line| !line.contains("peak GiB")).collect();
        let [_, refused, measured] = printed[..] else { panic!("{}", ran.said) };
        assert!(ran.done && refused.contains("1000000") && refused.contains(too_many), "{}", ran.said);
        assert!(ran.said.lines().all(|line| line.len() <= 100), "{}", ran.said);
        let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
        let [names, without, with] = &lines[..] else { panic!("{csv}") };
        let at = names.iter().position(|name| *name == "tokens_per_s").unwrap();
        assert_eq!(without[at], "");
        let tokens_per_s: f64 = with[at].parse().unwrap();
        assert!(tokens_per_s > 0.0 && measured.contains(&format!(" {tokens_per_s:.1} ")), "{measured}\n{csv}");
        let peak: f64 = with.last().unwrap().parse().unwrap();
        assert!(measured.ends_with(&format!(" {:.2}", peak / f64::from(1 << 30))), "{measured}\n{csv}");
    }
}

#[test]
fn an_interrupted_measurement_keeps_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("rows.csv");
    let mut command = Command::new(example("decode_speed"));
    command.args(["--shape", "tiny", "--device", "cpu", "--context", "8,9", "--new-tokens", "4000"]);
    let mut child = command.args(["--csv", text(&csv)]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    until(&mut lines, "        1        8        4000  ");
    // The row is written after it is printed.
    while !csv.exists() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    send("INT", &child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(fs::read_to_string(&csv).unwrap().lines().count(), 2, "a head and one row");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "temporary files were left");
}
