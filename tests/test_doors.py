"""Who may import whom. The doors are data; every import is held to them, those inside functions too."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

# Room (or script) -> the rooms it may import, and with each of them what lies behind it. `common` is a leaf
# that everyone may import. report and prepare_submit read files: they know no model and no loop.
DOORS: dict[str, set[str]] = {
    "common": set(),
    "modules": set(),
    "models": {"modules"},
    "optimizer_fast": set(),
    "optimizer": {"optimizer_fast"},
    "data": set(),
    "training": {"data"},
    "classifier": {"models", "optimizer", "training"},
    "pretrain": {"models", "optimizer", "training"},
    "serving": {"models"},
    "report": set(),
    "submission": {"data"},
    "prepare_submit": {"submission"},
    "optimizer_test": {"optimizer"},
    "sanity": {"models"},
    "sanity_check": {"classifier", "sanity"},
}
ONLOOKERS = {"staff", "benchmarks", "tests"}  # may import everything; nobody but an onlooker imports them

# Room -> the only packages beyond the standard library that it may import; a room not named here is free.
PACKAGES: dict[str, set[str]] = {
    "common": {"tqdm"},  # progress bars
    "modules": {"torch"},
    "optimizer_fast": {"torch"},
    "optimizer": {"torch"},
    "submission": set(),
    "prepare_submit": set(),  # must run where nothing is installed
}


def python_files(root: Path) -> list[Path]:
    """The .py files that git tracks; in a tree without git, all outside dot folders."""
    if (root / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-z", "*.py"], cwd=root, capture_output=True, check=True)
        paths = [root / os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    else:
        paths = [path for path in root.rglob("*.py") if "/." not in f"/{path.relative_to(root).as_posix()}"]
    return sorted(path for path in paths if path.is_file())


def room_of(path: Path, root: Path) -> str:
    """The first folder of a file's path, or for a script at the root its name."""
    parts = path.relative_to(root).parts
    return parts[0] if len(parts) > 1 else path.stem


def imports(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """(line, top-level name) of each import in a file, at any depth; those by import_module("name") too."""
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                yield node.lineno, node.module.split(".")[0]
            else:
                folders = path.relative_to(root).parts
                target = [*folders[:len(folders) - node.level], *(node.module or "").split(".")]
                for name in [target[0]] if target[0] else [alias.name for alias in node.names]:
                    yield node.lineno, name
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value.split(".")[0]


def behind(room: str) -> set[str]:
    """All that a room may import: through its doors, and the doors behind those."""
    return {"common"}.union(*({door} | behind(door) for door in DOORS[room]))


def wrong_imports(root: Path) -> list[str]:
    """One line for each import that goes through no door, and for each file in a room not in the table."""
    files = python_files(root)
    ours = {room_of(path, root) for path in files}
    wrong = []
    for path in files:
        room, where = room_of(path, root), path.relative_to(root).as_posix()
        if room in ONLOOKERS:
            continue
        if room not in DOORS:
            wrong.append(f"{where}: the table of doors has no room {room!r}")
            continue
        for line, name in imports(path, root):
            if name in ours | set(DOORS) | ONLOOKERS:
                if name != room and name not in behind(room):
                    wrong.append(f"{where}:{line}: {room} imports {name}")
            elif name not in sys.stdlib_module_names and name not in PACKAGES.get(room, {name}):
                wrong.append(f"{where}:{line}: {room} imports the package {name}")
    return wrong


def test_every_import_goes_through_a_door(root):
    """Catches: a loop that imports the model, a room that imports a script, anything that imports staff."""
    assert wrong_imports(root) == []


def test_the_doors_open_one_way():
    """Catches: an edit of the table that lets two rooms import each other."""
    TopologicalSorter(DOORS).prepare()
    assert all(doors <= set(DOORS) for doors in DOORS.values())


@pytest.mark.parametrize("file, code, said", [
    ("training/loop.py", "import models.gpt2", "training/loop.py:1: training imports models"),
    ("training/loop.py", "def f():\n    import optimizer", "training/loop.py:2: training imports optimizer"),
    ("data/tasks.py", "from training import loop", "data/tasks.py:1: data imports training"),
    ("data/tasks.py", "from ..training import loop", "data/tasks.py:1: data imports training"),
    ("data/sub/x.py", "from ... import models", "data/sub/x.py:1: data imports models"),
    ("models/gpt2.py", "importlib.import_module('pretrain')", "models/gpt2.py:1: models imports pretrain"),
    ("models/gpt2.py", "__import__('optimizer')", "models/gpt2.py:1: models imports optimizer"),
    ("common/errors.py", "import data", "common/errors.py:1: common imports data"),
    ("classifier.py", "from staff import reference", "classifier.py:1: classifier imports staff"),
    ("modules/attention.py", "import einops", "modules/attention.py:1: modules imports the package einops"),
    ("utils/x.py", "", "utils/x.py: the table of doors has no room 'utils'"),
])
def test_a_wrong_import_is_found(tmp_path, file, code, said):
    """Catches: a walk that overlooks imports inside functions, relative ones, or those made by name."""
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(code)
    assert wrong_imports(tmp_path) == [said]


@pytest.mark.parametrize("file, code", [
    ("classifier.py", "import modules.attention, data.reader, training.loop, torch"),  # also behind a door
    ("training/loop.py", "from . import evaluate\nfrom .evaluate import f\nimport common.errors"),
    ("staff/grade.py", "import classifier, prepare_submit"),
])
def test_a_right_import_is_left_alone(tmp_path, file, code):
    """Catches: a table so strict that scripts could not compose rooms."""
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(code)
    assert wrong_imports(tmp_path) == []
