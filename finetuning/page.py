"""The page about finished runs, which another process makes: whatever happens to it costs the runs nothing."""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from common.terminal import say
from finetuning.settings import REPOSITORY

LONGEST = 600  # seconds; it is asked to be brief, so this is a fault


def make_page(folders: Sequence[Path]) -> None:
    """Make the page of each run, or of all seeds in a folder; if that fails, say how to make it by hand.

    Ctrl-C ends it, and this process with KeyboardInterrupt. A copy without the folder report/ makes none.
    """
    if not folders or not (REPOSITORY / "report").is_dir():
        return
    # The modules of the current folder hide none of ours (Python 3.10 does not know that setting).
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    by_hand = ("there is no page, but all else is done; to make it by hand:\n"
               f"  ./setup.sh -m report --brief {shlex.join(map(str, folders))}")
    try:
        done = subprocess.run([sys.executable, "-m", "report", "--brief", *map(str, folders)], env=environment,
                              timeout=LONGEST, check=False)
        failed = done.returncode != 0
    except KeyboardInterrupt:
        say(by_hand, error=True)
        raise
    except (OSError, subprocess.TimeoutExpired):
        failed = True
    if failed:
        say(by_hand, error=True)
