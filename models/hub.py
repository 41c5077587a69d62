"""Find a checkpoint's files: bundled, in a folder, or on the Hugging Face hub; and read them, trusting nothing."""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from common.errors import UserError, quoted

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # replaces WEIGHTS if the weights are in several files
BUNDLED = {"gpt2-tiny": Path(__file__).resolve().parent / "gpt2-tiny"}
WANTED = [CONFIG, WEIGHTS, INDEX, "model-*-of-*.safetensors",
          "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"]
PATIENCE = 10  # seconds to wait for the hub's answer
LARGEST_JSON = 32 << 20  # bytes; a configuration has about a thousand, a large tokenizer a few million


class PretrainedError(UserError):
    """A checkpoint cannot be found, read, understood or written."""


class HubUnreachable(PretrainedError):
    """A model is not in the cache, and the hub does not answer."""


def resolve(model: str | os.PathLike, revision: str | None = None) -> Path:
    """Return the folder that holds a checkpoint's files; download them first if necessary.

    model: `gpt2-tiny` (bundled), a folder, or a name on the hub such as `gpt2`. revision: branch, tag or commit on the
    hub. A complete copy in the hub's cache is used without asking the network. HF_HOME, HF_ENDPOINT, HF_TOKEN and
    HF_HUB_OFFLINE have their usual meanings. PretrainedError, or HubUnreachable, if it cannot be had.
    """
    name = str(model)
    folder = BUNDLED.get(name) or Path(model).expanduser()
    if os.path.isdir(folder):
        if revision is not None:
            raise PretrainedError(f"{folder} is a folder: it has no revision {quoted(revision)}")
        if missing := _missing(folder):
            raise PretrainedError(f"{folder} does not hold a checkpoint: {missing} is missing")
        return folder
    if os.path.exists(folder) or folder.is_absolute() or name in BUNDLED or name.startswith((".", "~")):
        raise PretrainedError(f"no model folder {quoted(name, 200)}: give a folder with {CONFIG} and "
                              f"{WEIGHTS}, or a name on the Hugging Face hub")
    return _cached(name, revision) or _download(name, revision)


def _missing(folder: Path) -> str | None:
    """Return the name of a file that this folder lacks to be a checkpoint; None if it is complete."""
    if not (folder / CONFIG).is_file():
        return CONFIG
    if not (folder / WEIGHTS).is_file() and not (folder / INDEX).is_file():
        return f"{WEIGHTS} (or {INDEX})"
    return None


def _cached(name: str, revision: str | None) -> Path | None:
    """Return the folder with the hub's copy on this disk; None if there is no complete one."""
    from huggingface_hub import snapshot_download  # here, because only names on the hub need it
    from huggingface_hub.errors import HFValidationError
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=WANTED, local_files_only=True))
    except HFValidationError as error:
        raise PretrainedError(f"no model {quoted(name, 200)}: it is neither a folder here nor a possible "
                              "name on the Hugging Face hub") from error
    except OSError:  # missing, incomplete or not readable: the download will tell which
        return None
    return None if _missing(folder) else folder


def _download(name: str, revision: str | None) -> Path:
    """Download the wanted files into the hub's cache; return their folder there."""
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
    on_hub = f"{name} on the Hugging Face hub"
    try:
        # Ask one quick question first: without an answer, snapshot_download may try again for minutes.
        info = HfApi().repo_info(name, revision=revision, timeout=PATIENCE)
        if not {file.rfilename for file in info.siblings or ()} & {WEIGHTS, INDEX}:
            raise PretrainedError(f"{on_hub} has no {WEIGHTS}, the only format of weights that is read here")
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=WANTED, etag_timeout=PATIENCE))
    except UserError:
        raise
    except RevisionNotFoundError as error:
        raise PretrainedError(f"{on_hub} has no revision {quoted(revision)}") from error
    except GatedRepoError as error:
        raise PretrainedError(f"{on_hub} asks for permission: request it on the model's page, then set "
                              "HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise PretrainedError(f"no model {quoted(name)}: it is neither a folder here nor a model on the "
                              "Hugging Face hub (a private one needs HF_TOKEN)") from error
    except Exception as error:  # the library, its HTTP client and its file transfer share no base class
        why = str(error).partition("\n")[0][:200]
        command = f"hf download {name} {CONFIG} {WEIGHTS} tokenizer.json --local-dir {name.rpartition('/')[2]}"
        if revision:
            command += f" --revision {revision}"
        raise HubUnreachable(
            f"{name} is not a folder here, is not in {constants.HF_HUB_CACHE}, and cannot be had from "
            f"{constants.ENDPOINT} ({type(error).__name__}: {why})\n"
            f"On a machine with network run `{command}` and give that folder in place of the name") from error
    if missing := _missing(folder):
        raise PretrainedError(f"{on_hub} is not a checkpoint: it has no {missing}")
    return folder


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


def some(names: Sequence[str]) -> str:
    """Return the first three of the names, and how many more there are, for a message."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(quoted(name) for name in names[:3]) + more
