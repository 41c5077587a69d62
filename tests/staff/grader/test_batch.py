"""Grading a class: which submissions, one result each, a run that was killed, the table and the page."""

import csv
import html.parser
import io
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from common.errors import UserError
from staff.grader import batch, canary
from staff.grader.__main__ import main
from staff.grader.batch import grade_all, is_done, replay, result, submissions, table
from staff.grader.build import pack, unfilled
from staff.grader.grade import declared
from staff.grader.page import page
from staff.grader.receipts import find_receipt
from staff.grader.sandbox import Reply
from submission import manifest
from tests.staff.grader import synthetic

SECRET = b"5" * 64


class Box:
    """Answers every request of the sandbox in the same way."""

    seconds, level, deadline = 10.0, "L0", None

    def __init__(self, reply):
        self.reply = reply

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run(self, files, request):
        return self.reply


NOT_DONE, WRONG = Reply(error="not implemented"), Reply(error="ValueError", message="<script>alert(1)</script>")


@pytest.fixture(scope="session")
def starter(root):
    """Files in which nothing is filled in."""
    return unfilled({file: (root / file).read_bytes() for file in manifest.SOURCES})


def test_which_submissions(tmp_path, starter):
    """Catches: an export of Gradescope (a folder each) or of a course page (a zip each) that is not found."""
    for name in ("b.zip", "a.zip", ".hidden.zip", "._a.zip", "grades.csv"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "submission_1" / "modules").mkdir(parents=True)
    (tmp_path / "__MACOSX").mkdir()
    assert [*submissions([tmp_path])] == ["a", "b", "submission_1"]
    (tmp_path / "submission_1" / "optimizer.py").write_bytes(b"")
    assert submissions([tmp_path / "submission_1"]) == {"submission_1": tmp_path / "submission_1"}
    assert [*submissions([tmp_path / "b.zip", tmp_path / "a.zip"])] == ["a", "b"]
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="have the same name"):
        submissions([tmp_path])
    with pytest.raises(UserError, match="no zip and no folder"):
        submissions([tmp_path / "__MACOSX"])


def rows_of(tmp_path, starter, replies):
    """Return name -> content of results.json, for submissions that answer with these replies (None: no zip)."""
    rows = {}
    for name, reply in replies.items():
        path = tmp_path / f"{name}.zip"
        path.write_bytes(pack(starter | {"optimizer.py": f"# {name}".encode()}) if reply else b"?")
        rows[name] = json.loads(result(tmp_path / "none", path, Box(reply), SECRET, None, declared(None)))
    return rows


def test_the_table(tmp_path, starter):
    """Catches: a formula in a cell, a column in another order, a component's sum that is not that of its tests."""
    rows = rows_of(tmp_path, starter, {"=cmd|'x'": NOT_DONE, "b,\x1b": WRONG, "no zip": None})
    rows["b,\x1b"]["tests"][0]["score"] = 2.5
    rows["b,\x1b"]["score"] = 2.5
    lines = [*csv.DictReader(io.StringIO(table(rows, declared(None))))]
    assert [line["submission"] for line in lines] == ["'=cmd|'x'", r"b,\x1b", "no zip"]
    assert [line["status"] for line in lines] == ["graded", "graded", "refused"]
    first = rows["b,\x1b"]["tests"][0]["extra_data"]["test"]
    assert lines[1]["score"] == lines[1][first] == lines[1][first.partition(".")[0]] == "2.5"
    assert [*lines[0]][-1] == "sha256" and [*lines[0]][-1 - len(declared(None)):-1] == [*declared(None)]


class Parser(html.parser.HTMLParser):
    """Collects the names of tags, and all values of attributes."""

    def __init__(self):
        super().__init__()
        self.tags, self.values = set(), []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.values += [value or "" for _, value in attributes]


