"""The GPT-2 that a run began with: what it guesses as the next word, before anything was fine-tuned."""

from typing import Any

from torch import nn

from common.errors import UserError, quoted
from models.gpt2 import GPT2Model
from models.hub import resolve
from models.pretrained import load, read_config
from serving.model_folder import FineTuned
from training.runs.tensor_file import hash_tensors


class NoBackbone(UserError):
    """The GPT-2 that a run began with cannot be had."""


def pretrained_backbone(model: FineTuned, record: dict[str, Any]) -> nn.Module:
    """Return the GPT-2 that a run began with: the run's own if it was frozen. NoBackbone, which says why, if not.

    record: the run's run.json; {} if it is not at hand.
    """
    identity, settings = (part if isinstance(part := record.get(key), dict) else {} for key in ("identity", "settings"))
    if not identity.get("backbone"):
        raise NoBackbone("the run's run.json is not at hand")
    if settings.get("random_backbone"):
        raise NoBackbone("the run began with random weights")
    if hash_tensors(model.gpt.state_dict()) == identity["backbone"]:
        return model.gpt

    # It was trained: the original is where the run has found it, if it is still there and the same.
    name = settings.get("model") or ("gpt2-tiny" if settings.get("quick") else "gpt2")
    try:
        folder = resolve(name, settings.get("revision"))
        gpt = load(GPT2Model, folder, read_config(folder))
    except UserError as error:
        raise NoBackbone(f"{quoted(name)} is not found any more") from error
    if hash_tensors(gpt.state_dict()) != identity["backbone"]:
        raise NoBackbone(f"{quoted(name)} holds other weights now than the run began with")
    return gpt.requires_grad_(False)
