"""Training by each method, 200 steps beside peft on the same data and from the same adapter."""

import json
from pathlib import Path

import torch
from checkpoints import quantize
from common import Halfbyte, Table, load
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear4bit, LoraLayer
from peft.utils.integrations import dequantize_module_weight
from peft.utils.loftq_utils import _low_rank_decomposition
from philox import dropped, words
from safetensors.torch import load_file
from transformers import AutoTokenizer

STEPS = 200
LOSS_TOLERANCE = 1e-3
SEED = 3
ALPHA = 5.0
DROPOUT = 0.25
# So that the order of samples decides nothing, a step has all of them.
OPTIONS = ["--batch-size", 8, "--lr-scheduler-type", "constant", "--warmup-ratio", 0, "--weight-decay", 0.01]
OPTIONS += ["--bnb-4bit-compute-dtype", "float32", "--max-grad-norm", 0.3, "--save-steps", 0, "--seed", SEED]
# Options, the number of samples, and whether the base is in 4 bits.
RUNS = {
    "LoRA": ([], 8, False),
    "LoRA of layer 1": (["--layers-to-transform", "1", "--exclude-modules", "gate_proj"], 8, False),
    "LoRA of the head": (["--target-modules", "q_proj,v_proj,lm_head"], 8, False),
    "LoRA of the embedding": (["--target-modules", "q_proj,v_proj,embed_tokens"], 8, False),
    "LoRA of both, nf4 base": (["--target-modules", "o_proj,up_proj,embed_tokens,lm_head", "--use-4bit"], 2, True),
    "DoRA": (["--use-dora"], 8, False),
    "DoRA, nf4 base": (["--use-dora", "--use-4bit"], 2, True),
    # One, since masks and the noise of a token go by its place in the batch.
    "LoRA with dropout": (["--lora-dropout", DROPOUT], 1, False),
    "DoRA with dropout": (["--use-dora", "--lora-dropout", DROPOUT], 1, False),
    "DoRA with dropout, nf4 base": (["--use-dora", "--lora-dropout", DROPOUT, "--use-4bit"], 1, True),
    "NEFTune": (["--neftune-alpha", ALPHA], 1, False),
    "PiSSA": (["--init-lora-weights", "pissa"], 8, False),
    # With a scaling of 1: PEFT leaves it out of account.
    "LoftQ, nf4 base": (["--init-lora-weights", "loftq", "--use-4bit", "--lora-alpha", 16], 2, True),
}


def compare_all(halfbyte: Halfbyte, table: Table, source: Path, tmp: Path) -> None:
    records = [json.loads(line) for line in (source.parent / "town" / "train.jsonl").read_text().splitlines()]
    in_4_bits = quantize(halfbyte, source, tmp / "methods-base", "nf4", True)
    for i, (name, (options, n, quantised)) in enumerate(RUNS.items()):
        base, folder = in_4_bits if quantised else source, tmp / f"method-{i}"
        folder.mkdir()
        data = folder / "data.jsonl"
        data.write_text("".join(json.dumps(record) + "\n" for record in records[:n]))
        if name.startswith("LoftQ"):
            model, base = loftq(load(base), source), source
        elif name == "PiSSA":
            lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", init_lora_weights="pissa")
            model = get_peft_model(load(base), lora)
            model.save_pretrained(folder / "first")
        else:
            # What the run begins with is what nothing was learnt of.
            train(halfbyte, base, data, folder / "first", [*options, "--max-steps", 1, "--learning-rate", 0])
            model = PeftModel.from_pretrained(load(base), folder / "first", is_trainable=True)
        ours = train(halfbyte, base, data, folder / "last", [*options, "--max-steps", STEPS, "--learning-rate", 1e-3])
        theirs = peft_losses(model.train(), tokenised(base, records[:n]), options)
        worst = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
        fallen = f"{ours[0]:.3f} to {ours[-1]:.3f}, max difference {worst:.1e}"
        good = worst <= LOSS_TOLERANCE and ours[-1] < ours[0] / 2
        table.add(f"{STEPS} steps: {name}", "losses of peft", fallen, good)
        if name == "PiSSA":
            model.save_pretrained(folder / "converted", path_initial_model_for_weight_conversion=str(folder / "first"))
            compare_converted(table, folder)


