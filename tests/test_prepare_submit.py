"""prepare_submit, on a made-up checkout with four rows a data file."""

import hashlib
import io
import json
import os
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prepare_submit
from common import cli
from common.errors import UserError
from data.reader import Example
from finetuning.results import write_predictions
from finetuning.settings import prediction_file
from submission.manifest import MODES, OPTIONAL, PARTS, SOURCES, SPLITS
from submission.predictions import HEADER, check_predictions

IDS = ["a1", "b2", "c3", "d4"]
PREDICTIONS = [part.predictions(split) for part in PARTS.values() for split in SPLITS]
SST_DEV = "predictions/full-model-sst-dev-out.csv"


class Tree:
    """A checkout that is ready to submit, and prepare_submit run on it."""

    def __init__(self, root: Path):
        self.root = root
        for file, classes in SOURCES.items():
            [(name, methods)] = classes.items()
            self.write(file, f"class {name}:\n" + "".join(f"    def {m}(self): return 1\n" for m in methods))
        for part in PARTS.values():
            for split in SPLITS:
                label = "\tsentiment" if split == "dev" else ""
                rows = [f"{row}\t{id}\tA sentence .{'	1' if label else ''}\n" for row, id in enumerate(IDS)]
                self.write(part.data(split), f"\tid\tsentence{label}\n" + "".join(rows))
                labels = [1, 0, 1, 0 if part.mode == MODES[0] else 1]
                write_predictions(root / part.predictions(split), IDS, labels)

    def write(self, file: str, content: str | bytes) -> None:
        path = self.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def edit(self, file: str, old: str, new: str) -> None:
        text = (self.root / file).read_bytes().decode()
        assert old in text
        self.write(file, text.replace(old, new, 1))

    def run(self, capsys, *args: str) -> tuple[int, dict]:
        """The exit status and the report."""
        status = prepare_submit.main(["--json", *args], root=self.root)
        return status, json.loads(capsys.readouterr().out)

    def problems(self, capsys, *args: str) -> list[str]:
        """The problems, told as "file:line: message"; none exactly if a zip was written."""
        status, report = self.run(capsys, *args)
        assert (status == 0) == report["ok"] == (report["problems"] == []) == self.zip.exists()
        return [f"{p['file']}:{p['line'] or ''}: {p['message']}" for p in report["problems"]]

    @property
    def zip(self) -> Path:
        return self.root / "submission.zip"


@pytest.fixture
def tree(tmp_path) -> Tree:
    return Tree(tmp_path / "check out")


def test_the_name_of_a_stray_file_cannot_forge_the_report(tree, capsys):
    """Catches: a file whose name repaints the terminal, or adds a line, where the files left out are listed."""
    tree.write("predictions/\x1b[2J\nWrote\r", "x")
    with pytest.raises(SystemExit):
        cli.run(lambda: prepare_submit.main([], root=tree.root))
    said = capsys.readouterr().out
    assert r"predictions/\x1b[2J\nWrote\r" in said
    assert all(c.isprintable() or c == "\n" for c in said)


def test_what_is_in_order_becomes_a_zip(tree, capsys):
    """Catches: a file forgotten or swept in, a wrong hash, names or paths in the manifest."""
    tree.write("NOTES.md", "Read me first.")
    for junk in ("model.pt", ".env", "modules/notes.py", "predictions/full-model-sst-sample-dev-out.csv"):
        tree.write(junk, "x")
    status, report = tree.run(capsys)
    assert status == 0 and report["problems"] == []
    assert report["left_out"] == [".env", "model.pt", "modules/notes.py",
                                  "predictions/full-model-sst-sample-dev-out.csv"]
    assert report["sha256"] == hashlib.sha256(tree.zip.read_bytes()).hexdigest()
    expected = sorted([*SOURCES, *PREDICTIONS, "NOTES.md"])
    with zipfile.ZipFile(tree.zip) as archive:
        assert sorted(archive.namelist()) == sorted([*expected, "MANIFEST.json"])
        about = json.loads(archive.read("MANIFEST.json"))
        assert sorted(about["files"]) == expected
        for file in expected:
            assert archive.read(file) == (tree.root / file).read_bytes()
            assert about["files"][file]["sha256"] == hashlib.sha256(archive.read(file)).hexdigest()
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_DEFLATED}
        assert str(tree.root).encode() not in archive.read("MANIFEST.json")


