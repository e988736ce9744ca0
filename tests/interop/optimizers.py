"""200 steps of each optimiser beside the real one: PyTorch's AdamW, bitsandbytes' AdamW8bit, peft's LoRA+, with weight decay on
what transformers' Trainer lets decay. The same data, order and first adapter; the losses of all steps are compared.

Some runs are chaotic: in 8 bits the last bit of a gradient moves a moment to the next code, and LoRA+ at a high rate makes any
difference larger. There the real one ends further than 1e-3 from itself once its gradients are off by what rounding to f32
puts them off, which is shown beside. So each step is also made again from where halfbyte's began, the checkpoint before: in
8 bits loss, codes and weights are compared with bitsandbytes', and in 32 bits with peft's in f64, to which halfbyte must be as
near as peft in f32 is.

Usage: optimizers.py FOLDER_OF_BUILT_EXAMPLES
"""

import json
import logging
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)

import bitsandbytes
import torch
from common import ASSETS, Halfbyte, Table, load
from exact import widened
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
# How far peft's gradients in f32 are from those in f64, of their root mean square in a tensor.
ROUNDING = 3e-6
# How often the real one runs with gradients that are so far off.
TRIALS = 5
# Two computations in f32 are alike where neither is further from f64 than so many times the other.
ALIKE = 2
MODEL = ASSETS / "tiny-qwen3"
# Of the shapes of the embedded model, rank 16 gives tensors on both sides of the 4096 numbers from which on bitsandbytes
# keeps a state in 8 bits.
LORA = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
LARGE, BLOCK = 4096, 256
# Of 4096 numbers or more, and a B.
KINDS = [(True, False), (True, True), (False, True), (False, False)]
WEIGHTS = "adapter_model.safetensors"
OPTIMIZERS = {
    "adamw_torch": torch.optim.AdamW,
    "adamw_8bit": bitsandbytes.optim.AdamW8bit,
    "paged_adamw_32bit": bitsandbytes.optim.PagedAdamW,
    "paged_adamw_8bit": bitsandbytes.optim.PagedAdamW8bit,
}


@dataclass(frozen=True)
class Run:
    optim: str
    rate: float = RATE
    # The rate of B over that of A: LoRA+.
    ratio: float = 1.0

    def __str__(self) -> str:
        return self.optim + (f", LoRA+ at {self.rate:g}" if self.ratio != 1 else "")

    @property
    def in_8_bits(self) -> bool:
        return "8bit" in self.optim

    @property
    def chaotic(self) -> bool:
        return self.in_8_bits or self.ratio * self.rate > 2 * RATE


RUNS = [*map(Run, OPTIMIZERS), Run("adamw_torch", RATE / 4, 8), Run("adamw_torch", RATE, 8), Run("adamw_8bit", RATE, 8)]


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
        for i, run in enumerate(RUNS):
            compare(halfbyte, table, run, tmp, tmp / f"run-{i}")
    return table.finish()


def compare(halfbyte: Halfbyte, table: Table, run: Run, tmp: Path, output: Path) -> None:
    options = ["--optim", run.optim, "--loraplus-lr-ratio", run.ratio, "--learning-rate", run.rate]
    options += ["--weight-decay", DECAY, "--lr-scheduler-type", "constant", "--warmup-ratio", 0]
    options += ["--max-steps", STEPS, "--batch-size", BATCH, "--bnb-4bit-compute-dtype", "float32"]
    options += ["--data", tmp / "data.jsonl", "--lora-path", tmp / "first", "--log-sample-losses"]
    options += ["--save-steps", 1, "--save-total-limit", STEPS] if run.chaotic else ["--save-steps", 0]
    halfbyte.run("train_qwen3_lora", "--model", MODEL, "--output", output, *options)
    metrics = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in metrics if "sample_losses" in line]
    assert len(steps) == STEPS
    theirs = losses(Real(run, tmp), steps)
    fell = f"{STEPS} losses, {theirs[0]:.3f} to {sum(theirs[-20:]) / 20:.3f}"
    apart, bound = furthest([step["loss"] for step in steps], theirs), LOSS_TOLERANCE
    outcome = f"max difference {apart:.1e}"
    if run.chaotic:
        itself = [furthest(losses(Real(run, tmp), steps, seed), theirs) for seed in range(TRIALS)]
        outcome += f", of the real one from itself {min(itself):.1e} to {max(itself):.1e}"
        bound = ALIKE * max(itself)
    table.add(str(run), fell, outcome, apart <= bound)
    if run.in_8_bits:
        step_by_step(table, run, Real(run, tmp), steps, output)
    elif run.chaotic:
        beside_f64(table, run, tmp, steps, output)


def losses(real: "Real", steps: list, seed: int | None = None) -> list:
    """Of all steps; with a seed, gradients are off by as much as f32 may put them off."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return [real.step(step, generator) for step in steps]


def furthest(ours: list, theirs: list) -> float:
    """The largest difference, NaN if there is one."""
    return (torch.tensor(ours) - torch.tensor(theirs)).abs().max().item()


def step_by_step(table: Table, run: Run, real: "Real", steps: list, output: Path) -> None:
    """Steps of the real optimiser, each from halfbyte's checkpoint before it."""
    theirs, codes, weights = [], [], []
    for done, step in enumerate(steps):
        theirs.append(real.step(step))
        # The last step has no checkpoint.
        if done + 1 < STEPS:
            before = real.weights()
            codes.append(real.take(output / f"checkpoint-{done + 1}"))
            # What is not a number is not within.
            weights.append(~((real.weights() - before).abs() <= 0.01))
    add_losses(table, run, steps, theirs)
    add_share(table, run, "codes", codes)
    add_share(table, run, "weights", weights)


