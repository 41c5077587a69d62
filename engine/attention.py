"""The attention of modules/attention.py, by the fastest way there is for a shape, a type and a device.

PyTorch has no fused kernel for dropout on a CPU, and the [B, nh, T, T] tensors of the plain steps go to memory and back
a dozen times. `attention_in_blocks` takes a part of some heads' scores at a time through all steps, while they are in
the processor's cache, and leaves out what the causal mask hides. For the backward pass it keeps a byte for each
element, in place of three float32 tensors, and computes the softmax again.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.dropout import draw_kept

BLOCK = 2**18
"""Scores that are worked on together: 1 MB in float32."""
QUERIES = 64
"""Tokens that look back together; of what the causal mask hides, 3/4 is then left out for T of 256, 7/8 for 512."""


def attention(query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None, p: float) -> Tensor:
    """dropout(softmax(Q K^T / sqrt(hs) + masks)) V for query, key, value [B, nh, T, hs] -> [B, nh, T, hs].

    visible: bool [B, T], False for padding; None where padding, if any, is on the right: there the causal mask hides
    it. p: probability of dropout.

    With bfloat16, PyTorch's kernels for the CPU have a backward pass that was 1.5 to 10 times slower than the plain
    steps (T <= 128, C of 384 and 768).
    """
    half = query.dtype in (torch.float16, torch.bfloat16)
    if query.is_cpu and half and (p > 0 or query.requires_grad):
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1]) + mask(query, visible)
        return F.dropout(scores.softmax(dim=-1), p) @ value
    if query.is_cpu and p > 0:
        return attention_in_blocks(query, key, value, mask(query, visible), p)
    if p == 1:
        return F.dropout(value, p)  # nothing is left; CUDA's kernels would divide by 1 - p
    if visible is None:
        return F.scaled_dot_product_attention(query, key, value, dropout_p=p, is_causal=True)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask(query, visible), dropout_p=p)


def last_token_attention(query: Tensor, key: Tensor, value: Tensor, visible: Tensor, p: float) -> Tensor:
    """The same for one query a row, that of its last token: [B, nh, 1, hs], with key, value [B, nh, T, hs]."""
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])  # [B, nh, 1, T]
    weights = scores.masked_fill(~visible[:, None, None, :], -math.inf).softmax(dim=-1)
    return F.dropout(weights, p) @ value


def mask(query: Tensor, visible: Tensor | None) -> Tensor:
    """Causal mask and padding as one, to be added to the scores: [T, T] or [B, 1, T, T] of 0 and -inf."""
    T = query.shape[-2]
    open_ = torch.ones(T, T, dtype=torch.bool, device=query.device).tril()
    if visible is not None:
        open_ = open_ & visible[:, None, None, :]
    return torch.where(open_, query.new_zeros(()), -math.inf)


def attention_in_blocks(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, p: float) -> Tensor:
    """dropout(softmax(Q K^T / sqrt(hs) + bias)) V, for float32 or float64 on a CPU.

    query, key, value: [B, nh, T, hs]. bias: [T, T] or [B, 1, T, T]; -inf above the diagonal, and no row of it may be
    -inf throughout. p: probability of dropout. Returns [B, nh, T, hs]. Has gradients for query, key and value, no
    second derivatives.
    """
    B, nh, T, _ = query.shape
    kept, scale = draw_kept(torch.Size((B, nh, T, T)), p)
    return _AttentionInBlocks.apply(query, key, value, bias.expand(B, 1, T, T), kept, scale)


class _AttentionInBlocks(torch.autograd.Function):
    """((softmax(Q K^T / sqrt(hs) + bias) * kept) V) * scale, and its gradients by hand."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, kept: Tensor, scale: float) -> Tensor:
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        mixed = torch.empty_like(query)
        blocks = list(_blocks(*kept.shape[:3]))
        for b, h, rows, seen in blocks:
            weights = _weights(query[b, h, rows], key[b, h, seen], bias[b, :, rows, seen])
            mixed[b, h, rows] = (weights * kept[b, h, rows, seen]) @ value[b, h, seen]
        # Weights that are small are kept for the backward pass, others computed again: for long texts they would be
        # most of the memory, and the time to write and read them is more than what it takes to compute them.
        ctx.save_for_backward(query, key, value, bias, kept, weights if len(blocks) == 1 else None)
        ctx.scale = scale
        return mixed.mul_(scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        query, key, value, bias, kept, small = ctx.saved_tensors
        grad = grad * ctx.scale
        grad_query, grad_key, grad_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for b, h, rows, seen in _blocks(*kept.shape[:3]):
            weights = _weights(query[b, h, rows], key[b, h, seen], bias[b, :, rows, seen]) if small is None else small
            grad_weights = (grad[b, h, rows] @ value[b, h, seen].transpose(-2, -1)).mul_(kept[b, h, rows, seen])
            # The softmax's: weights * (grad_weights - the sum of weights * grad_weights over the row).
            grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            grad_scores.div_(math.sqrt(query.shape[-1]))
            grad_query[b, h, rows] = grad_scores @ key[b, h, seen]
            grad_key[b, h, seen] += grad_scores.transpose(-2, -1) @ query[b, h, rows]
            dropped = weights * kept[b, h, rows, seen]
            grad_value[b, h, seen] += dropped.transpose(-2, -1) @ grad[b, h, rows]
        return grad_query, grad_key, grad_value, None, None, None


def _weights(query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(hs) + bias) of some queries and keys."""
    return (query @ key.transpose(-2, -1)).div_(math.sqrt(query.shape[-1])).add_(bias).softmax(dim=-1)


def _blocks(B: int, nh: int, T: int) -> Iterator[tuple[slice, slice, slice, slice]]:
    """Cut [B, nh, T, T] scores into blocks of at most BLOCK numbers, or of one head: which b, which heads, which
    queries, and which keys the causal mask lets these see. The scores of all other keys are never computed."""
    queries = min(QUERIES, T)
    matrices = max(BLOCK // (queries * T), 1)
    rows, heads = max(matrices // nh, 1), min(matrices, nh)
    for b in range(0, B, rows):
        for h in range(0, nh, heads):
            for t in range(0, T, queries):
                yield slice(b, b + rows), slice(h, h + heads), slice(t, t + queries), slice(0, t + queries)
