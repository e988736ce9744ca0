"""PEFT's trainable_token_indices on the tiny random Qwen3 of qwen3-tiny/ (CPU, float32): files, logits, greedy tokens, gradients, AdamW steps.

Run as `python -P make_trainable_tokens.py` in its folder (without -P, bitsandbytes/ there would be taken for the package); needs
torch, transformers and peft. Writes trainable-tokens/."""
import json, os, torch, transformers, peft
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

OUT = "trainable-tokens/"
os.makedirs(OUT, exist_ok=True)
torch.set_num_threads(2)
base = load_file("qwen3-tiny/golden.safetensors")
ids, mask, labels, lids, lmask = (base[k] for k in ("ids", "mask_right", "labels", "ids_left", "mask_left"))
# Unsorted; two occur in the batch, more than once, as inputs and targets, one does not, one is only ever a target.
TOKENS = [int(ids[0, 9]), 3, int(ids[1, 2]), int(ids[0, 23])]
CASES = {
    "tied": ("tied", TOKENS),
    "untied": ("untied", TOKENS),
    "both": ("untied", {"embed_tokens": TOKENS[:3], "lm_head": TOKENS[1:]}),
    "head": ("untied", {"lm_head": TOKENS}),
}
T = dict(ids=ids, mask_right=mask, labels=labels)
META = dict(transformers=transformers.__version__, peft=peft.__version__, torch=torch.__version__, tokens=TOKENS)


def adapted(name, tokens):
    model = AutoModelForCausalLM.from_pretrained("qwen3-tiny/" + name, dtype=torch.float32)
    torch.manual_seed(47)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", trainable_token_indices=tokens)
    model = get_peft_model(model, config)
    # Not the path of this machine.
    model.peft_config["default"].base_model_name_or_path = None
    with torch.no_grad():
        for key, w in model.named_parameters():
            if "lora_B" in key:
                w.copy_(0.05 * torch.randn_like(w))
            if "trainable_tokens_delta" in key:
                w.add_(0.05 * torch.randn_like(w))
    return model


def saved_name(key):
    return key.replace(".default", "")


for case, (name, tokens) in CASES.items():
    model = adapted(name, tokens).eval()
    model.save_pretrained(OUT + "adapter-" + case)
    os.remove(OUT + f"adapter-{case}/README.md")
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=mask, labels=labels)
        T[case + ".logits"], T[case + ".loss"] = out.logits.clone(), out.loss.reshape(1).clone()
        greedy = model.generate(input_ids=lids, attention_mask=lmask, max_new_tokens=12, do_sample=False, eos_token_id=None)
        T[case + ".greedy_left"] = greedy[:, 24:].clone()
    model.train()
    trained = [(saved_name(key), w) for key, w in model.named_parameters() if w.requires_grad]
    optimizer = torch.optim.AdamW([w for _, w in trained], lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    losses = []
    for step in range(5):
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        losses.append(loss.item())
        loss.backward()
        if step == 0:
            T.update({f"{case}.grad.{key}": w.grad.clone() for key, w in trained})
        norm = torch.nn.utils.clip_grad_norm_([w for _, w in trained], 0.3)
        if step == 0:
            T[case + ".gradnorm"] = norm.reshape(1).clone()
        optimizer.step()
        optimizer.zero_grad()
    T[case + ".losses5"] = torch.tensor(losses)
    T.update({f"{case}.after5.{key}": w.detach().clone() for key, w in trained})
    print(case, losses, [key for key, _ in trained])
save_file({k: v.contiguous() for k, v in T.items()}, OUT + "golden.safetensors")
json.dump(META, open(OUT + "meta.json", "w"), indent=1)
