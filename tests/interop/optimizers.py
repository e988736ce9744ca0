"""200 steps of each optimiser beside the real one: PyTorch's AdamW, bitsandbytes' AdamW8bit, peft's LoRA+, with weight decay on
what transformers' Trainer lets decay. The same data, order and first adapter; the losses of all steps are compared.

In 8 bits a run is chaotic: the last bit of a gradient moves a moment to the next code, and bitsandbytes ends further than
1e-3 from itself when its gradients are off by 1e-7 of their size, which is shown beside. So there each of its steps is also made
again from where halfbyte's began, the checkpoint before: loss, codes and weights are compared.

Usage: optimizers.py FOLDER_OF_BUILT_EXAMPLES
"""

import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path

logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)

import bitsandbytes
import torch
from common import ASSETS, Halfbyte, Table, load
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import Trainer, TrainingArguments

STEPS, BATCH, RATE, DECAY = 200, 4, 1e-3, 0.1
LOSS_TOLERANCE = 1e-3
# Of a loss from the same weights: f32 sums in another order.
SUM_TOLERANCE = 1e-5
# The share of codes, and of weights (by more than a hundredth of their rate), that such gradients may change.
SHARE_TOLERANCE = 1e-3
MODEL = ASSETS / "tiny-qwen3"
# Of the shapes of the embedded model, rank 16 gives tensors on both sides of the 4096 numbers from which on bitsandbytes
# keeps a state in 8 bits.
LORA = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
LARGE, BLOCK = 4096, 256
# Of 4096 numbers or more, and a B.
KINDS = [(True, False), (True, True), (False, True), (False, False)]
WEIGHTS = "adapter_model.safetensors"
RUNS = {
    "adamw_torch": (torch.optim.AdamW, 1.0),
    "adamw_8bit": (bitsandbytes.optim.AdamW8bit, 1.0),
    "paged_adamw_32bit": (bitsandbytes.optim.PagedAdamW, 1.0),
    "paged_adamw_8bit": (bitsandbytes.optim.PagedAdamW8bit, 1.0),
    "adamw_torch, LoRA+": (torch.optim.AdamW, 8.0),
    "adamw_8bit, LoRA+": (bitsandbytes.optim.AdamW8bit, 8.0),
}


def main() -> int:
    warnings.filterwarnings("ignore")
    halfbyte = Halfbyte(Path(sys.argv[1]).resolve())
    table = Table()
    with tempfile.TemporaryDirectory() as folder:
        tmp = Path(folder)
        data = tmp / "data.jsonl"
        lines = (ASSETS / "town" / "train.jsonl").read_text().splitlines()
        data.write_text("\n".join(line for line in lines if '"text"' in line))
        torch.manual_seed(3)
        get_peft_model(load(MODEL), LORA).save_pretrained(tmp / "first")
        for name in RUNS:
            compare(halfbyte, table, name, tmp)
    return table.finish()


def compare(halfbyte: Halfbyte, table: Table, name: str, tmp: Path) -> None:
    (_, ratio), output, in_8_bits = RUNS[name], tmp / name.replace(", ", "-"), "8bit" in name
    options = ["--optim", name.split(",")[0], "--loraplus-lr-ratio", ratio, "--learning-rate", RATE]
    options += ["--weight-decay", DECAY, "--lr-scheduler-type", "constant", "--warmup-ratio", 0]
    options += ["--max-steps", STEPS, "--batch-size", BATCH, "--bnb-4bit-compute-dtype", "float32"]
    options += ["--data", tmp / "data.jsonl", "--lora-path", tmp / "first", "--log-sample-losses"]
    options += ["--save-steps", 1, "--save-total-limit", STEPS] if in_8_bits else ["--save-steps", 0]
    halfbyte.run("train_qwen3_lora", "--model", MODEL, "--output", output, *options)
    metrics = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in metrics if "sample_losses" in line]
    assert len(steps) == STEPS
    theirs = losses(Real(name, tmp), steps)
    fell = f"{STEPS} losses, {theirs[0]:.3f} to {sum(theirs[-20:]) / 20:.3f}"
    apart = furthest([step["loss"] for step in steps], theirs)
    outcome = f"max difference {apart:.1e}"
    if in_8_bits:
        itself = furthest(losses(Real(name, tmp), steps, noise=1e-7), theirs)
        outcome += f", of bitsandbytes from itself {itself:.1e}"
    table.add(name, fell, outcome, apart <= LOSS_TOLERANCE)
    if in_8_bits:
        step_by_step(table, name, Real(name, tmp), steps, output)


def losses(real: "Real", steps: list, noise: float = 0.0) -> list:
    generator = torch.Generator().manual_seed(7)
    return [real.step(step, noise, generator) for step in steps]


