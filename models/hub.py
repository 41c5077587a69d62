"""Find a checkpoint's files: bundled, in a folder, or on the Hugging Face hub."""

import os
from pathlib import Path

from common.errors import UserError, quoted
from models.files import CONFIG, INDEX, WEIGHTS, PretrainedError

BUNDLED = {"gpt2-tiny": Path(__file__).resolve().parent / "gpt2-tiny"}
WANTED = [CONFIG, WEIGHTS, INDEX, "model-*-of-*.safetensors",
          "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"]
PATIENCE = 10  # seconds to wait for the hub's answer


class HubUnreachable(PretrainedError):
    """A model is not in the cache, and the hub does not answer."""


def resolve(model: str | os.PathLike, revision: str | None = None) -> Path:
    """Return the folder that holds a checkpoint's files; download them first if necessary.

    model: `gpt2-tiny` (bundled), a folder, or a name on the hub such as `gpt2`. revision: branch, tag or commit on the
    hub. A complete copy in the hub's cache is used without asking the network. HF_HOME, HF_ENDPOINT, HF_TOKEN and
    HF_HUB_OFFLINE have their usual meanings.

    Raises:
        PretrainedError: there is no such folder or repository, or it has no weights.
        HubUnreachable: the hub does not answer within seconds.
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
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=WANTED,
                                        local_files_only=True))
    except HFValidationError as error:
        raise PretrainedError(f"no model {quoted(name, 200)}: it is neither a folder here nor a possible "
                              "name on the Hugging Face hub") from error
    except OSError:  # missing, incomplete or not readable: the download will tell which
        return None
    return None if _missing(folder) else folder


def _download(name: str, revision: str | None) -> Path:
    """Download the wanted files into the hub's cache; return their folder there."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
    on_hub = f"{name} on the Hugging Face hub"
    try:
        # Ask one quick question first: without an answer, snapshot_download may try again for minutes.
        info = HfApi().repo_info(name, revision=revision, timeout=PATIENCE)
        if not {file.rfilename for file in info.siblings or ()} & {WEIGHTS, INDEX}:
            raise PretrainedError(f"{on_hub} has no {WEIGHTS}, the only format of weights that is read here")
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=WANTED,
                                        etag_timeout=PATIENCE))
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
        raise HubUnreachable(_unreachable(name, revision, error)) from error
    if missing := _missing(folder):
        raise PretrainedError(f"{on_hub} is not a checkpoint: it has no {missing}")
    return folder


def _unreachable(name: str, revision: str | None, error: Exception) -> str:
    """Return two lines: what is missing, and how to get it from another machine."""
    from huggingface_hub import constants
    why = str(error).partition("\n")[0][:200]
    command = f"hf download {name} {CONFIG} {WEIGHTS} tokenizer.json --local-dir {name.rpartition('/')[2]}"
    if revision:
        command += f" --revision {revision}"
    return (f"{name} is not a folder here, is not in {constants.HF_HUB_CACHE}, and cannot be had from "
            f"{constants.ENDPOINT} ({type(error).__name__}: {why})\n"
            f"On a machine with network run `{command}` and give that folder in place of the name")
