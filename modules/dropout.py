"""Dropout, several times faster on a CPU than PyTorch's, and with a quarter of its memory.

PyTorch draws a float32 for each element, 5 ns apiece, and keeps it for the backward pass. Here each element gets 16
random bits, and one byte is kept: in or out.
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
