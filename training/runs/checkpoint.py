"""Checkpoints consist of tensors in safetensors files and of everything else in readable JSON; nothing is pickled.

Checkpoint NAME of a run folder is one small file NAME.json. It holds the state and names the tensor files with their
checksums. Tensor files are written first, each under a name made of its group, step and content, and flushed to disk.
Replacing NAME.json is the one atomic step that makes the new checkpoint valid, so at every instant an existing
NAME.json names complete files. Files that no checkpoint names any more are removed afterwards.
"""

import contextlib
import copy
import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError, quoted
from common.files import replacing, write_atomic
from training.parallel.sharding import shard_like
from training.runs.tensor_file import CheckpointError, open_file, pieces, read_verified, sha256_and_length

LAYOUT = 1  # a checkpoint of another layout is refused
NAMES = ("last", "best")  # the checkpoints that a folder may hold
JSON_BYTES = 16 * 1024**2  # longest NAME.json that is read
TENSOR_FILE = re.compile(r"([a-z]{1,20})-([0-9]{8,18})-([0-9a-f]{16})\.safetensors")
"""Group, step, beginning of the checksum. Such a name has no separators, so it never leads out of its folder."""
MOST = 2**53  # highest count: of steps, examples, bytes
PROBE = (2, 3)  # shape of a small parameter that shows what state an optimizer keeps

FileRecord = dict[str, Any]  # a tensor file as NAME.json describes it: file, bytes, sha256


def save(folder: str | os.PathLike, name: str, state: dict, groups: dict[str, dict[str, Tensor]], step: int,
         reuse: dict[str, FileRecord] | None = None) -> dict[str, FileRecord]:
    """Write checkpoint `name`: `state` (JSON values, floats finite) and groups of tensors, one file for each group.

    reuse: records that an earlier save returned; this checkpoint names their files instead of writing them again.
    Returns this checkpoint's records. UserError if the file system refuses; the earlier checkpoint is intact then.
    """
    folder, files = Path(folder), dict(reuse or {})
    if name not in NAMES:
        raise ValueError(f"a checkpoint is called one of {NAMES}, not {name!r}")
    try:
        for group, tensors in groups.items():
            files[group] = write_group(folder, group, tensors, step)
        document = {"layout": LAYOUT, "name": name, "step": step, "files": files, "state": state}
        write_atomic(folder / f"{name}.json", json.dumps({**document, "sha256": seal(document)}, indent=1))
    except UserError as error:
        remove_unnamed(folder)
        kept = "the checkpoint before it is kept" if exists(folder, name) else "nothing was saved"
        raise UserError(f"{error}\n"
                        f"The checkpoint of step {step} needs room and write permission there; {kept}") from error
    remove_unnamed(folder)
    return files


def write_group(folder: Path, group: str, tensors: dict[str, Tensor], step: int) -> FileRecord:
    """Write one tensor file, completely and flushed, or not at all."""
    sha256, length = sha256_and_length(tensors)
    # The hash in the name: a step that is done again with other bits (as on CUDA) must not replace a file that another
    # checkpoint names.
    path = folder / f"{group}-{step:08d}-{sha256[:16]}.safetensors"
    if not TENSOR_FILE.fullmatch(path.name):
        raise ValueError(f"{group!r} at step {step} gives no valid name for a tensor file")
    with replacing(path) as temporary, open(temporary, "wb") as file:
        for piece in pieces(tensors):
            file.write(piece)
    return {"file": path.name, "bytes": length, "sha256": sha256}


def load(folder: str | os.PathLike, name: str) -> tuple[dict, dict[str, dict[str, Tensor]]]:
    """Read and verify checkpoint `name`: (state, groups of memory-mapped tensors), or raise CheckpointError."""
    document = read_document(Path(folder) / f"{name}.json", name)
    groups = {group: read_verified(Path(folder) / record["file"], record["sha256"], record["bytes"])
              for group, record in document["files"].items()}
    return document["state"], groups


def exists(folder: str | os.PathLike, name: str) -> bool:
    """Tell whether there is a checkpoint `name`, valid or not."""
    return os.path.lexists(Path(folder) / f"{name}.json")


