"""PEFT's LoRA on the embedding and the output head of the tiny random Qwen3 of qwen3-tiny/ (CPU, float32): files, logits, greedy
tokens, gradients, AdamW steps.

Run as `python -P make_ends.py` in its folder (without -P, bitsandbytes/ there would be taken for the package); needs torch,
transformers and peft. Writes ends/."""
import json, os, torch, transformers, peft
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

OUT = "ends/"
os.makedirs(OUT, exist_ok=True)
torch.set_num_threads(2)
base = load_file("qwen3-tiny/golden.safetensors")
ids, mask, labels, lids, lmask = (base[k] for k in ("ids", "mask_right", "labels", "ids_left", "mask_left"))
# The base, the targets, and ranks of their own, one of which is no multiple of anything.
CASES = {
    "head": ("untied", ["q_proj", "v_proj", "lm_head"], {}),
    "tied-head": ("tied", ["v_proj", "lm_head"], {"lm_head": 5}),
    "embedding": ("untied", ["q_proj", "v_proj", "embed_tokens"], {}),
    "tied-embedding": ("tied", ["embed_tokens"], {}),
    "tied-both": ("tied", ["o_proj", "embed_tokens", "lm_head"], {"embed_tokens": 3, "lm_head": 5}),
}
T = dict(ids=ids, mask_right=mask, labels=labels)
META = dict(transformers=transformers.__version__, peft=peft.__version__, torch=torch.__version__)


def adapted(name, targets, ranks):
    model = AutoModelForCausalLM.from_pretrained("qwen3-tiny/" + name, dtype=torch.float32)
    torch.manual_seed(53)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=targets, rank_pattern=ranks, task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    # Not the path of this machine.
    model.peft_config["default"].base_model_name_or_path = None
    with torch.no_grad():
        for key, w in model.named_parameters():
            if "lora_B" in key or "lora_embedding" in key:
                w.copy_(0.05 * torch.randn_like(w))
    return model


def saved_name(key):
    return key.replace(".default", "")


for case, (name, targets, ranks) in CASES.items():
    model = adapted(name, targets, ranks).eval()
    # One with the base's weights of the embedding and the head, as all are unless it is told otherwise.
    model.save_pretrained(OUT + "adapter-" + case, save_embedding_layers="auto" if case == "tied-both" else False)
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
