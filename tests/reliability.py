"""Counts what docs/reliability.md reports: runs killed and resumed, and Ctrl-C in the first second of a script.

    ./setup.sh -m tests.reliability --signals 500 --kills 200 --seed 1
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from common import cli
from common.terminal import say

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Settings:
    """What is counted."""

    signals: int = 0
    """How many times classifier.py is started and gets SIGINT within its first second."""
    kills: int = 0
    """How many training runs are killed with SIGKILL and resumed."""
    seed: int = 1
    """Decides when."""


def signals(folder: Path, trials: int, seed: int) -> dict[str, int]:
    """Count how classifier.py ends that gets SIGINT at a random instant of its first second."""
    chance, ends = random.Random(seed), Counter()
    command = [str(ROOT / "setup.sh"), "classifier.py", "--quick", "--device", "cpu"]
    for _ in cli.progress(range(trials), "signals"):
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                   start_new_session=True)
        time.sleep(chance.random())
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the shell's children, too
        said = process.communicate()[1]
        if "Traceback" in said:
            ends["traceback"] += 1
        elif process.returncode == 130 and said == "interrupted\n":
            ends["interrupted, status 130"] += 1
        elif process.returncode == -signal.SIGINT and said == "":
            ends["ended by the signal before Python began"] += 1
        else:
            ends[f"status {process.returncode}: {said[-80:]!r}"] += 1
    return dict(ends)


def kills(folder: Path, trials: int, seed: int) -> dict:
    """Return what tests/training/runs/killing.py finds."""
    command = [sys.executable, "-m", "tests.training.runs.killing", str(folder), str(seed), str(trials)]
    return json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)


def main() -> None:
    parser = cli.Parser(description=__doc__)
    cli.add_arguments(parser, Settings)
    settings = cli.from_arguments(Settings, parser.parse_args())
    for name, count, trials in (("signals", signals, settings.signals), ("kills", kills, settings.kills)):
        if trials:
            with tempfile.TemporaryDirectory() as folder:
                say(json.dumps({name: count(Path(folder), trials, settings.seed)}))


if __name__ == "__main__":
    cli.run(main)
