"""Diagnoses: what is named, what is not, and that the committed table is of this solution and these tests."""

import json

import numpy as np
import pytest

from staff.grader import diagnosis
from staff.grader.case import CASES
from staff.grader.diagnosis import PUBLIC, Diagnosis, Known, Table, Trace
from staff.grader.grade import run_case
from staff.grader.sandbox import Reply
from staff.mutants import accuracy, replies
from staff.mutants.edit import edited
from staff.mutants.running import cases_of
from staff.mutants.table import COMPONENT, MUTANTS, ROOMS, VARIANTS


def test_the_table_is_not_stale():
    """Catches: a change of the solution, a mistake or a test after the table was written."""
    wanted = {component: replies.key(component) for component in ROOMS}
    assert diagnosis.read_table().keys == wanted, "run ./setup.sh -m staff.mutants replies, then accuracy"


def test_the_table_is_small_and_has_no_pickle():
    """Catches: a table that makes the repository heavy, or needs allow_pickle."""
    assert diagnosis.TABLE.stat().st_size < 1_000_000
    with np.load(diagnosis.TABLE, allow_pickle=False) as stored:
        assert all(array.dtype.kind in "biufU" for array in dict(stored).values())


def test_the_published_accuracy_is_of_this_table():
    """Catches: figures that were measured before the table changed; a mistake by others that nobody has looked up."""
    assert f"(of the table {accuracy.version(diagnosis.read_table())})" in accuracy.PAGE.read_text(encoding="utf-8")
    names = [mistake["name"] for mistake in json.loads((accuracy.CONTRACT / "mistakes.json").read_text())]
    assert sorted(names) == sorted(accuracy.BY_OTHERS)
    assert {*" ".join(accuracy.BY_OTHERS.values()).split()} <= {*MUTANTS}


def known(**entries):
    """Return a table of entries: "A" or "A and B" -> {test: number replied}, where a test that is missing passes."""
    cases = ["part.one", "part.two", "part.three"]
    shape = len(entries), len(cases)
    failed, sums = np.zeros(shape, bool), np.zeros((*shape, diagnosis.NUMBERS), np.float32)
    for row, numbers in enumerate(entries.values()):
        for name, number in numbers.items():
            column = cases.index(f"part.{name}")
            failed[row, column], sums[row, column] = True, number
    titles = np.array([(*name.split("_and_"), "")[:2] for name in entries])
    zeros = np.zeros(shape, np.uint32)
    return Table({}, {"part": Known(cases, titles, failed, zeros, zeros, sums)})


def replied(number):
    """Return the trace of a wrong reply."""
    return Trace(False, sums=np.full(diagnosis.NUMBERS, number, np.float32))


TABLE = known(A={"one": 1.0}, B={"two": 2.0}, C={"one": 3.0, "two": 3.0}, D={"one": 4.0}, E={"one": 4.0},
              A_and_C={"one": 5.0, "two": 3.0})


@pytest.mark.parametrize("numbers, said", [
    ({}, ""),
    ({"one": 1.0}, "A"),
    ({"one": 1.0 + 4e-6}, "A"),  # rounding
    ({"one": 1.001}, "no known mistake"),
    ({"two": 1.0}, "no known mistake"),
    ({"one": 1.0, "two": 2.0}, "A; and B"),  # not in the table: each explains a part
    ({"one": 5.0, "two": 3.0}, "A; and C"),
    ({"one": 4.0}, "one of these: D; or E"),
    ({"one": 1.0, "three": 7.0}, "A; and something that is no known mistake"),
    ({"one": 3.0}, "no known mistake"),  # C would fail the second test, too
])
def test_what_is_said(numbers, said):
    """Catches: an answer where nothing fits, silence where something does, and a choice that is not shown."""
    traces = {f"part.{name}": replied(numbers[name]) if name in numbers else Trace(True)
              for name in ("one", "two", "three")}
    assert str(TABLE.find("part", traces)) == said


def test_tests_that_gave_no_reply_are_left_out():
    """Catches: a method that is not written yet, or a test that did not end, which hides the mistake in another."""
    traces = {"part.one": replied(3.0), "part.three": Trace(True)}
    assert str(TABLE.find("part", traces)) == "C"
    for error in ("not implemented", "time", "no reply"):
        assert not diagnosis.told(Reply(error=error))


def test_more_than_three_that_fit_are_no_answer():
    """Catches: a list of guesses."""
    table = known(**{letter: {"one": 1.0} for letter in "ABCD"})
    traces = {"part.one": replied(1.0), "part.two": Trace(True)}
    assert table.find("part", traces) == Diagnosis(rest=True)


@pytest.mark.parametrize("id, variant, said", [
    ("M13a", "V5", "weight decay is missing"),
    ("M16b", "V2", "a parameter without a gradient is decayed"),
    ("M29", "V9a", "there is no causal mask"),
    ("M47b", "V11a", "the second residual connection is missing"),
    ("M50c", "V10", "the activation is ReLU, and must be GELU"),
    ("M58a", "V7h", "last_token is the last position, padding or not"),
    ("M64", "V15e", "dropout is applied to the logits"),
])
def test_a_mistake_in_a_right_variant_is_named(box, id, variant, said):
    """Catches: a diagnosis that only knows the solution's own words; through the sandbox, as for a student."""
    assert diagnosed(box, COMPONENT[id], edited(VARIANTS[variant], MUTANTS[id])) == said


@pytest.mark.parametrize("component", ROOMS)
def test_the_solution_is_met_with_silence(box, component):
    """Catches: a mistake that is named where there is none."""
    assert diagnosed(box, component, edited()) == ""


def diagnosed(box, component, files):
    """Return what is said of a component's file."""
    outcomes = {name: run_case(CASES[name], files, box, PUBLIC) for name in cases_of(component)}
    return diagnosis.diagnose(component, {name: outcome.reply for name, outcome in outcomes.items()})


def test_a_diagnosis_needs_only_what_a_reply_holds():
    """Catches: a reply of other arrays than known ones (names, types, shapes, not finite) that ends the grader."""
    case = cases_of("model")[0]
    for arrays in ({}, {"y": np.array([np.nan, np.inf])}, {"y": np.array(["text"])}, {"y": np.zeros((0, 3))}):
        reply = Reply(arrays)
        assert not diagnosis.trace(CASES[case], reply).passed
        assert diagnosis.diagnose("model", {case: reply}) == "no known mistake"
