"""Prediction files, byte for byte as the course's graders read them."""

from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError
from common.files import write_atomic

HEADER = "id \t Predicted_Sentiment \n"


def prediction_file(folder: Path, mode: str, task: str, split: str) -> Path:
    """Where the predictions of a run go: predictions/full-model-sst-dev-out.csv and so on."""
    return folder / f"{mode}-{task}-{split}-out.csv"


def write_predictions(path: Path, ids: Sequence[str], labels: Sequence[int]) -> None:
    """One row an example, in the order of the data file: `{id}, {label} `. Neither CSV nor TSV, but what is read."""
    rows = "".join(f"{id}, {label} \n" for id, label in zip(ids, labels, strict=True))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path.parent}: {error.strerror or error}") from error
    write_atomic(path, HEADER + rows)
