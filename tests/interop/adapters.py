"""Adapters that halfbyte trained, in peft; and adapters of peft in halfbyte."""

import json
import shutil
from pathlib import Path

import torch
from checkpoints import quantize
from common import LOGITS_TOLERANCE, Halfbyte, Table, load, logits, texts_for
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

TENSORS = "adapter_model.safetensors"
# A few steps at a rate that leaves nothing near its start.
BRIEF = ["--max-steps", 8, "--batch-size", 4, "--learning-rate", 5e-3, "--bnb-4bit-compute-dtype", "float32"]
RUNS = {
    "nf4 double-quantised base": ("nf4", True, ["--use-4bit"]),
    "fp4 base, q and v, rsLoRA": (
        "fp4",
        False,
        ["--use-4bit", "--bnb-4bit-quant-type", "fp4", "--bnb-4bit-use-double-quant", "false"]
        + ["--target-modules", "q_proj,v_proj", "--use-rslora", "--lora-r", 4],
    ),
    "nf4 base, saved head": (
        "nf4",
        False,
        ["--use-4bit", "--bnb-4bit-use-double-quant", "false", "--modules-to-save", "lm_head"],
    ),
    "nf4 base, rows of a tied table": ("nf4", True, ["--use-4bit", "--trainable-token-indices", "4093,4091"]),
    "unquantised base, rows of both": (
        None,
        False,
        ["--trainable-token-indices", '{"embed_tokens": [4092, 4093], "lm_head": [4093]}'],
    ),
    "nf4 base, DoRA": ("nf4", True, ["--use-4bit", "--use-dora"]),
    "nf4 base, tied embedding and head": (
        "nf4",
        True,
        ["--use-4bit", "--target-modules", "q_proj,embed_tokens,lm_head", "--lora-r", 4],
    ),
    "unquantised base, embedding and head": (None, False, ["--target-modules", "v_proj,embed_tokens,lm_head"]),
    "unquantised base, regex": (None, False, ["--target-modules", r".*layers\.[1-3]\.mlp\.(up|down)_proj"]),
}


def compare_all(halfbyte: Halfbyte, table: Table, source: Path, tmp: Path) -> dict:
    """Trains, loads in peft, saves again; then the other way round. Gives the base and the adapter of each run."""
    made = {}
    data = ["--data", source.parent / "town" / "train.jsonl"]
    sources = {False: source, True: untied(source, tmp / "untied")}
    for i, (name, (quant_type, nested, options)) in enumerate(RUNS.items()):
        base = trained = sources["tied" not in name.split() and any("lm_head" in str(option) for option in options)]
        adapter = tmp / f"adapter-{i}"
        if quant_type is not None:
            base = quantize(halfbyte, trained, tmp / f"{adapter.name}-base", quant_type, nested)
        halfbyte.run("train_qwen3_lora", "--model", trained, "--output", adapter, *data, *BRIEF, *options)
        from_halfbyte(halfbyte, table, f"trained by halfbyte: {name}", base, adapter, tmp)
        from_peft(halfbyte, table, f"made by peft: {name}", base, adapter, tmp)
        made[name] = (base, adapter)
    return made


def untied(source: Path, to: Path) -> Path:
    """The checkpoint with an output head of its own, which an adapter may save."""
    shutil.copytree(source, to)
    tensors = load_file(source / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    return to


def from_halfbyte(halfbyte: Halfbyte, table: Table, what: str, base: Path, adapter: Path, tmp: Path) -> None:
    model = load(base)
    texts = texts_for(model.config.vocab_size)
    plain = logits(model, texts)
    model = PeftModel.from_pretrained(model, adapter).eval()
    theirs = logits(model, texts)
    ours = halfbyte.logits(base, texts, tmp / "logits.safetensors", adapter)
    table.same_logits(what, "logits of peft", ours, theirs)
    effect = (theirs - plain).abs().max().item()
    table.add(what, "with and without the adapter", f"max difference {effect:.1f}", effect > 100 * LOGITS_TOLERANCE)
    again = tmp / f"{adapter.name}-again"
    # Without the base's weights of an embedding and a head that are adapted.
    model.save_pretrained(again, save_embedding_layers=False)
    same_tensors(table, what, load_file(adapter / TENSORS), load_file(again / TENSORS))


def same_tensors(table: Table, what: str, ours: dict, theirs: dict) -> None:
    names = ours.keys() | theirs.keys()
    same = [n for n in names if n in ours and n in theirs and torch.equal(ours[n], theirs[n].to(ours[n].dtype))]
    table.add(what, "tensors that peft saves again", f"{len(same)} of {len(names)} equal", len(same) == len(names) > 0)


def from_peft(halfbyte: Halfbyte, table: Table, what: str, base: Path, like: Path, tmp: Path) -> None:
    """An adapter with the configuration of `like` and weights of its own, nowhere 0."""
    config = LoraConfig.from_pretrained(like)
    config.inference_mode = False
    torch.manual_seed(5)
    model = get_peft_model(load(base), config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(0.05 * torch.randn_like(weight))
            elif "modules_to_save" in name or "trainable_tokens_delta" in name:
                weight.add_(0.01 * torch.randn_like(weight))
    adapter = tmp / f"{like.name}-peft"
    model.save_pretrained(adapter)
    texts = texts_for(model.config.vocab_size)
    ours = halfbyte.logits(base, texts, tmp / "logits.safetensors", adapter)
    table.same_logits(what, "logits of peft", ours, logits(model, texts))
