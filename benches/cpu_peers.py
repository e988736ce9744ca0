"""Whole models on the CPU: halfbyte, llama.cpp (IQ4_NL), and transformers with peft and bitsandbytes, in turns.

    python benches/cpu_peers.py EXAMPLES [--folder FOLDER] [--rounds 3] [--threads 2] [--csv FILE]

EXAMPLES is the folder of built examples (target/release/examples). The weights are random, of the shape of Qwen3-0.6B: the
checkpoint and its GGUF files are made in FOLDER (3 GB) where they are not there yet. Peers that a Python does not have are left
out; `--llama-python` and `--torch-python` name others than the one that runs this.

In each round every engine has its turn, so that all see the same minutes of the machine. llama.cpp does not choose tokens
while it decodes, which halfbyte does. IQ4_NL is what llama.cpp's own quantiser makes of the F16 file; it decides the type of
the table that is embedding and head, and the script prints it.
"""

import argparse
import csv
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ASSETS = ROOT / "runtime" / "assets" / "tiny-qwen3"
VOCABULARY, HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS, DIM = 151_936, 1024, 3072, 28, 16, 8, 128
CONTEXTS = (64, 128, 512)
NEW_TOKENS, WARM_UP = 32, 4
LENGTH, STEPS = 256, 3
IQ4_NL = 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("examples", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("cpu-peers"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="decode,train", help="decode, train or both")
    parser.add_argument("--llama-python", default=sys.executable)
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--measure", choices=("llama", "transformers"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure == "llama":
        return print(json.dumps(llama(arguments)))
    if arguments.measure == "transformers":
        return print(json.dumps(transformers(arguments)))
    rows = []
    engines = {"decode": decoders(arguments), "train": trainers(arguments)}
    for turn in range(arguments.rounds):
        for name, engine in [pair for kind in arguments.only.split(",") for pair in engines[kind].items()]:
            for what, speed in engine().items():
                rows.append({"round": turn + 1, "engine": name, "what": what, "tokens_per_s": round(speed, 2)})
                print(f"{turn + 1}  {name:<28} {what:<24} {speed:8.1f}", flush=True)
    table(rows)
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def table(rows: list) -> None:
    """Medians, and the range where there were several rounds."""
    print("\n| tokens/s | engine | median | range |\n|---|---|---|---|")
    for key in dict.fromkeys((row["what"], row["engine"]) for row in sorted(rows, key=lambda row: row["what"])):
        speeds = [row["tokens_per_s"] for row in rows if (row["what"], row["engine"]) == key]
        print(f"| {key[0]} | {key[1]} | {statistics.median(speeds):.1f} | {min(speeds):.1f} to {max(speeds):.1f} |")


def decoders(arguments) -> dict:
    engines = {
        "halfbyte": lambda: decode_speed(arguments),
        "halfbyte --head-4bit": lambda: decode_speed(arguments, "--head-4bit"),
    }
    if has(arguments.llama_python, "llama_cpp"):
        gguf(arguments)
        engines["llama.cpp IQ4_NL"] = lambda: measured(arguments, arguments.llama_python, "llama")
    return engines


def trainers(arguments) -> dict:
    engines = {"halfbyte": lambda: train_speed(arguments)}
    if has(arguments.torch_python, "bitsandbytes") and has(arguments.torch_python, "peft"):
        checkpoint(arguments.folder / "model")
        engines["transformers, peft, bitsandbytes"] = lambda: measured(arguments, arguments.torch_python, "transformers")
    return engines


def has(python: str, package: str) -> bool:
    command = [python, "-c", f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"]
    return subprocess.run(command, check=False).returncode == 0


def measured(arguments, python: str, engine: str) -> dict:
    """What this script prints when another Python runs it for one engine."""
    common = ["--folder", str(arguments.folder), "--threads", str(arguments.threads)]
    command = [python, __file__, str(arguments.examples), *common, "--measure", engine]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])


def ours(arguments, example: str, *options) -> list:
    out = arguments.folder / "ours.csv"
    arguments.folder.mkdir(parents=True, exist_ok=True)
    common = ["--shape", "qwen3-0.6b", "--device", "cpu", "--threads", arguments.threads, "--csv", out, "--overwrite"]
    command = [arguments.examples / example, *common, *options]
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


def decode_speed(arguments, *options) -> dict:
    contexts = ",".join(map(str, CONTEXTS))
    speeds = {}
    for row in ours(arguments, "decode_speed", "--context", contexts, "--new-tokens", NEW_TOKENS, *options):
        speeds[f"decode after {row['context']}"] = float(row["tokens_per_s"])
        speeds[f"prompt of {row['context']}"] = int(row["context"]) / float(row["first_warm_s"])
    return speeds


