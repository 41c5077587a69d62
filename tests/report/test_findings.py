"""Everything together: on ordinary, tiny and odd groups; provenance; and comparisons of groups."""

import dataclasses
import json

import numpy as np
import pytest

from report import findings
from report.findings import compare, in_turns, of, provenance
from report.read import load_groups, load_run
from tests.report.folders import change, change_line, group_of, lines, logits_for, write, write_run


def finite(value, where="findings"):
    """Check that no number, however deep, is NaN, infinite or NumPy's, and that every interval holds its value."""
    if dataclasses.is_dataclass(value):
        if type(value).__name__ == "Estimate":
            assert value.low <= value.value <= value.high, where
        for field in dataclasses.fields(value):
            finite(getattr(value, field.name), f"{where}.{field.name}")
    elif isinstance(value, tuple | list):
        for place, each in enumerate(value):
            finite(each, f"{where}[{place}]")
    elif isinstance(value, float | np.ndarray) and np.asarray(value).dtype.kind == "f":
        assert np.isfinite(value).all(), where
        assert not isinstance(value, np.floating), f"{where} is NumPy's: a page prints np.float64(...)"


def random_group(path, texts, labels=2, seeds=1, epochs=3, **more):
    """Seeds whose answers are a little better than chance."""
    rng = np.random.default_rng(texts)
    truth = rng.integers(0, labels, texts)
    for seed in range(1, seeds + 1):
        logits = rng.normal(size=(epochs, texts, labels)) + logits_for(truth, labels, 0.7)
        write_run(path / f"seed-{seed}", logits, truth, seed=seed, **more)
    return load_groups([path])[0]


@pytest.mark.parametrize("texts, labels, seeds, epochs", [(1, 2, 1, 1), (2, 2, 1, 2), (3, 5, 2, 4), (24, 2, 1, 1),
                                                          (30, 2, 3, 3), (300, 5, 3, 4), (120, 40, 2, 2)])
def test_any_size(tmp_path, texts, labels, seeds, epochs):
    """Catches NaN, an interval without its value, and NumPy scalars, from one text to some hundred."""
    finite(of(random_group(tmp_path, texts, labels, seeds, epochs), explain=0))


@pytest.mark.parametrize("answers", [[0] * 40, [1] * 40, [0, 1] * 20, [1, 0] * 20])
def test_all_alike(tmp_path, answers):
    """Catches a division by zero where all is right, all is wrong, or all answers are the same."""
    for labels in ([0, 1] * 20, [0] * 40):
        path = tmp_path / str(sum(labels))
        finite(of(group_of(path, np.array([answers, answers]), labels=np.array(labels)), explain=0))


def test_a_page_made_twice_says_the_same(tmp_path):
    """Catches a draw at random that is not seeded."""
    group = random_group(tmp_path, 60, 3, 2)
    assert repr(of(group, explain=0)) == repr(of(group, explain=0))


def test_sections_are_of_the_same_group(tmp_path):
    """Catches sections that disagree about the accuracy."""
    group = random_group(tmp_path, 100, 3, 2)
    found = of(group, explain=0)
    right = np.mean([run.best_logits.argmax(axis=1) == group.dev.labels for run in group.runs])
    assert found.verdict.accuracy.value == pytest.approx(right)
    assert found.slices.overall == found.calibration.accuracy == pytest.approx(right)
    assert np.trace(found.classes.confusion) / 100 == pytest.approx(right)
    assert (found.name, found.task, found.mode, found.model) == (group.name, "own", "full-model", "gpt2")


def test_an_edited_result_is_noticed(tmp_path):
    """Catches a page that believes a log which the logits contradict."""
    run = write_run(tmp_path / "run", logits_for([[0, 1, 1]]), np.array([0, 1, 0]))
    assert of(load_groups([run])[0], explain=0).notes == ()
    change_line(run / "log.jsonl", 0, dev_accuracy=0.99)
    note, = of(load_groups([run])[0], explain=0).notes
    assert "99.0%" in note and "66.7%" in note


def test_provenance(tmp_path):
    """Catches seconds that are counted twice after a resumption, and hashes that are left out."""
    run = write_run(tmp_path / "run", logits_for(np.zeros((3, 4), int)), np.zeros(4, int))
    rows = [json.loads(line) for line in (run / "times.jsonl").read_text().splitlines()]
    lines(run / "times.jsonl", [*rows[:2], {"resumed at step": 7, "command": []}, *rows[1:]])
    (run / "model").mkdir()
    write(run / "model" / "serving.json", {"files": {"model.safetensors": "5" * 64}})
    found = provenance(load_run(run))
    assert found.command == "classifier.py --seed 1" and found.seconds == 7.5 and found.resumed == 1
    assert found.peak_memory_mb == 302 and found.examples_per_second == 10 and found.epochs == 3
    assert "gpt2" in found.engine and "adamw" not in found.engine
    assert dict(found.hashes)["model/model.safetensors"] == "5" * 64 and dict(found.hashes)["dev texts"] == "d" * 64


