"""Dropout of single numbers and of whole words.

The first is several times faster on a CPU than PyTorch's, with a quarter of its memory: PyTorch draws a float32
for each element, 5 ns apiece, and keeps it for the backward pass. Here each element gets 16 random bits, and one byte
is kept: in or out.
"""

import torch
from torch import Tensor, nn


def draw_kept(shape: torch.Size, p: float) -> tuple[Tensor, float]:
    """(kept int8 [shape], scale): a 1 for each element that stays, and what then makes up for the zeros.

    An element is dropped with the probability nearest to p among the multiples of 2^-16, independently of all others;
    scale is 1 / (1 - that). Draws from PyTorch's default generator of the CPU.
    """
    dropped = round(p * 2**16)
    if dropped == 0:
        return torch.ones(shape, dtype=torch.int8), 1.0
    count = shape.numel()
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-2**63, None)
    bits = words.view(torch.int16)[:count].view(shape)  # -2^15 to 2^15 - 1, all alike
    kept = bits > dropped - 2**15 - 1
    return kept.view(torch.int8), 1 / (1 - dropped / 2**16) if dropped < 2**16 else 0.0


class _Drop(torch.autograd.Function):
    """x * kept * scale, remembering only `kept`."""

    @staticmethod
    def forward(ctx, x: Tensor, kept: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return x.mul(kept).mul_(scale)

    @staticmethod
    def backward(ctx, grad: Tensor):
        kept, = ctx.saved_tensors
        return grad.mul(kept).mul_(ctx.scale), None, None


class Dropout(nn.Dropout):
    """nn.Dropout; it draws other random numbers on a CPU, where it is faster, and is the very same elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape -> the same shape: in training each element is zero with probability p, else x / (1 - p)."""
        if not self.training or self.p == 0 or self.inplace or not x.is_cpu:
            return super().forward(x)
        return _Drop.apply(x, *draw_kept(x.shape, self.p))


class WordDropout:
    """A forward hook for a token embedding: in training a word's whole vector is zero with probability p.

    The position stays, the word is blank, so that no single word can decide. The other words are not scaled up: in
    evaluation they look the same, only more of them are there. Iyyer et al. 2015, "Deep Unordered Composition Rivals
    Syntactic Methods for Text Classification".
    """

    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, embedding: nn.Module, inputs: tuple[Tensor], vectors: Tensor) -> Tensor:
        """vectors [B, T, C] -> the same shape. Draws from PyTorch's default generator of their device."""
        if not embedding.training:
            return vectors
        kept = torch.rand(vectors.shape[:-1], device=vectors.device) >= self.p
        return vectors * kept.unsqueeze(-1)
