"""The bug lab's grade: bugs exposed, less right classes blamed."""

import pytest

from staff.grader import buglab
from staff.grader.buglab import PartGrade, ask, grade
from staff.mutants.edit import edited
from staff.mutants.table import MUTANTS, VARIANTS


@pytest.mark.parametrize("source, said", [
    ("return True", True),
    ("return False", False),
    ("return 1", "TypeError: expose_attention returns int"),
    ("import os; os._exit(0)", "no reply"),
    ("raise KeyError('x')", "KeyError"),
])
def test_what_a_function_may_say(box, source, said):
    """Catches: a kill for a function that crashes, ends the process or returns something that is merely true."""
    exposes = f"def expose_attention(kind):\n    {source}\n".encode()
    answer = ask("attention", exposes, edited(), box)
    assert answer is said if isinstance(said, bool) else answer.startswith(said)


def test_a_good_function_tells_bugs_from_right_variants(box, root):
    """Catches: mutants that are not what is imported, variants that break, a grade that does not look."""
    exposes = (root / "tests/buglab/exposes.py").read_bytes()
    assert ask("attention", exposes, edited(MUTANTS["M27"]), box) is True
    assert ask("layer", exposes, edited(MUTANTS["M47b"]), box) is True
    assert ask("attention", exposes, edited(VARIANTS["V7a"]), box) is False
    assert ask("head", exposes, edited(), box) is False


def test_the_grade_of_one_who_blames_everything_is_zero(box, monkeypatch):
    """Catches: a grade for `return True`; a part without a function that counts as spared."""
    monkeypatch.setattr(buglab, "MUTANTS", {id: MUTANTS[id] for id in ("M27", "M29")})
    monkeypatch.setattr(buglab, "VARIANTS", {})
    grades = {found.part: found for found in grade(b"def expose_attention(kind):\n    return True\n", box)
              if found.bugs}
    assert grades["attention"].exposed == ["M27", "M29"] and grades["attention"].blamed == ["V0"]
    assert grades["attention"].score == 0.0 and not grades["attention"].missing


def test_the_score_of_a_part():
    """Catches: false alarms that cost nothing, or more than everything."""
    assert PartGrade("layer", bugs=4, right=2, exposed=["a", "b", "c"]).score == 0.75
    assert PartGrade("layer", bugs=4, right=2, exposed=["a", "b", "c"], blamed=["V1"]).score == 0.25
    assert PartGrade("layer", bugs=4, right=2, exposed=["a"], blamed=["V1"]).score == 0.0