def test_the_page_is_safe_and_stands_alone(tmp_path, starter):
    """Catches: a student's text that becomes a tag, a script, a link to another machine."""
    rows = rows_of(tmp_path, starter, {"a": WRONG, "b\"'>": WRONG, "<script>a": None, "c<img>": None})
    rows["a"]["tests"][0]["extra_data"]["mistake"] = "<b onclick=x>"
    content, parser = page(rows), Parser()
    parser.feed(content)
    assert not parser.tags & {"script", "img", "b", "link", "iframe"} and "http" not in content
    assert not any("url(" in value or "//" in value for value in parser.values)
    for text in ("&lt;script&gt;a", "c&lt;img&gt;", "&lt;b onclick=x&gt;", "prefers-color-scheme: dark"):
        assert text in content


def passing(rows, which):
    """Let each submission (name) pass the tests at some places, and no others."""
    for name, row in rows.items():
        for index, test in enumerate(row["tests"]):
            test["status"] = "passed" if index in which[name] else "failed"
            test["score"] = test["max_score"] if index in which[name] else 0.0
            test["extra_data"] |= {"status": test["status"], "mistake": ""}
        row["score"] = sum(test["score"] for test in row["tests"])


def test_the_statistics(tmp_path, starter):
    """Catches: a share or a correlation of the wrong tests, a mistake that is counted for those who passed."""
    rows = rows_of(tmp_path, starter, dict.fromkeys("abcd", NOT_DONE))
    passing(rows, {"a": (0, 1, 2), "b": (0, 1), "c": (0,), "d": ()})
    for name in "cd":
        rows[name]["tests"][1]["extra_data"]["mistake"] = "no <scale>"
    shown = page(rows)
    lines = [line for line in shown.splitlines() if "n discrimination" in line]
    numbers = [re.search(r">([\d.]+)</td>", line)[1] for line in lines]
    assert numbers[-3:] == ["1.3", "1.2", "1.1"] and len(numbers) == len(rows["a"]["tests"])  # the hardest come first
    third, second, first = lines[-3:]
    assert ">75%<" in first and ">50%<" in second and ">25%<" in third and ">0%<" in lines[0]
    assert "2 &times; no &lt;scale&gt;" in second and "no &lt;scale" not in first
    points = [test["max_score"] for test in rows["a"]["tests"]]
    others = [points[0] + points[2], points[0], points[0], 0]  # beside the second test
    mean = sum(others) / 4
    want = (sum(others[:2]) / 2 - mean) / (sum((value - mean) ** 2 for value in others) / 4) ** 0.5
    assert f"{want:.2f}</td>" in second  # point-biserial, half of them passed
    assert "The median is 4.5 of" in shown and "all have 0 to 7" in shown  # 3 + 3 + 1 points at most


def test_what_an_instructor_looks_at_first(tmp_path, starter):
    """Catches: a result that is no verdict among the class's points; copies and odd tests that nobody hears of."""
    rows = rows_of(tmp_path, starter, dict.fromkeys("abcdef", NOT_DONE) | {"x": None})
    passing({name: rows[name] for name in "abcdef"},  # the second test is passed by the worse half
            {"a": (0, 2, 3), "b": (0, 2, 3), "c": (0, 2, 3), "d": (1,), "e": (1,), "f": (1,)})
    rows["b"]["extra_data"]["receipt"]["submission"] = rows["a"]["extra_data"]["receipt"]["submission"]
    rows["f"]["tests"][5]["extra_data"]["status"] = "grader error"
    first = page(rows).partition("<h2>Mistakes</h2>")[0]
    assert "7 submissions, 5 graded" in first
    places = [first.index(words) for words in (
        "<li>f: its results/*.json says why", "<li>x: The submission could not be read: not a zip", "<li>a, b</li>",
        "<li>1.2 Six steps: the two running means, and their correction: 40% pass, discrimination -1.00</li>",
        "nobody passes</li>", "more, in the table below")]
    assert places == sorted(places) and "<li>1.1 " not in first

    passing(rows := {name: rows[name] for name in "ac"}, {"a": range(99), "c": range(99)})
    assert "Nothing: all were graded" in page(rows) and "everybody passes every test" in page(rows)


