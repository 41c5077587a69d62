"""Slices: planted weaknesses are found, chance is not taken for one, and the words are the right ones."""

import numpy as np
import pytest

from report.read import Dev
from report.slices import CONTRAST, NEGATION, gaps, kinds, largest_gaps, slices
from tests.report.folders import group_of


@pytest.mark.parametrize("text", ["It is not good", "did n't work", "didn't", "DON’T", "dont go", "Never again",
                                  "without charm", "no", "nor I"])
def test_negations(text):
    """Catches spellings of SST (did n't), of people (dont) and of typographers."""
    assert NEGATION.search(text)


@pytest.mark.parametrize("text", ["a notable film", "another", "nothings", "want", "snow", "front", "elegant"])
def test_no_negations(text):
    """Catches a search within words."""
    assert not NEGATION.search(text)


def test_contrasts():
    """Catches “but” within a word."""
    assert CONTRAST.search("Slow, but fine") and CONTRAST.search("ALTHOUGH it rains") and not CONTRAST.search("butter")


def dev(texts, **more):
    """A dev set of texts."""
    count = len(texts)
    zeros = np.zeros(count, int)
    columns = {"labels": zeros, "tokens": zeros + 5, "rarest": zeros + 9, "majority": zeros, "tfidf": zeros} | more
    return Dev(tuple(map(str, range(count))), tuple(texts), **columns)


def test_kinds_of_texts():
    """Catches quarters that overlap or leave a text out, and a rare word counted twice."""
    some = dev(["why?", "no", "x", "y but", "z", ""], tokens=np.array([1, 1, 1, 2, 9, 30]),
               rarest=np.array([0, 1, 5, 6, 100, -1]), labels=np.array([0, 1, 1, 0, 1, 0]))
    found = {name: rows.tolist() for _, name, rows in kinds(some, ("bad", "good"))}
    lengths = [rows for family, _, rows in kinds(some, ("bad", "good")) if family == "length"]
    assert np.array_equal(sum(rows.astype(int) for rows in lengths), np.ones(6))
    assert "1 tokens" in found and "3 to 9 tokens" not in found
    assert found["with a question"] == [True, *[False] * 5] and found["with a negation"][1]
    assert found["with a word that training never saw"] == [True, *[False] * 5]
    assert found["with a rare word (in 1 to 5 training texts)"] == [False, True, True, False, False, False]
    assert found["with common words only"] == [False, False, False, True, True, False]
    assert found["without a word"] == [*[False] * 5, True] and found["label “good”"] == [False, True, True, False, True,
                                                                                       False]


def test_gaps_by_hand():
    """Catches a mean over all texts in the place of that over the others."""
    inside = np.array([[True, True, False, False], [True, False, False, False]])
    found = gaps(inside, inside.sum(axis=1), np.array([[1.0, 0.0, 1.0, 1.0]]))
    assert found[0] == pytest.approx([0.5 - 1, 1 - 2 / 3])


def test_the_permutations_are_of_the_texts():
    """Catches a distribution that is not that of chance: one slice's gap in units of its scatter is about normal."""
    rng = np.random.default_rng(0)
    inside, share = np.arange(400)[None] < 150, (rng.random(400) < 0.6).astype(float)
    scatter = share.std() * np.sqrt(1 / np.array([150]) + 1 / np.array([250]))
    found = largest_gaps(inside, np.array([150]), share, scatter, 4000, rng)
    assert np.quantile(found, [0.5, 0.95]) == pytest.approx([0.674, 1.96], abs=0.1)


TEXTS = [f"it is {'not ' if place % 4 == 0 else ''}film {place} ." for place in range(400)]


def with_weakness(tmp_path, share, seeds=1):
    """A group that has such a share of the texts with a negation right, and three quarters of the others."""
    labels = np.random.default_rng(1).integers(0, 2, 400)
    need = np.where(np.arange(400) % 4 == 0, share, 0.75)
    answers = [np.where(np.random.default_rng(seed).random(400) < need, labels, 1 - labels) for seed in range(seeds)]
    return group_of(tmp_path, *answers, labels=labels, texts=TEXTS)


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_planted_weakness_is_found(tmp_path, seeds):
    """Catches slices that are not sorted, intervals around another figure, and examples that some seed has right."""
    group = with_weakness(tmp_path, 0.3, seeds)
    found = slices(group)
    first, right = found.slices[0], group.runs[0].best_logits.argmax(axis=1) == group.dev.labels
    assert first.name == "with a negation" and first.worse and first.p <= 0.002 and first.texts == 100
    assert first.accuracy.low <= first.accuracy.value <= first.accuracy.high < 0.6
    assert first.gap.low <= first.gap.value <= first.gap.high < 0
    if seeds == 1:
        assert first.gap.value == pytest.approx(right[::4].mean() - np.delete(right, np.s_[::4]).mean())
        assert found.overall == right.mean()
    assert not any(run.best_logits[text].argmax() == group.dev.labels[text] for run in group.runs
                   for text in first.examples)
    assert all(not each.worse for each in found.slices[1:]) and found.sentence.startswith("Hardest: with a negation")


def test_no_weakness(tmp_path):
    """Catches a slice that is called worse because somebody has to be last."""
    found = slices(with_weakness(tmp_path, 0.75))
    assert not any(each.worse for each in found.slices) and "No kind of text" in found.sentence


def test_false_alarms_are_rare(tmp_path, monkeypatch):
    """Catches a search that is not corrected for: of pages without any weakness 5 in 100 may show one, not 50."""
    from report import slices as module
    group = with_weakness(tmp_path, 0.75)
    monkeypatch.setattr(module, "DRAWS", 200)
    rng, alarms = np.random.default_rng(2), 0
    for _ in range(100):
        answers = rng.random((1, 400)) < 0.7
        monkeypatch.setattr(module, "rights_of", lambda runs, answers=answers: answers)
        alarms += any(each.p <= 0.05 for each in module.slices(group).slices)
    assert alarms <= 5 + 3 * np.sqrt(100 * 0.05 * 0.95)


def test_small_slices_are_left_out_and_said(tmp_path):
    """Catches a share of three texts, and a slice that holds nearly all, so that no others are left."""
    labels = np.arange(60) % 2
    found = slices(group_of(tmp_path, labels, labels=labels, texts=["why?"] * 5 + ["no"] * 55))
    assert dict(found.too_small)["with a question"] == 5 and dict(found.too_small)["with a negation"] == 55
    assert not {"with a question", "with a negation"} & {each.name for each in found.slices}
    assert not any(each.worse for each in found.slices)  # all is right: nothing is harder
    few = slices(group_of(tmp_path / "few", labels[:8], labels=labels[:8]))
    assert few.slices == () and "Too few texts (8)" in few.sentence
