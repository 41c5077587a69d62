"""The bug lab, as its student meets it."""

import functools
import importlib
import re
import sys

import pytest

from buglab import lab
from buglab.__main__ import main
from buglab.bugs import BUGS
from common.errors import UserError

EXPOSES = "tests/buglab/exposes.py"
own_class = functools.cache(lab.own_class)  # it runs the part's checks each time


@pytest.fixture
def run(root, monkeypatch, capsys, tmp_path):
    """Run a command in an empty folder; what it returns, and what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["buglab", *words])
        status = main()
        out = capsys.readouterr().out
        assert all(len(line) <= 79 for line in out.splitlines())
        return status, out
    return run


@pytest.mark.parametrize("number", range(1, len(BUGS) + 1))
def test_each_bug_is_one_and_can_be_exposed(number, root):
    """Catches: a bug that changes nothing, or that breaks the class so that every function exposes it."""
    bug = BUGS[number - 1]
    expose = lab.read_exposes(root / EXPOSES)[bug.part]
    assert lab.try_bug(bug, own_class(bug.part), expose) == (True, f"exposed: {bug.title}")


@pytest.mark.parametrize("number", range(1, len(BUGS) + 1))
def test_the_checks_see_each_bug(number):
    """Catches: a bug that our own checks do not see, which a student could not tell from a right class."""
    bug = BUGS[number - 1]
    checks = importlib.import_module(f"sanity.{bug.part}")
    kind = bug.put_into(own_class(bug.part))
    assert not all(lab.passes(check, kind) for check in (checks.PARTS if bug.part == "model" else checks.CHECKS))


def test_twelve_bugs_over_all_parts():
    """Catches: a part without a bug to practise on."""
    assert len(BUGS) == 12 and {bug.part for bug in BUGS} == set(lab.PARTS)


@pytest.mark.parametrize("expose, said", [
    (lambda kind: True, "a false alarm"),
    (lambda kind: False, "not exposed"),
    (lambda kind: 1, "it returns int, not True or False"),
    (lambda kind: 1 / 0, "ZeroDivisionError"),
])
def test_a_function_that_looks_at_nothing_gets_nothing(expose, said):
    """Catches: a kill for a function that always says yes, that crashes, or that says something else."""
    exposed, line = lab.try_bug(BUGS[0], own_class("optimizer"), expose)
    assert not exposed and said in line


def test_a_closed_part_says_what_opens_it(monkeypatch):
    """Catches: bugs shown to a student whose own part is not right yet."""
    monkeypatch.setattr("optimizer.AdamW.step", lambda self: None)
    with pytest.raises(UserError, match=r"optimizer comes first: .* --only optimizer passes"):
        lab.own_class("optimizer")


def test_the_commands(root, run, tmp_path):
    """Catches: a wrong exit status, a bug named before it is found, a template that does not say what to write."""
    status, out = run("try", "4")
    assert status == 1 and "def expose_attention(CausalSelfAttention):" in out and "scaled" not in out
    status, out = run("grade", str(root / EXPOSES))
    assert (status, out.splitlines()[-1]) == (0, "12 of 12 exposed")
    (tmp_path / "exposes.py").write_text("def expose_layer(kind):\n    return True\n")
    status, out = run("grade", "exposes.py")
    assert (status, out.splitlines()[-1]) == (1, "0 of 12 exposed, 2 lost to false alarms")
    status, out = run("list")
    assert status == 0 and out.count("open") == 5


@pytest.mark.parametrize("words, text, said", [
    (("try", "13"), "", "there are bugs 1 to 12, no 13"),
    (("try", "4"), "import nothing_there\n", "exposes.py cannot be imported: "),
    (("try", "4"), "x = 1\n", "exposes.py has none of the functions expose_optimizer, "),
    (("grade", "nowhere.py"), "", "no file 'nowhere.py'"),
])
def test_a_mistake_is_one_line(run, tmp_path, words, text, said):
    """Catches: a traceback for a file that is missing, broken or empty."""
    if text:
        (tmp_path / "exposes.py").write_text(text)
    with pytest.raises(UserError, match=re.escape(said)):
        run(*words)