def test_mistakes_of_the_class(tmp_path, starter):
    """Catches: a submission that counts once for each test it fails; one of two mistakes that is not counted."""
    rows = rows_of(tmp_path, starter, dict.fromkeys("abc", NOT_DONE))
    passing(rows, {"a": range(3, 99), "b": range(2, 99), "c": range(1, 99)})
    for name, mistake in (("a", "no scale"), ("b", "no scale; and <ascent>"), ("c", "")):
        for test in rows[name]["tests"]:
            test["extra_data"]["mistake"] = mistake if test["status"] == "failed" else ""
    shown = page(rows).partition("<h2>Mistakes</h2>")[2].partition("</section>")[0]
    found = re.findall(r'<td class="n">(\d+)</td>.*<td class="part">optimizer</td><td class="text">(.*)</td>', shown)
    assert sorted(found) == [("1", "&lt;ascent&gt;"), ("1", "no known mistake"), ("2", "no scale")]
    assert found[0] == ("2", "no scale")


def test_a_page_without_a_class():
    """Catches: a division by zero, or a median of nothing."""
    assert "0 submissions" in page({})


def test_when_a_result_is_kept(tmp_path, starter):
    """Catches: a result of another submission, secret or grader that is taken for this one; an error that stays."""
    file, path = tmp_path / "a.json", tmp_path / "a.zip"
    path.write_bytes(pack(starter))
    assert not is_done(file, path, SECRET, None)
    content = result(file, path, Box(NOT_DONE), SECRET, None, declared(None))
    file.write_bytes(content)
    assert is_done(file, path, SECRET, None)
    assert not is_done(file, path, b"6" * 64, None)
    file.write_bytes(content[:-20])
    assert not is_done(file, path, SECRET, None)
    changed = json.loads(content)
    changed["extra_data"]["receipt"]["grader"] = "another"
    file.write_text(json.dumps(changed))
    assert not is_done(file, path, SECRET, None)
    changed = json.loads(content)
    changed["tests"][3]["extra_data"]["status"] = "grader error"
    file.write_text(json.dumps(changed))
    assert not is_done(file, path, SECRET, None)
    file.write_bytes(content)
    path.write_bytes(pack(starter | {"optimizer.py": b""}))
    assert not is_done(file, path, SECRET, None)


def test_a_regrade_says_what_changed_and_why(tmp_path, starter):
    """Catches: a score that moved in silence."""
    file, path = tmp_path / "a.json", tmp_path / "a.zip"
    path.write_bytes(pack(starter))
    file.write_bytes(result(file, path, Box(NOT_DONE), SECRET, None, declared(None)))
    said = json.loads(result(file, path, Box(WRONG), b"6" * 64, None, declared(None)))["output"]
    assert "tests changed their verdict; the secret changed" in said
    assert "not implemented -> failed" in said


def test_replay(tmp_path, starter, monkeypatch, capsys):
    """Catches: another verdict that passes for the same one; a receipt of another submission or secret."""
    path = tmp_path / "a.zip"
    path.write_bytes(pack(starter))
    receipt = find_receipt(json.loads(result(tmp_path / "none", path, Box(NOT_DONE), SECRET, None, declared(None))))
    monkeypatch.setattr(batch, "Sandbox", lambda **_: Box(NOT_DONE))
    assert replay(receipt, path, SECRET, None) == receipt

    (tmp_path / "secret").write_bytes(SECRET)
    name = next(iter(receipt["tests"]))
    for change, status, said in (
            ({}, 0, "The same verdict, test by test.\n"),
            ({"torch": "1.0"}, 0, "The verdict is the same, though this differs: PyTorch's version\n"),
            ({"tests": receipt["tests"] | {name: "passed"}, "torch": "1.0"}, 1,
             f"1 test changed its verdict; PyTorch's version changed\n  {name}: passed -> not implemented\n")):
        (tmp_path / "receipt").write_text(json.dumps(receipt | change))
        words = ["replay", tmp_path / "receipt", path, "--secret", tmp_path / "secret"]
        assert main([str(word) for word in words]) == status and capsys.readouterr().out == said
    with pytest.raises(UserError, match="not the secret of this receipt"):
        replay(receipt, path, b"6" * 64, None)
    path.write_bytes(pack(starter | {"optimizer.py": b""}))
    with pytest.raises(UserError, match="not the submission of this receipt"):
        replay(receipt, path, SECRET, None)


