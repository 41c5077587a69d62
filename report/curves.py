"""Learning curves, and the epochs at which training went wrong.

Every rule is written out with its threshold in RULES, for the reader of the page, and in the function of the same name.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import log_softmax

from report.read import Group, Run

Fault = Literal["overfitting", "rate too high", "rate too low", "not finished", "collapse"]

RISE = 0.02  # of dev loss over its least value: overfitting, if it is also
SURE = 3.0  # standard errors of the mean difference, text by text
JUMP, JUMP_NATS = 0.2, 0.02  # of train loss over its least value so far: rate too high
UNMOVED, UNLEARNED = 0.03, 0.95  # train loss fell by less than this share and ends above this share of chance
FALLING = 0.01  # of dev loss in the last epoch: not finished
ONE_ANSWER, MORE_THAN_LABEL = 0.95, 0.1  # share of the most frequent answer, and by how much it exceeds its label's
FEWEST = 10  # texts, for a collapse

RULES: tuple[tuple[Fault, str], ...] = (
    ("overfitting", f"dev loss ends more than {RISE:.0%} above its lowest, by more than {SURE:g} standard errors of "
                    "the difference on the same texts, while train loss went on falling; it begins after the lowest"),
    ("rate too high", f"train loss of an epoch is more than {JUMP:.0%} (and {JUMP_NATS} nats) above its lowest so far"),
    ("rate too low", f"train loss falls by less than {UNMOVED:.0%} from the first epoch to the last, and is still "
                     f"within {1 - UNLEARNED:.0%} of what giving each label its share would cost"),
    ("not finished", f"dev loss is lowest in the last epoch and fell there by more than {FALLING:.0%}, and by more "
                     f"than {SURE:g} standard errors; from three epochs on"),
    ("collapse", f"one label is the answer to {ONE_ANSWER:.0%} of the texts or more, at least {MORE_THAN_LABEL:.0%} "
                 "more than have it; marked where it begins, or at the first epoch if it never ends"),
)


@dataclass(frozen=True)
class Curve:
    """One quantity over the epochs, for every seed."""

    name: str  # train loss, dev loss, train accuracy, dev accuracy, dev macro-F1, most frequent answer (its share)
    values: np.ndarray  # float64 [S, E]; NaN after the end of a shorter run
    mean: np.ndarray  # float64 [E], over the seeds that got so far
    low: np.ndarray  # float64 [E], the lowest seed
    high: np.ndarray  # float64 [E], the highest seed


@dataclass(frozen=True)
class Annotation:
    """A fault that begins at an epoch of one run."""

    fault: Fault
    seed: int
    epoch: int  # counted from 1
    sentence: str  # what was seen, with its numbers
    advice: str  # what to do about it


@dataclass(frozen=True)
class Curves:
    """Section 2."""

    epochs: int  # E, of the longest run
    seeds: tuple[int, ...]
    best_epochs: tuple[int, ...]  # for each seed
    train_loss: Curve  # nats
    dev_loss: Curve
    train_accuracy: Curve
    dev_accuracy: Curve
    dev_macro_f1: Curve
    top_share: Curve  # share of dev that gets the most frequent answer
    chance_loss: float  # loss of always giving the labels' shares as probabilities, in nats: a line to compare with
    annotations: tuple[Annotation, ...]  # by epoch
    rules: tuple[tuple[str, str], ...]  # (fault, the rule with its threshold in words), for a legend


@dataclass(frozen=True)
class Course:
    """The curves of one run, as the rules read them."""

    train_loss: np.ndarray  # float64 [E]
    text_loss: np.ndarray  # float64 [E, N]: cross-entropy of each dev text
    top_share: np.ndarray  # float64 [E]: share of the most frequent answer
    top_excess: np.ndarray  # float64 [E]: that share less the share of texts with that label
    chance_loss: float

    @property
    def dev_loss(self) -> np.ndarray:
        """The mean over the texts: float64 [E]."""
        return self.text_loss.mean(axis=1)


def curves(group: Group) -> Curves:
    """Lay the curves of a group's runs over one another, and look for faults in each run."""
    runs = group.runs
    courses = [course_of(run) for run in runs]
    epochs = max(len(run.epochs) for run in runs)

    def curve(name: str, rows: Sequence[Sequence[float]]) -> Curve:
        values = np.array([[*row, *[np.nan] * (epochs - len(row))] for row in rows], dtype=float)
        return Curve(name, values, np.nanmean(values, axis=0), np.nanmin(values, axis=0), np.nanmax(values, axis=0))

    def logged(name: str, field: str) -> Curve:
        return curve(name, [[getattr(epoch, field) for epoch in run.epochs] for run in runs])

    found = [annotation for run, course in zip(runs, courses, strict=True) for annotation in faults(course, run.seed)]
    return Curves(
        epochs, tuple(run.seed for run in runs), tuple(run.best_epoch for run in runs),
        logged("train loss", "train_loss"), curve("dev loss", [course.dev_loss for course in courses]),
        logged("train accuracy", "train_accuracy"), logged("dev accuracy", "dev_accuracy"),
        logged("dev macro-F1", "dev_macro_f1"), curve("most frequent answer", [each.top_share for each in courses]),
        courses[0].chance_loss, tuple(sorted(found, key=lambda each: (each.epoch, each.seed))), RULES)