def read_document(path: Path, name: str) -> dict[str, Any]:
    """Read a checkpoint's JSON file and check it: its seal, and the types of everything that `load` uses."""
    # Read.
    with open_file(path) as file:
        try:
            text = file.read(JSON_BYTES + 1)
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    if len(text) > JSON_BYTES:
        raise CheckpointError(f"{path} is longer than the {JSON_BYTES} bytes that a checkpoint's JSON file may have")

    # Parse.
    def refuse_constant(word: str) -> None:  # NaN or Infinity, which are not JSON, but json.loads would accept them
        raise ValueError(f"it contains {word}")

    try:
        document = json.loads(text.decode("utf-8"), parse_constant=refuse_constant)
        layout = document.get("layout") if isinstance(document, dict) else None
        if type(layout) is int and layout != LAYOUT:
            raise CheckpointError(f"{path} is in checkpoint layout {quoted(layout)}; "
                                  f"this program reads layout {LAYOUT} only")
        if type(layout) is not int or document.pop("sha256", None) != seal(document):
            raise CheckpointError(f"{path} is damaged: its content does not match its checksum")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: not JSON ({str(error)[:100]})") from error

    # Check.
    problem = find_problem(document, name)
    if problem:
        raise CheckpointError(f"{path} is not a checkpoint {name!r} as this program writes it: {problem}")
    return document


def find_problem(document: dict[str, Any], name: str) -> str | None:
    """Describe the first problem of a sealed document; None if all its parts have the right types."""
    # The whole.
    if document.keys() != {"layout", "name", "step", "files", "state"}:
        return f"it has the parts {quoted(', '.join(sorted(document)))}"
    if document["name"] != name:
        return f"it calls itself {quoted(document['name'])}"
    if not isinstance(document["state"], dict) or not isinstance(document["files"], dict):
        return "state and files must be objects"

    # Each file's record.
    for group, record in document["files"].items():
        if not isinstance(record, dict) or record.keys() != {"file", "bytes", "sha256"}:
            return f"the file of {quoted(group)} is described wrongly"
        match = TENSOR_FILE.fullmatch(record["file"]) if isinstance(record["file"], str) else None
        if match is None or match[1] != group:
            return f"{quoted(record['file'])} is not the name of a tensor file of {quoted(group)}"
        sha256 = record["sha256"]
        if not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256) or sha256[:16] != match[3]:
            return f"the checksum of {record['file']} is invalid, or belongs to another file"
        if type(record["bytes"]) is not int:
            return f"the length of {record['file']} is not a whole number"
    return None


def seal(document: dict[str, Any]) -> str:
    """Return the SHA-256 of a document's content; spaces and the order of keys do not count."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, allow_nan=False).encode()).hexdigest()


def remove_unnamed(folder: Path) -> None:
    """Remove the tensor files that no checkpoint names. Remove none if a checkpoint is damaged: it may be repaired."""
    try:
        documents = [read_document(folder / f"{name}.json", name) for name in NAMES if exists(folder, name)]
        named = {record["file"] for document in documents for record in document["files"].values()}
    except CheckpointError:
        return
    with contextlib.suppress(OSError):  # training must not stop because of a file too many
        for path in folder.iterdir():
            if TENSOR_FILE.fullmatch(path.name) and path.name not in named:
                path.unlink()


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split the state of any torch optimizer into (tensors, {"groups": options of each group, "counts": numbers}).

    Tensors and numbers have names like "3.exp_avg": the fourth parameter's exp_avg. JSON keeps the numbers exactly.
    """
    tensors, counts = {}, {}
    for index, remembered in optimizer.state_dict()["state"].items():
        for key, value in leaves(remembered):
            (tensors if isinstance(value, Tensor) else counts)[f"{index}.{key}"] = value
    return tensors, {"groups": group_options(optimizer), "counts": counts}


