"""Whether probabilities can be believed: calibration, temperature, and accuracy if the model may abstain."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from report.read import Group
from report.statistics import Estimate, wilson
from report.verdict import signed

MOST_BINS, IN_A_BIN = 10, 20  # bins; texts that each should have
FOLDS, FEWEST = 5, 20  # texts, for a temperature
DRAWS, MOST_NUMBERS = 500, 20_000_000
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
LOG_TEMPERATURES = (-3.0, 3.0)


@dataclass(frozen=True)
class Bin:
    """Answers of similar confidence; every bin holds about the same number of answers."""

    low: float  # the least confidence in it
    high: float
    confidence: float  # mean probability of the answer
    accuracy: Estimate
    answers: float  # texts, mean over seeds


@dataclass(frozen=True)
class Coverage:
    """What happens if the model answers only its most confident texts."""

    coverage: float  # share of texts answered
    threshold: float  # least probability of an answered text, mean over seeds
    accuracy: Estimate  # on these


@dataclass(frozen=True)
class Calibration:
    """Section 7."""

    bins: tuple[Bin, ...]  # by confidence
    ece: Estimate  # expected calibration error: mean distance of confidence and accuracy over the bins
    ece_if_perfect: float  # mean that a perfectly calibrated model would show with so few texts: the estimate's bias
    calibrated: bool  # the error is no larger than 95 of 100 perfectly calibrated models would show
    confidence: float  # mean probability of the answer
    accuracy: float
    temperature: float | None  # the logits should be divided by it, fitted on all of dev; None: too few texts
    ece_scaled: float | None  # the error with temperatures fitted on other texts (5 folds): an honest figure
    loss: float  # dev loss in nats
    loss_scaled: float | None  # the same with those temperatures
    coverage: tuple[Coverage, ...]  # from all texts down to a tenth
    sentence: str  # too sure, too unsure, or neither


def calibration(group: Group) -> Calibration:
    """Measure how far confidence and accuracy are apart. The seeds' answers are laid together; texts are resampled."""
    labels, seeds, texts = group.dev.labels, len(group.runs), len(group.dev.labels)
    logits = np.stack([run.best_logits for run in group.runs]).astype(float)  # [S, N, K]
    confidence, right = confidences(logits, labels)

    # The error, what resampled texts give, and what a perfectly calibrated model would show.
    count = max(1, min(MOST_BINS, texts // IN_A_BIN))
    place = bins_of(confidence, count)  # [S, N]
    error = float(expected_error(confidence, right, place, count))
    rng = np.random.default_rng(0)
    resampled, perfect = [], []
    for _ in range(int(np.clip(MOST_NUMBERS // (seeds * texts), 50, DRAWS))):
        rows = rng.integers(texts, size=texts)
        resampled.append(expected_error(confidence[:, rows], right[:, rows], place[:, rows], count))
        perfect.append(expected_error(confidence, rng.random(texts) < confidence, place, count))
    # Resampling adds as much bias again as the estimate has, so its distribution is turned round the estimate.
    high, low = 2 * error - np.percentile(resampled, [2.5, 97.5])
    interval = Estimate(error, float(np.clip(min(low, error), 0, 1)), float(np.clip(max(high, error), 0, 1)))

    # Temperatures: one from all texts to be used; those of the folds for the figures afterwards.
    temperature = scaled = None
    if texts >= FEWEST:
        temperature = float(np.exp(np.mean([np.log(fit(own, labels)) for own in logits])))
        scaled = np.stack([cross_fitted(own, labels) for own in logits])
    sure, correct = confidence.mean(), right.mean()
    calibrated = bool(error <= np.percentile(perfect, 95))
    return Calibration(
        tuple(bins(confidence, right, place, count)), interval, float(np.mean(perfect)), calibrated, float(sure),
        float(correct), temperature, None if scaled is None else scaled_error(scaled, labels, count),
        cross_entropy(logits, labels), None if scaled is None else cross_entropy(scaled, labels),
        tuple(coverage(confidence, right)), sentence_of(calibrated, sure - correct, error, texts))


def confidences(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of each answer and whether it is right: [S, N] each, for logits [S, N, K]."""
    return softmax(logits, axis=2).max(axis=2), logits.argmax(axis=2) == labels


def bins_of(confidence: np.ndarray, count: int) -> np.ndarray:
    """Return the bin of each answer, so that all hold about as many; equal confidences share one."""
    edges = np.quantile(confidence, np.linspace(0, 1, count + 1)[1:-1])
    return np.searchsorted(edges, confidence, side="right")


def expected_error(confidence: np.ndarray, right: np.ndarray, place: np.ndarray, count: int) -> float:
    """Return the mean over the answers of the distance between their bin's mean confidence and its accuracy."""
    apart = np.bincount(place.ravel(), (confidence - right).ravel(), minlength=count)
    return np.abs(apart).sum() / confidence.size


def bins(confidence: np.ndarray, right: np.ndarray, place: np.ndarray, count: int) -> list[Bin]:
    """Return what the reliability diagram shows; the intervals count texts, not seeds."""
    found = []
    for each in range(count):
        rows = place == each
        if rows.any():
            own, answers = confidence[rows], rows.sum() / len(confidence)
            found.append(Bin(float(own.min()), float(own.max()), float(own.mean()),
                             wilson(float(right[rows].mean()), answers), float(answers)))
    return found


def coverage(confidence: np.ndarray, right: np.ndarray) -> list[Coverage]:
    """Return the accuracy on the most confident texts of each seed, mean over seeds, for falling shares of texts."""
    order = np.argsort(-confidence, axis=1, kind="stable")
    sure, correct = np.take_along_axis(confidence, order, 1), np.take_along_axis(right, order, 1)
    found: dict[int, Coverage] = {}
    for share in COVERAGES:
        kept = max(1, round(share * sure.shape[1]))
        found[kept] = Coverage(kept / sure.shape[1], float(sure[:, kept - 1].mean()),
                               wilson(float(correct[:, :kept].mean()), kept))
    return list(found.values())


# ---- temperature -----------------------------------------------------------------------------------------------------


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean loss in nats; logits [..., N, K]."""
    found = log_softmax(logits, axis=-1)
    return float(-np.take_along_axis(found, np.broadcast_to(labels, found.shape[:-1])[..., None], -1).mean())


def fit(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature that makes the loss of logits [N, K] / temperature least (Guo et al. 2017)."""
    found = minimize_scalar(lambda log: cross_entropy(logits / np.exp(log), labels), bounds=LOG_TEMPERATURES,
                            method="bounded", options={"xatol": 1e-3})
    return float(np.exp(found.x))


def cross_fitted(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return logits [N, K], each fold's divided by the temperature that was fitted on the other folds."""
    fold = np.random.default_rng(0).permutation(len(labels)) % FOLDS
    scaled = np.empty_like(logits)
    for each in range(FOLDS):
        scaled[fold == each] = logits[fold == each] / fit(logits[fold != each], labels[fold != each])
    return scaled


def scaled_error(logits: np.ndarray, labels: np.ndarray, count: int) -> float:
    """Return the expected calibration error of scaled logits [S, N, K]."""
    confidence, right = confidences(logits, labels)
    return float(expected_error(confidence, right, bins_of(confidence, count), count))


def sentence_of(calibrated: bool, excess: float, error: float, texts: int) -> str:
    """Say whether the probabilities can be believed. excess: mean confidence less accuracy."""
    if calibrated:
        return f"The probabilities agree with how often the answers are right, as far as {texts:,} texts can show."
    if abs(excess) < error / 3:
        return "The probabilities are off in places, too high in some and too low in others."
    return (f"The model is too {'sure' if excess > 0 else 'unsure'}: its answers have a probability of "
            f"{signed(100 * abs(excess))} points {'more' if excess > 0 else 'less'} than they are right, on average.")
