"""GGUF files that halfbyte wrote, in the `gguf` package and in llama.cpp. README.md beside this says what is compared.

Usage: llama.py FOLDER_OF_BUILT_EXAMPLES
"""

import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "runtime" / "assets" / "tiny-qwen3"
GOLDEN = ROOT / "tests" / "data" / "golden" / "qwen3-tiny"
PROMPTS = ["The town of", "Every baker shall", "Q: Who rings the bell?\nA:", "1234 ducks", "  In 日本 and Zürich,\n\n"]
NEW_TOKENS = 24
# f32 sums in another order, and llama.cpp's exponentials and its f16 cache of keys and values.
LOGITS_TOLERANCE = 2e-2
# Of what the format's own tools lose; the choice of codes is free.
ERROR_FACTOR = 1.02


def main() -> int:
    halfbyte = Halfbyte(Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory() as folder:
        tmp = Path(folder)
        compare_files(halfbyte, tmp)
        compare_tokens(halfbyte, tmp, "embedded", TINY, None)
        adapter = train(halfbyte, tmp)
        compare_tokens(halfbyte, tmp, "embedded, adapter added by llama.cpp", TINY, adapter)
        for name in ("untied", "tied", "yarn"):
            compare_logits(halfbyte, tmp, f"golden {name}", with_bytes(GOLDEN / name, tmp / name), None)
        untied = tmp / "untied"
        for name in ("plain", "rslora", "patterns", "regex"):
            compare_logits(halfbyte, tmp, f"golden adapter {name}", untied, GOLDEN / f"adapter-{name}")
        for name in ("head", "embedding"):
            compare_logits(halfbyte, tmp, f"golden adapter of {name}", untied, GOLDEN.parent / "ends" / f"adapter-{name}")
    print(f"{rows - failed} of {rows} comparisons agree")
    return 1 if failed or not rows else 0


rows = failed = 0


def say(what: str, compared: str, outcome: str, good: bool) -> None:
    global rows, failed
    rows, failed = rows + 1, failed + (not good)
    print(f"{'ok' if good else 'BAD':4} {what:<46} {compared:<40} {outcome}", flush=True)


class Halfbyte:
    """The built examples of halfbyte."""

    def __init__(self, folder: Path):
        self.folder = folder

    def run(self, example: str, *options) -> str:
        command = [self.folder / example, *map(str, options)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HALFBYTE_ROOT": str(ROOT)})
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
        return done.stdout

    def export(self, tmp: Path, model: Path, kind: str, *options) -> Path:
        out = tmp / f"{len(list(tmp.iterdir()))}.gguf"
        self.run("export_gguf", "--model", model, "--output", out, "--type", kind, *options)
        return out

    def logits(self, tmp: Path, model: Path, adapter: Path | None, *texts) -> dict:
        out = tmp / "logits.safetensors"
        out.unlink(missing_ok=True)
        options = [] if adapter is None else ["--lora-path", adapter]
        where = ["--device", "cpu", "--compute-dtype", "float32", "--output", out]
        self.run("logits", "--model", model, *texts, *options, *where)
        return tensors(out)


def tensors(path: Path) -> dict:
    """The tensors of a safetensors file; bf16 as f32."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    out = {}
    for name, info in json.loads(data[8:start]).items():
        if name != "__metadata__":
            begin, end = info["data_offsets"]
            part = np.frombuffer(data[start + begin : start + end], {"F32": "<f4", "BF16": "<u2", "I64": "<i8"}[info["dtype"]])
            if info["dtype"] == "BF16":
                part = (part.astype(np.uint32) << 16).view(np.float32)
            out[name] = part.reshape(info["shape"])
    return out


def compare_files(halfbyte: Halfbyte, tmp: Path) -> None:
    """Every type: all tensors read, close to the original, and as llama.cpp's own quantisation has them."""
    f32 = halfbyte.export(tmp, TINY, "f32")
    originals = {tensor.name: tensor.data for tensor in gguf.GGUFReader(f32).tensors}
    source = sorted(tensor.tobytes() for tensor in tensors(TINY / "model.safetensors").values())
    same = source == sorted(np.ascontiguousarray(data).tobytes() for data in originals.values())
    say("F32", "tensors of the checkpoint", f"{len(originals)} tensors", same)
    for kind, file_type in (("f16", 1), ("bf16", 32), ("q8_0", 7), ("q4_k_m", 15)):
        reader = gguf.GGUFReader(halfbyte.export(tmp, TINY, kind))
        theirs = tmp / f"theirs-{kind}.gguf"
        requantize(f32, theirs, file_type)
        theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(theirs).tensors}
        types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
        want = {name: tensor.tensor_type.name for name, tensor in theirs.items()}
        mix = {kind: list(types.values()).count(kind) for kind in sorted(set(types.values()))}
        say(kind, "types that llama-quantize gives", str(mix), types == want)
        worst, ratio, equal = 0.0, 0.0, 0
        for tensor in reader.tensors:
            original = originals[tensor.name]
            ours, other = (error(part, original) for part in (tensor, theirs[tensor.name]))
            worst, ratio = max(worst, ours), max(ratio, ours / other if other else float(ours > 0))
            equal += tensor.data.tobytes() == theirs[tensor.name].data.tobytes()
        outcome = f"off by up to {worst:.2%} of a tensor's size; {ratio:.4f} of theirs; {equal} of {len(types)} equal"
        say(kind, "values that gguf dequantises", outcome, ratio <= ERROR_FACTOR)


def requantize(source: Path, to: Path, file_type: int) -> None:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = file_type, 2
    with Quiet():
        done = llama_cpp.llama_model_quantize(str(source).encode(), str(to).encode(), ctypes.byref(params))
    assert done == 0


def error(tensor, original: np.ndarray) -> float:
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(original.shape)
    return float(np.sqrt(((values - original) ** 2).mean() / (original**2).mean()))


class Quiet:
    """Keeps llama.cpp's lines away."""

    def __enter__(self):
        self.kept = os.dup(2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

    def __exit__(self, *_):
        os.dup2(self.kept, 2)


def load(model: Path, adapter: Path | None) -> llama_cpp.Llama:
    lora = None if adapter is None else str(adapter)
    with Quiet():
        return llama_cpp.Llama(str(model), lora_path=lora, n_ctx=256, n_batch=256, logits_all=True, verbose=False)


def train(halfbyte: Halfbyte, tmp: Path) -> Path:
    out = tmp / "adapter"
    brief = ["--max-steps", 20, "--batch-size", 4, "--learning-rate", 2e-3, "--bnb-4bit-compute-dtype", "float32"]
    halfbyte.run("train_qwen3_lora", "--output", out, *brief, "--device", "cpu")
    return out


def compare_tokens(halfbyte: Halfbyte, tmp: Path, name: str, model: Path, adapter: Path | None) -> None:
    """The ids of each prompt, and the likeliest tokens after it."""
    lora = None if adapter is None else halfbyte.export(tmp, model, "f32", "--adapter-only", "--lora-path", adapter)
    theirs = load(halfbyte.export(tmp, model, "f16"), lora)
    same_ids = same_texts = 0
    for prompt in PROMPTS:
        ids = halfbyte.logits(tmp, model, adapter, "--prompt", prompt)["ids"].tolist()
        got = theirs.tokenize(prompt.encode(), add_bos=False, special=True)
        same_ids += ids == got
        options = [] if adapter is None else ["--lora-path", adapter]
        options += ["--load-in-4bit", "false", "--bnb-4bit-compute-dtype", "float32", "--device", "cpu"]
        text = halfbyte.run("infer", "--model", model, "--prompt", prompt, "--raw", "--max-new-tokens", NEW_TOKENS, *options)
        same_texts += text.rstrip("\n") == greedy(theirs, ids).rstrip("\n")
    say(name, "ids of prompts", f"{same_ids} of {len(PROMPTS)} prompts", same_ids == len(PROMPTS))
    outcome = f"{same_texts} of {len(PROMPTS)} texts of {NEW_TOKENS} tokens"
    say(name, "greedy tokens of llama.cpp from F16", outcome, same_texts == len(PROMPTS))
    compare_logits(halfbyte, tmp, name, model, adapter)


def greedy(model: llama_cpp.Llama, ids: list) -> str:
    model.reset()
    made = []
    for token in model.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0):
        if token in (4091, 4093) or len(made) == NEW_TOKENS:
            break
        made.append(token)
    return model.detokenize(made, special=True).decode(errors="replace")


def compare_logits(halfbyte: Halfbyte, tmp: Path, name: str, model: Path, adapter: Path | None) -> None:
    """From the F32 file, token by token of a text of any ids."""
    lora = None if adapter is None else halfbyte.export(tmp, model, "f32", "--adapter-only", "--lora-path", adapter)
    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    ids = np.random.default_rng(7).integers(0, vocabulary, 100).tolist()
    ours = halfbyte.logits(tmp, model, adapter, "--ids", ",".join(map(str, ids)))["logits"]
    theirs = load(halfbyte.export(tmp, model, "f32"), lora)
    theirs.eval(ids)
    if adapter is not None:
        plain = halfbyte.logits(tmp, model, None, "--ids", ",".join(map(str, ids)))["logits"]
        effect = float(np.abs(plain - ours).max())
        say(name, "with and without the adapter", f"max difference {effect:.1f}", effect > 10 * LOGITS_TOLERANCE)
    worst = float(np.abs(theirs.scores[: len(ids)] - ours).max())
    say(name, "logits of llama.cpp from F32", f"max difference {worst:.1e} of {np.abs(ours).max():.1f}", worst <= LOGITS_TOLERANCE)


def with_bytes(golden: Path, to: Path) -> Path:
    """The golden, which has 256 tokens, with a tokenizer that makes one of each byte."""
    shutil.copytree(golden, to)
    tokenizer = json.loads((TINY / "tokenizer.json").read_text())
    single = [token for token in tokenizer["model"]["vocab"] if len(token) == 1]
    assert len(single) == 256
    tokenizer["model"] |= {"vocab": {token: i for i, token in enumerate(single)}, "merges": []}
    (to / "tokenizer.json").write_text(json.dumps({**tokenizer, "added_tokens": []}))
    return to


if __name__ == "__main__":
    sys.exit(main())