def unflatten_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], numbers: Any) -> dict[str, Any]:
    """Undo flatten_optimizer: return a dict for optimizer.load_state_dict. CheckpointError if it does not fit."""
    # Check the options: they must equal this optimizer's, except the learning rate, which a scheduler changes.
    own = json.loads(json.dumps(group_options(optimizer)))
    require_like({"groups": own, "counts": {}}, {**numbers, "counts": {}} if isinstance(numbers, dict) else numbers,
                 "optimizer")
    rates = [options["lr"] for options in numbers["groups"]]
    found = [{**options, "lr": 0} for options in numbers["groups"]]
    if min(rates) < 0 or found != [{**options, "lr": 0} for options in own]:
        raise CheckpointError("the checkpoint does not fit this run: its optimizer has other options")

    # Sort the state by parameter.
    if not isinstance(numbers["counts"], dict):
        raise CheckpointError("the checkpoint does not fit this run: the optimizer's counts are missing")
    state: dict[str, dict[str, Any]] = {}
    for name, value in [*numbers["counts"].items(), *tensors.items()]:
        index, _, key = name.partition(".")
        state.setdefault(index, {})[key] = value

    # Check it: a parameter has either all the state of a step, or none.
    params = {str(i): p for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    kept = state_after_a_step(optimizer)
    pattern = dict(leaves(kept))
    for index, found in state.items():
        if index not in params or found.keys() != pattern.keys() \
                or not all(fits(found[key], pattern[key], params[index]) for key in pattern):
            raise CheckpointError("the checkpoint does not fit this run: its optimizer state of parameter "
                                  f"{quoted(index)} has other names, types or shapes")

    # Assemble.
    groups = [{**group, "lr": lr} for group, lr in zip(optimizer.state_dict()["param_groups"], rates, strict=True)]
    return {"param_groups": groups, "state": {
        int(index): rebuild(kept, {key: shard_like(value, params[index]) if isinstance(value, Tensor) else value
                                   for key, value in found.items()}) for index, found in state.items()}}


def state_after_a_step(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the state that an optimizer keeps for a parameter of shape PROBE: make one step with a copy of it."""
    probe, param = copy.copy(optimizer), torch.zeros(PROBE, requires_grad=True)
    param.grad = torch.ones(PROBE)
    probe.param_groups, probe.state = [{**optimizer.param_groups[0], "params": [param]}], defaultdict(dict)
    probe.step()
    return probe.state[param]


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (name, leaf) for everything but None in dicts, tuples and lists, however nested: ("moments.0", tensor)."""
    if isinstance(value, (dict, tuple, list)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(part, f"{name}.{key}".lstrip("."))
    elif value is not None:
        yield name, value


def rebuild(pattern: Any, found: dict[str, Any], name: str = "") -> Any:
    """Put leaves, by their names, into dicts, tuples and lists as in `pattern`."""
    if isinstance(pattern, dict):
        return {key: rebuild(part, found, f"{name}.{key}".lstrip(".")) for key, part in pattern.items()}
    if isinstance(pattern, (tuple, list)):
        return type(pattern)(rebuild(part, found, f"{name}.{key}".lstrip(".")) for key, part in enumerate(pattern))
    return found.get(name)


def fits(value: Any, pattern: Any, param: Tensor) -> bool:
    """Tell whether a value may be in a parameter's state where PROBE's state has `pattern`."""
    if isinstance(pattern, Tensor):  # an element for each of the parameter, or one for all
        return isinstance(value, Tensor) and value.shape == (param.shape if pattern.shape == PROBE else pattern.shape)
    return type(value) is type(pattern) and 0 <= value <= MOST


def group_options(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return the options of each parameter group, without its parameters."""
    return [{key: value for key, value in group.items() if key != "params"}
            for group in optimizer.state_dict()["param_groups"]]


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

    Dicts need the same keys, lists and tuples the same length. An int may stand for a float. Where `pattern` has
    another int, `found` must have a count.
    """
    inner: Any = ()
    if isinstance(pattern, dict):
        alike = isinstance(found, dict) and pattern.keys() == found.keys()
        inner = [(f"{where}.{key}", key) for key in pattern]
    elif isinstance(pattern, (list, tuple)):
        alike = isinstance(found, list) and len(pattern) == len(found)
        inner = [(f"{where}[{index}]", index) for index in range(len(pattern))]
    else:
        alike = type(found) is type(pattern) or (type(pattern) is float and type(found) is int)
        least = 0 if type(pattern) is int else -MOST
        if alike and type(found) is int and found != pattern and not least <= found <= MOST:
            raise CheckpointError(f"the checkpoint does not fit this run: {where} cannot be {quoted(found)}")
    if not alike:
        raise CheckpointError(f"the checkpoint does not fit this run: {where} is {quoted(found)}, "
                              f"unlike {quoted(pattern)}")
    for place, key in inner:
        require_like(pattern[key], found[key], place)


def shown(value: Any) -> str:
    """Format a leaf for a message: numbers as they are, everything else in quotes and cut short."""
    return str(value) if isinstance(value, (bool, float)) or value is None else quoted(value, 24)
