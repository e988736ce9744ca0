"""What the round trips share: running halfbyte, loading with the real libraries, the table of outcomes."""

import subprocess
from pathlib import Path

import bitsandbytes.nn.modules
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging

# That path computes in bf16, and save_pretrained writes wrong scales once it was used (bitsandbytes 0.50.2).
bitsandbytes.nn.modules.has_avx512bf16 = lambda: False
# The mean of nested scales is summed in an order that depends on the number of threads.
torch.set_num_threads(1)
logging.set_verbosity_error()
logging.disable_progress_bar()

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "runtime" / "assets"
GOLDEN = ROOT / "tests" / "data" / "golden" / "qwen3-tiny"
# f32 sums in another order.
LOGITS_TOLERANCE = 2e-4


class Halfbyte:
    """The built examples of halfbyte, on the CPU."""

    def __init__(self, folder: Path):
        self.folder = folder

    def run(self, example: str, *options) -> None:
        self.run_alone(example, *options, "--device", "cpu")

    def run_alone(self, example: str, *options) -> None:
        """One that knows no device."""
        command = [self.folder / example, *map(str, options)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")

    def logits(self, model: Path, texts: list, out: Path, adapter: Path | None = None) -> torch.Tensor:
        """`[tokens of all texts, vocabulary]`, f32."""
        options = [option for ids in texts for option in ("--ids", ",".join(map(str, ids)))]
        if adapter is not None:
            options += ["--lora-path", adapter]
        # The program replaces no file.
        out.unlink(missing_ok=True)
        self.run("logits", "--model", model, "--output", out, "--compute-dtype", "float32", *options)
        return load_file(out)["logits"]


def load(folder: Path):
    """A model as transformers loads it, computing in f32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu").eval()
    # transformers leaves what a 4-bit checkpoint has unquantised in the type of the file.
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.float()
        elif state := getattr(parameter, "quant_state", None):
            # To that type bitsandbytes rounds what it decodes, which the backward pass and DoRA's norms read.
            state.dtype = torch.float32
    return model


def logits(model, texts: list) -> torch.Tensor:
    """`[tokens of all texts, vocabulary]`, f32."""
    with torch.no_grad():
        return torch.cat([model(input_ids=torch.tensor([ids])).logits[0].float() for ids in texts])


def texts_for(vocabulary: int) -> list:
    """Texts of different lengths, of any tokens."""
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(0, vocabulary, (n,), generator=generator).tolist() for n in (37, 1, 64)]


class Table:
    """What was compared, and whether it agreed."""

    def __init__(self):
        self.failed = 0
        self.rows = 0
        print(f"{'':4} {'what':<52} {'compared':<44} outcome")

    def add(self, what: str, compared: str, outcome: str, good: bool) -> None:
        self.rows += 1
        self.failed += not good
        print(f"{'ok' if good else 'BAD':4} {what:<52} {compared:<44} {outcome}", flush=True)

    def same_logits(self, what: str, compared: str, got: torch.Tensor, want: torch.Tensor) -> None:
        if got.shape != want.shape:
            self.add(what, compared, f"shapes {list(got.shape)} and {list(want.shape)}", False)
            return
        worst = (got - want).abs().max().item()
        outcome = f"max difference {worst:.1e} of {want.abs().max().item():.1f} ({got.numel()} logits)"
        self.add(what, compared, outcome, worst <= LOGITS_TOLERANCE)  # NaN is not

    def finish(self) -> int:
        print(f"{self.rows - self.failed} of {self.rows} comparisons agree")
        return 1 if self.failed or not self.rows else 0
