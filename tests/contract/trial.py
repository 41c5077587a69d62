"""Puts files that somebody else wrote in the place of ours, and asks every check about them."""

import contextlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SETS = Path(__file__).resolve().parent / "sets"
FILES = ("optimizer.py", "modules/attention.py", "modules/gpt2_layer.py", "models/gpt2.py", "classifier.py")
SUPPORT = ("config.py", "utils.py", "models/base_gpt.py")
ROOMS = ("optimizer", "classifier", "config", "utils", "models", "modules", "sanity", "finetuning", "pretraining")
"""What is imported anew in a trial: the student's files, and what imports them."""
MISTAKES = json.loads((Path(__file__).resolve().parent / "mistakes.json").read_text(encoding="utf-8"))
CHECKED_BY = {"optimizer.py": "optimizer", "modules/attention.py": "attention", "modules/gpt2_layer.py": "layer",
              "models/gpt2.py": "model", "classifier.py": "head"}


def names() -> list[str]:
    """The sets of five files."""
    return sorted(folder.name for folder in SETS.iterdir() if folder.is_dir())


def copy_of(set_name: str, target: Path, only: str | None = None, edit: tuple[str, str] | None = None) -> Path:
    """Copy a set, or one of its files and its support files, to a folder; with an edit of that file."""
    for file in (*FILES, *SUPPORT):
        source = SETS / set_name / file
        if source.exists() and (only in (None, file) or file in SUPPORT):
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            text = source.read_text(encoding="utf-8")
            if edit and file == only:
                assert text.count(edit[0]) == 1, f"{set_name}/{file}: {text.count(edit[0])} times {edit[0]!r}"
                text = text.replace(*edit)
            (target / file).write_text(text, encoding="utf-8")
    return target


@contextlib.contextmanager
def in_place_of_ours(folder: Path) -> Iterator[None]:
    """While inside: imports find the five files in `folder`, and ours where it lacks them."""
    def purge() -> dict[str, object]:
        ours = [name for name in sys.modules if name.partition(".")[0] in ROOMS]
        return {name: sys.modules.pop(name) for name in ours}

    modules, path = purge(), list(sys.path)
    sys.path[:0] = [str(folder), str(ROOT), str(ROOT / "course")]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        purge()
        sys.modules.update(modules)
        sys.path[:] = path
        importlib.invalidate_caches()


def failures(file: str) -> list[str]:
    """What the checks of a file say against it, one line each; for use inside in_place_of_ours."""
    checks = importlib.import_module(f"sanity.{CHECKED_BY[file]}")
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    kind = getattr(module, {"optimizer.py": "AdamW", "modules/attention.py": "CausalSelfAttention",
                            "modules/gpt2_layer.py": "GPT2Layer", "models/gpt2.py": "GPT2Model",
                            "classifier.py": "GPT2SentimentClassifier"}[file])
    said = []
    for check in checks.PARTS if file == "models/gpt2.py" else checks.CHECKS:
        try:
            result = check(kind)
        except Exception as error:
            said.append(f"{check.__name__}: {type(error).__name__}: {error}")
        else:
            if not result.passed:
                said.append(f"{check.__name__}: {result.mistake}")
    return said


def tree(target: Path, set_name: str) -> Path:
    """A copy of the repository with a set's five files in the place of ours, and small samples."""
    listed = subprocess.run(["git", "ls-files", "-z", "-c", "-o", "--exclude-standard"], cwd=ROOT, check=True,
                            capture_output=True, text=True).stdout.split("\0")
    for file in listed:
        if file and not file.startswith(("tests/", "benchmarks/", "docs/")) and (ROOT / file).is_file():
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, target / file)
    for file in (target / "data" / "sample").glob("*.csv"):  # a sixth: training and predicting take most of the time
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        file.write_text("".join(lines[:1 + len(lines) // 6]), encoding="utf-8")
    return copy_of(set_name, target)


SCRIPTS = {
    "optimizer_test.py": ["optimizer_test.py"],
    "sanity_check.py": ["sanity_check.py"],
    "quick run, frozen": ["-m", "finetuning", "--quick", "--epochs", "2", "--no-report"],
    "quick run, full": ["-m", "finetuning", "--quick", "--epochs", "1", "--fine-tune-mode", "full-model",
                        "--no-report"],
    "prepare_submit.py": ["prepare_submit.py", "--parts"],
}


def run_scripts(set_name: str, folder: Path, titles: Iterable[str] = tuple(SCRIPTS)) -> dict[str, tuple[int, str]]:
    """Run scripts in a copy of the tree with a set's files: (exit status, output) of each, by title."""
    root = tree(folder, set_name)
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'course'}", "HF_HUB_OFFLINE": "1"}
    done = {}
    for title in titles:
        process = subprocess.run([sys.executable, *SCRIPTS[title]], cwd=root, capture_output=True, text=True,
                                 timeout=280, env=environment)
        done[title] = process.returncode, process.stdout + process.stderr
    return done
