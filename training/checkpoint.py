"""Checkpoints: tensors in safetensors, everything else in readable JSON; nothing is ever unpickled.

A checkpoint NAME in a run folder is one small file NAME.json, which holds the state and names the tensor files with
their checksums. Tensor files are written first, each under a name made of its group, step and content, and flushed to
disk; replacing NAME.json is the one atomic step that makes the new checkpoint the valid one. So at every instant
NAME.json, if it is there, speaks of complete files. Files that no checkpoint names any more are removed afterwards: a
save needs room for the new checkpoint beside the old.

Checksums find damage and mix-ups. They are no signature: who can write to the folder can make a checkpoint of their
own; but that, too, is numbers and text only, never code, and is held to this program's types and shapes.
"""

import contextlib
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from common.errors import UserError, quoted
from common.files import replacing, write_atomic
from training.tensor_file import CheckpointError, checksum, open_regular, pieces, read_verified

LAYOUT = 1
"""Version of the layout; a checkpoint of another version is refused by name."""
NAMES = ("last", "best")
"""The checkpoints that a folder may hold."""
JSON_BYTES = 16 * 1024**2
"""Longest NAME.json that is read."""
TENSOR_FILE = re.compile(r"([a-z]{1,20})-([0-9]{8,18})-([0-9a-f]{16})\.safetensors")
"""Group, step, beginning of the checksum: no separators, so such a name never leaves its folder."""

Entry = dict[str, Any]
"""A tensor file as NAME.json knows it: file, bytes, sha256."""


def save(folder: str | os.PathLike, name: str, state: dict, groups: dict[str, dict[str, Tensor]], step: int,
         share: dict[str, Entry] | None = None) -> dict[str, Entry]:
    """Write checkpoint `name`: `state` (JSON values, floats finite) and groups of tensors, one file a group.

    share: entries that an earlier save returned; this checkpoint names these files too, instead of writing them again.
    Returns this checkpoint's entries.

    Raises:
        UserError: the file system refused; the checkpoint before is intact, and nothing of this one is left.
    """
    folder, files = Path(folder), dict(share or {})
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


def write_group(folder: Path, group: str, tensors: dict[str, Tensor], step: int) -> Entry:
    """Write one tensor file, complete and flushed or not at all."""
    sha256, length = checksum(tensors)
    # With the content in its name, a step that is done again (not bit for bit, as on CUDA) never replaces a file that
    # another checkpoint names.
    path = folder / f"{group}-{step:08d}-{sha256[:16]}.safetensors"
    if not TENSOR_FILE.fullmatch(path.name):
        raise ValueError(f"{group!r} at step {step} makes no name for a tensor file")
    with replacing(path) as temporary, open(temporary, "wb") as file:
        for piece in pieces(tensors):
            file.write(piece)
    return {"file": path.name, "bytes": length, "sha256": sha256}


def load(folder: str | os.PathLike, name: str) -> tuple[dict, dict[str, dict[str, Tensor]]]:
    """Read checkpoint `name` back, verified: (state, groups). CheckpointError says what is wrong with it.

    The tensors are mapped from their files; copy what is to outlive them.
    """
    folder = Path(folder)
    document = read_document(folder / f"{name}.json", name)
    groups = {group: read_verified(folder / entry["file"], entry["sha256"], entry["bytes"])
              for group, entry in document["files"].items()}
    return document["state"], groups


def exists(folder: str | os.PathLike, name: str) -> bool:
    """Whether there is something to load, sound or not."""
    return os.path.lexists(Path(folder) / f"{name}.json")


def read_document(path: Path, name: str) -> dict[str, Any]:
    """The JSON file of a checkpoint, checked against its own seal and for the type of all that `load` relies on."""
    with open_regular(path) as file:
        try:
            text = file.read(JSON_BYTES + 1)
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    if len(text) > JSON_BYTES:
        raise CheckpointError(f"{path} is longer than the {JSON_BYTES} bytes that a checkpoint's JSON file may have")
    try:
        document = json.loads(text.decode("utf-8"), parse_constant=refuse_constant)
        layout = document.get("layout") if isinstance(document, dict) else None
        if type(layout) is int and layout != LAYOUT:
            raise CheckpointError(f"{path} is in checkpoint layout {quoted(layout)}; "
                                  f"this program reads layout {LAYOUT} only")
        if type(layout) is not int or document.pop("sha256", None) != seal(document):
            raise CheckpointError(f"{path} is damaged: its content does not match its checksum")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: no JSON ({str(error)[:100]})") from error
    problem = wrong_part(document, name)
    if problem:
        raise CheckpointError(f"{path} is no checkpoint {name!r} as this program writes it: {problem}")
    return document


def wrong_part(document: dict[str, Any], name: str) -> str | None:
    """What is wrong with a sealed document, if anything."""
    if document.keys() != {"layout", "name", "step", "files", "state"}:
        return f"it has the parts {quoted(', '.join(sorted(document)))}"
    if document["name"] != name:
        return f"it calls itself {quoted(document['name'])}"
    if not isinstance(document["state"], dict) or not isinstance(document["files"], dict):
        return "state and files must be objects"
    for group, entry in document["files"].items():
        if not isinstance(entry, dict) or entry.keys() != {"file", "bytes", "sha256"}:
            return f"the file of {quoted(group)} is described wrongly"
        match = TENSOR_FILE.fullmatch(entry["file"]) if isinstance(entry["file"], str) else None
        if match is None or match[1] != group:
            return f"{quoted(entry['file'])} is no name of a tensor file of {quoted(group)}"
        sha256 = entry["sha256"]
        if not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256) or sha256[:16] != match[3]:
            return f"the checksum of {entry['file']} is none, or belongs to another file"
        if type(entry["bytes"]) is not int:
            return f"the length of {entry['file']} is no number"
    return None


def seal(document: dict[str, Any]) -> str:
    """SHA-256 of a document's content, whatever its layout on the page."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, allow_nan=False).encode()).hexdigest()


def refuse_constant(word: str) -> None:
    """For json.loads: NaN and Infinity are no JSON."""
    raise ValueError(f"it contains {word}")


def remove_unnamed(folder: Path) -> None:
    """Remove the tensor files that no checkpoint names; none at all where a checkpoint cannot be read."""
    named = set()
    try:
        for name in filter(lambda name: exists(folder, name), NAMES):
            named |= {entry["file"] for entry in read_document(folder / f"{name}.json", name)["files"].values()}
    except CheckpointError:
        return  # a person may still want what the damaged file named
    with contextlib.suppress(OSError):  # litter is no reason to stop training
        for path in folder.iterdir():
            if TENSOR_FILE.fullmatch(path.name) and path.name not in named:
                path.unlink()
