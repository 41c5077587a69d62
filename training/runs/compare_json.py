"""Compare JSON values with each other, or with a pattern that gives their shape and types."""

from typing import Any

from common.errors import quoted
from training.runs.tensor_file import CheckpointError


def compare_json(before: Any, now: Any, name: str = "") -> list[str]:
    """List the leaves that differ between two JSON values, one phrase each: "recipe.lr was 1e-05, is 0.001"."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        return [phrase for key in keys
                for phrase in compare_json(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))]
    if before == now and type(before) is type(now):
        return []
    return [f"{name[:80] or 'the identity'} was {shown(before)}, is {shown(now)}"]


def require_like(pattern: Any, found: Any, where: str) -> None:
    """Raise CheckpointError, naming the place, unless `found` has the shape and types of `pattern`; values may differ.

    Dicts need the same keys, lists and tuples the same length. An int may stand for a float.
    """
    if isinstance(pattern, dict):
        fits = isinstance(found, dict) and pattern.keys() == found.keys()
        inner = [(f"{where}.{key}", key) for key in pattern]
    elif isinstance(pattern, (list, tuple)):
        fits = isinstance(found, list) and len(pattern) == len(found)
        inner = [(f"{where}[{index}]", index) for index in range(len(pattern))]
    else:
        fits = type(found) is type(pattern) or (type(pattern) is float and type(found) is int)
        inner = []
    if not fits:
        raise CheckpointError(f"the checkpoint does not fit this run: {where} is {quoted(found)}, "
                              f"unlike {quoted(pattern)}")
    for place, key in inner:
        require_like(pattern[key], found[key], place)


def shown(value: Any) -> str:
    """Format a leaf for a message: numbers as they are, everything else in quotes and cut short."""
    return str(value) if isinstance(value, (bool, float)) or value is None else quoted(value, 24)
