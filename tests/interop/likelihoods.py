"""The likelihoods of options that halfbyte scores questions by, against those of transformers."""

import csv
import json
import math
import os
import shutil
from pathlib import Path

import torch
from checkpoints import quantize
from common import GOLDEN, Halfbyte, Table, load
from peft import PeftModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

# Summed over the tokens of an option, in nats.
TOLERANCE = 1e-3
# Questions of lawqa_jp; their contexts are long.
LIMIT = 5


def compare_all(halfbyte: Halfbyte, table: Table, source: Path, trained: dict, tmp: Path) -> None:
    """The goldens, with the adapters of peft; the embedded model, with `trained` adapters: name to base and adapter."""
    plain, nf4 = (with_bytes(GOLDEN / name, tmp / f"bytes-{name}") for name in ("untied", "untied-nf4-dq"))
    cases = {
        "golden f32": (plain, None),
        "golden f32, adapter of peft": (plain, GOLDEN / "adapter-plain"),
        "golden nf4": (nf4, None),
        "golden nf4, adapter of peft": (nf4, GOLDEN / "adapter-plain"),
        "embedded bf16": (source, None),
        "embedded nf4": (quantize(halfbyte, source, tmp / "likelihoods-nf4", "nf4", True), None),
    }
    cases |= {f"embedded, {name}": both for name, both in trained.items()}
    for name, (base, adapter) in cases.items():
        model = load(base)
        if adapter is not None:
            model = PeftModel.from_pretrained(model, adapter).eval()
        for exam, path, limit in exams(source):
            out = tmp / "likelihoods"
            shutil.rmtree(out, ignore_errors=True)
            run(halfbyte, base, adapter, path, limit, out)
            compare(table, f"{exam}: {name}", model, base, path, limit, out)


def exams(source: Path) -> list:
    """Name, file, number of questions: the embedded exam, and lawqa_jp where it is at hand."""
    found = [("exam", source.parent / "town" / "exam.json", 60)]
    if data := os.environ.get("HALFBYTE_TEST_DATA"):
        found.append(("lawqa_jp", Path(data) / "lawqa_jp" / "selection.json", LIMIT))
    return found


def with_bytes(golden: Path, to: Path) -> Path:
    """The golden, which has 256 tokens, with a tokenizer that makes one of each byte."""
    shutil.copytree(golden, to)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(to / "tokenizer.json"))
    return to


def run(halfbyte: Halfbyte, base: Path, adapter: Path | None, path: Path, limit: int, out: Path) -> None:
    options = ["--model-name", base, "--questions", path, "--limit", limit, "--output", out, "--mode", "likelihood"]
    if adapter is not None:
        options += ["--lora-path", adapter]
    if "quantization_config" not in json.loads((base / "config.json").read_text()):
        options += ["--load-in-4bit", "false"]
    halfbyte.run("evaluate_multiple_choice", *options, "--bnb-4bit-compute-dtype", "float32")


def compare(table: Table, what: str, model, base: Path, path: Path, limit: int, out: Path) -> None:
    """Each number that details.csv has; what does not fit the model has none."""
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    positions = model.config.max_position_embeddings
    rows = list(csv.DictReader((out / "details.csv").open(encoding="utf-8-sig", newline="")))
    samples = json.loads(path.read_text())["samples"][:limit]
    n_options, worst, worst_per_token, largest, wrong = 0, 0.0, 0.0, 0.0, len(rows) != len(samples)
    for row, sample in zip(rows, samples):
        prompt, options = texts(sample, tokenizer)
        fits = len(prompt) + max(map(len, options)) <= positions
        wrong |= row["id"] != sample["ファイル名"] or fits == (row["sum_a"] == "")
        if not fits:
            continue
        for letter, option in zip("abcd", options, strict=True):
            want = likelihood(model, prompt, option)
            n_options += 1
            worst = larger(worst, abs(float(row[f"sum_{letter}"]) - want))
            worst_per_token = larger(worst_per_token, abs(float(row[f"per_token_{letter}"]) - want / len(option)))
            largest = max(largest, abs(want))
    outcome = f"{n_options} options, max difference {worst:.1e} of {largest:.0f}, a token {worst_per_token:.1e}"
    outcome += "; WRONG QUESTIONS" * wrong
    table.add(what, "likelihoods of transformers", outcome, n_options > 0 and not wrong and worst <= TOLERANCE)


def larger(a: float, b: float) -> float:
    """The larger one; NaN if one is."""
    return math.nan if math.isnan(a) or math.isnan(b) else max(a, b)


def texts(sample: dict, tokenizer: Tokenizer) -> tuple:
    """Token ids: context and question; each option, behind a space, encoded apart."""
    prompt = "\n".join(text for text in (sample["コンテキスト"], sample["問題文"]) if text)
    options = [line.split(" ", 1)[1] for line in sample["選択肢"].split("\n")]
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    return encode(prompt), [encode(f" {option}") for option in options]


def likelihood(model, prompt: list, option: list) -> float:
    """The log-likelihood of the option's tokens after the prompt, in nats."""
    with torch.no_grad():
        rows = model(input_ids=torch.tensor([prompt + option])).logits[0, len(prompt) - 1 : -1]
    return rows.double().log_softmax(-1).gather(1, torch.tensor(option)[:, None]).sum().item()
