"""Two LoRA adapters of the tiny random Qwen3, and what PEFT's add_weighted_adapter makes of them.

Usage: python make_combined.py   (peft 0.21.2, torch 2.15.0, on the CPU)
"""

import json
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
OUT = HERE / "combined"
WEIGHTS = [0.7, -0.45]
CASES = {
    "cat": {"combination_type": "cat"},
    "linear": {"combination_type": "linear"},
    "ties-total": {"combination_type": "ties", "density": 0.3, "majority_sign_method": "total"},
    "ties-frequency": {"combination_type": "ties", "density": 0.6, "majority_sign_method": "frequency"},
}


def load():
    return AutoModelForCausalLM.from_pretrained(HERE / "qwen3-tiny" / "untied", dtype=torch.float32)


def make(name: str, seed: int, **config) -> None:
    """An adapter whose A and B are nowhere 0."""
    torch.manual_seed(seed)
    model = get_peft_model(load(), LoraConfig(task_type="CAUSAL_LM", base_model_name_or_path=None, **config))
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "lora_" in key:
                weight.copy_(0.1 * torch.randn_like(weight))
    model.save_pretrained(OUT / name)
    path = OUT / name / "adapter_config.json"
    text = json.loads(path.read_text())
    path.write_text(json.dumps({**text, "base_model_name_or_path": None}, indent=2, sort_keys=True))
    (OUT / name / "README.md").unlink(missing_ok=True)


def main() -> None:
    make("first", 1, r=4, lora_alpha=6, target_modules=["v_proj"])
    make("second", 2, r=4, lora_alpha=8, target_modules=["k_proj", "v_proj"], use_rslora=True)
    tensors = {}
    for case, how in CASES.items():
        model = PeftModel.from_pretrained(load(), OUT / "first", adapter_name="first")
        model.load_adapter(OUT / "second", adapter_name="second")
        model.add_weighted_adapter(["first", "second"], WEIGHTS, case, **how)
        for key, weight in model.named_parameters():
            if f".{case}." in key and "lora_" in key:
                tensors[f"{case}.{key.replace('base_model.model.', '').replace(f'.{case}.', '.')}"] = weight.detach().clone()
    save_file(tensors, OUT / "golden.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