def test_the_same_files_give_the_same_zip(tree, capsys):
    """Catches: dates, file modes or folder order in the zip, which would make its sha256 useless."""
    tree.run(capsys)
    first = tree.zip.read_bytes()
    for path in tree.root.rglob("*.py"):
        path.chmod(0o600)
        os.utime(path, (10 ** 9, 10 ** 9))
    tree.run(capsys, "--out", str(tree.root / "second.zip"))
    assert (tree.root / "second.zip").read_bytes() == first


def test_a_failure_leaves_the_earlier_zip_as_it_was(tree, capsys):
    """Catches: a half-written or bad zip, and one deleted that was good."""
    tree.write("submission.zip", b"earlier")
    tree.edit(SST_DEV, "a1", "zz")
    assert prepare_submit.main([], root=tree.root) == 1
    assert tree.zip.read_bytes() == b"earlier"
    assert "No zip was written" in (out := capsys.readouterr().out) and "earlier run" in out
    assert not list(tree.root.glob(".*.tmp"))


@pytest.mark.parametrize("old, new, said", [
    ("a1, 1 \n", "", ":: no prediction for 'a1' (1 of 4)"),
    ("a1, 1 \n", "zz, 1 \na1, 1 \n", ":: ids that its data file lacks: 'zz' (1 of 4)"),
    ("b2, 0 \n", "b2, 0 \nb2, 0 \n", ":4: the id 'b2' is there twice"),
    ("b2, 0 ", "b2, 5 ", ":3: the label must be 0 to 4, is '5'"),
    ("b2, 0 ", "b2, 1.0 ", ":3: the label must be 0 to 4, is '1.0'"),
    ("b2, 0 ", "b2, 01 ", ":3: the label must be 0 to 4, is '01'"),
    ("b2, 0 ", "b2, \u0661 ", ":3: the label must be 0 to 4, is '\u0661'"),  # a digit, but not ASCII's
    ("b2, 0 ", "b2, tensor(0) ", ":3: the label must be 0 to 4, is 'tensor(0)'"),
    ("b2, 0 ", "b2, 0", ":3: must be 'ID, LABEL ' (with the space at the end), is 'b2, 0'"),
    ("b2, 0 ", "b2\t0 ", r":3: must be 'ID, LABEL ' (with the space at the end), is 'b2\t0 '"),
    ("b2, 0 ", "b2,0 ", ":3: must be 'ID, LABEL ' (with the space at the end), is 'b2,0 '"),
    ("b2, 0 \n", "\nb2, 0 \n", ":3: must be 'ID, LABEL ' (with the space at the end), is ''"),
    (" \t ", ", ", r":1: the first line must be 'id \t Predicted_Sentiment ', is 'id, Predicted_Sentiment '"),
    ("d4, 1 \n", "d4, 1 ", ":5: the last line does not end: was the file cut short?"),
    ("id ", "\ufeffid ", ":1: starts with a byte order mark: write it as plain UTF-8"),
])
def test_a_prediction_file_with_one_defect(tree, capsys, old, new, said):
    """Catches: a defect that an outside grader would trip over, passed by or told as several."""
    tree.edit(SST_DEV, old, new)
    assert tree.problems(capsys) == [SST_DEV + said]


def test_prediction_files_as_a_whole(tree, capsys):
    """Catches: a crash on hostile bytes, a flood of messages, a right file refused for its order of rows."""
    good = (tree.root / SST_DEV).read_bytes()
    header, *rows = good.decode().splitlines(keepends=True)
    tree.write(SST_DEV, header + "".join(reversed(rows)))
    assert tree.problems(capsys) == []
    tree.zip.unlink()
    tree.write(SST_DEV, good.replace(b"\n", b"\r\n"))
    [told] = tree.problems(capsys)
    assert told.startswith(f"{SST_DEV}:1: has Windows line ends")
    tree.write(SST_DEV, good.replace(b"b2", b"b\xff"))
    assert SST_DEV + ":3: not UTF-8" in tree.problems(capsys)
    tree.write(SST_DEV, header)
    assert tree.problems(capsys) == [SST_DEV + ":: no prediction for 'a1', 'b2', 'c3', ... (4 of 4)"]
    tree.write(SST_DEV, b"")
    assert tree.problems(capsys)[0].startswith(SST_DEV + ":1: the first line must be")
    tree.write(SST_DEV, "x\n" * 5000)
    assert len(tree.problems(capsys)) == 8 and "... and 4995 more such lines" in tree.problems(capsys)[5]
    tree.write(SST_DEV, b"\0" * 3_000_000)
    assert tree.problems(capsys) == [SST_DEV + ":: 3,000,000 bytes, more than the 2,000,000 allowed"]


