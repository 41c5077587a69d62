"""Who may import whom, and who may name a flag. The rules are data; every file is held to them."""

import ast
import dataclasses
import io
import os
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import finetuning.settings
import pretraining.settings

# Room or script -> the rooms that it may import; it may also import the rooms behind these.
DOORS: dict[str, set[str]] = {
    "common": set(),
    "modules": set(),
    "models": {"modules", "common"},
    "course": {"models"},
    "engine": set(),  # not even common
    "optimizer": set(),
    "data": {"common"},
    "training": {"data"},
    "finetuning": {"models", "optimizer", "engine", "training"},  # classifier.py hands its class over as an argument
    "pretraining": {"models", "optimizer", "engine", "training"},
    "classifier": {"finetuning"},
    "pretrain": {"pretraining"},
    "finetuning.__main__": {"classifier"},
    "serving": {"classifier"},
    "predict": {"serving"},
    "export": {"serving"},
    "report": {"serving"},
    "serve": {"serving", "report"},
    "submission": {"data"},
    "prepare_submit": {"submission"},
    "optimizer_test": {"optimizer", "sanity"},
    "sanity": {"models"},
    "sanity_check": {"classifier", "sanity"},
    "buglab": {"classifier", "sanity"},
    "run": set(),
}
SCRIPTS = {"classifier", "pretrain", "finetuning.__main__", "predict", "export", "serve", "prepare_submit",
           "optimizer_test", "sanity_check", "run"}
ONLOOKERS = {"staff", "benchmarks", "tests"}  # may import everything; only onlookers may import them

# Room -> the only packages outside the standard library that it may import; other rooms are free.
PACKAGES: dict[str, set[str]] = {
    "common": {"tqdm"},  # progress bars
    "modules": {"torch"},
    "engine": {"torch"},
    "optimizer": {"torch"},
    "submission": set(),
    "prepare_submit": set(),  # must run where nothing is installed
    "run": set(),  # and so must this, which installs
}

# Rooms that may name the flags of classifier.py and pretrain.py; the others say only what is wrong.
FLAG_ROOMS = SCRIPTS | ONLOOKERS | {"finetuning", "pretraining", "serving", "report"}
FOREIGN_FLAGS = {("models/hub.py", "--revision")}  # (file, flag) of another program, here `hf download`


