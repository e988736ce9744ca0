"""Checkpoints that halfbyte packed into 4 bits for vLLM: compressed-tensors reads them, and transformers computes with them."""

import json
from pathlib import Path

import torch
from common import GOLDEN, Halfbyte, Table, load, logits, texts_for
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
from merged import tensors

PARTS = ("weight_packed", "weight_scale", "weight_shape")


def compare_all(halfbyte: Halfbyte, table: Table, tiny: Path, trained: dict, tmp: Path) -> None:
    """Models with and without adapters, in groups of each size."""
    cases = [("golden untied f32", GOLDEN / "untied", None, 32)]
    cases += [("embedded bf16", tiny, None, group_size) for group_size in (32, 64, 128)]
    cases += [(name, base, adapter, 64) for name, (base, adapter) in trained.items()]
    for i, (name, base, adapter, group_size) in enumerate(cases):
        compare(halfbyte, table, f"packed in groups of {group_size}: {name}", (base, adapter), group_size, tmp / f"packed-{i}")


def compare(halfbyte: Halfbyte, table: Table, what: str, of: tuple, group_size: int, out: Path) -> None:
    base, adapter = of
    merging = () if adapter is None else ("--lora-path", adapter)
    options = ("--model", base, "--output", out, *merging)
    halfbyte.run_alone("export_gguf", "--type", "compressed-tensors", "--group-size", group_size, *options)
    dense = base
    if adapter is not None:
        dense = out.with_name(f"{out.name}-dense")
        halfbyte.run_alone("merge_lora", "--model", base, "--output", dense, *merging, "--dtype", "float32")
    scheme = QuantizationScheme(
        targets=["Linear"],
        weights=QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=group_size),
        format="pack-quantized",
    )
    same_config(table, what, out, scheme)
    same_layers(table, what, tensors(out), tensors(dense), scheme)
    same_logits(table, what, out, dense)


def same_config(table: Table, what: str, out: Path, scheme: QuantizationScheme) -> None:
    """What the package would write, but for keys that it has had for a short time only."""
    found = json.loads((out / "config.json").read_text())["quantization_config"]
    groups = {"group_0": scheme}
    want = QuantizationConfig(config_groups=groups, format="pack-quantized", ignore=["lm_head"], quantization_status="compressed")
    want = want.to_dict()
    read = QuantizationConfig.model_validate(found).to_dict()
    table.add(what, "quantization_config of compressed-tensors", f"{len(found)} keys", read == want and found.keys() <= want.keys())


def same_layers(table: Table, what: str, packed: dict, dense: dict, scheme: QuantizationScheme) -> None:
    """What the package packs with these scales, and how far its own scales are from the weights."""
    layers = [name.removesuffix("weight_packed") for name in packed if name.endswith("weight_packed")]
    same, errors, theirs, squares = 0, 0.0, 0.0, 0.0
    for layer in layers:
        state = {part: packed[layer + part] for part in PARTS}
        weight = dense[layer + "weight"].float()
        scale = state["weight_scale"].float()
        again = PackedQuantizationCompressor.compress({"weight": weight, "weight_scale": scale}, scheme)
        unpacked = PackedQuantizationCompressor.decompress({**state, "weight_scale": scale}, scheme)["weight"]
        same += torch.equal(again["weight_packed"], state["weight_packed"]) and torch.equal(unpacked, by_hand(state))
        errors += (unpacked - weight).square().sum().item()
        plain = weight.unflatten(1, (-1, scheme.weights.group_size)).abs().amax(2).div(7.5).bfloat16().float()
        plain = {"weight": weight, "weight_scale": plain}
        plain = PackedQuantizationCompressor.decompress(
            {**PackedQuantizationCompressor.compress(plain, scheme), "weight_scale": plain["weight_scale"]}, scheme
        )
        theirs += (plain["weight"] - weight).square().sum().item()
        squares += weight.square().sum().item()
    table.add(what, "words that compressed-tensors packs", f"{same} of {len(layers)} layers", same == len(layers) > 0)
    ours, theirs = ((error / squares) ** 0.5 for error in (errors, theirs))
    table.add(what, "distance from the weights, against max / 7.5", f"{ours:.2%}, {theirs:.2%}", ours < theirs)


def by_hand(state: dict) -> torch.Tensor:
    words = state["weight_packed"].unsqueeze(-1) >> torch.arange(0, 32, 4)
    integers = (words & 15).flatten(1).float() - 8
    scales = state["weight_scale"].float()
    return integers * scales.repeat_interleave(integers.shape[1] // scales.shape[1], 1)


def same_logits(table: Table, what: str, out: Path, dense: Path) -> None:
    """transformers' own model of the folder, and the unpacked one with the weights that the words mean."""
    state = tensors(out)
    layers = {name: name.removesuffix("_packed") for name in state if name.endswith("weight_packed")}
    weights = {name: tensor.float() for name, tensor in state.items() if not name.endswith(PARTS)}
    for name, weight in layers.items():
        parts = {part: state[name.removesuffix("weight_packed") + part] for part in PARTS}
        weights[weight] = by_hand(parts)
    model = load(dense)
    texts = texts_for(model.config.vocab_size)
    plain = logits(model, texts)
    missing = model.load_state_dict(weights, strict=False)
    good = not missing.unexpected_keys and set(missing.missing_keys) <= {"lm_head.weight"}
    table.add(what, "names of the base's tensors", f"{len(weights)}", good)
    want = logits(model, texts)
    read = load(out)
    table.same_logits(what, "logits of transformers", logits(read, texts), want)
    share = ((want - plain).square().mean() / plain.square().mean()).sqrt().item()
    table.add(what, "logits against those without rounding", f"root mean square {share:.2%}", share < 1)
