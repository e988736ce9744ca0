"""Compares the names and defaults of Python's options in docs/from-python.md with those of the installed libraries.

Usage: defaults.py
"""

import dataclasses
import re
import sys
from importlib.metadata import version

import transformers
from common import ROOT, Table
from peft import LoraConfig
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as LORA_TARGETS
from transformers import BitsAndBytesConfig, GenerationConfig, TrainingArguments
from trl import SFTConfig

LIBRARIES = ("transformers", "peft", "bitsandbytes", "trl")
DOCUMENT = ROOT / "docs" / "from-python.md"
# Arguments and names beside the classes' fields: of `generate`, of its caller, of the trainers, of callers of a tokenizer.
ELSEWHERE = {
    "set_seed", "apply_chat_template", "TextStreamer", "return_full_text", "skip_special_tokens", "logits_processor",
    "train_dataset", "eval_dataset", "create_loraplus_optimizer",
}  # fmt: skip


def of_class(cls) -> dict:
    """The defaults of a dataclass, without making one: that may ask for a GPU."""

    def default(field):
        if field.default is not dataclasses.MISSING:
            return field.default
        return None if field.default_factory is dataclasses.MISSING else field.default_factory()

    return {field.name: default(field) for field in dataclasses.fields(cls)}


def of_generation() -> dict:
    """What `generate` takes where nobody says anything; fields that nobody has set are None."""
    config = GenerationConfig()
    unset = {name: None for name in vars(config)}
    return {**unset, **config._get_default_generation_params()}


def of_bitsandbytes() -> dict:
    config = BitsAndBytesConfig()
    return {**vars(config), **config.to_dict()}


def of_lora() -> dict:
    return {**of_class(LoraConfig), "target_modules": ", ".join(LORA_TARGETS["qwen3"])}


def sections() -> dict:
    """For each heading of the document, the defaults that its table means, by the word before a default in brackets."""
    training, sft = of_class(TrainingArguments), of_class(SFTConfig)
    return {
        "`BitsAndBytesConfig`": {"": of_bitsandbytes()},
        "`LoraConfig`": {"": of_lora(), "of Qwen3:": of_lora()},
        "`TrainingArguments`, `SFTConfig`": {"": {**sft, **training}, "SFT": sft},
        "`generate`, `GenerationConfig`": {"": of_generation()},
    }


def first_cells(text: str):
    """The heading and the first cell of each row of the tables."""
    heading = ""
    for line in text.splitlines():
        if line.startswith("## "):
            heading = line[3:]
        elif line.startswith("| ") and not line.startswith("| Python"):
            yield heading, line[2:].split(" | ")[0]


def equal(said: str, is_: object) -> bool:
    said = said.replace("`", "")
    if said == "none":
        return is_ in (None, "none")
    try:
        return float(said) == float(is_)
    except (TypeError, ValueError):
        return said.lower() == str(getattr(is_, "value", is_)).lower()


def compare(table: Table, heading: str, cell: str, meant: dict) -> None:
    for name, old, said in re.findall(r"`(\w+\*?)(?:[(=][^`]*)?`( of transformers 4)?(?: \(([^)]*)\))?", cell):
        known = meant[""]
        prefix = name.rstrip("*")
        there = name in known or name in ELSEWHERE or (name != prefix and any(key.startswith(prefix) for key in known))
        table.add(heading, name + old, "there" if there else "not there", there != bool(old))
        for part in filter(None, said.split("; ")):
            word = max((word for word in meant if part.startswith(word)), key=len)
            value = part[len(word) :].strip()
            table.add(heading, f"{name} ({part})", repr(meant[word].get(name)), equal(value, meant[word].get(name)))


def main() -> int:
    text, table, meant = DOCUMENT.read_text(), Table(), sections()
    for heading, cell in first_cells(text):
        if heading in meant:
            compare(table, heading, cell, meant[heading])
    for library in LIBRARIES:
        told = f"{library} {version(library)}"
        table.add("checked with", told, "in the document" if told in text else "not in the document", told in text)
    return table.finish()


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    sys.exit(main())
