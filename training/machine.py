"""A Machine says where a run computes: on which device, in which precision, together with which processes."""

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from training.parallel.process_group import ALONE, DeviceError, Group

CPU = torch.device("cpu")

def choose_device(name: str) -> torch.device:
    """Return the device called cuda, mps or cpu, or with 'auto' the first that is there. DeviceError if it is not."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, there in available.items() if there)
    if not available[name]:
        raise DeviceError(f"there is no {name} device here (PyTorch {torch.__version__})")
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> str:
    """Return the precision by name. 'auto' is bfloat16 on a CUDA device that computes in it, else float32."""
    if name != "auto":
        return name
    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


@dataclass(frozen=True)
class Machine:
    """Where and how a run computes. The default is the CPU, in float32, in one process."""

    device: torch.device = CPU
    precision: str = "float32"  # or bfloat16: the type of the matrix products
    group: Group = ALONE

    @classmethod
    def choose(cls, device: str, precision: str, group: Group = ALONE) -> "Machine":
        """Choose a device and a precision by name, as the functions above do."""
        chosen = group.own_device(choose_device(device))
        return cls(chosen, choose_precision(precision, chosen), group)

    def __str__(self) -> str:
        together = f", {self.group.size} processes" if self.group.size > 1 else ""
        return f"{self.device} in {self.precision}{together}"

    def autocast(self) -> AbstractContextManager:
        """Return the context for a forward pass in this precision."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def deterministic(on: bool = True) -> None:
    """Make PyTorch use kernels that give the same bits every time, and raise an error where it has none."""
    if on:  # read by CUDA's matrix products at the first of them; older PyTorch raises an error without it
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if on != torch.are_deterministic_algorithms_enabled():  # the call imports PyTorch's compiler: over a second
        torch.use_deterministic_algorithms(on)


def leave_compiler_out() -> None:
    """Keep PyTorch from importing its compiler, which no run uses, and which takes as long to import as PyTorch itself.

    The first call of an optimizer's method imports it, to tell it to leave the method alone; unless that is done.
    """
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        method = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if method is not None:  # in PyTorch 2.13 it is there; where it is not, the compiler is imported
            method.__dynamo_disable = method
