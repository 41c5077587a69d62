"""Make the zip that an instructor uploads to Gradescope, and rehearse it here, without Docker."""

import ast
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import UserError
from staff.grader import receipts
from staff.grader.cases.predictions import read_labels
from staff.grader.grade import blank, declared
from staff.grader.gradescope import Words, results
from staff.grader.intake import take
from staff.grader.metadata import Previous
from staff.grader.receipts import ROOT, files_of
from submission import manifest
from submission.predictions import HEADER

PACKED = (*receipts.VERDICT, *manifest.SOURCES, "common", "data/*.py")
"What the grader needs to run: itself, the lists that it shares with prepare_submit.py, the solution for the canary."

SETUP = """#!/usr/bin/env bash
# Gradescope runs this once, when it builds the image: it makes the grader's Python environment.
set -euo pipefail
root=${AUTOGRADER_ROOT:-/autograder}
apt-get update
apt-get install -y --no-install-recommends python3 python3-venv
python3 -m venv "$root/venv"
pip() { "$root/venv/bin/python" -m pip install --no-cache-dir "$@"; }
pip --index-url https://download.pytorch.org/whl/cpu TORCH
pip OTHERS
cd "$root/source" && "$root/venv/bin/python" -m staff.grader --help >/dev/null
"$root/venv/bin/python" -c "import einops, numpy, torch"
"""

RUN = """#!/usr/bin/env bash
# Gradescope runs this for each submission. Whatever happens later, a complete results.json is there from the start.
root=${AUTOGRADER_ROOT:-/autograder}
python=${GRADER_PYTHON:-$root/venv/bin/python}
chmod 600 "$root/submission_metadata.json" 2>/dev/null
mkdir -p "$root/results"
chmod 700 "$root/results" "$root/source"
rm -rf "$root/results/results.json"
cp "$root/source/failed.json" "$root/results/results.json"
cd "$root/source" || exit 1
exec env -i PATH="$PATH" LANG=C.UTF-8 TIMEOUT_SECONDS="${TIMEOUT_SECONDS:-}" \\
    "$python" -B -m staff.grader gradescope "$root" --minimum "${GRADER_MINIMUM:-MINIMUM}" --daily DAILY
"""


