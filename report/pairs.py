"""Counterfactual pairs: a text and its smallest edit that turns the label.

Ids do not say which texts belong together, so the texts must. Two texts are a pair if each is the other's nearest
neighbour by words and pairs of words (rare ones count more), and they have most of their words in common, in order.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

import numpy as np
from scipy import sparse

from report.read import Group
from report.statistics import Estimate, wilson
from report.verdict import answers_of

SIMILAR = 0.6  # share of words in common, in order (2 * common / all words of both), from which two texts are a pair
SHORTEST = 10  # words, signs included: shorter texts are alike by chance ("This film is dull." "This film is fun.")
WORDS = 10_000_000  # looked at in all texts together; of each text the first ones, but 50 at least
PRODUCTS = 20_000_000  # of rows that share a word: beyond these, the most frequent words are left out
LONGEST = 2000  # words of a text that are compared in order
MOST_COMPARED = 5000  # pairs of neighbours compared in order
MOST_SHOWN = 50
WORD = re.compile(r"\w+|[^\w\s]")
PIECE = re.compile(r"\s*(?:\w+|[^\w\s])\s*")

OUTCOMES = ("both right", "one right", "wrong way", "both wrong")
Outcome = Literal["both right", "one right", "wrong way", "both wrong"]
"""wrong way: each text of the pair got the other's label. both wrong: any other two wrong answers."""


@dataclass(frozen=True)
class Span:
    """A piece of a text."""

    text: str  # with the white space that follows it
    changed: bool  # whether the other text of the pair lacks it


@dataclass(frozen=True)
class Pair:
    """Two dev texts of different labels that are nearly the same. Nobody knows which one was written first."""

    first: int  # position in dev, the smaller one
    second: int
    similarity: float  # share of their words in common, in order (difflib's ratio), from 0 to 1
    spans: tuple[tuple[Span, ...], tuple[Span, ...]]  # the whole first and the whole second text
    labels: tuple[int, int]
    answers: tuple[int, int]  # of the group's first run
    outcome: Outcome  # of the group's first run


@dataclass(frozen=True)
class Pairs:
    """Section 4."""

    total: int  # pairs found
    pairs: tuple[Pair, ...]  # up to 50 of them: those not both right first, then the least edits
    at: np.ndarray  # int64 [total, 2]: positions of all pairs in dev
    same_label: int  # near-copies with the same label, left out of everything else
    both_right: Estimate | None  # shares of the pairs, mean over seeds; None without pairs
    one_right: Estimate | None
    wrong_way: Estimate | None
    both_wrong: Estimate | None
    unmoved: Estimate | None  # share of pairs whose two texts get the same answer: the edit went unnoticed
    by_chance: float | None  # share of pairs with both right if right answers fell on texts at random
    rule: str  # how pairs are found, in words, with the thresholds
    outcomes: np.ndarray  # int64 [S, total]: index in OUTCOMES for each seed
    left_out: int  # likely pairs that were not looked at, since there are more than 5,000


def pairs(group: Group) -> Pairs:
    """Find the pairs of a dev set and count how many of them each seed has right."""
    dev, answers = group.dev, answers_of(group.runs)  # [S, N]
    near, left_out = find(dev.texts)
    turned = [pair for pair in near if dev.labels[pair[0]] != dev.labels[pair[1]]]
    at = np.array([pair[:2] for pair in turned], dtype=np.int64).reshape(-1, 2)
    rule = (f"Two texts are a pair if each is the other's nearest neighbour by rare words and pairs of words, at least "
            f"{SIMILAR:.0%} of their words are the same in the same order, both have {SHORTEST} words or more, and "
            "their labels differ.")
    given, labels = answers[:, at], dev.labels[at]  # [S, total, 2], [total, 2]
    right = (given == labels).sum(axis=2)
    swapped = (given == labels[:, ::-1]).all(axis=2)
    outcomes = np.where(right == 2, 0, np.where(right == 1, 1, np.where(swapped, 2, 3)))
    if not turned:
        return Pairs(0, (), at, len(near), None, None, None, None, None, None, rule, outcomes, left_out)

    # What to show.
    order = sorted(range(len(turned)), key=lambda each: (outcomes[0, each] == 0, -turned[each][2]))
    shown = tuple(Pair(first, second, similarity, edit(dev.texts[first], dev.texts[second]),
                       tuple(labels[each].tolist()), tuple(given[0, each].tolist()), OUTCOMES[outcomes[0, each]])
                  for each in order[:MOST_SHOWN] for first, second, similarity in [turned[each]])

    def share(rows: np.ndarray) -> Estimate:
        """Of the pairs, mean over seeds; the interval counts pairs."""
        return wilson(float(rows.mean()), len(turned))

    by_chance = (given == labels).mean(axis=1)  # [S, 2]: accuracy on first and second texts
    return Pairs(len(turned), shown, at, len(near) - len(turned), *(share(outcomes == each) for each in range(4)),
                 share(given[..., 0] == given[..., 1]), float(by_chance.prod(axis=1).mean()), rule, outcomes, left_out)


