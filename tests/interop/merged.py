"""Adapters that halfbyte merged: transformers loads the checkpoint, and it computes what peft computes unmerged."""

import json
from pathlib import Path

import torch
from common import GOLDEN, Halfbyte, Table, load, logits, texts_for
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

F32_TOLERANCE = 1e-4
# A weight in bf16 has eight binary digits, whoever merges: each of n matrices adds errors of up to 2^-9 of its share,
# evenly spread, and independent ones add up by their squares.
BF16_SHARE = 2**-9 / 3**0.5
# Of the base in 4 bits: what transformers stores beside a weight.
PARTS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", "__nf4", "__fp4")
COMBINED = GOLDEN.parent / "combined"
WAYS = {
    "cat": {"combination_type": "cat"},
    "linear": {"combination_type": "linear"},
    "ties": {"combination_type": "ties", "density": 0.3, "majority_sign_method": "frequency"},
}


def compare_all(halfbyte: Halfbyte, table: Table, trained: dict, tmp: Path) -> None:
    """Each base and adapter of `trained`, in f32 and bf16; then several adapters at once."""
    for i, (name, (base, adapter)) in enumerate(trained.items()):
        model = load(base)
        texts = texts_for(model.config.vocab_size)
        want = logits(PeftModel.from_pretrained(model, adapter).eval(), texts)
        for dtype in ("float32", "bfloat16"):
            what = f"merged in {dtype}: {name}"
            out = tmp / f"merged-{i}-{dtype}"
            halfbyte.run_alone("merge_lora", "--model", base, "--lora-path", adapter, "--output", out, "--dtype", dtype)
            same_folder(table, what, base, out, dtype)
            merged = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
            table.add(what, "type that transformers finds", str(merged.dtype), merged.dtype == getattr(torch, dtype))
            got = logits(merged.float().eval(), texts)
            worst, largest = (got - want).abs().max().item(), want.abs().max().item()
            share = ((got - want).square().mean() / want.square().mean()).sqrt().item()
            matrices = sum(tensor.dim() == 2 for tensor in tensors(out).values())
            good = worst <= F32_TOLERANCE if dtype == "float32" else share <= BF16_SHARE * matrices**0.5
            outcome = f"max difference {worst:.1e} of {largest:.1f}, root mean square {share:.2%}"
            table.add(what, "logits of peft, unmerged", outcome, good)
        f32, bf16 = (tensors(tmp / f"merged-{i}-{dtype}") for dtype in ("float32", "bfloat16"))
        same = sum(torch.equal(f32[key].bfloat16(), bf16[key]) for key in f32)
        table.add(f"merged in bfloat16: {name}", "the merge in float32, rounded", f"{same} of {len(f32)}", same == len(f32))
    combined(halfbyte, table, tmp)


def same_folder(table: Table, what: str, base: Path, out: Path, dtype: str) -> None:
    before = {name for name in tensors(base) if not name.endswith(PARTS)}
    names = set(tensors(out))
    parted = "tied embedding and head" in what
    before |= {"lm_head.weight"} if parted else set()
    norms = sum("q_norm" in name or "k_norm" in name for name in names)
    table.add(what, "names of the base's tensors", f"{len(names)}, {norms} of q_norm and k_norm", names == before and norms > 0)
    configs = [json.loads((folder / "config.json").read_text()) for folder in (base, out)]
    configs[0].pop("quantization_config", None)
    configs[0]["dtype"] = dtype
    configs[0]["tie_word_embeddings"] &= not parted
    table.add(what, "config.json of the base", f"{len(configs[1])} keys", configs[0] == configs[1])


def tensors(folder: Path) -> dict:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def combined(halfbyte: Halfbyte, table: Table, tmp: Path) -> None:
    """Two adapters with weights, in each way, against peft's merge of what it combines itself."""
    base, weights = GOLDEN / "untied", [0.8, -0.3]
    adapters = [COMBINED / "first", COMBINED / "second"]
    for name, way in WAYS.items():
        model = PeftModel.from_pretrained(load(base), adapters[0], adapter_name="first")
        model.load_adapter(adapters[1], adapter_name="second")
        model.add_weighted_adapter(["first", "second"], weights, "both", **way)
        model.set_adapter("both")
        want = model.merge_and_unload().state_dict()
        out = tmp / f"combined-{name}"
        how = [option for adapter in adapters for option in ("--lora-path", adapter)]
        how += ["--weights", ",".join(map(str, weights)), "--combination", way["combination_type"]]
        if name == "ties":
            how += ["--density", way["density"], "--majority-sign", way["majority_sign_method"]]
        halfbyte.run_alone("merge_lora", "--model", base, "--output", out, *how)
        got = tensors(out)
        worst = max((got[key] - want[key]).abs().max().item() for key in got)
        # f32 sums of eight products below 1, in another order.
        good = got.keys() == want.keys() and worst <= 16 * 2**-24
        table.add(f"two adapters combined by {name}", "weights that peft merges", f"max difference {worst:.1e}", good)
