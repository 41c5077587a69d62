import torch

SIZES = {
    # name: (d, l, num_heads)
    "gpt2": (768, 12, 12),
    "gpt2-medium": (1024, 24, 16),
    "gpt2-large": (1280, 36, 20),
    "gpt2-xl": (1600, 48, 25),
}


def model_size_to_params(size):
    d, l, num_heads = SIZES[size]
    return {"d": d, "l": l, "num_heads": num_heads}


def get_parameter_dtype(module):
    return next(module.parameters()).dtype


def get_extended_attention_mask(attention_mask, dtype):
    """[B, T] of 1 (keep) and 0 (pad)  ->  [B, 1, 1, T] of 0 (keep) and the most negative number (pad)."""
    mask = torch.zeros(attention_mask.shape, dtype=dtype, device=attention_mask.device)
    mask = mask.masked_fill(attention_mask == 0, torch.finfo(dtype).min)
    return mask[:, None, None, :]
