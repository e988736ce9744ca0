"""200 steps of each optimiser beside the real one: PyTorch's AdamW, bitsandbytes' AdamW8bit, peft's LoRA+, with weight decay on
what transformers' Trainer lets decay. The same data, order and first adapter; the losses of all steps are compared.

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
MODEL = ASSETS / "tiny-qwen3"
# Of the shapes of the embedded model, rank 16 gives tensors on both sides of the 4096 numbers from which on bitsandbytes
# keeps a state in 8 bits.
LORA = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
RUNS = {
    "adamw_torch": (torch.optim.AdamW, 1.0),
    "adamw_8bit": (bitsandbytes.optim.AdamW8bit, 1.0),
    "paged_adamw_8bit": (bitsandbytes.optim.PagedAdamW8bit, 1.0),
    "adamw_torch, LoRA+": (torch.optim.AdamW, 8.0),
    "adamw_8bit, LoRA+": (bitsandbytes.optim.AdamW8bit, 8.0),
}


def main() -> int:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    halfbyte = Halfbyte(Path(sys.argv[1]).resolve())
    table = Table()
    with tempfile.TemporaryDirectory() as folder:
        tmp = Path(folder)
        data = tmp / "data.jsonl"
        lines = (ASSETS / "town" / "train.jsonl").read_text().splitlines()
        data.write_text("\n".join(line for line in lines if '"text"' in line))
        torch.manual_seed(3)
        get_peft_model(load(MODEL), LORA).save_pretrained(tmp / "first")
        for name, (optimizer, ratio) in RUNS.items():
            compare(halfbyte, table, name, optimizer, ratio, data, tmp)
    return table.finish()


def compare(halfbyte: Halfbyte, table: Table, name: str, optimizer, ratio: float, data: Path, tmp: Path) -> None:
    output = tmp / name.replace(", ", "-")
    options = ["--optim", name.split(",")[0], "--loraplus-lr-ratio", ratio, "--learning-rate", RATE]
    options += ["--weight-decay", DECAY, "--lr-scheduler-type", "constant", "--warmup-ratio", 0]
    options += ["--max-steps", STEPS, "--batch-size", BATCH, "--bnb-4bit-compute-dtype", "float32"]
    options += ["--data", data, "--lora-path", tmp / "first", "--log-sample-losses"]
    halfbyte.run("train_qwen3_lora", "--model", MODEL, "--output", output, *options)
    metrics = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in metrics if "sample_losses" in line]
    theirs = train(optimizer, ratio, steps, data, tmp)
    worst = max(abs(step["loss"] - loss) for step, loss in zip(steps, theirs, strict=True))
    fell = f"loss from {theirs[0]:.3f} to {sum(theirs[-20:]) / 20:.3f}"
    good = len(theirs) == STEPS and worst <= LOSS_TOLERANCE  # NaN is not
    table.add(name, f"losses of {len(theirs)} steps, {fell}", f"max difference {worst:.1e}", good)


def train(optimizer, ratio: float, steps: list, data: Path, tmp: Path) -> list:
    """The losses of these steps, whose samples are those that halfbyte took."""
    model = get_peft_model(load(MODEL), LORA)
    set_peft_model_state_dict(model, load_file(tmp / "first" / "adapter_model.safetensors"))
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    trainer = Trainer(model, TrainingArguments(tmp / "trainer", use_cpu=True))
    assert set(trained) <= set(trainer.get_decay_parameter_names(model)), "Trainer lets all of an adapter decay"
    moves = create_loraplus_optimizer(
        model, optimizer, lr=RATE, loraplus_lr_ratio=ratio, loraplus_weight_decay=DECAY, betas=(0.9, 0.999), eps=1e-8
    )
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    samples = [tokenizer.encode(json.loads(line)["text"]).ids + [model.config.eos_token_id] for line in data.open()]
    losses = []
    for step in steps:
        losses.append(loss_of(model, [samples[one["sample"] - 1] for one in step["sample_losses"]]))
        losses[-1].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        moves.step()
        moves.zero_grad()
    return [loss.item() for loss in losses]


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
