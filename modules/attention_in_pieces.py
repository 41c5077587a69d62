"""Attention with dropout on the CPU, for training: attention() in pieces that stay in the processor's cache.

PyTorch has no fused kernel for this case, and the [B, nh, T, T] tensors of the plain steps go to memory and back a
dozen times. Here some heads' [T, T] matrices at a time go through all steps. For the backward pass only the softmax's
result is kept, and a byte for each element that says whether it was dropped, in place of three float32 tensors.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from modules.dropout import draw_kept

PIECE = 2**18
"""Scores that are worked on together: 1 MB in float32."""


def attention_in_pieces(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, p: float) -> Tensor:
    """dropout(softmax(Q K^T / sqrt(hs) + bias)) V, for float32 or float64 on a CPU.

    query, key, value: [B, nh, T, hs]. bias: [T, T] or [B, 1, T, T]; no row may be -inf throughout. p: probability of
    dropout. Returns [B, nh, T, hs]. Gradients for query, key and value, no second derivatives.
    """
    B, nh, T, _ = query.shape
    kept, scale = draw_kept(torch.Size((B, nh, T, T)), p)
    return _AttentionInPieces.apply(query, key, value, bias.expand(B, 1, T, T), kept, scale)


class _AttentionInPieces(torch.autograd.Function):
    """((softmax(Q K^T / sqrt(hs) + bias) * kept) V) * scale, and its gradients by hand."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, kept: Tensor, scale: float) -> Tensor:
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        B, nh, T, hs = query.shape
        weights, mixed = query.new_empty(B, nh, T, T), torch.empty_like(query)
        for b, h in _pieces(B, nh, T):
            scores = (query[b, h] @ key[b, h].transpose(-2, -1)).div_(math.sqrt(hs)).add_(bias[b])
            torch.softmax(scores, dim=-1, out=weights[b, h])
            torch.mul(weights[b, h], kept[b, h], out=scores)
            mixed[b, h] = scores @ value[b, h]
        ctx.save_for_backward(query, key, value, weights, kept)
        ctx.scale = scale
        return mixed.mul_(scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        query, key, value, weights, kept = ctx.saved_tensors
        B, nh, T, hs = query.shape
        grad = grad * ctx.scale
        grad_query, grad_key, grad_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        for b, h in _pieces(B, nh, T):
            dropped = weights[b, h] * kept[b, h]
            grad_value[b, h] = dropped.transpose(-2, -1) @ grad[b, h]
            grad_weights = (grad[b, h] @ value[b, h].transpose(-2, -1)).mul_(kept[b, h])
            # The softmax's: weights * (grad_weights - the sum of weights * grad_weights over the row).
            grad_scores = torch._softmax_backward_data(grad_weights, weights[b, h], -1, weights.dtype)
            grad_scores.div_(math.sqrt(hs))
            grad_query[b, h] = grad_scores @ key[b, h]
            grad_key[b, h] = grad_scores.transpose(-2, -1) @ query[b, h]
        return grad_query, grad_key, grad_value, None, None, None


def _pieces(B: int, nh: int, T: int) -> Iterator[tuple[slice, slice]]:
    """Cut [B, nh] matrices into groups of neighbours with at most PIECE numbers, but at least one matrix."""
    matrices = max(PIECE // T**2, 1)
    rows, heads = max(matrices // nh, 1), min(matrices, nh)
    for b in range(0, B, rows):
        for h in range(0, nh, heads):
            yield slice(b, b + rows), slice(h, h + heads)
