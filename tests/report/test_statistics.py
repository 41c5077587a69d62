"""Intervals and tests against SciPy, scikit-learn, hand-computed cases, and simulations in which the truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from sklearn.metrics import f1_score

from report.read import load_run
from report.selection import accuracy_of, macro_f1_of, selection
from report.statistics import DRAWS, compare, draws, holm, macro_f1, mcnemar, percentiles, spread, wilson
from tests.report.folders import logits_for, write_run


def rows(texts):
    """Which of some texts one, two or three seeds have right."""
    return arrays(bool, st.tuples(st.integers(1, 3), st.just(texts)))


rights = st.integers(1, 40).flatmap(lambda texts: st.tuples(rows(texts), rows(texts)))


# ---- shares and p values ---------------------------------------------------------------------------------------------


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(counts):
    """Catches a formula that is wrong at the ends, where the plain interval has no width."""
    right, texts = counts
    expected = stats.binomtest(right, texts).proportion_ci(method="wilson")
    found = wilson(right / texts, texts)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_mcnemar_by_hand():
    """Catches a one-sided test, and a correction for continuity. 2 * (1 + 8 + 28) / 256 = 0.2890625."""
    assert mcnemar(2, 6) == pytest.approx(0.2890625)
    assert mcnemar(0, 5) == pytest.approx(2 / 32) and mcnemar(0, 0) == mcnemar(1, 0) == mcnemar(3, 3) == 1


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_symmetric_and_exact(one, other):
    """Catches a p that depends on who is called first; the oracle adds up Pascal's triangle."""
    total, few = one + other, min(one, other)
    expected = min(1.0, 2 * sum(math.comb(total, each) for each in range(few + 1)) / 2**total) if total else 1.0
    assert mcnemar(one, other) == pytest.approx(mcnemar(other, one)) == pytest.approx(expected)


def test_holm_by_hand():
    """Catches Bonferroni, values that fall where they must not, and an order that is lost."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([0.04]) == [0.04] and holm([]) == []


def test_spread_and_draws():
    """Catches a standard deviation of one seed, which is none; and draws that take too long or are too few."""
    assert spread([0.5]) is None and spread([0.1, 0.3]) == pytest.approx(math.sqrt(0.02))
    assert draws(1) == DRAWS and draws(10**9) == 100
    assert percentiles(5.0, np.arange(5)).high == 5.0


# ---- two models on the same texts ------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(rights)
def test_comparing_has_no_side(both):
    """Catches an interval without the estimate, beyond -1 or 1, or a p that depends on who is called first."""
    found, turned = compare(*both), compare(*both[::-1])
    assert -1 <= found.value.low <= found.value.value <= found.value.high <= 1 and 0 <= found.p <= 1
    assert found.value.value == pytest.approx(-turned.value.value) and found.p == pytest.approx(turned.p)


@pytest.mark.parametrize("texts", [1, 2, 24])
def test_an_interval_has_a_width(texts):
    """Catches the bootstrap's [0, 0] and [1, 1]: a few texts that all went the same way prove little."""
    always, never = np.ones((1, texts), bool), np.zeros((1, texts), bool)
    for one, other in ((always, always), (always, never)):
        found = compare(one, other).value
        assert found.high - found.low >= 1 / texts
    assert compare(always, always).p == 1


def test_one_seed_each():
    """Catches a pairing that is lost: McNemar's p, and the interval of the paired bootstrap, made here text by text."""
    rng = np.random.default_rng(3)
    first = rng.random((1, 900)) < 0.7
    second = np.where(rng.random((1, 900)) < 0.8, first, rng.random((1, 900)) < 0.5)
    found = compare(first, second)
    assert found.p == mcnemar((first & ~second).sum(), (second & ~first).sum())
    each = first[0].astype(int) - second[0]
    drawn = [rng.choice(each, 900).mean() for _ in range(2000)]
    assert (found.value.low, found.value.high) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.004)


def test_seeds_that_agree_add_nothing():
    """Catches seeds counted as texts: three copies of a seed must not make p smaller than a t test on one."""
    rng = np.random.default_rng(4)
    first, second = rng.random((1, 2000)) < 0.55, rng.random((1, 2000)) < 0.5
    found = compare(np.repeat(first, 3, axis=0), second)
    expected = stats.ttest_1samp(first[0].astype(float) - second[0], 0).pvalue
    assert found.p == pytest.approx(expected, rel=0.05)


def test_seeds_that_differ_count():
    """Catches a test that knows texts only: on very many texts the seeds decide, as in a t test on their means."""
    texts = 50_000
    first = np.arange(texts) < np.array([[0.50], [0.54], [0.58]]) * texts
    second = np.arange(texts)[None, ::-1] < 0.5 * texts
    found = compare(first, second)
    expected = stats.ttest_1samp([0.0, 0.04, 0.08], 0)
    assert found.p == pytest.approx(expected.pvalue, rel=0.1)
    interval = expected.confidence_interval(0.95)
    wide = (found.value.high - found.value.low) / (interval.high - interval.low)
    assert 0.97 < wide < 1.2 and found.value.low < 0 < 0.08 < found.value.high  # three seeds can be drawn in few ways


def test_a_handicap_is_taken_off_a_lead_only():
    """Catches a handicap that turns a lead into a loss, or that changes the figures as they are."""
    first, second = np.arange(100)[None] < 60, np.arange(100)[None] < 50
    assert compare(first, second, 0.04).p == mcnemar(6, 0)
    assert compare(first, second, 0.5).p == 1 and compare(first, second, -1).p == mcnemar(10, 0)
    assert compare(second, first, 0.04).p == mcnemar(10, 0)
    assert compare(first, second, 0.04).value == compare(first, second).value
    three = np.repeat(first, 3, axis=0)
    assert compare(three, second, 0.5).p == pytest.approx(1)
    assert compare(three, second, 0.04).p > compare(three, second).p