def train_speed(arguments) -> dict:
    rows = ours(arguments, "train_speed", "--batch", "1,4", "--length", LENGTH, "--steps", STEPS)
    return {f"train {row['batch']} x {row['length']}": float(row["tokens_per_s"]) for row in rows}


def checkpoint(model: Path) -> None:
    """Random weights in bf16, cuts of one pattern."""
    if (model / "model.safetensors").exists():
        return
    import numpy as np

    model.mkdir(parents=True, exist_ok=True)
    for file in ASSETS.iterdir():
        shutil.copy(file, model)
    config = json.loads((ASSETS / "config.json").read_text())
    config |= {
        "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": DIM, "tie_word_embeddings": True,
        "layer_types": ["full_attention"] * LAYERS, "max_window_layers": LAYERS,
    }
    (model / "config.json").write_text(json.dumps(config))
    pattern = np.random.default_rng(7).normal(0, 0.02, 1 << 24).astype("<f4").view("<u4") >> 16
    header, at = {}, 0
    for name, shape in tensors():
        end = at + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    unfinished = model / "unfinished"
    with unfinished.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for i, (_, shape) in enumerate(tensors()):
            if len(shape) == 1:
                file.write(np.full(shape, 0x3F80, "<u2").tobytes())
            else:
                file.write(np.resize(np.roll(pattern.astype("<u2"), i), int(np.prod(shape))).tobytes())
    unfinished.rename(model / "model.safetensors")


def tensors() -> list:
    projections = {
        "self_attn.q_proj": [HEADS * DIM, HIDDEN], "self_attn.k_proj": [KV_HEADS * DIM, HIDDEN],
        "self_attn.v_proj": [KV_HEADS * DIM, HIDDEN], "self_attn.o_proj": [HIDDEN, HEADS * DIM],
        "mlp.gate_proj": [INTERMEDIATE, HIDDEN], "mlp.up_proj": [INTERMEDIATE, HIDDEN], "mlp.down_proj": [HIDDEN, INTERMEDIATE],
        "self_attn.q_norm": [DIM], "self_attn.k_norm": [DIM], "input_layernorm": [HIDDEN], "post_attention_layernorm": [HIDDEN],
    }
    layers = [(f"model.layers.{i}.{name}.weight", shape) for i in range(LAYERS) for name, shape in projections.items()]
    return [("model.embed_tokens.weight", [VOCABULARY, HIDDEN]), *layers, ("model.norm.weight", [HIDDEN])]


def gguf(arguments) -> None:
    folder, quantized = arguments.folder, arguments.folder / "iq4_nl.gguf"
    if quantized.exists():
        return
    checkpoint(folder / "model")
    f16 = folder / "f16.gguf"
    f16.unlink(missing_ok=True)
    export = [arguments.examples / "export_gguf", "--model-name", folder / "model", "--type", "f16", "--output", f16]
    subprocess.run(list(map(str, export)), check=True)
    code = (
        "import ctypes, llama_cpp, sys\n"
        "p = llama_cpp.llama_model_quantize_default_params()\n"
        f"p.ftype, p.nthread = {IQ4_NL}, {arguments.threads}\n"
        "sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(p)))\n"
    )
    unfinished = folder / "unfinished.gguf"
    told = subprocess.run(
        [arguments.llama_python, "-c", code, str(f16), str(unfinished)], check=True, capture_output=True, text=True
    )
    print(*[line for line in (told.stdout + told.stderr).splitlines() if "token_embd" in line], sep="\n")
    f16.unlink()
    unfinished.rename(quantized)


def llama(arguments) -> dict:
    import llama_cpp

    path, threads = str(arguments.folder / "iq4_nl.gguf"), arguments.threads
    model = llama_cpp.Llama(
        path, n_ctx=1024, n_batch=512, n_ubatch=512, n_threads=threads, n_threads_batch=threads, verbose=False
    )
    speeds = {}
    for context in CONTEXTS:
        prompt = [(i * 7919) % 4000 for i in range(context)]
        for _ in range(2):
            model.reset()
            began = time.perf_counter()
            model.eval(prompt)
            seconds = time.perf_counter() - began
        speeds[f"prompt of {context}"] = context / seconds
        for i in range(WARM_UP + NEW_TOKENS):
            if i == WARM_UP:
                began = time.perf_counter()
            model.eval([i])
        speeds[f"decode after {context}"] = NEW_TOKENS / (time.perf_counter() - began)
    return speeds


def transformers(arguments) -> dict:
    import peft
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    bits = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
    )
    path = arguments.folder / "model"
    model = AutoModelForCausalLM.from_pretrained(path, quantization_config=bits, dtype=torch.bfloat16, device_map="cpu")
    lora = peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, lora)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    for length in (16, LENGTH):
        ids = torch.randint(0, 4000, (1, length))
        began = time.perf_counter()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return {f"train 1 x {LENGTH}": LENGTH / (time.perf_counter() - began)}


if __name__ == "__main__":
    main()