def course_of(run: Run) -> Course:
    """Compute from a run's logits what its log does not say."""
    labels, (texts, num_labels) = run.dev.labels, run.logits.shape[1:]
    loss = np.stack([-log_softmax(logits.astype(float), axis=1)[np.arange(texts), labels] for logits in run.logits])
    answers = run.logits.argmax(axis=2)
    counts = np.stack([np.bincount(row, minlength=num_labels) for row in answers]) / texts  # [E, K]
    shares = np.bincount(labels, minlength=num_labels) / texts
    some = shares[shares > 0]
    top = counts.argmax(axis=1)
    return Course(np.array([epoch.train_loss for epoch in run.epochs]), loss, counts.max(axis=1),
                  counts.max(axis=1) - shares[top], float(-(some * np.log(some)).sum()))


def faults(course: Course, seed: int) -> Iterator[Annotation]:
    """Yield what went wrong in one run, each fault once."""
    for rule in (overfitting, rate_too_high, rate_too_low, not_finished, collapse):
        if found := rule(course):
            epoch, sentence, advice = found
            yield Annotation(_NAMES[rule], seed, epoch, sentence, advice)


Found = tuple[int, str, str] | None
"""Epoch, counted from 1; what was seen; what to do."""


def overfitting(course: Course) -> Found:
    """Dev loss ends clearly above its lowest value while train loss went on falling."""
    loss, lowest = course.dev_loss, int(course.dev_loss.argmin())
    if lowest == len(loss) - 1 or course.train_loss[-1] >= course.train_loss[lowest]:
        return None
    if loss[-1] <= (1 + RISE) * loss[lowest] or not surely_above(course.text_loss[-1], course.text_loss[lowest]):
        return None
    return (lowest + 2, f"dev loss rises from {loss[lowest]:.3f} to {loss[-1]:.3f} while train loss still falls",
            "the best epoch is kept, so nothing is lost; fewer epochs or more dropout save the time")


def rate_too_high(course: Course) -> Found:
    """Train loss of some epoch is clearly above the lowest before it."""
    loss = course.train_loss
    before = np.minimum.accumulate(loss)[:-1]
    jumps = np.flatnonzero(loss[1:] > before + np.maximum(JUMP * before, JUMP_NATS))
    if not len(jumps):
        return None
    first = int(jumps[0])
    return (first + 2, f"train loss jumps from {before[first]:.3f} to {loss[first + 1]:.3f}",
            "a lower learning rate (--lr; --lr find shows one), a warm-up or --max-grad-norm 1")


def rate_too_low(course: Course) -> Found:
    """Train loss has hardly moved, and the model knows little more than the labels' shares."""
    first, last = course.train_loss[[0, -1]]
    if len(course.train_loss) < 2 or first - last >= UNMOVED * first or last <= UNLEARNED * course.chance_loss:
        return None
    if last > 1.1 * course.chance_loss:  # worse than knowing nothing: that is no low rate
        return None
    return (1, f"train loss goes from {first:.3f} to {last:.3f} only; knowing nothing costs {course.chance_loss:.3f}",
            "a higher learning rate (--lr find shows one)")


def not_finished(course: Course) -> Found:
    """Dev loss is lowest in the last epoch, and was still falling."""
    loss = course.dev_loss
    if len(loss) < 3 or loss.argmin() != len(loss) - 1 or loss[-1] >= (1 - FALLING) * loss[-2]:
        return None
    if not surely_above(course.text_loss[-2], course.text_loss[-1]):
        return None
    return (len(loss), f"dev loss still falls in the last epoch, from {loss[-2]:.3f} to {loss[-1]:.3f}",
            "more epochs, or a higher learning rate")


def collapse(course: Course) -> Found:
    """Nearly all texts get the same answer, far more than have that label."""
    if course.text_loss.shape[1] < FEWEST:
        return None
    one = (course.top_share >= ONE_ANSWER) & (course.top_excess >= MORE_THAN_LABEL)
    begins = np.flatnonzero(one[1:] & ~one[:-1]) + 1
    if not one.all() and not len(begins):
        return None
    first = 0 if one.all() else int(begins[0])
    return (first + 1, f"{course.top_share[first]:.0%} of the texts get the same answer",
            "a lower learning rate if it began late, a higher one if it was so from the start; "
            "--class-weights balanced if that label is by far the most frequent")


def surely_above(one: np.ndarray, other: np.ndarray) -> bool:
    """Tell whether the mean of `one` [N] is above that of `other`, on the same texts, by SURE standard errors."""
    difference = one - other
    return len(one) > 1 and difference.mean() > SURE * difference.std(ddof=1) / np.sqrt(len(one))


_NAMES: dict[Callable[[Course], Found], Fault] = {
    overfitting: "overfitting", rate_too_high: "rate too high", rate_too_low: "rate too low",
    not_finished: "not finished", collapse: "collapse"}
