"""The most confident mistakes, with each word's share in the answer, and a check of the shares."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import softmax

from common.cli import progress
from report.read import Group
from report.verdict import rights_of

MOST_SHOWN = 50
REMOVED = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)  # shares of the words
ORDERS = 4  # random ones, to compare with


@dataclass(frozen=True)
class Deletion:
    """Probability of the answer while words are taken out of the text: does it fall fastest by their shares?"""

    removed: np.ndarray  # float64 [P]: share of the words taken out, from 0 to 1
    by_share: np.ndarray  # float64 [P]: probability if those with the largest shares go first
    at_random: np.ndarray  # float64 [P]: mean over some random orders
    holds: bool  # by_share lies below at_random on average


@dataclass(frozen=True)
class Words:
    """The shares of a text's words in the probability of the answer (integrated gradients)."""

    words: tuple[tuple[str, float], ...]  # (word, share) in order; a share above 0 speaks for the answer
    probability: float  # of the answer
    blank: float  # of the same label if every word were blank
    error: float  # probability - blank - sum of the shares: 0 if the shares were exact
    deletion: Deletion


@dataclass(frozen=True)
class Mistake:
    """A wrong answer."""

    text: int  # position in dev
    label: int
    answer: int
    probability: float  # of the answer
    of_label: float  # of the label
    seeds_wrong: int  # so many of the seeds get the text wrong
    words: Words | None  # None: not explained


@dataclass(frozen=True)
class Mistakes:
    """Section 8."""

    run: int  # index in the group of the run whose mistakes these are
    total: int  # mistakes that it makes on dev
    mistakes: tuple[Mistake, ...]  # most confident first
    explained: int  # the first of them have words
    why_not_all: str | None  # a sentence; None if all are explained
    checked: str | None  # how often the deletion curve bears the shares out, in a sentence


def mistakes(group: Group, explain: int, budget_s: float) -> Mistakes:
    """List the most confident mistakes of the run in the middle, and explain the first `explain` of them.

    The run in the middle: of those with a model folder, if any has one, the one with the median accuracy. One mistake
    is explained in any case; no further one if the slowest so far took longer than what is left of budget_s seconds.
    """
    rights, labels = rights_of(group.runs), group.dev.labels
    with_model = [index for index, run in enumerate(group.runs) if run.model_files]
    able = sorted(with_model or range(len(group.runs)), key=lambda index: rights[index].mean())
    chosen = able[(len(able) - 1) // 2]
    run, wrong = group.runs[chosen], np.flatnonzero(~rights[chosen])

    # The most confident ones.
    probabilities = softmax(run.best_logits.astype(float), axis=1)
    answers = run.best_logits.argmax(axis=1)
    order = wrong[np.argsort(-probabilities[wrong, answers[wrong]], kind="stable")]
    found = [Mistake(text, int(labels[text]), int(answers[text]), float(probabilities[text, answers[text]]),
                     float(probabilities[text, labels[text]]), int((~rights[:, text]).sum()), None)
             for text in order[:max(MOST_SHOWN, explain)].tolist()]

    # Their words.
    wanted = min(explain, len(found))
    if wanted and with_model:
        texts = [group.dev.texts[mistake.text] for mistake in found[:wanted]]
        for place, words in enumerate(explained(run.path, texts, budget_s)):
            found[place] = replace(found[place], words=words)
    done = sum(mistake.words is not None for mistake in found)
    return Mistakes(chosen, len(wrong), tuple(found), done, _why_not_all(done, wanted, len(wrong), bool(with_model)),
                    _checked([mistake.words for mistake in found[:done]]))


def _why_not_all(done: int, wanted: int, total: int, has_model: bool) -> str | None:
    """Say why not every mistake has its words coloured."""
    if done == total:
        return None
    if not has_model:
        return "The run folder holds no model, so that no words can be coloured."
    if done < wanted:
        return f"Time was up after {done} of {total:,} mistakes."
    return f"Words are coloured for {done} of {total:,} mistakes, as many as were asked for."


def _checked(words: Sequence[Words]) -> str | None:
    """Say how often the deletion curve bears the shares out."""
    if not words:
        return None
    held = sum(each.deletion.holds for each in words)
    return (f"In {held} of {len(words)} texts the probability falls faster if words go by their share than at random: "
            + ("the colours point at what the model reads." if held > 0.8 * len(words) else
               "be careful with the colours where it does not."))


# ---- the model -------------------------------------------------------------------------------------------------------


def explained(run: Any, texts: Sequence[str], budget_s: float) -> Iterator[Words]:
    """Yield the words of some texts by the model in a run folder, of the first one whatever time that takes.

    budget_s: of explaining; loading the model does not count. UserError as serving.load.
    """
    import serving  # late, as it brings PyTorch

    model, longest = serving.load(run), 0.0
    started = time.monotonic()
    for text in progress(texts, "explaining", "text"):
        begun = time.monotonic()
        if begun - started + longest > budget_s:
            return
        explanation = model.explain(text)

        def probabilities(shortened: list[str], label: int = explanation.label) -> np.ndarray:
            return model.probabilities(shortened, bar=False)[:, label].numpy()

        yield Words(explanation.words, explanation.probability, explanation.blank, explanation.error,
                    deletion(explanation.words, probabilities))
        longest = max(longest, time.monotonic() - begun)


def deletion(words: Sequence[tuple[str, float]], probabilities: Callable[[list[str]], np.ndarray]) -> Deletion:
    """Take words out of a text, those with the largest share first, and in random orders, and ask the model again.

    probabilities: that of the answer for each of some texts. Words are joined by a space each, as most were.
    """
    count, rng = len(words), np.random.default_rng(0)
    removed = np.unique([round(share * count) for share in REMOVED])
    shares = np.array([share for _, share in words])
    orders = [np.argsort(-shares, kind="stable"), *(rng.permutation(count) for _ in range(ORDERS))]

    texts = []
    for order in orders:
        for number in removed:
            gone = set(order[:number].tolist())
            texts.append(" ".join(word for place, (word, _) in enumerate(words) if place not in gone))
    found = np.asarray(probabilities(texts)).reshape(len(orders), len(removed))
    by_share, at_random = found[0], found[1:].mean(axis=0)
    # The two ends are the same text in every order.
    return Deletion(removed / max(count, 1), by_share, at_random,
                    bool((by_share - at_random)[1:-1].sum() < 0) if len(removed) > 2 else False)
