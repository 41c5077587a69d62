"""The data map by hand, and label errors that were planted."""

import numpy as np
import pytest

from report.labels import data_map, noise_of, noise_share, suggestions
from report.read import load_groups
from tests.report.folders import group_of, logits_for, write_run


def test_the_map_by_hand(tmp_path):
    """Catches a variability over seeds, a probability of the answer instead of the label, and a region of another."""
    answers = np.array([[0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]])
    found = data_map(group_of(tmp_path, answers, labels=np.array([0, 0, 1, 1])))
    high, low = np.exp(2) / (1 + np.exp(2)), 1 / (1 + np.exp(2))
    assert found.confidence == pytest.approx([high, (high + 2 * low) / 3, (high + 2 * low) / 3, low])
    assert found.variability == pytest.approx([0, np.std([high, low, low]), np.std([high, low, low]), 0])
    assert found.correctness == pytest.approx([1, 1 / 3, 1 / 3, 0]) and found.region.tolist() == [0, 1, 1, 2]
    assert found.counts == (1, 2, 1)


def test_seeds_of_the_map(tmp_path):
    """Catches seeds' variability counted as that of the epochs: each seed is steady here."""
    found = data_map(group_of(tmp_path, np.zeros((4, 6), int), np.ones((4, 6), int), labels=np.zeros(6, int)))
    assert found.variability == pytest.approx(np.zeros(6)) and found.correctness == pytest.approx(np.full(6, 0.5))
    assert found.confidence == pytest.approx(np.full(6, 0.5))


def test_one_epoch(tmp_path):
    """Catches a standard deviation of one number."""
    found = data_map(group_of(tmp_path, [0, 0, 1], labels=np.array([0, 0, 0])))
    assert found.variability.tolist() == [0, 0, 0] and "one epoch" in found.rule


def test_suggestions_by_hand():
    """Catches thresholds that are not the label's own: 0.8 for label 0, 0.6 for label 1."""
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.4, 0.6], [0.15, 0.85], [0.65, 0.35]])
    labels = np.array([0, 0, 1, 1, 1])
    assert suggestions(probabilities, labels).tolist() == [0, -1, 1, 1, 0 if 0.65 >= 0.8 else -1]
    assert suggestions(np.array([[0.2, 0.8]]), np.array([0])).tolist() == [0]  # label 1 has no text: nothing to go by


def planted(share, texts=2000, seed=0):
    """A good model's logits for three labels, and labels of which a share was changed."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, texts)
    logits = logits_for(truth, 3, 4.0) + rng.normal(size=(texts, 3))
    wrong = rng.random(texts) < share
    return logits.astype(np.float32), np.where(wrong, (truth + rng.integers(1, 3, texts)) % 3, truth), wrong, truth


def test_planted_errors_are_found(tmp_path):
    """Catches suspects that are the model's mistakes; this model is right nearly always."""
    logits, labels, wrong, truth = planted(0.1)
    group, = load_groups([write_run(tmp_path / "run", logits[None], labels, tfidf=truth)])
    found = data_map(group)
    assert found.noise.low < wrong.mean() < found.noise.high and found.noise.value == pytest.approx(0.1, abs=0.02)
    assert found.noise_at_most.low < wrong.mean() < found.noise_at_most.high + 0.02
    suspected = {suspect.text for suspect in found.suspects}
    assert len(suspected) == 50 and found.suspected > 150 and all(wrong[text] for text in suspected)
    assert all(suspect.suggested == truth[suspect.text] and suspect.tfidf_agrees and suspect.seeds == 1
               and suspect.label == labels[suspect.text] for suspect in found.suspects)
    margins = [suspect.probability - suspect.of_label for suspect in found.suspects]
    assert margins == sorted(margins, reverse=True)


def test_clean_labels():
    """Catches noise found where there is none."""
    logits, labels, *_ = planted(0.0)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert noise_share(probabilities, labels) < 0.01


@pytest.mark.parametrize("texts, labels", [(20, 3), (200, 1)])
def test_nothing_can_be_said(texts, labels):
    """Catches an estimate from a handful of texts, or with one label."""
    rng = np.random.default_rng(0)
    assert noise_of(rng.dirichlet(np.ones(3), texts), rng.integers(0, labels, texts)) is None


def test_what_cannot_be_known_is_said(tmp_path):
    """Catches a figure that stands alone."""
    logits, labels, *_ = planted(0.1, 300)
    group, = load_groups([write_run(tmp_path / "run", logits[None], labels)])
    assert "looks the same as a wrong label" in data_map(group).noise_sentence
