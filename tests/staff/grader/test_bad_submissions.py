"""Submissions that are no submissions, files that are no Python, code that does harm: each is graded as far as it goes.

The way of a submission from the zip to results.json, through the sandbox. What intake.py refuses in detail is tested in
test_intake.py, what code may try in test_attacks.py.
"""

import io
import json
import random
import zipfile

import numpy as np
import pytest

from staff.grader.batch import result
from staff.grader.case import CASES, generator
from staff.grader.grade import declared
from staff.grader.intake import take
from staff.grader.receipts import seed_of
from tests.staff.grader.attacks.all import ATTACKS
from tests.staff.grader.attacks.attack import ROOT, TARGET, submission

SECRET = b"9" * 64
GOOD = {name: (ROOT / name).read_bytes() for name in ("optimizer.py", TARGET)}
TESTS = ("optimizer.first_step", "attention.known_answer", "attention.causality")


@pytest.fixture(scope="module")
def points():
    """Three of the declared tests: one of optimizer.py, which stays right, two of the file that does harm."""
    entries = declared(None)
    return {name: entries[name] for name in TESTS}


def packed(files, **settings):
    """Return a zip of name -> content."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def link():
    """Return a zip in which modules/attention.py is a link to /etc/passwd."""
    entry = zipfile.ZipInfo(TARGET)
    entry.external_attr = 0o120777 << 16
    return packed({"optimizer.py": GOOD["optimizer.py"], entry: "/etc/passwd"})


def encrypted():
    """Return a zip whose entries say that they are encrypted."""
    content = bytearray(packed(GOOD))
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = content.find(mark)
        while at >= 0:
            content[at + offset] |= 1
            at = content.find(mark, at + 1)
    return bytes(content)


REFUSED = {
    "a text": lambda: b"I could not zip it, sorry",
    "nothing": lambda: b"",
    "half a zip": lambda: packed(GOOD)[:-100],
    "a bomb": lambda: packed({**GOOD, TARGET: b" " * 300_000}),
    "a bomb of names": lambda: packed(GOOD | {f"{number}.txt": b"" for number in range(10_000)}),
    "a name that leaves its folder": lambda: packed(GOOD | {"../../autograder/results/results.json": b"{}"}),
    "an absolute name": lambda: packed(GOOD | {"/autograder/results/results.json": b"{}"}),
    "a backslash": lambda: packed(GOOD | {"..\\..\\x.py": b""}),
    "names that differ only in case": lambda: packed(GOOD | {"Modules/Attention.py": b""}),
    "a link": link,
    "encrypted": encrypted,
    "a zip in a zip": lambda: packed({"work.zip": packed(GOOD)}),
    "none of the files": lambda: packed({"notebook.ipynb": b"{}"}),
}


def graded(content, tmp_path, box, points):
    """Grade a zip; return results.json, held to the promises that hold for any submission."""
    path = tmp_path / "one.zip"
    path.write_bytes(content)
    text = result(tmp_path / "one.json", path, box, SECRET, None, points)
    found = json.loads(text)
    assert len(text) < 100_000 and "Traceback" not in visible(found)
    assert [test["extra_data"]["test"] for test in found["tests"]] == [*points]
    assert all(test["status"] in ("passed", "failed") and 0 <= test["score"] <= test["max_score"] and test["output"]
               for test in found["tests"])
    assert found["score"] == sum(test["score"] for test in found["tests"])
    return found


def visible(found):
    """Return all that a student sees."""
    return json.dumps([found["output"], [{**test, "extra_data": None} for test in found["tests"]]])


def passed(found):
    """Return which tests passed."""
    return [test["status"] == "passed" for test in found["tests"]]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(tmp_path, box, points, name):
    """Catches: a crash, a half-graded submission, a reason of many lines or of none, tests that are not listed."""
    found = graded(REFUSED[name](), tmp_path, box, points)
    assert passed(found) == [False] * 3
    reasons = [line for line in found["output"].splitlines() if line.startswith("The submission could not be read: ")]
    assert len(reasons) == 1 and 50 < len(reasons[0]) < 300


@pytest.mark.parametrize("name, content", [
    ("UTF-16", GOOD[TARGET].decode().encode("utf-16")),
    ("NULs", GOOD[TARGET] + b"\0\0\0"),
    ("not Python", b"def forward(self:\n"),
    ("a picture", b"\x89PNG\r\n\x1a\n\xff\xfe\x00\x01"),
    ("brackets that take the parser's stack", b"(" * 100_000),
    ("digits that take for ever", b"x = " + bytes(random.Random(0).choices(b"123456789", k=400_000))),
    ("nothing", b""),
    ("a page of a browser", b"<!DOCTYPE html><script>alert(1)</script>"),
])
def test_a_file_that_is_no_python(tmp_path, box, points, name, content):
    """Catches: one bad file that costs the points of another; a verdict without a reason."""
    found = graded(packed(GOOD | {TARGET: content}), tmp_path, box, points)
    assert passed(found) == [True, False, False]
    assert all(len(test["output"].splitlines()) <= 4 for test in found["tests"])


HARM = ("a loop that does not end", "a fork bomb of 200", "3 GB on the disk", "3 GB of memory", "print a gigabyte",
        "close descriptors 0 to 255", "kill its parent", "a million files", "stop its parent", "a tree of forks")
QUICK = ("a loop that does not end", "close descriptors 0 to 255", "print a gigabyte", "kill its parent")


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in HARM])
def test_code_that_does_harm(tmp_path, box, points, name, monkeypatch):
    """Catches: harm that costs other files their points, or the grader its results.json; a failure without words."""
    monkeypatch.setattr(box, "seconds", 4.0)
    found = graded(packed(GOOD | submission(ATTACKS[name], "/nowhere")), tmp_path, box, points)
    assert passed(found)[:2] == [True, False]
    assert {test["extra_data"]["status"] for test in found["tests"]} <= {"passed", "failed"}  # and no grader error


LEAK = '''
import atexit, sys
def words(x):
    return " ".join(f"{v:.4f}" for v in x.flatten()[:4])
class Leaky(CausalSelfAttention):
    def forward(self, x, mask):
        text = words(x)
        print(text, "<script>alert(1)</script>", "\\x1b[31m", flush=True)
        HOW
CausalSelfAttention = Leaky
'''
WAYS = {
    "its message": "raise ValueError('<b>' + text + '</b>\\x00\\x1b[2J')",
    "its type": "raise type('E_' + text.replace('.', '_').replace(' ', '_').replace('-', 'm'), (Exception,), {})",
    "its place": "exec(compile('raise NotImplementedError', __file__ + text, 'exec'))",
    "not implemented": "raise NotImplementedError(text)",
    "its shape": "return x[:, : int(abs(x[0, 0, 0]) * 10) % 5]",
    "its numbers": "return x",
}


@pytest.mark.parametrize("way", WAYS)
def test_what_attackers_say_is_shown_as_text(tmp_path, box, points, way):
    """Catches: hidden inputs in what a student sees, by whatever the code says or raises; HTML; control characters."""
    code = GOOD[TARGET] + LEAK.replace("HOW", WAYS[way]).encode()
    content = packed(GOOD | {TARGET: code})
    found = graded(content, tmp_path, box, points)
    seed = seed_of(SECRET, take(tmp_path / "one.zip").sha256)
    hidden = [f"{value:.4f}" for name in TESTS[1:]
              for value in np.asarray(next(CASES[name].function(generator(seed, name))).inputs["x"]).flatten()[:4]]

    # Staff see it, so it was said; students do not.
    assert passed(found)[:2] == [True, False]
    for number in hidden:
        assert number in json.dumps(found["tests"])
        for form in (number, number.replace(".", "_").replace("-", "m")):
            assert form not in visible(found)
    assert {found["output_format"], *(test["output_format"] for test in found["tests"])} == {"text"}
    texts = [found["output"], *(test["output"] for test in found["tests"])]
    assert all(letter.isprintable() or letter == "\n" for text in texts for letter in text)
    assert "<script>" not in visible(found)
