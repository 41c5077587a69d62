"""The verdict in a sentence: who is better, by how much, and whether so few texts can tell."""

import numpy as np
import pytest

from report.read import load_groups
from report.statistics import Estimate, compare
from report.verdict import BEFORE, MAJORITY, TFIDF, against, outcome_of, sentence_of, signed, verdict
from tests.report.folders import change, group_of, logits_for, write_run


def rights(*counts: int, texts: int = 1000) -> np.ndarray:
    """For each seed, so many right ones, spread over the texts in another order for each."""
    return np.stack([np.random.default_rng(seed).permutation(np.arange(texts) < count)
                     for seed, count in enumerate(counts)])


@pytest.mark.parametrize("difference, p, outcome", [
    (Estimate(0.1, 0.05, 0.15), 0.001, "better"), (Estimate(-0.1, -0.15, -0.05), 0.001, "worse"),
    (Estimate(0.02, -0.01, 0.05), 0.2, "luck"), (Estimate(0.1, -0.1, 0.3), 0.3, "too few"),
    (Estimate(0.1, 0.01, 0.19), 0.051, "too few"), (Estimate(0.0, 0.0, 0.0), 0.0, "luck")])
def test_outcomes(difference, p, outcome):
    """Catches "better" where the test says nothing, and "luck" where a large difference may hide."""
    assert outcome_of(difference, p) == outcome


@pytest.mark.parametrize("difference, handicap, outcome, sentence", [
    (Estimate(0.125, 0.041, 0.208), 0.0, "better", "better than X by 12.5 points (95%: 4.1 to 20.8)"),
    (Estimate(-0.125, -0.208, -0.041), 0.0, "worse", "worse than X by 12.5 points (95%: 4.1 to 20.8)"),
    (Estimate(-0.01, -0.03, 0.02), 0.01, "luck",
     "not more than luck away from X: 1.0 points below it (95%: −3.0 to 2.0)"),
    (Estimate(0.0, -0.03, 0.03), 0.0, "luck",
     "not more than luck away from X: 0.0 points apart (95%: −3.0 to 3.0)"),
    (Estimate(0.125, 0.01, 0.24), 0.05, "too few",
     "not to be told from X with so few texts (1,200): 12.5 points above it (95%: 1.0 to 24.0), and choosing the best "
     "epoch is worth 5.0 of them"),
])
def test_sentences(difference, handicap, outcome, sentence):
    """Catches a sign that is turned, or an interval that is not turned with it."""
    assert sentence_of("X", difference, handicap, outcome, 1200) == sentence


def test_a_minus_that_is_rounded_away():
    """Catches "−0.0 points"."""
    assert (signed(-0.04), signed(-0.06), signed(2.0)) == ("0.0", "−0.1", "2.0")


def test_holm_counts_all_comparisons():
    """Catches p values that are corrected one by one, and figures of the wrong side."""
    ours = rights(560)
    alone, = against(ours, [("A", rights(500), 0.0)])
    both = against(ours, [("A", rights(500), 0.0), ("B", rights(510), 0.0)])
    assert [each.p_holm for each in both] == sorted(each.p_holm for each in both)
    assert both[0].p == alone.p == alone.p_holm and both[0].p_holm == pytest.approx(2 * alone.p)
    assert alone.only_ours - alone.only_theirs == pytest.approx(60) and alone.accuracy == 0.5
    assert alone.per_seed == pytest.approx((0.06,)) and alone.difference.value == pytest.approx(0.06)


def test_seeds_side_by_side():
    """Catches per-seed differences out of order, or a mean over seeds of something else than accuracy."""
    found, = against(rights(520, 560, 600), [("A", rights(500), 0.0)])
    assert found.per_seed == pytest.approx((0.02, 0.06, 0.10)) and found.difference.value == pytest.approx(0.06)
    assert "seeds" in found.test


