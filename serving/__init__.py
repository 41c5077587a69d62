"""What a finished run of classifier.py is good for: `from serving import load`, predict.py and export.py."""

import os
import typing

if typing.TYPE_CHECKING:
    from serving.predictor import Predictor


def load(run: str | os.PathLike, device: str = "auto") -> "Predictor":
    """Return the classifier of a finished run, ready for `predict([text, ...])` and `explain(text)`.

    run: a run folder such as runs/own-full-model, or a copy of the folder model/ in it. device: auto, cpu, cuda or mps.
    Raises common.errors.UserError, with what to do, where there is no such run or it is not finished.
    """
    from serving.predictor import Predictor  # late, because PyTorch takes a second

    return Predictor.load(run, device)