def python_files(root: Path) -> list[Path]:
    """Return the .py files that git knows or would add; in a tree without git, all outside dot folders."""
    if (root / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.py"]
        listed = subprocess.run(command, cwd=root, capture_output=True, check=True)
        paths = [root / os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    else:
        paths = [path for path in root.rglob("*.py") if "/." not in f"/{path.relative_to(root).as_posix()}"]
    return sorted(path for path in paths if path.is_file())


def room_of(path: Path, root: Path) -> str:
    """Return the first folder of a file's path; the name of a script."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts) if ".".join(parts) in SCRIPTS else parts[0]


def imports(path: Path, root: Path, only_at_import: bool = False) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of each import in a file, also of those by import_module("name").

    `from a import b` gives both a and a.b, as b may be a module. only_at_import: leave out imports inside functions.
    """
    for node in walk(ast.parse(path.read_bytes(), str(path)), only_at_import):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            folders = path.relative_to(root).parts
            start = folders[:len(folders) - node.level] if node.level else ()
            module = [*start, *(node.module or "").split(".")] if node.module else [*start]
            if module:
                yield node.lineno, ".".join(module)
            yield from ((node.lineno, ".".join([*module, alias.name])) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def walk(node: ast.AST, only_at_import: bool) -> Iterator[ast.AST]:
    """Yield the nodes of a tree, or only those that run while the file is imported."""
    for child in ast.iter_child_nodes(node):
        if not (only_at_import and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            yield child
            yield from walk(child, only_at_import)


def behind(room: str) -> set[str]:
    """Return all rooms that a room may import: through its doors, and the doors behind those."""
    return DOORS[room].union(*map(behind, DOORS[room]))


def wrong_imports(root: Path) -> list[str]:
    """Return one line for each import that goes through no door, and for each file in a room not in the table."""
    files = python_files(root)
    ours = {room_of(path, root) for path in files} | set(DOORS) | ONLOOKERS
    wrong = []
    for path in files:
        room, where = room_of(path, root), path.relative_to(root).as_posix()
        if room in ONLOOKERS:
            continue
        if room not in DOORS:
            wrong.append(f"{where}: the table of doors has no room {room!r}")
            continue
        for line, top in dict.fromkeys((line, name.split(".")[0]) for line, name in imports(path, root)):
            if top in ours:
                if top != room and top not in behind(room):
                    wrong.append(f"{where}:{line}: {room} imports {top}")
            elif top not in sys.stdlib_module_names and top not in PACKAGES.get(room, {top}):
                wrong.append(f"{where}:{line}: {room} imports the package {top}")
    return wrong


def import_circle(root: Path) -> list[str]:
    """Return the files of one import circle, in order; only imports that run at import count."""
    files = {".".join(path.relative_to(root).with_suffix("").parts): path for path in python_files(root)}
    graph = {name: {found for _, found in imports(path, root, only_at_import=True) if found in files} - {name}
             for name, path in files.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def flag_pattern() -> re.Pattern:
    """Return a pattern for the flags of classifier.py and pretrain.py, in both spellings and with `no-`."""
    both = (finetuning.settings.Settings, pretraining.settings.Settings)
    fields = {field.name for settings in both for field in dataclasses.fields(settings)}
    names = "|".join(name.replace("_", "[-_]") for name in fields)
    return re.compile(rf"(?<![\w-])--(?:no[-_])?(?:{names})(?![\w-])")


def named_flags(root: Path) -> list[str]:
    """Return one line for each flag in a string or comment of a room that must not name flags."""
    pattern, found = flag_pattern(), []
    words = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", None)}
    for path in python_files(root):
        where = path.relative_to(root).as_posix()
        if room_of(path, root) in FLAG_ROOMS:
            continue
        for token in tokenize.tokenize(io.BytesIO(path.read_bytes()).readline):
            for match in pattern.finditer(token.string) if token.type in words else ():
                line = token.start[0] + token.string[:match.start()].count("\n")
                if (where, match[0]) not in FOREIGN_FLAGS:
                    found.append(f"{where}:{line}: {match[0]}")
    return found


def plant(root: Path, file: str, code: str) -> None:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(code)


def test_every_import_goes_through_a_door(root):
    """Catches: a loop that imports the model, a room that imports a script, anything that imports staff."""
    assert wrong_imports(root) == []


def test_the_doors_open_one_way(root):
    """Catches: an edit of the table that lets two rooms import each other, or names a room that does not exist."""
    TopologicalSorter(DOORS).prepare()
    rooms = {room_of(path, root) for path in python_files(root)}
    assert set(DOORS) <= rooms and SCRIPTS <= set(DOORS)
    assert all(doors <= set(DOORS) for doors in DOORS.values())


def test_what_the_house_promises():
    """Catches: a door that HOUSE.md closes, opened by way of another room."""
    assert not behind("training") & {"models", "optimizer", "engine", "classifier", "finetuning", "pretraining"}
    assert behind("engine") == behind("modules") == behind("optimizer") == set()
    assert "classifier" not in behind("finetuning") and "pretrain" not in behind("pretraining")
    assert behind("prepare_submit") == {"submission", "data", "common"}


@pytest.mark.parametrize("file, code, said", [
    ("training/loop.py", "import models.gpt2", "training/loop.py:1: training imports models"),
    ("training/loop.py", "def f():\n    import optimizer", "training/loop.py:2: training imports optimizer"),
    ("training/runs/session.py", "import engine.adamw", "training/runs/session.py:1: training imports engine"),
    ("data/tasks.py", "from training import loop", "data/tasks.py:1: data imports training"),
    ("data/tasks.py", "from ..training import loop", "data/tasks.py:1: data imports training"),
    ("data/sub/x.py", "from ... import models", "data/sub/x.py:1: data imports models"),
    ("models/gpt2.py", "importlib.import_module('pretrain')", "models/gpt2.py:1: models imports pretrain"),
    ("models/gpt2.py", "__import__('optimizer')", "models/gpt2.py:1: models imports optimizer"),
    ("engine/gpt2.py", "import models.gpt2", "engine/gpt2.py:1: engine imports models"),
    ("engine/gpt2.py", "from common import cli", "engine/gpt2.py:1: engine imports common"),
    ("finetuning/run.py", "import classifier", "finetuning/run.py:1: finetuning imports classifier"),
    ("common/errors.py", "import data", "common/errors.py:1: common imports data"),
    ("classifier.py", "from staff import reference", "classifier.py:1: classifier imports staff"),
    ("modules/attention.py", "import einops", "modules/attention.py:1: modules imports the package einops"),
    ("utils/x.py", "", "utils/x.py: the table of doors has no room 'utils'"),
])
def test_a_wrong_import_is_found(tmp_path, file, code, said):
    """Catches: a walk that overlooks imports inside functions, relative ones, or those made by name."""
    plant(tmp_path, file, code)
    assert wrong_imports(tmp_path) == [said]


@pytest.mark.parametrize("file, code", [
    ("classifier.py", "import modules.attention, data.reader, training.loop, torch"),  # also behind a door
    ("finetuning/__main__.py", "import classifier"),
    ("training/loop.py", "from . import evaluate\nfrom .evaluate import f\nimport common.errors"),
    ("staff/grade.py", "import classifier, prepare_submit"),
])
def test_a_right_import_is_left_alone(tmp_path, file, code):
    """Catches: a table so strict that scripts could not compose rooms."""
    plant(tmp_path, file, code)
    assert wrong_imports(tmp_path) == []


def test_no_import_circle(root):
    """Catches: two files that need each other, so that the order of imports decides whether they can be imported."""
    assert import_circle(root) == []


@pytest.mark.parametrize("one, other, circle", [
    ("from data import b", "import data.a", True),
    ("from data.b import f", "from . import a", True),
    ("try:\n    import data.b\nfinally:\n    pass", "class A:\n    from data.a import f", True),
    ("from data import b", "def f():\n    import data.a", False),
    ("from data import b", "", False),
])
def test_an_import_circle_is_found(tmp_path, one, other, circle):
    """Catches: a walk that overlooks a way to import, or that takes an import inside a function for a circle."""
    plant(tmp_path, "data/a.py", one)
    plant(tmp_path, "data/b.py", other)
    assert sorted(set(import_circle(tmp_path))) == (["data.a", "data.b"] if circle else [])


def test_rooms_name_no_flags(root):
    """Catches: a room that tells its reader a flag of a script, which another script or test may not have."""
    assert named_flags(root) == []
    for file, flag in FOREIGN_FLAGS:
        assert flag in (root / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("code, flags", [
    ('x = 1  # see --max_length', ["1: --max_length"]),
    ('def f():\n    """Text.\n\n    Give --batch-size N.\n    """', ["4: --batch-size"]),
    ('raise E(f"{x}: too long\\nTry " f"`--lr {rate}`")', ["1: --lr"]),
    ('"--no-shard and --vocab_size"', ["1: --no-shard", "1: --vocab_size"]),
    ('"--help --from FOLDER --lr-of-others x--lr ---lr --lrs"', []),
    ('lr = y --lr', []),
])
def test_a_flag_is_found(tmp_path, code, flags):
    """Catches: a scan that overlooks comments, docstrings, f-strings or one spelling; one that finds too much."""
    for file in ("models/x.py", "finetuning/x.py", "classifier.py", "tests/x.py"):
        plant(tmp_path, file, code)
    assert named_flags(tmp_path) == [f"models/x.py:{flag}" for flag in flags]
