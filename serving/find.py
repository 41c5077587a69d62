"""Find the model of a run. Imports no PyTorch, so that a run that is not there is told at once."""

import json
import os
import shlex
from pathlib import Path

from common.errors import UserError, quoted
from models.hub import SERVING


class NoModel(UserError):
    """There is no such run, or it has no model (yet)."""


def find(run: str | os.PathLike) -> Path:
    """Return the folder with the model of a run, or of a copy of that folder. NoModel if there is none."""
    run = Path(run).expanduser()
    for folder in (run / "model", run):
        if os.path.lexists(folder / SERVING):
            return folder
    name = quoted(run, 200)
    if not run.is_dir():
        others = sorted(str(path.parent.parent) for path in run.parent.glob(f"*/model/{SERVING}"))
        there = f"there are {', '.join(others[:6])}" if others else "train one with classifier.py"
        raise NoModel(f"no run folder {name}; {there}")
    seeds = sorted(str(path.parent.parent) for path in run.glob(f"seed-*/model/{SERVING}"))
    if seeds and not (run / "run.json").exists():
        raise NoModel(f"{name} holds the runs of several seeds; name one of them: {', '.join(seeds[:6])}")
    try:
        record = json.loads((run / "run.json").read_bytes())
        command = shlex.join(record["command"])
        is_classifier = "task" in record
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise NoModel(f"{name} is not the folder of a run: it has neither model/{SERVING} nor a run.json "
                               "that can be read") from error
    if not is_classifier:
        raise NoModel(f"{name} holds a pretrained language model, not a classifier: train one on it with "
                               "classifier.py")
    why = "the run ended before its model was kept" if (run / "result.json").exists() else "the run is not finished"
    raise NoModel(f"{name} holds no model: {why}\nFinish it with the same command and --resume: "
                           f"{command if '--resume' in command else command + ' --resume'}")