def test_a_canary_that_dies_stops_everything(tmp_path, starter, monkeypatch):
    """Catches: a class that is graded in a sandbox that does not hold."""
    (tmp_path / "a.zip").write_bytes(pack(starter))

    def fail(box):
        raise RuntimeError("an attack won")

    monkeypatch.setattr(batch, "Sandbox", lambda **_: Box(NOT_DONE))
    monkeypatch.setattr(canary, "check", fail)
    with pytest.raises(RuntimeError):
        grade_all([tmp_path / "a.zip"], tmp_path / "out", SECRET, None, 1, "L0")
    assert not [*(tmp_path / "out" / "results").iterdir()]


def dies_on_bad(connection, index, folder, secret, labels):
    """Stand in for batch.work: end the process at the submission "bad", and the first time at "once"."""
    connection.send(batch.READY)
    while task := connection.recv():
        name = task[0]
        if name == "bad" or (name == "once" and not (folder / "once").exists()):
            (folder / "once").touch()
            os._exit(1)
        (folder / f"{name}.json").write_text("graded")
        connection.send(batch.READY)


def cannot_start(connection, index, folder, secret, labels):
    """Stand in for batch.work: say why it cannot begin."""
    connection.send("no users are left")


def test_a_process_that_dies_costs_nobody_else(tmp_path, monkeypatch):
    """Catches: a class that stops, or waits for ever, because one process was killed; a submission that is lost."""
    fork = multiprocessing.get_context("fork")  # for functions of a test
    monkeypatch.setattr(batch.multiprocessing, "get_context", lambda _: fork)
    monkeypatch.setattr(batch, "work", dies_on_bad)
    todo = [(name, tmp_path) for name in ("a", "bad", "b", "once", "c")]
    batch.run_workers(todo, tmp_path, SECRET, None, 2)
    assert [(tmp_path / f"{name}.json").read_text() for name in ("a", "b", "once", "c")] == ["graded"] * 4
    found = json.loads((tmp_path / "bad.json").read_bytes())
    assert batch.status_of(found) == "grader error" and found["output"].startswith("GRADER ERROR")
    assert {test["extra_data"]["test"] for test in found["tests"]} == {*declared(None)}

    monkeypatch.setattr(batch, "work", cannot_start)
    with pytest.raises(UserError, match="no users are left"):
        batch.run_workers(todo, tmp_path, SECRET, None, 2)
    assert multiprocessing.active_children() == []


def test_a_synthetic_class():
    """Catches: another class under the figures of docs/grading.md; two submissions of one name."""
    names, contents = zip(*synthetic.submissions(), strict=True)
    pairs = sum("-" in name for name in names)
    assert (len(names), sum(name[0] == "V" for name in names), pairs) == (200, 40, 60)
    assert len({*names}) == 200 and len({*contents}) > 190  # a variant may be what another one is


def test_killed_and_resumed(tmp_path, starter, root, monkeypatch, capsys):
    """Catches: a half-written result, one that is graded twice or lost, a table that depends on the order of work."""
    (tmp_path / "class").mkdir()
    for number in range(3):
        files = {"classifier.py": starter["classifier.py"] + f"# {number}\n".encode()}
        (tmp_path / "class" / f"{number}.zip").write_bytes(pack(files))
    (tmp_path / "secret").write_bytes(SECRET)
    command = [sys.executable, "-m", "staff.grader", "grade", tmp_path / "class", "--secret", tmp_path / "secret",
               "--workers", "2", "--out", tmp_path / "killed"]
    first = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE)
    done, end = tmp_path / "killed" / "results", time.monotonic() + 200
    while not (done.is_dir() and len([*done.glob("*.json")]) >= 1):
        assert time.monotonic() < end and first.poll() is None
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert not (tmp_path / "killed" / "grades.csv").exists()

    monkeypatch.setattr(canary, "check", lambda box: None)  # it has passed above
    for name in ("killed", "whole"):
        assert grade_all([tmp_path / "class"], tmp_path / name, SECRET, None, 2, "L0") == 0
        assert ("of 3 are graded already" in capsys.readouterr().out) == (name == "killed")
    for file in ("grades.csv", "class.html"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    with (tmp_path / "whole" / "grades.csv").open() as file:
        assert {line["status"] for line in csv.DictReader(file)} == {"graded"}
