"""Prediction files, byte for byte as the course's graders read them."""

import os
from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError
from common.files import make_folder, write_atomic

HEADER = "id \t Predicted_Sentiment \n"


def prediction_file(folder: Path, mode: str, task: str, split: str) -> Path:
    """Where the predictions of a run go: predictions/full-model-sst-dev-out.csv and so on."""
    return folder / f"{mode}-{task}-{split}-out.csv"


def check_folder(folder: Path) -> None:
    """UserError if prediction files could not be put into a folder, which need not be there yet. Changes nothing."""
    there = folder
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise UserError(f"--predictions {folder}: {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"--predictions {folder}: {there} may not be written to")


def write_predictions(path: Path, ids: Sequence[str], labels: Sequence[int]) -> None:
    """One row an example, in the order of the data file: `{id}, {label} `. Neither CSV nor TSV, but what is read."""
    rows = "".join(f"{id}, {label} \n" for id, label in zip(ids, labels, strict=True))
    make_folder(path.parent)
    write_atomic(path, HEADER + rows)
