"""Qwen3 in f64: transformers computes norms and rotations in f32, whatever the type of a model is."""

import torch
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm, Qwen3RotaryEmbedding


def widened(model):
    """The model, computing all in f64 from the weights that it has."""
    model.double()
    for module in model.modules():
        if isinstance(module, Qwen3RMSNorm):
            module.forward = norm.__get__(module)
        elif isinstance(module, Qwen3RotaryEmbedding):
            assert module.rope_type == "default", "no other angles are made again here"
            module.forward = rotation.__get__(module)
    return model


def norm(self, x: torch.Tensor) -> torch.Tensor:
    return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


def rotation(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple:
    theta, dims = self.config.rope_parameters["rope_theta"], self.config.head_dim
    angles = position_ids[..., None] / theta ** (torch.arange(0, dims, 2, dtype=torch.float64) / dims)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(x.dtype), angles.sin().to(x.dtype)