def build(secret: bytes, labels: Path | None, minimum: str, daily: int = 0) -> bytes:
    """Return the zip to upload: the same files give the same bytes. It holds the secret and the labels.

    minimum, daily: as in gradescope.run.
    """
    points = declared(labels)
    failed = results(blank(points, "the grader ended too early", "grader error"), Words(), None, Previous(), 0)
    torch, others = pins((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    files = files_of(ROOT, PACKED) | {
        "setup.sh": SETUP.replace("TORCH", torch).replace("OTHERS", others).encode(),
        "run_autograder": RUN.replace("MINIMUM}", minimum + "}").replace("DAILY", str(daily)).encode(),
        "failed.json": failed, "secret": secret}
    if labels is not None:
        files |= {f"labels/{name}": content for name, content in receipts.label_files(labels).items()}
    return pack(files)


def pack(files: Mapping[str, bytes]) -> bytes:
    """Return a zip of some files, in order, with fixed times and modes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            mode = 0o755 if name in ("setup.sh", "run_autograder") else 0o600 if name == "secret" else 0o644
            entry.create_system, entry.external_attr = 3, (0o100000 | mode) << 16  # as on Unix, everywhere
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED, compresslevel=9)
    return buffer.getvalue()


def pins(requirements: str) -> tuple[str, str]:
    """Return how pip is told torch's version, and those of NumPy and einops, as in requirements.txt."""
    lines = [line.partition(" #")[0].strip() for line in requirements.splitlines()]
    torch, others = ([f"'{line}'" for line in lines if line.partition("==")[0] in names]
                     for names in (("torch",), ("numpy", "einops")))
    return " ".join(torch), " ".join(others)


def unfilled(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the source files with every required method's body replaced by raise NotImplementedError."""
    starter = dict(files)
    for file, classes in manifest.SOURCES.items():
        tree = ast.parse(files[file])
        for node in ast.walk(tree):
            for method in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(method, ast.FunctionDef) and method.name in classes.get(node.name, ()):
                    method.body = ast.parse(f"raise NotImplementedError('{file}: {node.name}.{method.name}')").body
        starter[file] = ast.unparse(tree).encode()
    return starter


def solution() -> dict[str, bytes]:
    """Return the five files of our own solution."""
    return {file: (ROOT / file).read_bytes() for file in manifest.SOURCES}


def answers(labels: Path | None) -> dict[str, bytes]:
    """Return prediction files in which every known label is right, for all that labels are there for."""
    known, files = read_labels(labels), {}
    for part in manifest.PARTS.values() if labels else ():
        for split in manifest.SPLITS:
            rows = known.rows(part, split) or []
            text = "".join(f"{row.id}, {row.label or 0} \n" for row in rows)
            files[part.predictions(split)] = f"{HEADER}\n{text}".encode()
    return files


def rehearse(archive: Path, submission: Path | None) -> list[str]:
    """Run the zip's own run_autograder as Gradescope would; print what comes, return what is not as it should be.

    Without a submission: for our own solution, which gets full marks, and for one in which nothing is filled in.
    """
    if submission is not None:
        found = rehearse_one(archive, take(submission).files)
        print(found["output"], *(f"{test['number']} {test['name']}: {test['output']}" for test in found["tests"]),
              sep="\n")
        return []

    with tempfile.TemporaryDirectory() as folder:
        unpack(archive, Path(folder))
        labels = Path(folder, "labels") if Path(folder, "labels").is_dir() else None
        full = rehearse_one(archive, solution() | answers(labels))
    empty = rehearse_one(archive, unfilled(solution()))
    points = sum(test["max_score"] for test in full["tests"])
    print(f"the solution: {full['score']:g} of {points:g} points in {full['execution_time']} s\n"
          f"nothing filled in: {empty['score']:g} points in {empty['execution_time']} s")
    if any(test["extra_data"]["status"] == "grader error" for test in full["tests"]):
        return ["GRADER ERROR", *full["extra_data"]["staff"]]
    return [f"{what}: {test['number']} {test['name']}: {test['score']:g} points, {test['output']}"
            for what, found in (("the solution", full), ("nothing filled in", empty)) for test in found["tests"]
            if not (test["score"] == test["max_score"] if found is full else
                    test["score"] == 0 and test["output"].startswith("not implemented"))]


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip that `build` wrote."""
    try:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot unpack {archive}: {error}") from error
    if not (folder / "run_autograder").is_file():
        raise UserError(f"{archive} has no run_autograder at its root: `build` writes the right zip")


def rehearse_one(archive: Path, files: Mapping[str, bytes]) -> dict[str, Any]:
    """Lay out /autograder's folders in a temporary root, run run_autograder there, and return its results.json."""
    with tempfile.TemporaryDirectory(prefix="autograder-") as folder:
        root = Path(folder)
        unpack(archive, root / "source")
        shutil.copy(root / "source" / "run_autograder", root / "run_autograder")
        (root / "run_autograder").chmod(0o755)
        (root / "results").mkdir()
        for name, content in files.items():
            (root / "submission" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "submission" / name).write_bytes(content)
        metadata = {"id": 1, "created_at": "2026-01-01T00:00:00Z", "previous_submissions": [], "users": []}
        (root / "submission_metadata.json").write_text(json.dumps(metadata), encoding="utf-8")

        environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "AUTOGRADER_ROOT": folder,
                       "GRADER_PYTHON": sys.executable, "TIMEOUT_SECONDS": "600"}
        if os.geteuid():  # another user than root cannot reach more
            environment["GRADER_MINIMUM"] = "L0"
        done = subprocess.run([root / "run_autograder"], cwd=root, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"run_autograder ended with status {done.returncode}: {done.stderr.strip()[-500:]}")
        return json.loads((root / "results" / "results.json").read_bytes())