@pytest.mark.parametrize("seeds", [1, 3])
def test_false_alarms_are_rare(seeds):
    """Catches a test that cries wolf: two models that are equally good differ in at most 5 of 100 data sets."""
    rng, alarms = np.random.default_rng(5), 0
    for _ in range(200):
        skill = 0.6 + 0.02 * rng.standard_normal((seeds, 1)) * (seeds > 1)
        alarms += compare(rng.random((seeds, 150)) < skill, rng.random((1, 150)) < 0.6).p <= 0.05
    assert alarms <= 10 + 3 * math.sqrt(200 * 0.05 * 0.95)


def test_a_clear_difference_is_seen():
    """Catches a test that never says anything."""
    rng = np.random.default_rng(6)
    for seeds in (1, 3):
        assert compare(rng.random((seeds, 500)) < 0.8, rng.random((1, 500)) < 0.6).p < 1e-3


# ---- macro-F1 --------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 30).flatmap(lambda n: st.tuples(arrays(int, n, elements=st.integers(0, 3)),
                                                      arrays(int, (2, n), elements=st.integers(0, 3)))))
def test_macro_f1_is_scikit_learns(case):
    """Catches labels that never occur and count as 0, and seeds that are mixed up."""
    labels, answers = case
    found, each = macro_f1(labels, answers, 6)
    expected = [f1_score(labels, row, average="macro", zero_division=0) for row in answers]
    assert each == pytest.approx(expected) and found.value == pytest.approx(np.mean(expected))
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_the_interval_of_macro_f1():
    """Catches an interval of another statistic; the oracle resamples texts and asks scikit-learn."""
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 3, 600)
    answers = np.where(rng.random(600) < 0.6, labels, rng.integers(0, 3, 600))
    drawn = [f1_score(labels[drawn_rows], answers[drawn_rows], average="macro")
             for drawn_rows in (rng.integers(600, size=600) for _ in range(200))]
    found = macro_f1(labels, answers[None], 3)[0]
    assert (found.low, found.high) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.008)


# ---- the best epoch --------------------------------------------------------------------------------------------------


def made(tmp_path, answers, labels, **more):
    """A run with these answers [E, N]."""
    number = len(list(tmp_path.iterdir()))
    return load_run(write_run(tmp_path / str(number), logits_for(answers, 3), labels, **more))


def test_scores_of_epochs_are_scikit_learns(tmp_path):
    """Catches a score of resampled texts that is not that of the texts written out; weights are how often each is."""
    rng = np.random.default_rng(8)
    labels, answers = rng.integers(0, 3, 40), rng.integers(0, 3, (4, 40))
    run, weights = made(tmp_path, answers, labels), rng.integers(0, 4, (5, 40))
    expected = [[f1_score(labels, row, average="macro", sample_weight=weight, zero_division=0) for row in answers]
                for weight in weights]
    assert macro_f1_of(run)(weights.astype(np.float32)) == pytest.approx(np.array(expected), abs=1e-6)
    expected = [[np.average(row == labels, weights=weight) for row in answers] for weight in weights]
    assert accuracy_of(run)(weights.astype(np.float32)) == pytest.approx(np.array(expected), abs=1e-6)


@pytest.mark.parametrize("select_by", ["accuracy", "macro-f1"])
def test_choosing_among_equals_is_all_optimism(tmp_path, select_by):
    """Catches an estimate that is twice or half the truth: epochs of the same skill, whose best one is luck alone."""
    rng, truth, found = np.random.default_rng(9), [], []
    for _ in range(8):
        labels = rng.integers(0, 3, 200)
        answers = np.where(rng.random((8, 200)) < 0.5, labels, (labels + 1) % 3)
        run = made(tmp_path, answers, labels, settings={"select_by": select_by})
        truth.append((answers == labels).mean(axis=1).max() - 0.5)
        chosen = selection([run])
        found.append((chosen.optimism.value, chosen.in_accuracy))
        assert chosen.optimism.low <= chosen.optimism.value <= chosen.optimism.high
        assert chosen.honest == pytest.approx(chosen.on_dev - chosen.optimism.value) and chosen.epochs == 8
    assert np.mean(found, axis=0) == pytest.approx(np.mean(truth), rel=0.4)


def test_a_clear_winner_is_no_optimism(tmp_path):
    """Catches an estimate that is never 0: an epoch that is far better is chosen whatever the texts."""
    labels = np.arange(200) % 3
    answers = np.stack([np.where(np.arange(200) % 10 < right, labels, (labels + 1) % 3) for right in (2, 9, 5)])
    chosen = selection([made(tmp_path, answers, labels)])
    assert chosen.optimism.value == 0 and chosen.on_dev == pytest.approx(0.9)


def test_nothing_to_choose(tmp_path):
    """Catches a resampling of one text, which leaves none out, and a choice among one epoch or equal ones."""
    labels = np.arange(30) % 3
    assert selection([made(tmp_path, labels[None], labels)]) is None
    assert selection([made(tmp_path, labels[None, :9].repeat(3, 0), labels[:9])]) is None
    same = selection([made(tmp_path, labels[None].repeat(5, 0), labels)])
    assert (same.optimism.value, same.optimism.low, same.optimism.high, same.on_dev) == (0, 0, 0, 1)
