//! `--check` compares the memory that a run needs with what is free.

use crate::{example, hollow_model, root, text, train};
use std::process::{Command, Output};

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn what_will_not_fit_is_refused_before_weights_are_loaded() {
    // 2 TiB in bf16, all of them a hole in a file.
    let model = hollow_model(80, 4 << 20);
    let output = model.path().join("adapter");
    let training = |device: &str| {
        let data = model.path().join("data.jsonl");
        let mut command = train(&["--model", text(model.path()), "--data", text(&data), "--output", text(&output)]);
        command.args(["--use-4bit=false", "--bnb-4bit-compute-dtype", "float32", "--check", "--device", device]);
        command.output().unwrap()
    };
    let answering = |program: &str, options: &[&str]| {
        let mut command = Command::new(example(program));
        command.args(["--device", "cpu", "--load-in-4bit=false", "--bnb-4bit-compute-dtype", "float32"]);
        command.args(["--model-name", text(model.path()), "--check"]).args(options).output().unwrap()
    };
    let index = model.path().join("index");
    let bylaws = root().join("runtime/assets/town/bylaws.txt");
    let rag = ["--raw", "--index", text(&index), "--documents", text(&bylaws)];
    let writing = ["--limit", "1", "--mode", "generate", "--raw", "--max-new-tokens", "2"];
    let refused = [
        (training("cpu"), "--max-seq-length"),
        (answering("infer", &["--raw", "--prompt", "The"]), "--load-in-4bit"),
        (answering("rag", &rag), "--load-in-4bit"),
        (answering("evaluate_multiple_choice", &writing), "fewer questions at once (--batch-size)"),
        (answering("evaluate_multiple_choice", &writing[..2]), "take --load-in-4bit or a smaller model"),
    ];
    for (done, advice) in refused {
        let said = said(&done);
        assert!(!done.status.success() && !said.contains("panicked"), "{said}");
        let wanted = ["checked: ", "the memory that is needed is about ", " GiB, but ", " are free; ", advice];
        wanted.iter().for_each(|wanted| assert!(said.contains(wanted), "no {wanted:?}: {said}"));
    }
    // A GPU is not opened for it, and there may be none.
    let done = training("cuda:1");
    assert!(done.status.success() && said(&done).contains("what is free on cuda:1 shows when it is opened"));
}

#[test]
fn what_fits_is_told_with_what_is_free() {
    let mut command = train(&["--check"]);
    let done = command.output().unwrap();
    assert!(done.status.success() && said(&done).contains("GiB of memory are free"), "{}", said(&done));
}
