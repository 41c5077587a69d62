"""The mistakes fit the solution, the committed page and table fit the mistakes, and each mistake meets its named test.

`./setup.sh -m staff.mutants matrix` runs all of it: every test, many seeds, the training loop.
"""

import ast
import re
from collections import Counter

import pytest

from staff.grader.case import CASES
from staff.mutants import loop, matrix, predictions
from staff.mutants.edit import ROOT, Moved, apply, edited
from staff.mutants.table import COMPONENT, MUTANTS, VARIANTS

LISTED = [*(f"M{number}" for number in range(1, 78)), *(f"V{number}" for number in range(1, 17))]


def test_every_number_of_the_course_s_list_is_there():
    """Catches: a mistake of the list that nobody has made."""
    ids = [*MUTANTS, *VARIANTS, *(mutant.id for mutant in (*loop.MUTANTS, *predictions.MUTANTS))]
    assert {re.match(r"[MV]\d+", id)[0] for id in ids} == set(LISTED)
    assert max(Counter(ids).values()) == 1


@pytest.mark.parametrize("id", COMPONENT)
def test_an_edit_gives_another_file_that_is_valid_python(id):
    """Catches: an edit whose text the solution no longer has, and one that only breaks the file."""
    change = MUTANTS.get(id) or VARIANTS[id]
    text = edited(change)[change.file].decode()
    assert text.encode() != edited()[change.file]
    ast.parse(text)


def test_edits_of_the_loop_fit():
    """Catches: the same, in the files of training and prediction; and a named test that is not there any more."""
    for mutant in loop.MUTANTS:
        ast.parse(apply((ROOT / mutant.file).read_text(encoding="utf-8"), mutant.edits, mutant.id))
        file, name = mutant.killer.split("::")
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), mutant.id


@pytest.mark.parametrize("text", ["other", "old and old"])
def test_an_edit_that_does_not_fit_says_whose_it_is(text):
    """Catches: an edit that changes nothing, or the wrong place, in silence."""
    with pytest.raises(Moved, match=r"M99.*times"):
        apply(text, (("old", "new"),), "M99")


def test_the_page_is_of_these_mistakes():
    """Catches: a page that was written before a mistake, its words or its test changed; a killer of another part."""
    kills = dict.fromkeys(MUTANTS)
    rows = re.findall(r"^\| (M\d+[a-z]?)\*? \| .* \| `(\w+)` \| ([\w, ]*) \|$",
                      matrix.PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    for id, killer, also in rows:
        kills[id] = [f"{COMPONENT[id]}.{name}" for name in (killer, *filter(None, also.split(", ")))]
    matrix.load_cases()
    assert None not in kills.values() and {name for names in kills.values() for name in names} <= set(CASES)
    assert matrix.PAGE.read_text(encoding="utf-8") == matrix.page(kills)


def test_each_mistake_is_noticed_by_its_test_and_each_variant_has_full_marks():
    """Catches: a graded test that has become too weak, or too strict; a stub that lets another file through."""
    _, wrong = matrix.check(quick=True)
    assert wrong == []
