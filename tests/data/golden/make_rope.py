"""RoPE frequencies of the real transformers, for the configurations that Qwen3 checkpoints have."""
import json, torch, transformers
from transformers import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

CASES = {
    "theta 1e6": dict(head_dim=128, rope_theta=1e6),
    "theta 5e6": dict(head_dim=128, rope_theta=5e6),
    "theta 1e4, small heads": dict(head_dim=32, rope_theta=1e4),
    "yarn of the model card": dict(head_dim=128, rope_theta=1e6, rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32768)),
    "yarn, small": dict(head_dim=32, rope_theta=1e6, rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=1024)),
    "yarn, betas": dict(head_dim=64, rope_theta=1e4, rope_scaling=dict(rope_type="yarn", factor=8.0, original_max_position_embeddings=4096, beta_fast=16, beta_slow=2)),
    "yarn, not truncated": dict(head_dim=64, rope_theta=1e4, rope_scaling=dict(rope_type="yarn", factor=8.0, original_max_position_embeddings=4096, truncate=False)),
    "yarn, attention factor": dict(head_dim=64, rope_theta=1e4, rope_scaling=dict(rope_type="yarn", factor=2.5, original_max_position_embeddings=4096, attention_factor=0.75)),
    "yarn, mscale": dict(head_dim=64, rope_theta=1e4, rope_scaling=dict(rope_type="yarn", factor=16.0, original_max_position_embeddings=4096, mscale=0.7, mscale_all_dim=1.3)),
    "yarn, no width": dict(head_dim=8, rope_theta=1e6, rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=4)),
}

out = dict(transformers=transformers.__version__, torch=torch.__version__, cases={})
for name, keys in CASES.items():
    shape = dict(vocab_size=8, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=40960)
    config = Qwen3Config(**shape, **json.loads(json.dumps(keys)))
    rope = Qwen3RotaryEmbedding(config)
    written = dict(architectures=["Qwen3ForCausalLM"], **shape, **keys)
    out["cases"][name] = dict(config=written, inv_freq=rope.inv_freq.double().tolist(), attention_factor=float(rope.attention_scaling))
json.dump(out, open("rope.json", "w"), indent=1)
