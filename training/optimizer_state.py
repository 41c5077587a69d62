"""An optimizer's state in two parts: tensors, and numbers that JSON keeps exactly."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from training.likeness import require_like
from training.sharding import divided_like
from training.tensor_file import CheckpointError


def flatten(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State of any torch optimizer as (tensors, {"groups": options of each group, "counts": numbers}).

    Tensors and numbers are named "3.exp_avg": the fourth parameter's exp_avg.
    """
    tensors, counts = {}, {}
    for name, value in entries(optimizer):
        (tensors if isinstance(value, Tensor) else counts)[name] = value
    return tensors, {"groups": options(optimizer), "counts": counts}


def unflatten(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], numbers: Any) -> dict[str, Any]:
    """What optimizer.load_state_dict takes. CheckpointError for what does not fit this optimizer and its parameters."""
    require_like({"groups": options(optimizer), "counts": {}},
                 {**numbers, "counts": {}} if isinstance(numbers, dict) else numbers, "optimizer")
    if not isinstance(numbers["counts"], dict):
        raise CheckpointError("the checkpoint does not fit this run: the optimizer's counts are missing")
    own = optimizer.state_dict()
    params = [param for group in optimizer.param_groups for param in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, value in [*numbers["counts"].items(), *tensors.items()]:
        index, _, key = name.partition(".")
        known = index in map(str, range(len(params)))
        if not known or not (fits(value, params[int(index)]) if isinstance(value, Tensor) else is_number(value)):
            raise CheckpointError(f"the checkpoint does not fit this run: no place for the optimizer's {name[:80]!r}")
        value = divided_like(value, params[int(index)]) if isinstance(value, Tensor) else value
        state.setdefault(int(index), {})[key] = value
    # JSON knows no tuples.
    groups = [{key: tuple(found[key]) if isinstance(value, tuple) else value if key == "params" else found[key]
               for key, value in group.items()}
              for group, found in zip(own["param_groups"], numbers["groups"], strict=True)]
    return {"state": state, "param_groups": groups}


def entries(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Any]]:
    """(name, value) of everything that the optimizer remembers about its parameters."""
    for index, remembered in optimizer.state_dict()["state"].items():
        for key, value in remembered.items():
            if value is not None:
                yield f"{index}.{key}", value


def options(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Each parameter group's options, without the parameters."""
    return [{key: value for key, value in group.items() if key != "params"}
            for group in optimizer.state_dict()["param_groups"]]


def fits(value: Tensor, param: Tensor) -> bool:
    """Optimizers remember something for each number, or one number for all."""
    return value.shape in (param.shape, ())


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
