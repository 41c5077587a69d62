"""Intervals and paired tests for texts that several models, or several seeds of one, have answered.

Every function that draws at random starts from the same seed, so that a page made twice says the same. Where an
interval comes from resampling (the percentile bootstrap), two imagined texts are added, spread evenly over what could
have happened: so an interval has a width, even if all of few texts went the same way (Agresti and Min 2005).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse, stats

from common import intervals
from common.intervals import Z

DRAWS = 1000
MOST_NUMBERS = 10_000_000  # drawn for one interval: with very many texts there are fewer draws


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval: low <= value <= high."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """What a paired test says about two models."""

    value: Estimate  # accuracy of the first - accuracy of the second
    p: float
    test: str  # which test, and what it assumes


def wilson(share: float, texts: float, z: float = Z) -> Estimate:
    """Return a share of some texts with Wilson's interval. texts: above 0; need not be whole (a mean over seeds)."""
    low, high = intervals.wilson(float(share), texts, z)
    return Estimate(float(share), float(low), float(high))


def holm(values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number by Holm's method, in the same order."""
    corrected, most = [0.0] * len(values), 0.0
    for done, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        most = max(most, min(1.0, (len(values) - done) * values[place]))
        corrected[place] = most
    return corrected


def spread(values: Sequence[float]) -> float | None:
    """Return the standard deviation over seeds; None for one seed."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def draws(size: int) -> int:
    """Return how often to resample if one draw takes `size` numbers."""
    return int(np.clip(MOST_NUMBERS // size, 100, DRAWS))


def percentiles(value: float, drawn: np.ndarray) -> Estimate:
    """Return a number with the percentile interval of what resampling gave."""
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Estimate(float(value), float(min(low, value)), float(max(high, value)))


# ---- two models on the same texts ------------------------------------------------------------------------------------


def mcnemar(only_first: int, only_second: int) -> float:
    """Return McNemar's exact p: could a fair coin have shared out the texts that only one of two models has right?"""
    total = only_first + only_second
    return float(stats.binomtest(only_first, total).pvalue) if total else 1.0


def compare(first: np.ndarray, second: np.ndarray, handicap: float = 0.0) -> Difference:
    """Compare which texts two models have right: bool [S1, N] and [S2, N], a row for each seed.

    handicap: by how much the first's accuracy is known to be too good. The test takes it off a lead, though never more
    than the lead; value and interval are those of the texts as they were answered.

    One seed each: McNemar's exact test. Else the test is on the mean over seeds, and both the texts and the seeds count
    as drawn at random: the variances of the two means over texts and over seeds are added, and t has Satterthwaite's
    degrees of freedom. The interval resamples texts and, where there are several, seeds (Owen 2007).
    """
    (s1, texts), s2 = first.shape, len(second)
    value = float(first.mean() - second.mean())
    handicap = min(max(handicap, 0.0), max(value, 0.0))

    # Texts that were answered alike by all are one pattern; the imagined texts are patterns, too.
    patterns, counts = np.unique(np.concatenate([first, second]).T, axis=0, return_counts=True)
    imagined = np.array([[1] * s1 + [0] * s2, [0] * s1 + [1] * s2, [0] * (s1 + s2)])
    patterns = np.concatenate([patterns, imagined]).astype(float)  # [U, S1 + S2]
    shares = np.concatenate([counts, [0.5, 0.5, 1.0]]) / (texts + 2)

    # Draw texts, then seeds; few seeds vary too little when they are drawn from each other, which the root makes up.
    rng, number = np.random.default_rng(0), draws(len(shares))
    rights = rng.multinomial(texts, shares, number) @ patterns / texts  # [draws, S1 + S2]
    drawn = np.zeros(number)
    for sign, part in ((1, rights[:, :s1]), (-1, rights[:, s1:])):
        seeds = part.shape[1]
        weights = rng.multinomial(seeds, [1 / seeds] * seeds, number) / seeds
        stretch = np.sqrt(seeds / (seeds - 1)) if seeds > 1 else 0.0
        drawn += sign * (part * (1 / seeds + stretch * (weights - 1 / seeds))).sum(axis=1)

    # One seed each.
    if s1 == s2 == 1:
        p = mcnemar(int((first & ~second).sum()) - round(handicap * texts), int((~first & second).sum()))
        return Difference(percentiles(value, drawn), p, "McNemar's exact test; it takes the texts for independent, and "
                          "speaks of this seed alone")

    # Several: add up the variances, and widen the interval as t does with few seeds.
    each = patterns[:, :s1].mean(axis=1) - patterns[:, s1:].mean(axis=1)
    parts = [((shares @ each**2 - (shares @ each)**2) / texts, max(texts - 1, 1))]
    parts += [(rows.mean(axis=1).var(ddof=1) / len(rows), len(rows) - 1) for rows in (first, second) if len(rows) > 1]
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / own for part, own in parts)
    p = float(2 * stats.t.sf(abs(value - handicap) / np.sqrt(variance), freedom))
    center = drawn.mean()
    wide = center + (drawn - center) * stats.t.ppf(0.975, freedom) / Z
    return Difference(percentiles(value, np.clip(wide, -1, 1)), p, "t test on the mean over seeds; it takes the texts "
                      "and the seeds for independent draws, and each mean for roughly normal")