def find(texts: Sequence[str]) -> tuple[list[tuple[int, int, float]], int]:
    """Return the texts that are nearly the same: (position, later position, similarity), and how many more may be.

    Takes time and memory in proportion to the words, not to the square of the texts.
    """
    words = [WORD.findall(text.casefold()) for text in texts]
    found, neighbours = [], nearest(words)
    mutual = [(first, int(second)) for first, second in enumerate(neighbours)
              if second > first and neighbours[second] == first]
    compared = 0
    for place, (first, second) in enumerate(mutual):
        one, other = words[first][:LONGEST], words[second][:LONGEST]
        if min(len(one), len(other)) < SHORTEST:
            continue
        matcher = SequenceMatcher(None, one, other, autojunk=False)
        if matcher.real_quick_ratio() < SIMILAR or matcher.quick_ratio() < SIMILAR:  # both are bounds from above
            continue
        if compared == MOST_COMPARED:
            return found, len(mutual) - place
        compared += 1
        if (similarity := matcher.ratio()) >= SIMILAR:
            found.append((first, second, similarity))
    return found, 0


def nearest(words: Sequence[Sequence[str]]) -> np.ndarray:
    """Return for each text the position of the one with the most similar words, -1 if it shares no word: int64 [N]."""
    # A number for each word and each pair of words that follow each other, once a text.
    longest = max(50, WORDS // max(1, len(words)))
    known: dict[str, int] = {}
    ids = [np.array([known.setdefault(word, len(known)) for word in text[:longest]], dtype=np.int64) for text in words]
    features = [np.unique(np.concatenate([text, (text[:-1] + 1) * len(known) + text[1:]])) for text in ids]
    rows = np.repeat(np.arange(len(words)), [len(text) for text in features])
    _, columns, counts = np.unique(np.concatenate(features), return_inverse=True, return_counts=True)

    # Leave out what only one text has, and what so many have that it would take too long.
    order = np.argsort(counts, kind="stable")
    affordable = np.zeros(len(counts), dtype=bool)
    affordable[order] = np.cumsum(counts[order].astype(float) ** 2) <= PRODUCTS
    kept = (affordable & (counts > 1))[columns]
    if not kept.any():
        return np.full(len(words), -1)
    weights = np.log(len(words) / counts[columns[kept]]) + 1
    table = sparse.csr_array((weights, (rows[kept], columns[kept])), shape=(len(words), len(counts)))
    lengths = np.sqrt(np.bincount(rows, (np.log(len(words) / counts[columns]) + 1) ** 2, minlength=len(words)))
    table = sparse.diags_array(1 / np.maximum(lengths, 1e-9)).tocsr() @ table

    # Cosines, some rows at a time.
    best = np.full(len(words), -1)
    transposed = table.T.tocsr()
    for start in range(0, len(words), 2000):
        part = (table[start:start + 2000] @ transposed).tocsr()
        for row in np.flatnonzero(np.diff(part.indptr)):
            span = slice(part.indptr[row], part.indptr[row + 1])
            others, cosines = part.indices[span], part.data[span]
            cosines[others == start + row] = -1  # itself
            place = cosines.argmax()
            if cosines[place] > 0:
                best[start + row] = others[place]
    return best


def edit(first: str, second: str) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
    """Return two texts in pieces, marked where they differ, word by word and whatever the case."""
    pieces = [PIECE.findall(first), PIECE.findall(second)]
    keys = [[piece.strip().casefold() for piece in text] for text in pieces]
    spans: tuple[list[Span], list[Span]] = ([], [])
    for kind, *bounds in SequenceMatcher(None, *keys, autojunk=False).get_opcodes():
        for side, (start, end) in enumerate((bounds[:2], bounds[2:])):
            if start < end:
                spans[side].append(Span("".join(pieces[side][start:end]), kind != "equal"))
    return tuple(spans[0]), tuple(spans[1])
