"""Say in a sentence whether a run is better than something else, or not more than luck."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from report.read import Group, Run
from report.selection import Selection, selection
from report.statistics import Estimate, compare, holm, macro_f1, spread, wilson

Outcome = Literal["better", "worse", "luck", "too few"]
"""better, worse: the test says so after all corrections. luck: no difference shown, and hardly a large one overlooked.
too few: no difference shown, but a large one may be there."""
LEVEL = 0.05  # of p, after the correction
LARGE = 0.05  # an interval that reaches further than this to both sides of the estimate leaves too much open
MAJORITY, TFIDF, BEFORE = "the majority class", "TF-IDF + logistic regression", "the run before"


@dataclass(frozen=True)
class Versus:
    """The group against another model on the same dev texts."""

    name: str  # "the majority class", "TF-IDF + logistic regression", "the run before", or the name of a group
    accuracy: float  # the other's, mean over its seeds
    difference: Estimate  # ours - theirs, 0.01 = one point; texts are resampled, and with several seeds seeds, too
    per_seed: tuple[float, ...]  # ours - theirs, for each of our seeds, by seed
    only_ours: float  # texts that only we have right, mean over seeds
    only_theirs: float
    handicap: float  # taken off our lead in the test: what choosing the best epoch on these texts is worth
    p: float  # of the test
    p_holm: float  # corrected for the number of comparisons (Holm)
    test: str  # which test, and what it assumes, in a sentence
    outcome: Outcome
    sentence: str  # such as "better than TF-IDF + logistic regression by 12.5 points (95%: 4.1 to 20.8)"


@dataclass(frozen=True)
class Verdict:
    """Section 1."""

    headline: str  # one or two plain sentences for the top of the page
    outcome: Outcome  # against the best of the two baselines
    texts: int
    seeds: tuple[int, ...]
    accuracy: Estimate  # mean over seeds; Wilson's interval from the number of texts
    accuracy_sd: float | None  # standard deviation over seeds; None for one seed
    macro_f1: Estimate
    macro_f1_sd: float | None
    versus: tuple[Versus, ...]  # majority, TF-IDF, and the run before where it can be compared
    no_before: str | None  # why the run before is not among them; None if it is, or if there is none
    selection: Selection | None  # None: one epoch, or too few texts
    caveats: tuple[str, ...]  # sentences: one seed only, the best epoch was chosen on dev, and so on


def answers_of(runs: Sequence[Run]) -> np.ndarray:
    """Return the answers of the best epochs: int64 [S, N]."""
    return np.stack([run.best_logits.argmax(axis=1) for run in runs])


def rights_of(runs: Sequence[Run]) -> np.ndarray:
    """Return which texts the best epochs have right: bool [S, N]."""
    return answers_of(runs) == runs[0].dev.labels


def verdict(group: Group) -> Verdict:
    """Compare a group with both baselines, and with the run before where that has the same dev texts."""
    dev, runs, ours = group.dev, group.runs, rights_of(group.runs)
    chosen = selection(runs)
    worth = chosen.in_accuracy if chosen else 0.0
    others = [(MAJORITY, (dev.majority == dev.labels)[None], worth), (TFIDF, (dev.tfidf == dev.labels)[None], worth)]
    before, no_before = _before(runs)
    if before:
        theirs = selection(before)  # its best epoch was chosen, too
        others.append((BEFORE, rights_of(before), worth - (theirs.in_accuracy if theirs else 0.0)))
    found = against(ours, others)

    # The scores.
    accuracy = ours.mean(axis=1)
    macro, macros = macro_f1(dev.labels, answers_of(runs), len(group.label_names))
    best = max(found[:2], key=lambda each: each.accuracy)
    return Verdict(_headline(runs, best, found), best.outcome, len(dev.texts), tuple(run.seed for run in runs),
                   wilson(accuracy.mean(), len(dev.texts)), spread(accuracy), macro, spread(macros), tuple(found),
                   no_before, chosen, tuple(_caveats(runs, chosen)))


Other = tuple[str, np.ndarray, float]
"""The name of another model, which texts each of its seeds has right (bool [S, N]), and the handicap (see Versus)."""


def against(ours: np.ndarray, others: Sequence[Other]) -> list[Versus]:
    """Compare which texts we have right, bool [S, N], with several others."""
    return against_each([(ours, other) for other in others])


def against_each(couples: Sequence[tuple[np.ndarray, Other]]) -> list[Versus]:
    """Make a comparison for each couple, corrected for how many there are."""
    tests = [compare(ours, theirs, handicap) for ours, (_, theirs, handicap) in couples]
    found = []
    for (ours, (name, theirs, handicap)), test, p in zip(couples, tests, holm([test.p for test in tests]), strict=True):
        outcome, handicap = outcome_of(test.value, p), max(handicap, 0.0)
        share, other = ours.mean(axis=0), theirs.mean(axis=0)
        found.append(Versus(
            name, float(theirs.mean()), test.value, tuple((ours.mean(axis=1) - theirs.mean()).tolist()),
            float((share * (1 - other)).sum()), float((other * (1 - share)).sum()), handicap, test.p, p, test.test,
            outcome, sentence_of(name, test.value, handicap, outcome, ours.shape[1])))
    return found


def outcome_of(difference: Estimate, p: float) -> Outcome:
    """Say what a difference and its corrected p amount to."""
    if p <= LEVEL and difference.value != 0:
        return "better" if difference.value > 0 else "worse"
    return "too few" if difference.high - difference.low > 2 * LARGE else "luck"


def sentence_of(name: str, difference: Estimate, handicap: float, outcome: Outcome, texts: int) -> str:
    """Return the part of a sentence that follows "This run is"."""
    value, low, high = (100 * each for each in (difference.value, difference.low, difference.high))
    if outcome == "worse":
        value, low, high = -value, -high, -low
    interval = f"(95%: {signed(low)} to {signed(high)})"
    if outcome in ("better", "worse"):
        return f"{outcome} than {name} by {value:.1f} points {interval}"
    apart = f"{abs(value):.1f} points {'above' if value > 0 else 'below'} it" if round(value, 1) else "0.0 points apart"
    less = f", and choosing the best epoch is worth {100 * handicap:.1f} of them" * (low > 0 and handicap >= 5e-4)
    if outcome == "too few":
        return f"not to be told from {name} with so few texts ({texts:,}): {apart} {interval}{less}"
    return f"not more than luck away from {name}: {apart} {interval}{less}"


def signed(value: float, digits: int = 1) -> str:
    """Return a number with a true minus sign, and without a sign if it is rounded to zero."""
    text = f"{value:.{digits}f}"
    return text.replace("-", "" if float(text) == 0 else "−")


def _before(runs: Sequence[Run]) -> tuple[list[Run], str | None]:
    """Return the runs that were there before and can be compared; and why there are none although some were."""
    before = [run.before for run in runs if run.before]
    same = [run for run in before if run.dev.same_texts(runs[0].dev) and run.label_names == runs[0].label_names]
    if same or not (before or any(run.no_before for run in runs)):
        return same, None
    return [], "the run before has other dev texts" if before else next(run.no_before for run in runs if run.no_before)


def _headline(runs: Sequence[Run], best: Versus, found: Sequence[Versus]) -> str:
    """Return the sentences for the top of the page."""
    subject = "This run is" if len(runs) == 1 else f"The mean of these {len(runs)} seeds is"
    lines = [f"{subject} {best.sentence}."]
    for other in found:
        if other is best or (other.name == MAJORITY and other.outcome == "better"):
            continue
        if other.name == BEFORE or other.outcome != "better":
            lines.append(f"It is {other.sentence}.")
    return " ".join(lines)


def _caveats(runs: Sequence[Run], chosen: Selection | None) -> list[str]:
    """Say what the figures leave out."""
    notes = []
    if len(runs) == 1:
        notes.append("One seed was trained. The intervals count how few texts there are, not that another seed gives "
                     "another model: three seeds would show how much that matters.")
    else:
        notes.append(f"{len(runs)} seeds were trained. Where models are compared, both the texts and the seeds "
                     "count as drawn at random; the intervals of a score by itself count the texts only.")
    if chosen:
        worth = chosen.optimism
        notes.append(
            f"The best of {chosen.epochs} epochs was chosen on these same texts, which makes its {chosen.score} about "
            f"{signed(100 * max(worth.value, 0))} points too good (95%: {signed(100 * worth.low)} to "
            f"{signed(100 * worth.high)}); the baselines had no such choice. The tests take it off.")
    elif max(len(run.epochs) for run in runs) > 1:
        notes.append("The best epoch was chosen on these same texts; they are too few to say what that is worth.")
    return notes