# ---- scores that are made of counts ----------------------------------------------------------------------------------


def macro_f1(labels: np.ndarray, answers: np.ndarray, num_labels: int) -> tuple[Estimate, list[float]]:
    """Return macro-F1 (the mean over the labels that occur or are answered), mean over seeds, and that of each seed.

    labels: int [N]; answers: int [S, N].
    """
    def columns(labels: np.ndarray, answers: np.ndarray) -> sparse.csr_array:
        """For each text: one in the column of its label, of its answer, and, if it is right, of the label again."""
        rows = np.arange(len(labels))
        places = np.concatenate([labels, num_labels + answers, 2 * num_labels + labels])
        values = np.concatenate([np.ones(2 * len(labels)), labels == answers])
        return sparse.csr_array((values, (np.tile(rows, 3), places)), shape=(len(labels), 3 * num_labels))

    def score(counts: np.ndarray) -> np.ndarray:
        have, got, right = np.split(counts, 3, axis=-1)
        with np.errstate(invalid="ignore"):
            return np.nanmean(2 * right / (have + got), axis=-1)

    return resample(labels, answers, num_labels, columns, score)


def resample(labels: np.ndarray, answers: np.ndarray, num_labels: int,
             columns: Callable[[np.ndarray, np.ndarray], sparse.csr_array],
             score: Callable[[np.ndarray], np.ndarray]) -> tuple[Estimate, list[float]]:
    """Return a score that is made of counts: mean over seeds, its interval by resampling texts, and each seed's own.

    labels: int [N]; answers: int [S, N]. columns(labels [U], answers [U]) -> [U, C]: what a text adds to the C counts;
    score(counts [..., C]) -> [...].
    """
    table, counts = np.unique(np.vstack([labels, answers]), axis=1, return_counts=True)
    every = np.unique(table)  # an imagined text for each label that occurs, right and wrong
    table = np.hstack([table, [every] * len(table), [every] + [np.roll(every, 1)] * len(answers)])
    shares = np.concatenate([counts, np.full(2 * len(every), 1 / len(every))]) / (len(labels) + 2)
    drawn = np.random.default_rng(0).multinomial(len(labels), shares, draws(len(shares)))
    drawn = np.ascontiguousarray(drawn.T, dtype=float)  # [U, draws]
    each = [score((columns(table[0], row).T @ drawn).T) for row in table[1:]]
    own = [float(score(np.asarray(columns(labels, row).sum(axis=0)))) for row in answers]
    return percentiles(float(np.mean(own)), np.mean(each, axis=0)), own
