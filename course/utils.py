"""For files written on the course's starter: the three functions of its utils.py that are in use."""

import torch
from torch import Tensor, nn

SIZES = {  # name: hidden size, layers, heads
    "gpt2": (768, 12, 12),
    "gpt2-medium": (1024, 24, 16),
    "gpt2-large": (1280, 36, 20),
    "gpt2-xl": (1600, 48, 25),
}


def get_extended_attention_mask(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, T] of 1 (token) and 0 (padding) -> [B, 1, 1, T] of 0 and -10000, to be added to the scores.

    A mask that is [B, T, T] becomes [B, 1, T, T].
    """
    if attention_mask.dim() not in (2, 3):
        raise ValueError(f"attention_mask must be [B, T] or [B, T, T], not {list(attention_mask.shape)}")
    mask = attention_mask[:, None, None, :] if attention_mask.dim() == 2 else attention_mask[:, None]
    return (1.0 - mask.to(dtype)) * -10000.0


def get_parameter_dtype(module: nn.Module) -> torch.dtype:
    """The type of a module's first parameter that is a floating-point number."""
    return next(parameter.dtype for parameter in module.parameters() if parameter.is_floating_point())


def model_size_to_params(model_size: str) -> dict[str, int]:
    """'gpt2' -> {'d': 768, 'l': 12, 'num_heads': 12}, and so on. ValueError for a name that is not in SIZES."""
    if model_size not in SIZES:
        raise ValueError(f"model_size must be one of {', '.join(SIZES)}, not {model_size!r}")
    return dict(zip(("d", "l", "num_heads"), SIZES[model_size], strict=True))
