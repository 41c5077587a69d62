"""A fine-tuned classifier in a folder of its own: everything that predicting needs, wherever the backbone is by then.

    model.safetensors                        every weight of the classifier, under its name in the classifier, float32
    config.json                              the shape of its GPT-2, in Hugging Face's words
    tokenizer.json, tokenizer_config.json    the tokenizer that it was trained with
    serving.json                             the rest (`Description`), and the SHA-256 of the files above

`serving.json` is written last, and removed first: a folder without it is not complete.
"""

import dataclasses
import json
import math
import os
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from common.errors import UserError, quoted
from common.files import make_folder, replacing, sha256_file, write_atomic
from models.config import GPT2Config
from models.hub import CONFIG, SERVING, WEIGHTS, PretrainedError, opened, read_json
from models.pretrained import ARITHMETIC, OPTIONAL, STATED, read_config

LAYOUT = 1  # a folder of another layout is refused


class ModelFolderError(UserError):
    """A folder holds no complete fine-tuned classifier, or a damaged one."""


@dataclass(frozen=True)
class Description:
    """What must be known of a classifier besides its weights, its shape and its tokenizer."""

    task: str  # its name
    label_names: tuple[str, ...]  # one for each label, from 0 up
    spellings: tuple[str, ...]  # the same labels as the training file spells them
    lowercase: bool  # whether texts are lower-cased before they are tokenised
    rules: tuple[str, ...]  # names of the rules (data/rules.py) applied to each text
    max_length: int  # longest text in tokens; the rest is cut off
    keep_end: bool  # cut off the beginning of a text that is too long, not its end
    fine_tune_mode: str  # last-linear-layer or full-model
    dropout: float  # before the head: an argument of the classifier, without effect when it predicts
    backbone: str  # name of the GPT-2 in the classifier, such as "gpt"; the other weights are the head's
    answers: tuple[tuple[float, ...], ...]  # its logits for a few fixed texts: other code would give others

    @property
    def num_labels(self) -> int:
        """The number of labels."""
        return len(self.label_names)


def write(folder: str | os.PathLike, description: Description, config: GPT2Config, weights: Mapping[str, Tensor],
          tokenizer: Mapping[str, str]) -> None:
    """Write a classifier into `folder`, each file whole or not at all. UserError if the file system refuses.

    weights: no two share memory. tokenizer: the content of tokenizer.json and tokenizer_config.json.
    """
    folder = Path(folder)
    make_folder(folder)
    (folder / SERVING).unlink(missing_ok=True)
    tensors = {name: weight.detach().to("cpu", torch.float32).contiguous() for name, weight in weights.items()}
    try:
        with replacing(folder / WEIGHTS) as temporary:
            save_file(tensors, temporary, metadata={"format": "pt"})
    except SafetensorError as error:  # such as a full disk
        raise UserError(f"cannot write {folder / WEIGHTS}: {quoted(error, 200)}") from error
    write_atomic(folder / CONFIG, json.dumps(shape_fields(config), indent=2) + "\n")
    for name, content in tokenizer.items():
        write_atomic(folder / name, content)
    files = {name: sha256_file(folder / name) for name in (WEIGHTS, CONFIG, *tokenizer)}
    document = {"layout": LAYOUT, **dataclasses.asdict(description), "files": files}
    write_atomic(folder / SERVING, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def read(folder: str | os.PathLike) -> tuple[Description, GPT2Config, dict[str, Tensor]]:
    """Read what `write` has written; the tokenizer's files are checked, too, and stay where they are.

    Returns the description, the shape, and the weights by name. ModelFolderError for anything that is missing, damaged
    or was edited.
    """
    folder = Path(folder)
    description, files = read_description(folder)
    for name, sha256 in files.items():
        if not (folder / name).is_file():
            raise ModelFolderError(f"{folder} lacks {name}, which its {SERVING} names")
        if sha256_file(folder / name) != sha256:
            raise ModelFolderError(f"{folder / name} is damaged: its checksum is not the one in {SERVING}")
    try:
        with opened(folder / WEIGHTS) as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        return description, read_config(folder), weights
    except PretrainedError as error:
        raise ModelFolderError(str(error)) from error


def read_description(folder: Path) -> tuple[Description, dict[str, str]]:
    """Read serving.json: the description, and the SHA-256 of each file of the folder."""
    path = folder / SERVING
    if not os.path.lexists(path):
        raise ModelFolderError(f"{folder} holds no fine-tuned classifier: there is no {SERVING}")
    try:
        raw = read_json(path)
    except PretrainedError as error:
        raise ModelFolderError(str(error)) from error
    if raw.pop("layout", None) != LAYOUT:
        raise ModelFolderError(f"{path} is in another layout than {LAYOUT}, the one that this program reads")
    files = raw.pop("files", None)
    hints = typing.get_type_hints(Description)
    wrong = [name for name in hints if not fits(raw.get(name), hints[name])]
    wrong += sorted(raw.keys() - hints.keys())
    if not isinstance(files, dict) or not {WEIGHTS, CONFIG, "tokenizer.json"} <= files.keys() \
            or any(os.path.basename(name) != name or not fits(value, str) for name, value in files.items()):
        wrong.append("files")
    if wrong:
        raise ModelFolderError(f"{path} is damaged: {quoted(wrong[0])} is not as this program writes it")
    description = Description(**{name: frozen(value) for name, value in raw.items()})
    count = description.num_labels
    if count < 2 or description.max_length < 1 or len(description.spellings) != count \
            or any(len(row) != count for row in description.answers):
        raise ModelFolderError(f"{path} is damaged: its labels do not fit together")
    return description, files


def named_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers by name; what is tied appears once, under its first name."""
    stored = module.state_dict()
    return {name: value for name, value in [*module.named_parameters(), *module.named_buffers()] if name in stored}


def shape_fields(config: GPT2Config) -> dict[str, Any]:
    """Return a GPT-2's shape and arithmetic as Hugging Face's config.json spells them."""
    return {"model_type": "gpt2",
            **{theirs: getattr(config, ours) for theirs, ours in {**STATED, **OPTIONAL}.items()},
            "embd_pdrop": config.hidden_dropout_prob,
            **{key: values[0] for key, values in ARITHMETIC.items() if values[0] is not None}}


def fits(value: Any, hint: Any) -> bool:
    """Tell whether a value from JSON has a field's type; a tuple is a list there, and a float may be an int."""
    if typing.get_origin(hint) is tuple:
        return isinstance(value, list) and all(fits(item, typing.get_args(hint)[0]) for item in value)
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is hint


def frozen(value: Any) -> Any:
    """Return a value from JSON with tuples for its lists."""
    return tuple(map(frozen, value)) if isinstance(value, list) else value
