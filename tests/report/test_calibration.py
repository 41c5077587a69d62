"""Calibration against simulated models whose calibration is known."""

import numpy as np
import pytest
from scipy.special import softmax

from report import calibration as module
from report.calibration import bins_of, calibration, cross_entropy, cross_fitted, expected_error, fit
from report.read import load_groups
from tests.report.folders import write_run


def simulated(texts, temperature=1.0, seed=0, labels=3):
    """Logits, and labels that are drawn from the probabilities that the logits, divided by a temperature, give."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(texts, labels))
    chances = softmax(logits / temperature, axis=1).cumsum(axis=1)
    return logits.astype(np.float32), (rng.random((texts, 1)) > chances).sum(axis=1).clip(max=labels - 1)


def found_for(tmp_path, logits, labels):
    """The findings about one run or, for logits [S, N, K], several seeds."""
    for seed, own in enumerate(logits if logits.ndim == 3 else logits[None], 1):
        write_run(tmp_path / f"seed-{seed}", own[None], labels, seed=seed)
    group, = load_groups([tmp_path])
    return calibration(group)


def test_a_calibrated_model(tmp_path):
    """Catches an error that does not go to 0, a temperature that is not 1, or a model called too sure for its bias."""
    found = found_for(tmp_path, *simulated(10_000))
    assert found.ece.value < 0.02 and found.calibrated and found.temperature == pytest.approx(1, abs=0.05)
    assert found.ece.low <= found.ece.value <= found.ece.high
    assert found.confidence == pytest.approx(found.accuracy, abs=0.01) and "agree" in found.sentence


def test_a_model_that_is_too_sure(tmp_path):
    """Catches a temperature upside down, and figures after scaling that are those before."""
    logits, labels = simulated(4000, temperature=2.5)
    found = found_for(tmp_path, logits, labels)
    assert found.temperature == pytest.approx(2.5, rel=0.08) and not found.calibrated and "too sure" in found.sentence
    assert found.ece.low > 0.1 and found.ece_scaled < 0.03 and found.loss_scaled < found.loss
    assert found.confidence > found.accuracy + 0.1


def test_a_model_that_is_too_unsure(tmp_path):
    """Catches a sentence that knows one direction."""
    found = found_for(tmp_path, *simulated(3000, temperature=0.4))
    assert found.temperature == pytest.approx(0.4, rel=0.1) and "too unsure" in found.sentence


def test_few_texts_are_not_called_miscalibrated(tmp_path):
    """Catches an error that is all bias: of 60 texts, calibrated models show far more than 0."""
    found = found_for(tmp_path, *simulated(60, seed=4))
    assert found.calibrated and found.ece_if_perfect > 0.04 and "60 texts" in found.sentence


def test_false_alarms_are_rare(tmp_path, monkeypatch):
    """Catches a threshold that does not hold: of calibrated models at most 5 in 100 are called anything else."""
    monkeypatch.setattr(module, "DRAWS", 100)
    alarms = sum(not found_for(tmp_path / str(seed), *simulated(150, seed=seed)).calibrated for seed in range(40))
    assert alarms <= 2 + 3 * np.sqrt(40 * 0.05 * 0.95)


def test_the_error_by_hand(tmp_path):
    """Catches bins that weigh the same though they hold more: 3/4 * |0.7 - 2/3| + 1/4 * |0.9 - 0|."""
    confidence, right = np.array([[0.6, 0.7, 0.8, 0.9]]), np.array([[True, True, False, False]])
    place = np.array([[0, 0, 0, 1]])
    assert expected_error(confidence, right, place, 2) == pytest.approx(0.75 * abs(0.7 - 2 / 3) + 0.25 * 0.9)
    assert bins_of(np.arange(20.0)[None], 4).ravel().tolist() == np.repeat([0, 1, 2, 3], 5).tolist()
    assert len(set(bins_of(np.full((1, 9), 0.5), 3).ravel())) == 1  # equal confidences are never taken apart


def test_bins_and_coverage(tmp_path):
    """Catches coverage that keeps the least confident texts, and seeds counted as texts."""
    logits, labels = simulated(400)
    found = found_for(tmp_path, np.stack([logits, logits[:, ::-1]]), labels)
    assert sum(each.answers for each in found.bins) == 400 and len(found.bins) == 10
    assert [each.coverage for each in found.coverage] == pytest.approx([1, .9, .8, .7, .6, .5, .4, .3, .2, .1])
    assert found.coverage[0].accuracy.value == pytest.approx(found.accuracy)
    thresholds = [each.threshold for each in found.coverage]
    assert thresholds == sorted(thresholds) and all(each.accuracy.low <= each.accuracy.high for each in found.coverage)


def test_abstaining_by_hand(tmp_path):
    """Catches a mean over the wrong texts: the two surest of four are right, the others wrong."""
    logits = np.array([[4, 0], [1, 0], [3, 0], [2, 0]], np.float32)
    found = found_for(tmp_path, logits, np.array([0, 1, 0, 1]))
    assert {each.coverage: each.accuracy.value for each in found.coverage} == pytest.approx(
        {1.0: 0.5, 0.75: 2 / 3, 0.5: 1.0, 0.25: 1.0})


def test_the_temperature_of_a_fold_is_fitted_elsewhere():
    """Catches figures after scaling that come from the texts that the temperature was fitted on."""
    logits, labels = simulated(50, 2.0)
    scaled = cross_fitted(logits, labels)
    own = (logits / scaled)[:, 0]
    fold = np.random.default_rng(0).permutation(50) % 5
    for each in range(5):
        assert own[fold == each] == pytest.approx(fit(logits[fold != each], labels[fold != each]), rel=1e-4)
    assert cross_entropy(logits / fit(logits, labels), labels) <= min(
        cross_entropy(logits / each, labels) for each in (0.5, 1, 1.5, 3, 5)) + 1e-6


@pytest.mark.parametrize("texts, right", [(1, True), (1, False), (3, True), (25, True), (25, False)])
def test_degenerate_models(tmp_path, texts, right):
    """Catches a division by zero or a temperature without end: few texts, all right, all wrong."""
    labels = np.zeros(texts, int)
    logits = np.tile(np.array([[3.0, 0.0]] if right else [[0.0, 3.0]], np.float32), (texts, 1))
    found = found_for(tmp_path, logits, labels)
    assert np.isfinite([found.ece.low, found.ece.high, found.loss, found.ece_if_perfect]).all()
    assert (found.temperature is None) == (texts < 20) and len(found.bins) == 1
