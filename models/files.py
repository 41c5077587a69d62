"""Read the files of a checkpoint in Hugging Face's layout. Nothing in them is trusted."""

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from common.errors import UserError, quoted

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # replaces WEIGHTS if the weights are in several files

LARGEST_JSON = 32 << 20  # bytes; a configuration has about a thousand, a large tokenizer a few million


class PretrainedError(UserError):
    """A checkpoint cannot be found, read, understood or written."""


def find_tensors(folder: Path) -> dict[str, Path]:
    """Return the name of every tensor in a checkpoint, with the file that holds it."""
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        with opened(folder / WEIGHTS) as file:
            return dict.fromkeys(file.keys(), folder / WEIGHTS)

    path = folder / INDEX
    listed = read_json(path).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise PretrainedError(f"{path} is damaged: it has no weight_map from tensors to files")

    # The index must tell the truth: each file beside it, with the tensors listed for it.
    found = {}
    for name in sorted(set(listed.values())):
        if name != Path(name).name or not name.endswith(".safetensors"):
            raise PretrainedError(f"{path} is damaged: {quoted(name)} is not the name of a file beside it")
        with opened(folder / name) as file:
            found.update(dict.fromkeys(file.keys(), name))
    if wrong := sorted(key for key in listed.keys() | found.keys() if listed.get(key) != found.get(key)):
        raise PretrainedError(f"{path} and the files it lists disagree on where to find {some(wrong)}")
    return {key: folder / name for key, name in listed.items()}


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file. PretrainedError if it is missing or damaged."""
    if not path.is_file():
        raise PretrainedError(f"{path} is missing, or not a file: the checkpoint is incomplete, get it again")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise PretrainedError(f"cannot read {path}: it is damaged or incomplete, get it again "
                              f"({quoted(error, 100)})") from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. PretrainedError if it is missing, damaged or too large."""
    if not path.is_file():
        raise PretrainedError(f"{path} is missing, or not a file")
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise PretrainedError(f"{path} is too large for its purpose: larger than {LARGEST_JSON >> 20} MB")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PretrainedError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, too many digits or levels
        raise PretrainedError(f"{path} is damaged: {quoted(error, 100)}") from error
    if not isinstance(content, dict):
        raise PretrainedError(f"{path} is damaged: it does not hold a JSON object")
    return content


def some(names: Iterable[str]) -> str:
    """Return the first three of the names, and how many more there are, for a message."""
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(quoted(name) for name in names[:3]) + more
