"""Counts and scores of classes against scikit-learn and SciPy."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score, confusion_matrix, precision_recall_fscore_support

from data.tasks import SST_LABELS
from report.classes import classes, scale, score_of
from tests.report.folders import group_of

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 5, 300)
ANSWERS = [np.clip(LABELS + RNG.integers(-1, 2, 300), 0, 4) for _ in range(2)]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Two seeds on SST's labels."""
    return classes(group_of(tmp_path_factory.mktemp("sst"), *ANSWERS, labels=LABELS, number=5, names=SST_LABELS))


def test_the_confusion_matrix_is_scikit_learns(found):
    """Catches rows and columns that are exchanged, and seeds that are added up."""
    assert found.confusion == pytest.approx(np.mean([confusion_matrix(LABELS, row) for row in ANSWERS], axis=0))
    first = found.most_confused[0]
    assert first.texts == (found.confusion - np.diag(np.diag(found.confusion))).max()
    assert first.share == pytest.approx(found.confusion[first.label, first.answer] / (first.label == LABELS).sum())


def test_scores_are_scikit_learns(tmp_path):
    """Catches precision taken for recall."""
    scores = classes(group_of(tmp_path, ANSWERS[0], labels=LABELS, number=5)).scores
    expected = precision_recall_fscore_support(LABELS, ANSWERS[0])
    for name, column in zip(("precision", "recall", "f1"), expected, strict=False):
        assert [getattr(score, name).value for score in scores] == pytest.approx(column)
    assert [score.texts for score in scores] == expected[3].tolist()


def test_the_interval_of_f1():
    """Catches a transformation that is not F1's; the oracle draws texts with the given chances many times."""
    score = score_of(0, "a", 100, 120.0, 80.0)
    drawn = np.random.default_rng(1).multinomial(1000, [0.08, 0.02, 0.04, 0.86], 20_000)
    f1 = 2 * drawn[:, 0] / (2 * drawn[:, 0] + drawn[:, 1] + drawn[:, 2])
    assert score.f1.value == pytest.approx(160 / 220)
    assert (score.f1.low, score.f1.high) == pytest.approx(np.percentile(f1, [2.5, 97.5]), abs=0.015)
    recall = stats.binomtest(80, 100).proportion_ci(method="wilson")
    assert (score.recall.low, score.recall.high) == pytest.approx((recall.low, recall.high))


def test_labels_that_never_occur():
    """Catches a division by zero, and a score of 0 for what cannot be scored."""
    never = score_of(0, "a", 0, 0.0, 0.0)
    assert never.precision is never.recall is never.f1 is None
    assert score_of(0, "a", 5, 0.0, 0.0).precision is None and score_of(0, "a", 5, 0.0, 0.0).f1.value == 0
    perfect = score_of(0, "a", 5, 5.0, 5.0)
    assert perfect.f1.value == perfect.f1.high == 1 and perfect.f1.low < 0.8  # five texts prove little


def test_ordered_scores(found):
    """Catches weights that are linear, an error in squares, and "within one" taken for "off by one"."""
    ordered, steps = found.ordered, np.abs(np.array(ANSWERS) - LABELS)
    expected = np.mean([cohen_kappa_score(LABELS, row, weights="quadratic") for row in ANSWERS])
    assert ordered.kappa.value == pytest.approx(expected) and ordered.kappa.low < expected < ordered.kappa.high
    assert ordered.mean_absolute_error.value == pytest.approx(steps.mean())
    assert ordered.within_one.value == 1 and ordered.off_by_one.value == pytest.approx((steps == 1).mean())
    assert ordered.majority_error == pytest.approx(LABELS.mean())  # the majority class is 0 in these folders
    drawn = [cohen_kappa_score(LABELS[rows], ANSWERS[0][rows], weights="quadratic")
             for rows in (RNG.integers(300, size=300) for _ in range(100))]
    assert ordered.kappa.high - ordered.kappa.low == pytest.approx(4 * np.std(drawn), rel=0.35)


def test_one_label_and_one_answer(tmp_path):
    """Catches 0/0 in kappa: nothing is beyond chance there."""
    labels = np.ones(12, int)
    found = classes(group_of(tmp_path, labels, labels=labels, number=5, names=SST_LABELS))
    assert found.ordered.kappa.value == 0 and found.ordered.mean_absolute_error.value == 0
    assert found.scores[0].f1 is None and found.scores[1].f1.value == 1 and found.most_confused == ()


@pytest.mark.parametrize("names, spellings, ordered", [
    (SST_LABELS, (), True), (("Negative", "Neutral", "Positive"), (), True), (("negative", "positive"), (), False),
    (("1", "2", "3", "4", "5"), ("1", "2", "3", "4", "5"), True), (("0", "1", "2"), ("0", "1", "2"), True),
    (("0", "1", "2"), (), False), (("0", "1"), ("0", "1"), False), (("1", "2", "4"), ("1", "2", "4"), False),
    (("bad", "so-so", "good"), ("-1", "0", "1"), True), (("bad", "so-so", "good"), ("b", "s", "g"), False),
    (tuple(map(str, range(20))), tuple(map(str, range(20))), False), (("5", "4", "3"), ("5", "4", "3"), False)])
def test_what_is_a_scale(names, spellings, ordered):
    """Catches numbers that stand for missing names, and topics, taken for a scale."""
    assert (scale(names, spellings) is not None) == ordered


def test_very_many_labels(tmp_path):
    """Catches a matrix of 900 rows on a page, and the rarest labels shown instead of the most frequent ones."""
    labels = np.concatenate([np.repeat(np.arange(20, 50), 3), np.arange(900)])
    found = classes(group_of(tmp_path, labels, labels=labels, number=900))
    assert found.confusion is None and found.left_out == 870 and found.ordered is None
    assert [each.label for each in found.scores] == [*range(20, 50)]
