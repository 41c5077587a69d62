"""The command line, and the zip for Gradescope: built, unpacked and run as Gradescope would."""

import io
import json
import os
import re
import stat
import subprocess
import sys
import zipfile

import pytest

from common import cli
from staff.grader.__main__ import main, parser
from staff.grader.build import PACKED, build, pins, rehearse_one, solution, unfilled
from staff.grader.grade import blank, declared
from submission import manifest

SECRET = b"5" * 64


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A built zip, without labels."""
    path = tmp_path_factory.mktemp("built") / "grader.zip"
    path.write_bytes(build(SECRET, None, "L0"))
    return path


def failing(capsys, *words):
    """Return what main prints to standard error, when it ends with status 2."""
    with pytest.raises(SystemExit) as end:
        cli.run(lambda: main([str(word) for word in words]))
    assert end.value.code == 2
    return capsys.readouterr().err


def test_help_at_once(root):
    """Catches: a help that waits for NumPy, or that leaves out a command."""
    code = ("import runpy, sys; sys.argv = ['staff.grader', '--help']\n"
            "try: runpy.run_module('staff.grader', run_name='__main__')\n"
            "finally: print([name for name in ('torch', 'numpy', 'tqdm') if name in sys.modules])")
    said = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    assert said.endswith("[]\n")
    assert all(f" {command} " in said for command in ("seal", "build", "rehearse", "grade", "replay"))
    assert max(map(len, parser().format_help().splitlines())) <= 79


@pytest.mark.parametrize("words, said", [
    (["grade", "missing.zip", "--out", "OUT"], "there is no missing.zip"),
    (["grade", "ZIP", "--out", "OUT", "--labels", "nowhere"], "there is no nowhere"),
    (["grade", "ZIP", "--out", "OUT", "--secret", "nowhere"], "cannot read the secret"),
    (["grade", "ZIP", "--out", "OUT", "--workers", "0"], "at least 1"),
    (["grade", "ZIP", "--out", "ZIP/x"], "cannot make the folder"),
    (["build", "--out", "OUT/none/x.zip"], "in a folder that exists"),
    (["build", "--out", "x.tar"], "ends in .zip"),
    (["build", "--out", "x.zip", "--daily", "-1"], "at least 0"),
    (["rehearse", "ZIP"], "no run_autograder|cannot unpack"),
    (["replay", "ZIP", "ZIP", "--secret", "ZIP"], "receipt"),
    (["replay", "RECEIPT", "TEXT", "--secret", "SECRET"], "TEXT: not a zip"),
    (["seal", "OUT/none/x"], "cannot write"),
    (["nothing"], "invalid choice"),
])
def test_a_wrong_command_gets_one_clear_line(tmp_path, capsys, monkeypatch, words, said):
    """Catches: a traceback, a status that looks like success, a half-made folder."""
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("ZIP", "w"):
        pass
    for name, content in (("TEXT", "text"), ("SECRET", "5" * 64), ("RECEIPT", '{"submission": "", "tests": {}}')):
        (tmp_path / name).write_text(content)
    text = failing(capsys, *words)
    assert re.search(said, text) and len(text.splitlines()) <= 2 and "Traceback" not in text


def test_the_policy_is_one_table(root):
    """Catches: a page that says something else than the table, a rule that no test holds."""
    page = (root / "docs" / "grading.md").read_text(encoding="utf-8")
    for rule in json.loads((root / "staff" / "grader" / "policy.json").read_text(encoding="utf-8")):
        assert f"| {rule['of']} | {rule['question']} | {rule['answer']} |" in page
        assert {*rule["tests"]} <= {*declared(None)}


def test_seal(tmp_path, capsys):
    """Catches: a secret on the screen, a hash that is not there."""
    assert main(["seal", str(tmp_path / "secret")]) == 0
    said = capsys.readouterr().out
    assert re.search("[0-9a-f]{64}", said) and (tmp_path / "secret").read_text() not in said
    assert "exists" in failing(capsys, "seal", tmp_path / "secret")


def test_a_build_without_a_secret_makes_one_and_keeps_it(tmp_path, capsys):
    """Catches: another secret, and so other seeds, in each build; a zip that others can read."""
    for _ in range(2):
        assert main(["build", "--out", str(tmp_path / "g.zip")]) == 0
        content = (tmp_path / "g.zip").read_bytes()
    assert stat.S_IMODE((tmp_path / "g.zip").stat().st_mode) == 0o600
    assert zipfile.ZipFile(io.BytesIO(content)).read("secret") == (tmp_path / "g.secret").read_bytes()
    assert capsys.readouterr().out.count("is a new one") == 1


def test_what_is_in_the_zip(archive, root, tmp_path):
    """Catches: scripts below the root, Windows line ends, bytes that change, what the grader does not need."""
    assert build(SECRET, None, "L0") == archive.read_bytes()
    with zipfile.ZipFile(archive) as packed:
        names = packed.namelist()
        for script in ("setup.sh", "run_autograder"):
            content = packed.read(script)
            assert content.startswith(b"#!/usr/bin/env bash\n") and b"\r" not in content
            assert packed.getinfo(script).external_attr >> 16 == 0o100755
            assert subprocess.run(["bash", "-n"], input=content).returncode == 0
        setup = packed.read("setup.sh").decode()
        assert all(pin in setup for pin in pins((root / "requirements.txt").read_text()))
        failed = json.loads(packed.read("failed.json"))
    assert [test["status"] for test in failed["tests"]] == ["failed"] * len(declared(None))
    assert failed["score"] == 0 and failed["output"].startswith("GRADER ERROR")
    assert {name.split("/")[0] for name in names} == {
        "staff", "submission", "common", "course", "data", "models", "modules", "classifier.py", "optimizer.py",
        "setup.sh", "run_autograder", "failed.json", "secret"}
    assert not any("pycache" in name or name.startswith(("data/sample", "models/gpt2-tiny")) for name in names)
    assert all([*root.glob(name)] for name in PACKED)

    (tmp_path / "ids-sst-dev.csv").write_text("\tid\tsentence\tsentiment\n0\ta\tb\t1\n")
    with zipfile.ZipFile(io.BytesIO(build(SECRET, tmp_path, "L2", 5))) as packed:
        assert "labels/ids-sst-dev.csv" in packed.namelist()
        assert b':-L2}" --daily 5\n' in packed.read("run_autograder")


def test_pins_are_those_of_the_project(root):
    """Catches: versions on Gradescope that nobody has tested."""
    text = (root / "requirements.txt").read_text()
    torch, others = pins(text)
    wanted = re.findall(r"^(?:torch|numpy|einops)==[^\s;]+", text, re.MULTILINE)
    assert len(wanted) >= 3 and all(pin in torch + others for pin in wanted)
    assert torch.count("==") == 1 and "torch" not in others and "#" not in torch + others


def test_unfilled_takes_out_every_required_method():
    """Catches: a hole that is still filled, or a file that no longer parses."""
    for file, content in unfilled(solution()).items():
        holes = {f"{file}: {name}.{method}" for name, methods in manifest.SOURCES[file].items() for method in methods}
        assert holes == set(re.findall(r"raise NotImplementedError\('(.*)'\)", content.decode()))


def test_the_solution_and_the_empty_starter_in_the_built_zip(archive):
    """Catches: a zip that lacks a file, full marks that are not full, a hole that earns a point."""
    full = rehearse_one(archive, solution())
    total = sum(entry.points for entry in declared(None).values())
    assert [test["output"] for test in full["tests"] if test["score"] != test["max_score"]] == []
    assert full["score"] == total and len(full["tests"]) == len(declared(None))

    empty = rehearse_one(archive, unfilled(solution()))
    assert empty["score"] == 0
    assert {test["extra_data"]["status"] for test in empty["tests"]} == {"not implemented"}
    assert all(test["output"].startswith("not implemented: ") for test in empty["tests"])


def test_a_python_that_does_not_start_leaves_a_whole_results_file(archive, tmp_path):
    """Catches: no results.json, and so a score of 0 without a word, where the grader cannot even begin."""
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path / "source")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "results.json").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "submission_metadata.json").write_text("{}")
    done = subprocess.run(["bash", tmp_path / "source" / "run_autograder"], capture_output=True, env={
        "PATH": os.environ["PATH"], "AUTOGRADER_ROOT": str(tmp_path), "GRADER_PYTHON": "/bin/false"})
    found = json.loads((tmp_path / "results" / "results.json").read_bytes())
    assert done.returncode == 1 and found["output"].startswith("GRADER ERROR") and not (tmp_path / "elsewhere").exists()
    assert len(found["tests"]) == len(blank(declared(None), "").graded)
    assert stat.S_IMODE((tmp_path / "submission_metadata.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "results").stat().st_mode) == 0o700
