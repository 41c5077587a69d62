"""Which labels are confused with which, how good each class is, and how far off the answers are on a scale."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from report.read import Group
from report.statistics import Estimate, resample, wilson
from report.verdict import answers_of

MOST_SHOWN = 30  # labels
SCALES = (
    ("very negative", "negative", "neutral", "positive", "very positive"),
    ("negative", "neutral", "positive"),
    ("strongly disagree", "disagree", "neutral", "agree", "strongly agree"),
    ("low", "medium", "high"),
)
STEPS = range(3, 12)  # labels that a scale of whole numbers may have


@dataclass(frozen=True)
class ClassScore:
    """How good one label is."""

    label: int
    name: str
    texts: int  # dev texts of this label
    answered: float  # how often it is the answer, mean over seeds
    precision: Estimate | None  # None: it is never the answer
    recall: Estimate | None  # None: no text has it
    f1: Estimate | None  # None: neither


@dataclass(frozen=True)
class Confused:
    """Texts of one label that got another."""

    label: int
    answer: int
    texts: float  # mean over seeds
    share: float  # of the label's texts


@dataclass(frozen=True)
class Ordered:
    """Scores for labels on a scale."""

    because: str  # how it is known that the labels are a scale
    within_one: Estimate  # share of answers that are right or one step off
    off_by_one: Estimate  # share of answers that are exactly one step off
    mean_absolute_error: Estimate  # in steps
    kappa: Estimate  # quadratic weighted kappa: 1 perfect, 0 as good as chance
    majority_error: float  # mean absolute error of the majority class, to compare with


@dataclass(frozen=True)
class Classes:
    """Section 3."""

    names: tuple[str, ...]
    confusion: np.ndarray | None  # float64 [K, K]: texts by label (row) and answer, mean over seeds; None: K > 30
    scores: tuple[ClassScore, ...]  # by label; with more than 30 labels only the 30 with the most texts
    left_out: int  # labels that are not in scores
    most_confused: tuple[Confused, ...]  # up to 10, most texts first
    ordered: Ordered | None


def classes(group: Group) -> Classes:
    """Count which labels get which answers, mean over the seeds, with an interval for every score."""
    labels, names = group.dev.labels, group.label_names
    answers = answers_of(group.runs)  # [S, N]
    cells = Counter(zip(np.tile(labels, len(answers)).tolist(), answers.ravel().tolist(), strict=True))
    counts = {cell: count / len(answers) for cell, count in cells.items()}

    confusion = None
    if len(names) <= MOST_SHOWN:
        confusion = np.zeros((len(names), len(names)))
        for cell, count in counts.items():
            confusion[cell] = count

    have = np.bincount(labels, minlength=len(names))
    got = np.bincount(answers.ravel(), minlength=len(names)) / len(answers)
    shown = sorted(sorted(range(len(names)), key=lambda label: -have[label])[:MOST_SHOWN])
    scores = [score_of(label, names[label], int(have[label]), float(got[label]), counts.get((label, label), 0.0))
              for label in shown]
    wrong = sorted(((count, cell) for cell, count in counts.items() if cell[0] != cell[1]), reverse=True)[:10]
    confused = [Confused(label, answer, count, float(count / have[label])) for count, (label, answer) in wrong]
    return Classes(names, confusion, tuple(scores), len(names) - len(shown), tuple(confused),
                   ordered(group, answers))


def score_of(label: int, name: str, have: int, got: float, right: float) -> ClassScore:
    """Return a label's scores. have: texts with the label; got: with the answer; right: with both.

    Precision and recall are shares, so Wilson's interval is theirs. F1 = 2J / (1 + J) grows with J, the share of right
    ones among texts that have the label, the answer or both; so its interval comes from Wilson's for J.
    """
    either, f1 = have + got - right, None
    if either:
        jaccard = wilson(right / either, either)
        f1 = Estimate(*(2 * j / (1 + j) for j in (jaccard.value, jaccard.low, jaccard.high)))
    return ClassScore(label, name, have, got, wilson(right / got, got) if got else None,
                      wilson(right / have, have) if have else None, f1)


# ---- labels on a scale -----------------------------------------------------------------------------------------------


def scale(names: Sequence[str], spellings: Sequence[str]) -> str | None:
    """Say how it is known that labels are a scale, from 0 up; None if it is not.

    They are if their names are those of a usual scale, or if the files spell them as whole numbers, one after another,
    from 3 to 11 of them. Labels without names are numbers only because they must be called something: they are not.
    """
    if tuple(name.strip().casefold() for name in names) in SCALES:
        return f"the labels go from “{names[0]}” to “{names[-1]}”"
    spelled = spellings or names
    try:
        numbers = [int(each) for each in spelled]
    except ValueError:
        return None
    rising = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    if not rising or len(numbers) not in STEPS or (not spellings and numbers[0] == 0):
        return None
    return f"the labels are the whole numbers from {numbers[0]} to {numbers[-1]}, which is taken for a scale"


def ordered(group: Group, answers: np.ndarray) -> Ordered | None:
    """Score how far off the answers are; None if the labels are not a scale."""
    labels, number = group.dev.labels, len(group.label_names)
    because = scale(group.label_names, group.runs[0].spellings)
    if because is None:
        return None
    steps = np.abs(answers - labels)
    distance = np.abs(np.subtract.outer(np.arange(number), np.arange(number)))  # [K, K]

    def columns(labels: np.ndarray, answers: np.ndarray) -> sparse.csr_array:
        """For each text: one in the column of its label and answer."""
        places = labels * number + answers
        return sparse.csr_array((np.ones(len(labels)), (np.arange(len(labels)), places)),
                                shape=(len(labels), number * number))

    def error(counts: np.ndarray) -> np.ndarray:
        return counts @ distance.ravel() / counts.sum(axis=-1)

    def kappa(counts: np.ndarray) -> np.ndarray:
        """1 - squared steps found / squared steps expected if answers were dealt to the texts at random."""
        table = counts.reshape(*counts.shape[:-1], number, number)
        have, got, total = table.sum(axis=-1), table.sum(axis=-2), counts.sum(axis=-1)
        expected = np.einsum("...i,ij,...j->...", have, distance**2, got) / total
        found = counts @ (distance**2).ravel()
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(expected > 0, 1 - found / expected, 0.0)  # one label, one answer: nothing beyond chance

    return Ordered(because, wilson(float((steps <= 1).mean()), len(labels)),
                   wilson(float((steps == 1).mean()), len(labels)),
                   resample(labels, answers, number, columns, error)[0],
                   resample(labels, answers, number, columns, kappa)[0],
                   float(np.abs(group.dev.majority - labels).mean()))
