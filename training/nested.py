"""Values of dicts and lists taken apart into JSON and tensors, and put together again."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def without_tensors(value: Any, tensors: list[Tensor]) -> Any:
    """A value with {"tensor": [dtype, shape]} in place of its tensors, which are appended to `tensors`."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return {"tensor": [str(value.dtype).removeprefix("torch."), list(value.shape)]}
    if isinstance(value, dict):
        return {key: without_tensors(item, tensors) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_tensors(item, tensors) for item in value]
    return value


def with_tensors(value: Any, fill: Callable[[Tensor], Tensor]) -> Any:
    """Undo without_tensors: `fill` is handed an empty tensor for each, in the same order."""
    if isinstance(value, dict):
        if value.keys() == {"tensor"}:
            dtype, shape = value["tensor"]
            return fill(torch.empty(shape, dtype=getattr(torch, dtype)))
        return {key: with_tensors(item, fill) for key, item in value.items()}
    if isinstance(value, list):
        return [with_tensors(item, fill) for item in value]
    return value
