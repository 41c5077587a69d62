"""Texts that are the same, or nearly: across files they make a score too good, so a split keeps them together."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from random import Random

NEAR = 0.8  # share of common words among all words of two texts, from which they are near-duplicates
MOST_WORDS = 100  # a text is judged by its first words
MOST_TRIED = 50  # texts with the same rare word that a text is compared with, the latest first

_WORD = re.compile(r"\w+")


def same(text: str) -> str:
    """Return what is equal for texts that differ in case and white space only."""
    return " ".join(text.casefold().split())


def repeated(texts: Iterable[str], others: Iterable[str]) -> int:
    """Return how many of the texts are also among the others, whatever their case and white space."""
    known = set(map(same, others))
    return sum(same(text) in known for text in texts)


def near_duplicate_groups(texts: Sequence[str]) -> list[list[int]]:
    """Return the positions of all texts in groups, such that near-duplicates are in one group.

    Two texts with a share NEAR of common words have one of their rarest words in common (as many as may be missing, and
    one more), so only texts that share such a word are compared.
    """
    words = [frozenset(_WORD.findall(text.casefold())[:MOST_WORDS]) or frozenset([same(text)]) for text in texts]
    frequency = Counter(word for text in words for word in text)
    leader = list(range(len(texts)))  # of each text, another of its group; itself: the group's own

    def find(position: int) -> int:
        while leader[position] != position:
            leader[position] = leader[leader[position]]
            position = leader[position]
        return position

    first_with: dict[frozenset[str], int] = {}
    with_word: dict[str, list[int]] = defaultdict(list)
    for position, text in enumerate(words):
        if (first := first_with.setdefault(text, position)) != position:
            leader[find(position)] = find(first)
            continue
        rarest = sorted(text, key=lambda word: (frequency[word], word))[:len(text) - _ceil(NEAR * len(text)) + 1]
        for word in rarest:
            for other in with_word[word][-MOST_TRIED:]:
                common = len(text & words[other])
                if common >= NEAR * (len(text) + len(words[other]) - common) and find(other) != find(position):
                    leader[find(position)] = find(other)
            with_word[word].append(position)

    groups: dict[int, list[int]] = defaultdict(list)
    for position in range(len(texts)):
        groups[find(position)].append(position)
    return list(groups.values())


def stratified_share(texts: Sequence[str], labels: Sequence[int], share: float, seed: int) -> list[int]:
    """Return the positions, in order, of a random share of the texts: of each label that share, near-duplicates all in.

    A label with two groups of near-duplicates or more has at least one text on each side. Where large groups do not
    fit, the share is a little smaller.
    """
    groups = near_duplicate_groups(texts)
    Random(seed).shuffle(groups)
    room = {label: max(1, round(share * count)) for label, count in Counter(labels).items()}
    left = Counter(label for group in groups for label in {labels[position] for position in group})
    chosen: list[int] = []
    for group in groups:
        wanted = Counter(labels[position] for position in group)
        if all(room[label] >= count and left[label] > 1 for label, count in wanted.items()):
            chosen += group
            for label, count in wanted.items():
                room[label] -= count
                left[label] -= 1
    return sorted(chosen)


def _ceil(number: float) -> int:
    """Return the least integer that is not smaller, whatever rounding did to the number."""
    return -int(-(number - 1e-9) // 1)
