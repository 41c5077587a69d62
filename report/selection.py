"""What choosing the best epoch on dev is worth: its score there is a little too good, and here is by how much."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from report.read import Run
from report.statistics import Estimate

GROUPS = 20  # of texts, for the interval
MOST_DRAWS, MOST_NUMBERS = 400, 1_000_000
FEWEST = 10  # texts, for an estimate
Scores = Callable[[np.ndarray], np.ndarray]
"""How good each epoch is on texts that count so and so often: weights [draws, N] -> [draws, E]."""


@dataclass(frozen=True)
class Selection:
    """What choosing the best epoch on dev is worth, mean over seeds.

    Resampled: draw texts with replacement, choose the best epoch on those drawn, score it on those left out.
    """

    score: str  # accuracy or macro-F1: what chose the epoch
    on_dev: float  # the best epoch's score on all of dev
    honest: float  # mean score on texts that had no say in the choice
    optimism: Estimate  # on_dev - honest, in the score's unit (0.01 = one point); may be a little below 0
    in_accuracy: float  # what the same choice is worth in accuracy; 0 at least
    epochs: int  # the choice was among so many


def selection(runs: Sequence[Run]) -> Selection | None:
    """Estimate by how much the best epochs' scores on dev are too good. None: one epoch each, or too few texts.

    The interval is the jackknife's: the estimate is made again without each of 20 groups of texts.
    """
    texts, epochs = len(runs[0].dev.labels), max(len(run.epochs) for run in runs)
    if texts < FEWEST or epochs < 2:
        return None
    by_f1 = runs[0].select_by == "macro-f1"
    scores = [(macro_f1_of if by_f1 else accuracy_of)(run) for run in runs]
    every = np.arange(texts)
    on_dev = np.mean([score(np.ones((1, texts), np.float32)).max() for score in scores])
    optimism = gain(scores, scores, every, texts)
    in_accuracy = gain(scores, [accuracy_of(run) for run in runs], every, texts) if by_f1 else optimism

    # Leave out each group in turn.
    parts = np.array_split(np.random.default_rng(1).permutation(texts), min(GROUPS, texts))
    without = np.array([gain(scores, scores, np.delete(every, part), texts) for part in parts])
    error = np.sqrt((len(without) - 1) * without.var()) * stats.t.ppf(0.975, len(without) - 1)
    return Selection("macro-F1" if by_f1 else "accuracy", float(on_dev), float(on_dev - optimism),
                     Estimate(optimism, float(optimism - error), float(optimism + error)), max(in_accuracy, 0.0),
                     epochs)


def gain(chooses: Sequence[Scores], judges: Sequence[Scores], rows: np.ndarray, texts: int) -> float:
    """Return how much better the best epoch of some texts seems on them than an honestly chosen one, mean over seeds.

    chooses, judges: the scores by which each seed's epoch is chosen, and those in which the difference is given. Both
    epochs are scored on the same texts, those that a draw leaves out: what the two share falls out of the difference.
    """
    # How often each text is drawn; a draw that leaves out none says nothing.
    number = int(np.clip(MOST_NUMBERS // texts, 40, MOST_DRAWS))
    drawn = rows[np.random.default_rng(0).integers(len(rows), size=(number, len(rows)))]
    drawn += texts * np.arange(number)[:, None]
    weights = np.bincount(drawn.ravel(), minlength=number * texts).reshape(number, texts).astype(np.float32)
    left = np.zeros_like(weights)
    left[:, rows] = weights[:, rows] == 0
    usable = left.any(axis=1)
    weights, left, whole = weights[usable], left[usable], np.zeros((1, texts), np.float32)
    whole[0, rows] = 1
    if not len(left):
        return 0.0

    gains = []
    for choose, judge in zip(chooses, judges, strict=True):
        outside, chosen = judge(left), choose(weights).argmax(axis=1)  # of equal epochs the first, as in training
        gains.append(np.mean(outside[:, choose(whole)[0].argmax()] - outside[np.arange(len(outside)), chosen]))
    return float(np.mean(gains))


def accuracy_of(run: Run) -> Scores:
    """Return the accuracy of a run's epochs as a function of the texts' weights."""
    right = (run.logits.argmax(axis=2) == run.dev.labels).T.astype(np.float32)  # [N, E]
    return lambda weights: weights @ right / weights.sum(axis=1, keepdims=True)


def macro_f1_of(run: Run) -> Scores:
    """Return the macro-F1 of a run's epochs as a function of the texts' weights."""
    answers, labels, every = run.logits.argmax(axis=2), run.dev.labels, np.arange(run.logits.shape[2])
    have = (labels[:, None] == every).astype(np.float32)  # [N, K]

    def scores(weights: np.ndarray) -> np.ndarray:
        found = []
        for row in answers:
            got = (row[:, None] == every).astype(np.float32)
            with np.errstate(invalid="ignore"):
                found.append(np.nanmean(2 * (weights @ (have * got)) / (weights @ (have + got)), axis=1))
        return np.stack(found, axis=1)

    return scores
