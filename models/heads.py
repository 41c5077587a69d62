"""What a Hugging Face checkpoint holds besides a GPT-2: the head of a class such as GPT2ForSequenceClassification.

A checkpoint with a head has the GPT-2's tensors under `transformer.`, and the head's without: `score.weight` of a
sequence classifier, `classifier.weight` of a token classifier, `lm_head.weight` of an output layer that is not tied.
"""

import os
from pathlib import Path

from torch import Tensor

from models.hub import CONFIG, PretrainedError, find_tensors, opened, read_json
from models.pretrained import OUTPUT_LAYER

SCORE = "score.weight"  # of GPT2ForSequenceClassification, whose head has no bias


def heads(folder: str | os.PathLike) -> list[str]:
    """Return the names of a checkpoint's tensors that are not the GPT-2's; a tied output layer's are."""
    files = find_tensors(Path(folder))
    prefix = "" if "wte.weight" in files else "transformer."
    names = sorted(name for name in files if prefix and not name.startswith(prefix) and name != OUTPUT_LAYER)
    return names + [OUTPUT_LAYER] * (OUTPUT_LAYER in files and not _tied(files, f"{prefix}wte.weight"))


def _tied(files: dict[str, Path], embedding: str) -> bool:
    """Tell whether a stored output layer is the token embedding, as it usually is."""
    if embedding not in files:
        return False
    with opened(files[OUTPUT_LAYER]) as file:
        layer = file.get_tensor(OUTPUT_LAYER)
    with opened(files[embedding]) as file:
        return layer.equal(file.get_tensor(embedding))


def read_score(folder: str | os.PathLike) -> tuple[Tensor, tuple[str, ...]]:
    """Read the head of a GPT2ForSequenceClassification: (weight [num_labels, C], the labels' names).

    A folder that names no labels gives "" for each. PretrainedError if there is no such head, or it is damaged.
    """
    files = find_tensors(Path(folder))
    if SCORE not in files:
        raise PretrainedError(f"{folder} has no classification head to keep: it holds no {SCORE}")
    with opened(files[SCORE]) as file:
        weight = file.get_tensor(SCORE).float()
    if weight.ndim != 2 or not weight.isfinite().all():
        raise PretrainedError(f"{files[SCORE]}: {SCORE} is damaged: it must be a matrix of finite numbers")
    names = read_json(Path(folder) / CONFIG).get("id2label")
    names = names if isinstance(names, dict) else {}
    return weight, tuple(str(names.get(str(label), "")) for label in range(len(weight)))
