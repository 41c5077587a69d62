"""Which device to compute on, and in which precision."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from common.errors import UserError
from training.distributed import ALONE, Group


def choose_device(name: str) -> torch.device:
    """'auto' takes the first of cuda, mps, cpu that is there; a name that is not there is refused."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, there in available.items() if there)
    if not available[name]:
        raise UserError(f"there is no {name} device here (PyTorch {torch.__version__}); "
                        "use --device auto or --device cpu")
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> str:
    """'auto' is bfloat16 on a CUDA device that computes in it, float32 everywhere else."""
    if name != "auto":
        return name
    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


@dataclass(frozen=True)
class Machine:
    """Where and how to compute."""

    device: torch.device
    precision: str
    "float32 or bfloat16, of the matrix products."
    group: Group = ALONE
    "The processes that compute together."

    @classmethod
    def choose(cls, device: str, precision: str, group: Group = ALONE) -> "Machine":
        """From the flags --device and --precision."""
        chosen = group.own_device(choose_device(device))
        return cls(chosen, choose_precision(precision, chosen), group)

    def __str__(self) -> str:
        together = f", {self.group.size} processes" if self.group.size > 1 else ""
        return f"{self.device} in {self.precision}{together}"

    def autocast(self) -> AbstractContextManager:
        """What to run a forward pass under."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    @property
    def keywords(self) -> dict[str, torch.device | Callable | Group]:
        """device, autocast and group, as fit() and predict() take them."""
        return {"device": self.device, "autocast": self.autocast, "group": self.group}
