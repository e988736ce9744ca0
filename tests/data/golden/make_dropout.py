"""Adapters of the tiny random Qwen3 of qwen3-tiny/ that PEFT trains with halfbyte's dropout masks (CPU, float32): LoRA, DoRA, and
DoRA of some layers on a base in 4 bits. Gradients, losses, five AdamW steps.

Run as `python -P make_dropout.py` in its folder; needs torch, transformers, peft and bitsandbytes. Writes dropout/."""
import json, os, sys, torch, transformers, peft

sys.path.insert(0, "../../interop")
from peft import LoraConfig, PeftModel, get_peft_model
from philox import dropped
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

OUT, P = "dropout/", 0.25
os.makedirs(OUT, exist_ok=True)
torch.set_num_threads(2)
base = load_file("qwen3-tiny/golden.safetensors")
ids, mask, labels = (base[k] for k in ("ids", "mask_right", "labels"))
SOME = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
CASES = {
    "lora": ("untied", dict(r=4, target_modules=SOME)),
    "dora": ("untied", dict(r=4, target_modules="all-linear", use_dora=True)),
    "dora-4bit": ("untied-nf4-dq", dict(r=5, target_modules=SOME, use_dora=True)),
}
ORDER = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
T = dict(ids=ids, mask_right=mask, labels=labels)


class Dropout(torch.nn.Module):
    """Of tokens that lie one after the other, without padding, in micro-batch `micro_batch`."""

    micro_batch = 0

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        out = x.clone()
        out[mask.bool()] = dropped(x[mask.bool()], P, Dropout.micro_batch, self.module, seed=0)
        return out


def place(name):
    parts = name.split(".")
    return int(parts[parts.index("layers") + 1]), ORDER.index(parts[-1])


for case, (name, options) in CASES.items():
    torch.manual_seed(59)
    model = AutoModelForCausalLM.from_pretrained("qwen3-tiny/" + name, dtype=torch.float32, device_map="cpu")
    model = get_peft_model(model, LoraConfig(lora_alpha=16, lora_dropout=P, task_type="CAUSAL_LM", **options))
    # Not the path of this machine.
    model.peft_config["default"].base_model_name_or_path = None
    with torch.no_grad():
        for key, w in model.named_parameters():
            if "lora_B" in key:
                w.copy_(0.05 * torch.randn_like(w))
            if "magnitude" in key:
                w.mul_(1 + 0.1 * torch.randn_like(w))
    model.save_pretrained(OUT + "adapter-" + case)
    os.remove(OUT + f"adapter-{case}/README.md")
    adapted = {key: module for key, module in model.named_modules() if isinstance(module, peft.tuners.lora.LoraLayer)}
    for i, key in enumerate(sorted(adapted, key=place)):
        adapted[key].lora_dropout["default"] = Dropout(i)
    model.train()
    trained = [(key.replace(".default", ""), w) for key, w in model.named_parameters() if w.requires_grad]
    optimizer = torch.optim.AdamW([w for _, w in trained], lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    losses = []
    for Dropout.micro_batch in range(5):
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        losses.append(loss.item())
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_([w for _, w in trained], float("inf"))
        if not Dropout.micro_batch:
            T.update({f"{case}.grad.{key}": w.grad.clone() for key, w in trained})
            T[case + ".gradnorm"] = norm.reshape(1).clone()
        torch.nn.utils.clip_grad_norm_([w for _, w in trained], 0.3)
        optimizer.step()
        optimizer.zero_grad()
    T[case + ".losses5"] = torch.tensor(losses)
    T.update({f"{case}.after5.{key}": w.detach().clone() for key, w in trained})
    print(case, losses, len(trained))
save_file({k: v.contiguous() for k, v in T.items()}, OUT + "golden.safetensors")
json.dump(dict(transformers=transformers.__version__, peft=peft.__version__, torch=torch.__version__), open(OUT + "meta.json", "w"), indent=1)
