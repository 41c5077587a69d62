"""Every program's --help: it answers, and fits a terminal of 80 columns."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
INNER = {"benchmarks/gpu_parts.py", "benchmarks/gpu_checks.py", "benchmarks/rows.py", "serving/space.py",
         "staff/grader/zygote.py", "staff/release/checks.py"}
"""Started by other programs, never by people."""


def programs() -> list[str]:
    """Every script of the repository and every file that `python -m` runs, tests left out."""
    rooms = [room for room in ROOT.glob("[!.]*/") if room.name != "tests"]
    files = [*ROOT.glob("*.py"), *(file for room in rooms for file in room.rglob("*.py"))]
    names = {file.relative_to(ROOT).as_posix() for file in files if '\nif __name__ == "__main__":' in file.read_text()}
    return ["setup.sh", *sorted(names - INNER)]


@pytest.mark.parametrize("program", programs())
def test_help_fits_the_terminal(program):
    """Catches: lines that a terminal of 80 columns breaks, or a program that does not know --help."""
    module = program.removesuffix(".py").removesuffix("/__main__").replace("/", ".")
    words = ["bash", program] if program == "setup.sh" else [sys.executable, "-m", module]
    done = subprocess.run([*words, "--help"], cwd=ROOT, env={**os.environ, "COLUMNS": "80"},
                          capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
    lines = [line for line in done.stdout.splitlines() if str(ROOT) not in line]  # defaults may be long paths
    assert len(lines) > 5
    assert [line for line in lines if len(line) > 79] == []
