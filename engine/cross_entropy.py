"""Cross-entropy of a large linear output layer, without ever holding all its logits.

A language model's logits are its largest tensor by far: N tokens times V words. Here they are made for one chunk of
tokens at a time, and turned at once into the loss and its gradients, so that the chunk stays in the processor's cache.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 512
"""Tokens whose logits are in memory together."""


class _LinearCrossEntropy(torch.autograd.Function):
    """The gradients of sum(-log softmax(h W^T)[target]) are (p - onehot) W and (p - onehot)^T h, with p the softmax."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        h, w = hidden.detach(), weight.detach().to(hidden.dtype)
        loss = torch.zeros((), dtype=torch.float64 if h.dtype == torch.float64 else torch.float32, device=h.device)
        grad_hidden = torch.empty_like(h)
        grad_weight = torch.zeros_like(weight)
        for start in range(0, len(h), CHUNK):
            rows, target = h[start:start + CHUNK], targets[start:start + CHUNK, None]
            p = torch.softmax(rows @ w.T, dim=-1)  # [chunk, V]
            loss -= p.gather(1, target).to(loss.dtype).clamp_min(torch.finfo(loss.dtype).tiny).log().sum()
            p.scatter_add_(1, target, torch.full_like(target, -1, dtype=p.dtype))  # now the logits' gradient
            grad_hidden[start:start + CHUNK] = p @ w
            grad_weight += p.T @ rows
        ctx.save_for_backward(grad_hidden, grad_weight)
        return loss / len(h)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = grad / len(grad_hidden)
        return grad_hidden * scale.to(grad_hidden.dtype), grad_weight * scale.to(grad_weight.dtype), None


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of the logits hidden @ weight^T against targets, and its gradients.

    hidden [N, C], weight [V, C], targets [N] int64 -> scalar. Matrix products in hidden's dtype. With gradients, the
    loss of bfloat16 input is rounded (about 0.002 a token, zero on average), and a token whose probability underflows
    counts 87 nats (708 in float64); without, it is computed in float32. No double backward.
    """
    if torch.is_grad_enabled():
        return _LinearCrossEntropy.apply(hidden, weight, targets)
    weight = weight.to(hidden.dtype)
    total = sum(F.cross_entropy((rows @ weight.T).float(), target, reduction="sum")
                for rows, target in zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True))
    return total / len(hidden)