def one_epoch(tmp_path, texts=400, right=300, seeds=1, **more):
    """A group of one epoch that has so many texts right, in each seed others; TF-IDF has half right."""
    labels = np.arange(texts) % 2
    answers = [np.where(row, labels, 1 - labels) for row in rights(*[right] * seeds, texts=texts)]
    tfidf = np.where(np.arange(texts) % 4 < 2, labels, 1 - labels)
    return group_of(tmp_path, *answers, labels=labels, tfidf=tfidf, **more)


def test_better_than_both_baselines(tmp_path):
    """Catches a headline about the weaker baseline, or one that speaks of seeds where there is one."""
    found = verdict(one_epoch(tmp_path))
    assert [each.name for each in found.versus] == [MAJORITY, TFIDF] and found.outcome == "better"
    assert found.headline.startswith("This run is better than the majority class by 25.0 points (95%: ")
    assert found.accuracy.value == 0.75 and found.accuracy_sd is None and found.selection is None
    assert len(found.caveats) == 1 and "One seed" in found.caveats[0]


def test_several_seeds(tmp_path):
    """Catches a standard deviation of another thing, and a headline that hides that it is a mean."""
    found = verdict(one_epoch(tmp_path, seeds=3))
    assert found.headline.startswith("The mean of these 3 seeds is better") and found.seeds == (1, 2, 3)
    assert found.accuracy_sd == 0 and found.macro_f1_sd >= 0 and "3 seeds" in found.caveats[0]


def test_too_few_texts(tmp_path):
    """Catches a verdict about a dozen texts."""
    found = verdict(one_epoch(tmp_path, texts=12, right=8))
    assert found.outcome == "too few" and "so few texts (12)" in found.headline


@pytest.mark.parametrize("texts, right", [(1, 1), (1, 0), (2, 2), (24, 24), (24, 0)])
def test_degenerate_runs(tmp_path, texts, right):
    """Catches a division by zero: one text, all right, all wrong, all the same."""
    found = verdict(one_epoch(tmp_path, texts=texts, right=right))
    for each in (found.accuracy, found.macro_f1, *(other.difference for other in found.versus)):
        assert np.isfinite([each.low, each.value, each.high]).all() and each.low <= each.value <= each.high


def test_a_lucky_epoch_is_not_better(tmp_path):
    """Catches a verdict that takes the best of forty equal epochs for skill: without its worth it would say better."""
    labels = np.arange(300) % 2
    luck, half = np.random.default_rng(7).random((40, 300)) < 0.5, np.arange(300) % 4 < 2
    found = verdict(group_of(tmp_path, np.where(luck, labels, 1 - labels), labels=labels,
                             tfidf=np.where(half, labels, 1 - labels)))
    assert compare(luck[luck.mean(axis=1).argmax()][None], half[None]).p < 0.05
    assert found.selection.optimism.value > 0.04
    assert found.outcome != "better" and all(each.handicap > 0.04 for each in found.versus)
    assert any("best of 40 epochs" in each for each in found.caveats)


def test_the_run_before(tmp_path):
    """Catches a comparison with a run on other texts, and a run before that is overlooked."""
    labels = np.arange(200) % 2
    run = write_run(tmp_path / "own", logits_for([labels]), labels)
    write_run(run / "previous", logits_for([np.where(np.arange(200) < 100, labels, 1 - labels)]), labels, seed=5)
    found = verdict(load_groups([run])[0])
    assert [each.name for each in found.versus] == [MAJORITY, TFIDF, BEFORE] and found.no_before is None
    assert found.versus[2].sentence.startswith("better than the run before by 50.0 points")
    assert "the run before" in found.headline

    write_run(run / "previous-2", logits_for([labels]), labels, texts=["another"] * 200)
    found = verdict(load_groups([run])[0])
    assert len(found.versus) == 2 and found.no_before == "the run before has other dev texts"
    change(run / "previous-2" / "run.json", task=3)
    assert "cannot be read" not in (found := verdict(load_groups([run])[0])).headline and found.no_before