def beside_f64(table: Table, run: Run, tmp: Path, steps: list, output: Path) -> None:
    """Steps of peft in f64 and in f32, each from halfbyte's checkpoint before it: who is nearer to f64."""
    exact, peft = Real(run, tmp, exact=True), Real(run, tmp)
    theirs, off, differ = [], [], []
    for done, step in enumerate(steps):
        theirs.append(exact.step(step))
        peft.step(step)
        if done + 1 < STEPS:
            true, checkpoint = exact.weights(), output / f"checkpoint-{done + 1}"
            by_peft = (peft.weights() - true).abs()
            exact.take(checkpoint)
            peft.take(checkpoint)
            ours = (exact.weights() - true).abs()
            differ.append(~(ours <= 0.01))
            # Of the few that move by gradients near `eps`, any may be far off.
            off.append(torch.stack([ours.quantile(0.999), by_peft.quantile(0.999)]))
    add_losses(table, run, steps, theirs)
    add_share(table, run, "weights", differ)
    off = torch.stack(off)
    (ours, by_peft), worst = off.median(dim=0).values, (off[:, 0] / off[:, 1]).max()
    outcome = f"{ours:.1e} of a rate, peft in f32 {by_peft:.1e}; at most {worst:.2f} times peft's"
    table.add(str(run), "999 of 1000 weights after each step, off f64", outcome, worst <= ALIKE)


def add_share(table: Table, run: Run, what: str, differ: list) -> None:
    differ = torch.cat(differ)
    outcome = f"{differ.sum().item()} of {differ.numel() / 1e6:.0f} million differ"
    table.add(str(run), f"{what} after each step, from ours", outcome, differ.float().mean() <= SHARE_TOLERANCE)


def add_losses(table: Table, run: Run, steps: list, theirs: list) -> None:
    worst = furthest([step["loss"] for step in steps], theirs)
    table.add(str(run), "loss of each step, from ours", f"max difference {worst:.1e}", worst <= SUM_TOLERANCE)


class Real:
    """peft's model with the first adapter, and what moves it."""

    def __init__(self, run: Run, tmp: Path, exact: bool = False):
        self.model = get_peft_model(load(MODEL), LORA)
        set_peft_model_state_dict(self.model, load_file(tmp / "first" / WEIGHTS))
        if exact:
            widened(self.model)
        trainer = Trainer(self.model, TrainingArguments(tmp / "trainer", use_cpu=True))
        decaying = trainer.get_decay_parameter_names(self.model)
        trained = [(name, weight) for name, weight in self.model.named_parameters() if weight.requires_grad]
        assert {name for name, _ in trained} <= set(decaying), "Trainer lets all of an adapter decay"
        # As halfbyte's flat buffer has them: tensors of a kind side by side.
        self.trained = sorted(trained, key=lambda one: KINDS.index((one[1].numel() >= LARGE, "lora_B" in one[0])))
        options = {"lr": run.rate, "loraplus_lr_ratio": run.ratio, "loraplus_weight_decay": DECAY}
        kind = OPTIMIZERS[run.optim]
        self.moves = create_loraplus_optimizer(self.model, kind, betas=(0.9, 0.999), eps=1e-8, **options)
        self.rates = {weight: group["lr"] for group in self.moves.param_groups for weight in group["params"]}
        tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
        texts = [json.loads(line)["text"] for line in (tmp / "data.jsonl").open()]
        self.samples = [tokenizer.encode(text).ids + [self.model.config.eos_token_id] for text in texts]

    def step(self, step: dict, noise: torch.Generator | None = None) -> float:
        """The loss of the samples that halfbyte took for a step, and a step of the optimiser."""
        loss = loss_of(self.model, [self.samples[one["sample"] - 1] for one in step["sample_losses"]])
        loss.backward()
        if noise:
            for _, weight in self.trained:
                size = ROUNDING * weight.grad.pow(2).mean().sqrt()
                weight.grad += size * torch.randn(weight.shape, generator=noise)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.moves.step()
        self.moves.zero_grad()
        return loss.item()

    def weights(self) -> torch.Tensor:
        """All that is trained, each number as a multiple of its learning rate."""
        return torch.cat([weight.data.double().flatten() / self.rates[weight] for _, weight in self.trained])

    def take(self, checkpoint: Path) -> torch.Tensor:
        """Goes over to the weights and moments of halfbyte's checkpoint. Gives where codes of moments were others."""
        adapter, moments = load_file(checkpoint / WEIGHTS), load_file(checkpoint / "training_state.safetensors")
        differ, place, n_in_8_bits = [], 0, len(moments.get("state1", []))
        for name, weight in self.trained:
            n, state = weight.numel(), self.moves.state[weight]
            weight.data.copy_(adapter[name.replace(".default", "")])
            for i, wide in (("1", "exp_avg"), ("2", "exp_avg_sq")):
                here = state[wide if wide in state else f"state{i}"]
                if place < n_in_8_bits:
                    codes = moments[f"state{i}"][place : place + n]
                    differ.append(here.flatten() != codes)
                    state[f"absmax{i}"].copy_(moments[f"absmax{i}"][place // BLOCK : -(-(place + n) // BLOCK)])
                else:
                    start = place - n_in_8_bits
                    codes = moments[wide][start : start + n]
                here.copy_(codes.view_as(weight))
            # Each tensor begins with a multiple of 256.
            place += -(-n // BLOCK) * BLOCK
        return torch.cat(differ) if differ else torch.zeros(0)


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
