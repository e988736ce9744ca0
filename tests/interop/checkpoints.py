"""Checkpoints that halfbyte quantised, against those that transformers and bitsandbytes quantise."""

import json
import shutil
from pathlib import Path

import bitsandbytes.functional as bnb
import torch
from bitsandbytes.nn import Linear4bit
from common import Halfbyte, Table, load, logits, texts_for
from safetensors.torch import load_file, save_file
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

TENSORS = "model.safetensors"
BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
FORMATS = [(quant_type, nested) for quant_type in ("nf4", "fp4") for nested in (True, False)]


def saved_as_f16(source: Path, to: Path) -> Path:
    """The checkpoint with its weights rounded to float16."""
    shutil.copytree(source, to)
    tensors = {name: tensor.half() for name, tensor in load_file(source / TENSORS).items()}
    save_file(tensors, to / TENSORS, metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    return to


def quantize(halfbyte: Halfbyte, source: Path, to: Path, quant_type: str, nested: bool, block_size: int = 64) -> Path:
    """`source` in 4 bits, by halfbyte."""
    how = ["--bnb-4bit-quant-type", quant_type, "--bnb-4bit-use-double-quant", str(nested).lower()]
    how += ["--bnb-4bit-compute-dtype", "float32", "--block-size", block_size]
    halfbyte.run("quantize", "--model", source, "--output", to, *how)
    return to


def quantize_for_real(source: Path, to: Path, quant_type: str, nested: bool) -> Path:
    """`source` in 4 bits, by transformers and bitsandbytes."""
    how = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=quant_type, bnb_4bit_use_double_quant=nested
    )
    model = AutoModelForCausalLM.from_pretrained(source, dtype="auto", device_map="cpu", quantization_config=how)
    model.save_pretrained(to)
    return to


def compare_all(halfbyte: Halfbyte, table: Table, name: str, source: Path, tmp: Path) -> None:
    """Every format of 64 weights a block, which is what transformers writes."""
    for quant_type, nested in FORMATS:
        what = f"{name}: {quant_type}{' double-quantised' if nested else ''}"
        tag = what.replace(" ", "-").replace(":", "")
        ours = quantize(halfbyte, source, tmp / f"{tag}-ours", quant_type, nested)
        theirs = quantize_for_real(source, tmp / f"{tag}-theirs", quant_type, nested)
        compare_tensors(table, what, load_file(ours / TENSORS), load_file(theirs / TENSORS), load_file(source / TENSORS))
        compare_configs(table, what, ours, theirs)
        compare_logits(halfbyte, table, what, ours, tmp)


def compare_block_sizes(halfbyte: Halfbyte, table: Table, name: str, source: Path, tmp: Path) -> None:
    """Every block size; transformers reads them all, but only bitsandbytes itself writes others than 64."""
    originals = load_file(source / TENSORS)
    for i, block_size in enumerate(BLOCK_SIZES):
        quant_type, nested = FORMATS[i % len(FORMATS)]
        what = f"{name}: {quant_type}{' double-quantised' if nested else ''}, blocks of {block_size}"
        ours = quantize(halfbyte, source, tmp / f"blocks-{block_size}", quant_type, nested, block_size)
        tensors = load_file(ours / TENSORS)
        want = dict(originals)
        for weight in weights(tensors, quant_type):
            codes, state = bnb.quantize_4bit(
                originals[weight], blocksize=block_size, compress_statistics=nested, quant_type=quant_type
            )
            parts = {f"{weight}.{part}": tensor for part, tensor in state.as_dict(packed=True).items()}
            want |= {weight: codes, **parts}
        compare_tensors(table, what, tensors, want, originals)
        compare_logits(halfbyte, table, what, ours, tmp, by_hand=True)


def weights(tensors: dict, quant_type: str) -> list:
    """The names of the 4-bit weights."""
    mark = f".quant_state.bitsandbytes__{quant_type}"
    return [name.removesuffix(mark) for name in tensors if name.endswith(mark)]


