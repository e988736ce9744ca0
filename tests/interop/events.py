"""TensorBoard reads the events of a run, its checksums included: every number of metrics.jsonl, also of a run that went on.

Usage: events.py FOLDER_OF_BUILT_EXAMPLES. Needs the package `tensorboard` and nothing else.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TAGS = {
    "train/loss": "loss",
    "train/learning_rate": "lr",
    "train/grad_norm": "grad_norm",
    "train/epoch": "epoch",
    "train/tokens_per_s": "tokens_per_s",
    "eval/loss": "eval_loss",
    "eval/accuracy": "eval_accuracy",
}


def train(examples: Path, output: Path, steps: int, *more: str) -> None:
    command = [examples / "train_qwen3_lora", "--use-4bit", "--device", "cpu", "--output", output, "--tensorboard"]
    command += ["--max-steps", str(steps), "--eval-steps", "2", "--batch-size", "2", *more]
    subprocess.run(command, check=True, capture_output=True)


def text(event) -> str:
    return event.tensor_proto.string_val[0].decode()


def compare(output: Path) -> int:
    """How many numbers TensorBoard has; all must be those of the metrics, in f32."""
    # By default it keeps some of many.
    events = EventAccumulator(str(output / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    n = 0
    for tag, key in TAGS.items():
        want = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
        have = [(event.step, event.value) for event in events.Scalars(tag)]
        assert [step for step, _ in have] == [step for step, _ in want], (tag, have, want)
        for (_, value), (_, wanted) in zip(have, want):
            assert abs(value - wanted) <= 2**-23 * abs(wanted), (tag, value, wanted)
        n += len(have)
    # Of texts, TensorBoard goes on showing those of a run that was there before.
    *_, settings = events.Tensors("settings")
    assert json.loads(text(settings).strip("`")) == lines[0]["run"]["settings"]
    replies = {(event.step, text(event)) for event in events.Tensors("replies/1")}
    # An empty reply has no first word.
    want = {(line["step"], *line["replies"][0]["text"].split()[:1]) for line in lines if "replies" in line}
    assert all(any(step == s and all(w in t for w in words) for s, t in replies) for step, *words in want), (replies, want)
    return n


def main() -> int:
    examples = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        train(examples, output, 4)
        print(f"a run: {compare(output)} numbers")
        # Over the first, whose events are no longer shown; then it is cut behind its second step, and goes on.
        train(examples, output, 6, "--overwrite", "--save-steps", "2", "--seed", "1")
        print(f"a run in its place: {compare(output)} numbers")
        for file in output.glob("adapter_*"):
            file.unlink()
        train(examples, output, 6, "--resume", "auto", "--save-steps", "2", "--seed", "1")
        print(f"a run that went on: {compare(output)} numbers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