def furthest(ours: list, theirs: list) -> float:
    """The largest difference, NaN if there is one."""
    return (torch.tensor(ours) - torch.tensor(theirs)).abs().max().item()


def step_by_step(table: Table, name: str, real: "Real", steps: list, output: Path) -> None:
    """Steps of the real optimiser, each from halfbyte's checkpoint before it."""
    theirs, codes, weights = [], [], []
    for done, step in enumerate(steps):
        theirs.append(real.step(step))
        # The last step has no checkpoint.
        if done + 1 < STEPS:
            differ = real.take(output / f"checkpoint-{done + 1}")
            codes.append(differ[0])
            weights.append(differ[1])
    worst = furthest([step["loss"] for step in steps], theirs)
    table.add(name, "loss of each step, from ours", f"max difference {worst:.1e}", worst <= SUM_TOLERANCE)
    for what, differ in (("codes", torch.cat(codes)), ("weights", torch.cat(weights))):
        outcome = f"{differ.sum().item()} of {differ.numel() / 1e6:.0f} million differ"
        table.add(name, f"{what} after each step, from ours", outcome, differ.float().mean() <= SHARE_TOLERANCE)


class Real:
    """peft's model with the first adapter, and what moves it."""

    def __init__(self, run: str, tmp: Path):
        optimizer, ratio = RUNS[run]
        self.model = get_peft_model(load(MODEL), LORA)
        set_peft_model_state_dict(self.model, load_file(tmp / "first" / WEIGHTS))
        self.trained = [(name, weight) for name, weight in self.model.named_parameters() if weight.requires_grad]
        trainer = Trainer(self.model, TrainingArguments(tmp / "trainer", use_cpu=True))
        decaying = trainer.get_decay_parameter_names(self.model)
        assert {name for name, _ in self.trained} <= set(decaying), "Trainer lets all of an adapter decay"
        options = {"lr": RATE, "loraplus_lr_ratio": ratio, "loraplus_weight_decay": DECAY}
        self.moves = create_loraplus_optimizer(self.model, optimizer, betas=(0.9, 0.999), eps=1e-8, **options)
        tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
        texts = [json.loads(line)["text"] for line in (tmp / "data.jsonl").open()]
        self.samples = [tokenizer.encode(text).ids + [self.model.config.eos_token_id] for text in texts]

    def step(self, step: dict, noise: float = 0.0, generator=None) -> float:
        """The loss of the samples that halfbyte took for a step, and a step of the optimiser."""
        loss = loss_of(self.model, [self.samples[one["sample"] - 1] for one in step["sample_losses"]])
        loss.backward()
        if noise:
            for _, weight in self.trained:
                weight.grad *= 1 + noise * torch.randn(weight.shape, generator=generator)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.moves.step()
        self.moves.zero_grad()
        return loss.item()

    def take(self, checkpoint: Path) -> list:
        """Goes over to the weights and moments of halfbyte's checkpoint. Gives where codes, and where weights were others."""
        adapter, moments = load_file(checkpoint / WEIGHTS), load_file(checkpoint / "training_state.safetensors")
        rates = {weight: group["lr"] for group in self.moves.param_groups for weight in group["params"]}
        differ, place, n_in_8_bits = ([], []), 0, len(moments["state1"])
        # As halfbyte's flat buffer has them: tensors of a kind side by side, each from a multiple of 256 on.
        for name, weight in sorted(self.trained, key=lambda one: KINDS.index((one[1].numel() >= LARGE, "lora_B" in one[0]))):
            n, state = weight.numel(), self.moves.state[weight]
            saved = adapter[name.replace(".default", "")]
            # What is not a number is not within.
            differ[1].append(~((saved - weight.data).abs() <= 0.01 * rates[weight]).flatten())
            weight.data.copy_(saved)
            for i in "12":
                if n >= LARGE:
                    codes = moments[f"state{i}"][place : place + n]
                    differ[0].append(state[f"state{i}"].flatten() != codes)
                    state[f"absmax{i}"].copy_(moments[f"absmax{i}"][place // BLOCK : -(-(place + n) // BLOCK)])
                else:
                    start = place - n_in_8_bits
                    codes = moments["exp_avg" if i == "1" else "exp_avg_sq"][start : start + n]
                state[f"state{i}"].copy_(codes.view_as(weight))
            place += -(-n // BLOCK) * BLOCK
        return [torch.cat(one) for one in differ]


def loss_of(model, samples: list) -> torch.Tensor:
    """Mean over all targets."""
    length = max(map(len, samples))
    ids = torch.tensor([ids + [0] * (length - len(ids)) for ids in samples])
    labels = torch.tensor([ids + [-100] * (length - len(ids)) for ids in samples])
    mask = (labels != -100).long()
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())


if __name__ == "__main__":
    sys.exit(main())
