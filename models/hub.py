"""Find a checkpoint's files: bundled, in a folder, or on the Hugging Face hub; and read them, trusting nothing."""

import contextlib
import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from common.errors import UserError, quoted
from common.files import read_bounded, sha256_file
from common.patience import while_it_moves

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
SERVING = "serving.json"  # beside a fine-tuned classifier, see fine_tuned.py
INDEX = "model.safetensors.index.json"  # replaces WEIGHTS if the weights are in several files
BUNDLED = {"gpt2-tiny": Path(__file__).resolve().parent / "gpt2-tiny"}
WANTED = [CONFIG, WEIGHTS, INDEX, "model-*-of-*.safetensors",
          "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"]
PICKLE = "pytorch_model.bin"  # never read: a pickle can run any program
LIKE = "fine_tune_like"  # a key in config.json
PATIENCE = 10  # seconds to wait for the hub's answer
SLOW = 300  # seconds for at least common.patience.LEAST bytes; some transfers hold back 64 MB before they write
HASHES = {"sha", "oid", "blobId", "blob_id", "sha256", "xetHash"}  # keys of hashes in the hub's JSON
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
    return find_folder(model, revision) or _cached(name, revision) or _download(name, revision)


def find_folder(model: str | os.PathLike, revision: str | None = None) -> Path | None:
    """Return the folder of a model on this disk, with a checkpoint in it; None for a name on the hub.

    PretrainedError for a folder without a complete checkpoint, and for a path to nothing.
    """
    name = str(model)
    folder = BUNDLED.get(name) or Path(model).expanduser()
    if os.path.isdir(folder):
        if revision is not None:
            raise PretrainedError(f"{folder} is a folder: it has no revision {quoted(revision)}")
        if missing := _missing(folder):
            raise PretrainedError(f"{folder} does not hold a checkpoint: {missing} is missing{_pickled(folder)}")
        return folder
    if os.path.exists(folder) or folder.is_absolute() or name in BUNDLED or name.startswith((".", "~")):
        raise PretrainedError(f"no model folder {quoted(name, 200)}: give a folder with {CONFIG} and "
                              f"{WEIGHTS}, or a name on the Hugging Face hub")
    return None


def fine_tune_like(model: str | os.PathLike, revision: str | None = None) -> str | None:
    """Return the name of the bundled model whose settings for fine-tuning suit this one, too; None if none is known.

    config.json says so: that of the bundled model, and of all that pretrain.py makes from it. Downloads nothing.
    """
    folder = find_folder(model, revision) or _cached(str(model), revision)
    like = read_json(folder / CONFIG).get(LIKE) if folder else None
    return like if isinstance(like, str) else None


def _pickled(folder: Path) -> str:
    """Return what to say of a folder whose weights are there, but pickled; "" if they are not."""
    if not (folder / CONFIG).is_file() or not (folder / PICKLE).is_file():
        return ""
    source, target = folder / PICKLE, folder / WEIGHTS
    convert = ("import torch, safetensors.torch as s; "
               f"w = torch.load({str(source)!r}, map_location='cpu', weights_only=True); "
               f"s.save_file({{k: v.clone().contiguous() for k, v in w.items()}}, {str(target)!r})")
    return (f"; its {PICKLE} is not read, because a pickle can run any program. If you trust it, convert it:\n"
            f"python -c {shlex.quote(convert)}")


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
    from huggingface_hub.utils import close_session, get_session
    on_hub = f"{name} on the Hugging Face hub"

    def get() -> Path:
        # Ask one quick question first: without an answer, snapshot_download may try again for minutes.
        info = HfApi().repo_info(name, revision=revision, timeout=PATIENCE)
        if not {file.rfilename for file in info.siblings or ()} & {WEIGHTS, INDEX}:
            pickled = f" (it has {PICKLE}, a pickle, which can run any program)" * any(
                file.rfilename == PICKLE for file in info.siblings or ())
            raise PretrainedError(f"{on_hub} has no {WEIGHTS}, the only format of weights that is read here{pickled}")
        return Path(snapshot_download(name, revision=revision, allow_patterns=WANTED, etag_timeout=PATIENCE))

    def received() -> int:
        total = 0
        for path in Path(constants.HF_HUB_CACHE, f"models--{name.replace('/', '--')}").rglob("*"):
            with contextlib.suppress(OSError):  # gone meanwhile
                total += path.lstat().st_size
        return total

    # The library writes what it received after every so many bytes, and makes file names of what the hub answers.
    constants.DOWNLOAD_CHUNK_SIZE = 1 << 16
    hooks = get_session().event_hooks
    if _check_answer not in hooks["response"]:
        get_session().event_hooks = {**hooks, "response": [*hooks["response"], _check_answer]}
    try:
        folder = while_it_moves(get, received, SLOW)
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
        constants.HF_HUB_OFFLINE = True  # what still goes on in threads ends now, or the process could not
        close_session()
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
    for file in sorted(folder.iterdir()):
        _check_hash(file)
    return folder


def _check_answer(response: Any) -> None:
    """Raise PretrainedError where the hub answers with a hash that is none: it would become the name of a file."""
    def hashes(value: Any) -> Iterator[Any]:
        if isinstance(value, list):
            for part in value:
                yield from hashes(part)
        elif isinstance(value, dict):
            for key, part in value.items():
                yield from [part] if key in HASHES and isinstance(part, str) else hashes(part)

    stated = [response.headers.get(name) for name in ("X-Repo-Commit", "X-Linked-ETag")]
    if response.request.method == "HEAD":
        stated.append(response.headers.get("ETag"))
    elif "/api/" in response.request.url.path:
        with contextlib.suppress(ValueError, RecursionError):  # no JSON: the library says so
            stated += hashes(json.loads(response.read()))
    for value in stated:
        if value is not None and not re.fullmatch(r'(W/)?"?[0-9A-Za-z_.-]*[0-9A-Za-z_-]"?', value):
            raise PretrainedError(f"the hub answers with a damaged hash, {quoted(value)}: nothing of it is kept")


def _check_hash(file: Path) -> None:
    """Raise PretrainedError, and remove the file, unless its content has the hash by which the hub's cache names it."""
    content = file.resolve()  # a link to a file called by its SHA-256, or its hash in git if it is small
    if re.fullmatch("[0-9a-f]{64}", content.name):
        found = sha256_file(content)
    elif re.fullmatch("[0-9a-f]{40}", content.name):
        digest = hashlib.sha1(b"blob %d\0" % content.stat().st_size)
        digest.update(content.read_bytes())
        found = digest.hexdigest()
    else:
        return  # a copy, on systems without links
    if found != content.name:
        file.unlink()
        content.unlink()
        (file.parent / CONFIG).unlink(missing_ok=True)  # so the copy counts as incomplete until all of it was checked
        raise PretrainedError(f"{file} was damaged on its way: its content has not the hash that the hub states; "
                              "it is removed, start again to get it again")


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
        content = json.loads(read_bounded(path, LARGEST_JSON).decode("utf-8"))
    except OSError as error:
        raise PretrainedError(f"cannot read {path}: {error.strerror or error}") from error
    except MemoryError as error:
        raise PretrainedError(f"cannot read {path}: not enough memory for it") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, too many digits or levels
        raise PretrainedError(f"{path} is damaged: {quoted(error, 100)}") from error
    if not isinstance(content, dict):
        raise PretrainedError(f"{path} is damaged: it does not hold a JSON object")
    return content


def some(names: Sequence[str]) -> str:
    """Return the first three of the names, and how many more there are, for a message."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(quoted(name) for name in names[:3]) + more