@pytest.mark.parametrize("fields", [
    {"command": 3, "versions": [], "platform": None, "commit": 7},
    {"identity": {"engine": 3, "texts": "x", "seed": 1, "backbone": {}}}, {"identity": {}}])
def test_provenance_of_a_strange_record(tmp_path, fields):
    """Catches a page that fails for want of a version."""
    run = write_run(tmp_path / "run", logits_for([[0, 1]]), np.array([0, 1]))
    change(run / "run.json", **fields)
    lines(run / "times.jsonl", [{"epoch": "x"}, {"epoch": 1, "seconds": float("1e300"), "peak memory MB": None}])
    found = provenance(load_run(run))
    assert found.seconds is None and found.peak_memory_mb is None and found.commit is None


# ---- comparing -------------------------------------------------------------------------------------------------------

LABELS = np.arange(60) % 2


def two(tmp_path):
    """One group of a seed with 40 of 60 texts right, one of three seeds of which two have the last 30 right."""
    first = write_run(tmp_path / "first", logits_for([np.where(np.arange(60) < 40, LABELS, 1 - LABELS)]), LABELS)
    late = np.where(np.arange(60) >= 30, LABELS, 1 - LABELS)
    for seed, answers in enumerate((late, late, 1 - LABELS), 1):
        write_run(tmp_path / "second" / f"seed-{seed}", logits_for([answers]), LABELS, seed=seed,
                  identity={"recipe": 2})
    return load_groups([first, tmp_path / "second"])


def test_texts_on_which_groups_differ(tmp_path):
    """Catches majorities that are not of the seeds, sides that are exchanged, and texts on which both agree."""
    found = compare(two(tmp_path))
    pair, = found.pairs
    assert (pair.first, pair.second, pair.only_first, pair.only_second) == (0, 1, 30, 20)
    assert pair.versus.name == "second" and pair.versus.difference.value == pytest.approx(40 / 60 - 1 / 3)
    assert len(pair.differing) == 50
    for place, text in enumerate(pair.differing[:40]):
        assert (text.first_right > text.second_right) == (place % 2 == 0 or place >= 40)
        assert text.label == LABELS[text.text] and len(text.first) == 1 and len(text.second) == 3
        assert text.second_right == pytest.approx(np.mean(np.array(text.second) == text.label))
    assert found.headline.startswith("first is ") and found.notes == ()
    assert [(row.name, row.seeds, row.texts) for row in found.rows] == [("first", (1,), 60), ("second", (1, 2, 3), 60)]
    assert found.rows[1].accuracy_sd == pytest.approx(np.std([0.5, 0.5, 0], ddof=1)) and found.rows[0].seconds == 2.5
    finite(found)


def test_other_texts_are_not_tested(tmp_path):
    """Catches a paired test of texts that are no pairs."""
    groups = two(tmp_path)
    write_run(tmp_path / "third", logits_for([LABELS]), LABELS, texts=["another"] * 60)
    found = compare([*groups, *load_groups([tmp_path / "third"])])
    assert len(found.pairs) == 1 and len(found.rows) == 3 and found.notes[0].startswith("third: no other group")
    alone = compare([groups[0], *load_groups([tmp_path / "third"])])
    assert alone.pairs == () and "nothing can be tested" in alone.headline


def test_holm_over_all_pairs(tmp_path):
    """Catches three comparisons that are corrected as one each."""
    for name, right in (("a", 60), ("b", 45), ("c", 20)):
        write_run(tmp_path / name, logits_for([np.where(np.arange(60) < right, LABELS, 1 - LABELS)]), LABELS)
    found = compare(load_groups([tmp_path / name for name in "abc"]))
    assert [(pair.first, pair.second) for pair in found.pairs] == [(0, 1), (0, 2), (1, 2)]
    least = min(found.pairs, key=lambda pair: pair.versus.p).versus
    assert least.p_holm == pytest.approx(3 * least.p)


def test_both_chose_their_epochs(tmp_path):
    """Catches a handicap for one side only: of two groups with equally many epochs neither has an advantage."""
    rng = np.random.default_rng(0)
    for name in "ab":
        right = rng.random((6, 60)) < 0.6
        write_run(tmp_path / name, logits_for(np.where(right, LABELS, 1 - LABELS)), LABELS)
    pair, = compare(load_groups([tmp_path / "a", tmp_path / "b"])).pairs
    assert pair.versus.handicap < 0.03


def test_in_turns():
    """Catches a list of 50 texts of one side."""
    def text(place, first):
        return findings.Differing(place, 0, (0,), (1,), float(first), float(not first))
    texts = [text(place, place < 60) for place in range(70)]
    shown = in_turns(texts)
    assert len(shown) == 50 and [each.text for each in shown[:4]] == [0, 60, 1, 61] and shown[-1].text == 39