def compare_tensors(table: Table, what: str, ours: dict, theirs: dict, originals: dict) -> None:
    """Names, types, shapes and bits; fp4 codes only as far as bitsandbytes agrees with itself."""
    if ours.keys() != theirs.keys():
        table.add(what, "tensors of bitsandbytes", f"other names: {sorted(ours.keys() ^ theirs.keys())[:4]}", False)
        return
    quantized, fp4 = weights(ours, "nf4") + weights(ours, "fp4"), weights(ours, "fp4")
    differ = [name for name in ours if not same_bits(ours[name], theirs[name])]
    wrong = [name for name in differ if name not in fp4]
    zeros = ties = others = 0
    for name in set(differ) & set(fp4):
        counts = differing_codes(ours[name], theirs[name], originals[name], ours[f"{name}.absmax"].numel())
        zeros, ties, others = zeros + counts[0], ties + counts[1], others + counts[2]
    n_codes = sum(originals[name].numel() for name in fp4)
    outcome = f"{len(ours) - len(differ)} of {len(ours)} equal to the bit, {len(quantized)} weights in 4 bits"
    if zeros + ties + others:
        outcome += f"; of {n_codes} codes {zeros} are the other zero, {ties} ties, {others} wrong"
    if wrong:
        outcome += f"; WRONG {wrong[:3]}"
    table.add(what, "tensors of bitsandbytes", outcome, bool(quantized) and not wrong and not others)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def differing_codes(ours: torch.Tensor, theirs: torch.Tensor, original: torch.Tensor, n_blocks: int) -> tuple:
    """How many fp4 codes differ: between zeros, where a weight lies on a threshold (within f32's rounding), otherwise."""
    if ours.shape != theirs.shape:
        return 0, 0, original.numel()
    a, b = unpack(ours), unpack(theirs)
    differ = a != b
    table = bnb.get_4bit_type("fp4", device="cpu").double()
    a, b = table[a[differ]], table[b[differ]]
    blocks = original.float().view(n_blocks, -1)
    share = (blocks / blocks.abs().amax(1, keepdim=True)).flatten()[differ].double()
    zero = a == b
    tie = ~zero & ((share - (a + b) / 2).abs() <= 4 * 2**-24)
    return int(zero.sum()), int(tie.sum()), int((~zero & ~tie).sum())


def unpack(codes: torch.Tensor) -> torch.Tensor:
    """Two codes a byte, the first in the high half."""
    return torch.stack([codes.flatten() >> 4, codes.flatten() & 15], 1).flatten().long()


def compare_configs(table: Table, what: str, ours: Path, theirs: Path) -> None:
    """config.json but for the version of transformers."""
    configs = [json.loads((folder / "config.json").read_text()) for folder in (ours, theirs)]
    keys = (configs[0].keys() | configs[1].keys()) - {"transformers_version"}
    differ = sorted(key for key in keys if configs[0].get(key) != configs[1].get(key))
    table.add(what, "config.json of transformers", f"{len(keys)} keys, differing: {differ or 'none'}", not differ)


def compare_logits(
    halfbyte: Halfbyte, table: Table, what: str, folder: Path, tmp: Path, by_hand: bool = False
) -> None:
    """transformers + bitsandbytes load the folder, and compute what halfbyte computes."""
    model = load(folder)
    in_4_bits = [module for module in model.modules() if isinstance(module, Linear4bit)]
    if len(in_4_bits) != 7 * model.config.num_hidden_layers:
        table.add(what, "layers in 4 bits in transformers", f"only {len(in_4_bits)}", False)
    if by_hand:
        for module in in_4_bits:
            weight = dequantize_by_hand(module)
            module.forward = lambda x, weight=weight: linear(x, weight)
    texts = texts_for(model.config.vocab_size)
    ours = halfbyte.logits(folder, texts, tmp / "logits.safetensors")
    compared = "logits of transformers" + ", dequantised by hand" * by_hand
    table.same_logits(what, compared, ours, logits(model, texts))


def dequantize_by_hand(module: Linear4bit) -> torch.Tensor:
    """The weight that a loaded layer stands for, by the formula."""
    state = module.weight.quant_state
    absmax = state.absmax
    if state.nested:
        groups = state.state2.absmax.repeat_interleave(state.state2.blocksize)[: absmax.numel()]
        absmax = state.state2.code[absmax.long()] * groups + state.offset
    values = state.code[unpack(module.weight.data)].view(absmax.numel(), -1)
    return (values * absmax[:, None]).view(state.shape)
