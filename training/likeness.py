"""JSON values against what they should be like: read back from a checkpoint, they are held to this run's own."""

from typing import Any

from common.errors import quoted
from training.tensor_file import CheckpointError


def require_like(pattern: Any, found: Any, where: str) -> None:
    """Raise CheckpointError, naming the place, unless `found` has the shape and types of `pattern`; values may differ.

    Dicts need the same keys, lists and tuples the same length; a whole number will do for a float.
    """
    if isinstance(pattern, dict):
        fits = isinstance(found, dict) and pattern.keys() == found.keys()
    elif isinstance(pattern, (list, tuple)):
        fits = isinstance(found, list) and len(pattern) == len(found)
    else:
        fits = type(found) is type(pattern) or (type(pattern) is float and type(found) is int)
    if not fits:
        raise CheckpointError(f"the checkpoint does not fit this run: {where} is {quoted(found)}, "
                              f"unlike {quoted(pattern)}")
    if isinstance(pattern, dict):
        for key in pattern:
            require_like(pattern[key], found[key], f"{where}.{key}")
    elif isinstance(pattern, (list, tuple)):
        for index, (part, other) in enumerate(zip(pattern, found, strict=True)):
            require_like(part, other, f"{where}[{index}]")


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """One phrase for each leaf that differs between two JSON values: "recipe.lr was 1e-05, is 0.001"."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        return [phrase for key in keys
                for phrase in differences(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))]
    if before == now and type(before) is type(now):
        return []
    return [f"{name[:80] or 'the identity'} was {shown(before)}, is {shown(now)}"]


def shown(value: Any) -> str:
    """A leaf for a message: numbers as they are, the rest in quotes and cut short (a hash needs no 64 digits)."""
    return str(value) if isinstance(value, (bool, float)) or value is None else quoted(value, 24)