LINES = st.sampled_from(["a1, 0 ", "b2, 1 ", "a1, 2 ", "a1,0 ", ", 0 ", "zz, 1 ", "", HEADER, "id \t ", "a1, 0 \r"])
ANSWERS = [Example("a1", "x", 0), Example("b2", "y", 1)]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode)
       | st.lists(LINES, max_size=6).map(lambda lines: "\n".join([HEADER, *lines, ""]).encode()),
       data=st.sampled_from([None, ANSWERS]))
def test_any_prediction_file_is_judged(content, data):
    """Catches: bytes that raise anything, problems without end, a file called right that answers something else."""
    found = check_predictions("file", content, data, num_labels=2)
    assert len(found.problems) <= 8
    assert all(c.isprintable() for problem in found.problems for c in str(problem))
    if not found.problems:
        assert content.decode() == HEADER + "\n" + "".join(f"{id}, {label} \n" for id, label in found.labels.items())
        assert set(found.labels.values()) <= {0, 1} and (data is None or found.labels.keys() == {"a1", "b2"})


@pytest.mark.parametrize("line", ["x" * 10**5, ", " * 50_000, "a, 0 \n" * 20_000, "\n" * 10**5, "\r\n" * 50_000])
def test_huge_prediction_files_take_little_time_and_memory(line):
    """Catches: a pattern that takes quadratic time, and copies of the file that pile up."""
    content = f"{HEADER}\n{line}".encode()
    tracemalloc.start()
    began = time.process_time()
    try:
        found = check_predictions("file", content, ANSWERS, num_labels=2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0 < len(found.problems) <= 8 and sum(len(str(problem)) for problem in found.problems) < 2000
    assert time.process_time() - began < 10 and peak < 300 * len(content)


def test_the_form_is_the_one_that_training_writes(tmp_path):
    """Catches: writer and checker growing apart."""
    for part in PARTS.values():
        for split in SPLITS:
            path = prediction_file(tmp_path / "predictions", part.mode, part.task_name, split)
            assert path == tmp_path / part.predictions(split)
    write_predictions(path, ["a"], [0])
    assert path.read_bytes() == f"{HEADER}\na, 0 \n".encode() == b"id \t Predicted_Sentiment \na, 0 \n"


def test_what_is_missing_is_listed_with_what_makes_it(tree, capsys):
    """Catches: stopping at the first problem; naming no command; `--quick`'s files taken for the course's."""
    for file in ("optimizer.py", *PREDICTIONS[:3], PARTS["full-model-cfimdb"].data("test")):
        (tree.root / file).unlink()
    tree.write("predictions/full-model-sst-sample-dev-out.csv", "x")
    assert prepare_submit.main([], root=tree.root) == 1
    out = capsys.readouterr().out
    for file in ("optimizer.py", *PREDICTIONS[:3]):
        assert f"  {file}: missing\n" in out
    assert out.count("ids-cfimdb-test-student.csv: missing") == 1
    for command in ("-m data.download", "classifier.py --data sst --fine-tune-mode full-model"):
        assert f"\n  ./setup.sh {command}\n" in out
    assert "(classifier.py --quick) are practice" in out and not tree.zip.exists()


def test_fewer_parts_need_fewer_files(tree, capsys):
    """Catches: a claim that still asks for everything, or packs what was not claimed."""
    for file in PREDICTIONS:
        if not file.startswith("predictions/full-model-sst"):
            (tree.root / file).unlink()
    assert tree.problems(capsys, "--parts", "full-model-sst") == []
    assert tree.run(capsys, "--parts")[1]["files"] == sorted(SOURCES)
    with pytest.raises(SystemExit, match="2"):
        prepare_submit.main(["--parts", "full-model-imdb"], root=tree.root)


@pytest.mark.parametrize("link", ["optimizer.py", "predictions", "modules", SST_DEV, OPTIONAL[0]])
def test_links_are_refused(tree, capsys, tmp_path, link):
    """Catches: a link, at any depth, that pulls a file from elsewhere into the zip."""
    target = tmp_path / "outside"
    path = tree.root / link
    if path.exists():
        path.rename(target)
    path.symlink_to(target)
    told = tree.problems(capsys)
    assert told and all(f"{link} is a link" in line for line in told)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_only_regular_files_are_read(tree, capsys):
    """Catches: waiting for ever on a pipe, reading a folder."""
    for file in ("optimizer.py", SST_DEV):
        (tree.root / file).unlink()
    os.mkfifo(tree.root / "optimizer.py")
    (tree.root / SST_DEV).mkdir()
    assert tree.problems(capsys) == ["optimizer.py:: not a regular file", f"{SST_DEV}:: not a regular file"]


STEP = "class AdamW:\n    def step(self):\n        "


@pytest.mark.parametrize("code, said", [
    (STEP + "raise NotImplementedError", "3: not done: AdamW.step still raises"),
    (STEP + "'''Later.'''\n        ...", "2: not done: AdamW.step is empty"),
    (STEP + "for p in self.all:\n            if p: continue\n            raise NotImplementedError('step')",
     "5: not done: AdamW.step still raises"),
    (STEP + "if self.x:\n            # TODO: yours\n            raise NotImplementedError\n        return 1",
     "5: not done: AdamW.step still raises"),
    ("class AdamW:\n    pass", "1: class AdamW has no method step"),
    ("class Adam:\n    def step(self): return 1", ": class AdamW is missing"),
    ("class AdamW:\n  def step(self: return 1", "2: not valid Python 3.10"),
    (STEP + "return 1\ntype X = int", "4: not valid Python 3.10"),
    ("x = 1\0", ""),
    ("(" * 10000, ""),
    (STEP + "return 'hf_" + "a1" * 17 + "'", "3: this looks like an access token"),
    ("import my_tools\n" + STEP + "return 1", "1: imports my_tools, which is neither packed nor part of the course"),
    ("from modules import mine\n" + STEP + "return 1", "1: imports modules.mine, which"),
    ("from models.mine import x\n" + STEP + "return 1", "1: imports models.mine, which"),
    (STEP + "import pandas as pd; return pd", "3: imports pandas, which"),
])
def test_a_source_file_with_one_defect(tree, capsys, code, said):
    """Catches: an unfinished hole, a renamed class or a leaked token handed in; a crash on bad code."""
    tree.write("optimizer.py", code)
    [told] = tree.problems(capsys)
    assert told.startswith(f"optimizer.py:{said}")


@pytest.mark.parametrize("code", [
    "import math, os.path, torch.nn.functional as F\nfrom sklearn.metrics import f1_score",
    "from config import GPT2Config\nfrom utils import *\nfrom models.base_gpt import GPTPreTrainedModel",
    "from modules.attention import CausalSelfAttention\nfrom models import gpt2\nimport einops",
])
def test_what_the_course_has_may_be_imported(tree, capsys, code):
    """Catches: an import of the starter's own modules told as one that will fail."""
    tree.write("optimizer.py", f"{code}\n{STEP}return 1")
    assert not [told for told in tree.problems(capsys) if "imports" in told]


def test_support_files_are_packed_and_checked(tree, capsys):
    """Catches: a config.py that the author brings along left behind, or packed with a leaked token."""
    tree.write("config.py", "class GPT2Config: pass\n")
    assert tree.problems(capsys) == []
    with zipfile.ZipFile(tree.zip) as packed:
        assert "config.py" in packed.namelist()
    tree.zip.unlink()
    tree.write("config.py", "import my_tools\n")
    assert any("config.py:1: imports my_tools" in told for told in tree.problems(capsys))


@pytest.mark.parametrize("body", [
    "return 1\n        raise NotImplementedError",
    "if self.sparse:\n            raise NotImplementedError('sparse gradients')\n        return 1",
    "if self:\n            return 1\n        else:\n            return 2\n        raise NotImplementedError",
    "try:\n            return f()\n        except KeyError:\n            raise NotImplementedError from None",
    "# TODO: tidy up\n        return 'raise NotImplementedError'",
])
def test_finished_code_is_not_called_unfinished(tree, capsys, body):
    """Catches: refusing a solution that kept the raise behind its code, or that refuses odd input itself."""
    tree.write("optimizer.py", f"{STEP}{body}\n")
    assert tree.problems(capsys) == []


def test_this_repository_is_finished(root):
    """Catches: a contract that our own solution does not meet, a hole left in it."""
    found = prepare_submit.inspect(root, parts=[])
    assert [str(problem) for problem in found.problems] == []


def test_advice_blocks_nothing(tree, capsys):
    """Catches: an odd result going unnoticed, or refused."""
    full, frozen = PARTS["full-model-sst"], PARTS["last-linear-layer-sst"]
    write_predictions(tree.root / full.predictions("test"), IDS, [3, 3, 3, 3])
    for part, labels in ((full, [0, 1, 0, 0]), (frozen, [1, 1, 1, 1])):
        write_predictions(tree.root / part.predictions("dev"), IDS, labels)
    copied = [PARTS[f"{mode}-cfimdb"].predictions("dev") for mode in MODES]
    tree.write(copied[1], (tree.root / copied[0]).read_bytes())
    os.utime(tree.root / PREDICTIONS[0], (10 ** 9, 10 ** 9))
    status, report = tree.run(capsys)
    told = [f"{advice['file']}: {advice['message']}" for advice in report["advice"]]
    assert status == 0
    for said in (
        f"{full.predictions('test')}: says 3 for every row",
        f"{full.predictions('dev')}: never says 2, 3, 4",
        f"{full.predictions('dev')}: dev accuracy 0.250, with GPT-2 (124M) 0.50 to 0.52 is usual",
        f"{full.predictions('dev')}: dev accuracy 0.250 is no better than last-linear-layer's 1.000",
        f"{frozen.predictions('dev')}: every dev row is right",
        f"{copied[1]}: the same predictions as {copied[0]}: a copy?",
        f"{PREDICTIONS[0]}: older than ",
    ):
        assert any(line.startswith(said) for line in told), said


@pytest.mark.parametrize("flag, value", [("id", "../x"), ("id", ""), ("out", "a.py"), ("out", "no/x.zip")])
def test_a_wrong_command_is_refused(tree, flag, value, monkeypatch):
    """Catches: a zip written over a source file or outside, and a traceback for a mistyped folder."""
    monkeypatch.chdir(tree.root)
    with pytest.raises(UserError, match=f"--{flag}"):
        prepare_submit.main([f"--{flag}", value], root=tree.root)


def test_the_id_names_the_zip_and_nothing_else(tree, capsys):
    """Catches: the student's name inside the zip, which is graded without it."""
    assert tree.run(capsys, "--id", "jdoe7")[0] == 0
    content = (tree.root / "submission-jdoe7.zip").read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert not any(b"jdoe7" in archive.read(file) for file in archive.namelist())


def test_it_runs_where_nothing_is_installed(root, tmp_path):
    """Catches: an import, anywhere behind it, that needs more than the standard library."""
    command = [sys.executable, "-S", root / "prepare_submit.py", "--parts", "--out", tmp_path / "x.zip"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        assert json.loads(archive.read("MANIFEST.json"))["torch"] is None


def test_commands_in_the_report_exist(root, tmp_path):
    """Catches: advice to run a script that is not there, or with flags that it does not have."""
    from finetuning.settings import Settings
    parser = cli.Parser()
    cli.add_arguments(parser, Settings)
    problems = prepare_submit.inspect(tmp_path, list(PARTS.values())).problems
    commands = {finding.fix for finding in problems if finding.fix}
    assert len(commands) == len(PARTS)
    for command in commands:
        setup, script, *flags = command.split()
        assert (root / setup).exists() and (root / script).exists()
        found = cli.from_arguments(Settings, parser.parse_args(flags))
        assert f"{found.fine_tune_mode}-{found.data[0]}" in PARTS
    assert (root / "data/download.py").exists()


def test_an_unfinished_part_can_be_handed_in(tmp_path, capsys):
    """Catches: a student with one hole who cannot hand in the rest; a broken file that goes with it."""
    tree = Tree(tmp_path)
    tree.write("optimizer.py", "class AdamW:\n    def step(self):\n        raise NotImplementedError\n")
    assert prepare_submit.main([], tmp_path) == 1
    assert "the same command with --unfinished" in capsys.readouterr().out
    assert prepare_submit.main(["--unfinished"], tmp_path) == 0
    out = capsys.readouterr().out
    assert "not done: AdamW.step still raises NotImplementedError" in out and "Wrote" in out
    tree.write("optimizer.py", "class AdamW:\n")
    assert prepare_submit.main(["--unfinished"], tmp_path) == 1