def train(halfbyte: Halfbyte, base: Path, data: Path, output: Path, options: list) -> list:
    halfbyte.run("train_qwen3_lora", "--model", base, "--data", data, "--output", output, *OPTIONS, *options)
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line.get("loss") is not None]


def loftq(model, source: Path):
    """What peft's replace_lora_weights_loftq does, which wants CUDA."""
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=16, target_modules="all-linear"))
    original = load_file(source / "model.safetensors")
    for name, module in model.base_model.model.named_modules():
        if isinstance(module, Linear4bit):
            lost = original[f"{name}.weight"].float() - dequantize_module_weight(module.base_layer)
            part = _low_rank_decomposition(lost, 16)
            module.lora_A["default"].weight.data, module.lora_B["default"].weight.data = part["R"], part["L"]
    return model


def compare_converted(table: Table, folder: Path) -> None:
    """The adapter for the whole base, which PEFT makes of what it trained."""
    ours, theirs = (load_file(folder / name / "adapter_model.safetensors") for name in ("last", "converted"))
    worst = 0.0
    for name in (name for name in theirs if "lora_A" in name):
        of_b = name.replace("lora_A", "lora_B")
        ours_adds, adds = ours[of_b] @ ours[name], theirs[of_b] @ theirs[name]
        worst = max(worst, ((ours_adds - adds).norm() / adds.norm()).item())
    same = ours.keys() == theirs.keys() and all(ours[name].shape == theirs[name].shape for name in theirs)
    table.add("PiSSA for the whole base", "what peft's conversion adds to each weight", f"{worst:.1e} apart", same and worst <= 0.01)


def peft_losses(model, samples: list, options: list) -> list:
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.01)
    random = Random(model.config.hidden_size)
    if "--neftune-alpha" in options:
        model.get_input_embeddings().register_forward_hook(random.add)
    if "--lora-dropout" in options:
        # In the model's order, as halfbyte counts them.
        for i, module in enumerate(module for module in model.modules() if isinstance(module, LoraLayer)):
            module.lora_dropout["default"] = Dropout(random, i)
    losses = []
    n_targets = sum(len(ids) - first for ids, first in samples)
    for step in range(STEPS):
        random.step, total = step, 0.0
        for ids, first in samples:
            labels = torch.tensor([[-100] * first + ids[first:]])
            loss = model(input_ids=torch.tensor([ids]), labels=labels).loss * ((len(ids) - first) / n_targets)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(trained, 0.3)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses


def tokenised(base: Path, records: list) -> list:
    """Ids of each sample, and where its targets begin."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    samples = []
    for record in records:
        prompt = tokenizer(record["prompt"], add_special_tokens=False)["input_ids"] if "prompt" in record else []
        text = record.get("completion", record.get("text"))
        ids = prompt + tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        samples.append((ids, max(len(prompt), 1)))
    return samples


class Random:
    """What halfbyte draws for a step of one micro-batch."""

    def __init__(self, hidden: int):
        self.hidden = hidden
        self.step = 0

    def add(self, _module, _inputs, output: torch.Tensor) -> torch.Tensor:
        """Noise on embeddings."""
        n = output.shape[1]
        uniform = (words(n, self.hidden, self.step << 16 | 0xFFFF, SEED) >> 8) / 2.0**24
        bound = ALPHA / (n * self.hidden) ** 0.5
        return output + torch.tensor(bound * (2 * uniform - 1), dtype=output.dtype)


class Dropout(torch.nn.Module):
    """That of an adapter."""

    def __init__(self, random: Random, module: int):
        super().__init__()
        self.random, self.module = random, module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return dropped(x[0], DROPOUT, self.random.step, self.module, SEED)[None]
