"""Kinds of texts that the model gets wrong more often than the others, corrected for how many kinds were tried."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from report.read import Dev, Group
from report.statistics import Estimate, wilson
from report.verdict import rights_of, signed

FEWEST = 20  # texts in a slice, and outside of it
LEVEL = 0.05
DRAWS, MOST_NUMBERS = 2000, 20_000_000  # permutations; fewer where there are very many texts
RARE = 5  # training texts that hold a rare word, at most
MOST_LABELS = 30  # slices by label, those with the most texts
NEGATION = re.compile(r"\b(?:no|not|never|nothing|nobody|nowhere|none|neither|nor|cannot|without|hardly|barely)\b"
                      r"|n['’]t\b|\b(?:do|does|did|is|are|was|were|would|could|should|wo|ca|has|have|had)nt\b", re.I)
CONTRAST = re.compile(r"\b(?:but|however|although|though|yet|despite|nevertheless|nonetheless|whereas|except)\b", re.I)


@dataclass(frozen=True)
class Slice:
    """Some of the dev texts that have something in common."""

    name: str  # such as "with a negation"
    family: str  # length, words, rare words, label
    texts: int
    accuracy: Estimate  # mean over seeds; the interval holds for all slices at once
    gap: Estimate  # accuracy less that of all other texts, 0.01 = one point; for all slices at once, too
    p: float  # of the gap, corrected for the search (maximum statistic over permutations)
    worse: bool  # the gap is below 0 and p at most 0.05
    examples: tuple[int, ...]  # positions of up to 5 of its texts that every seed gets wrong


@dataclass(frozen=True)
class Slices:
    """Section 5."""

    slices: tuple[Slice, ...]  # worst first
    too_small: tuple[tuple[str, int], ...]  # (name, texts): left out, since fewer than 20 texts, or 20 others
    overall: float  # accuracy on all texts
    correction: str  # what was corrected for, in a sentence
    sentence: str  # what was found


def slices(group: Group) -> Slices:
    """Compare each slice's accuracy with that of all other texts.

    Corrected by the maximum statistic (Westfall and Young 1993): right and wrong answers are dealt to the texts anew
    many times, and each time the largest standardised gap of any slice is kept. So a page of slices that differ by luck
    alone shows one as worse or better in 5 of 100 pages at most.
    """
    dev, rights = group.dev, rights_of(group.runs)
    share, texts = rights.mean(axis=0), rights.shape[1]  # float64 [N]: share of seeds that have the text right
    named = [(family, name, rows) for family, name, rows in kinds(dev, group.label_names) if rows.any()]
    large = [kind for kind in named if min(kind[2].sum(), texts - kind[2].sum()) >= FEWEST]
    too_small = tuple((name, int(rows.sum())) for _, name, rows in named
                      if min(rows.sum(), texts - rows.sum()) < FEWEST)
    correction = (f"Corrected for trying {len(large)} slices (maximum statistic over permutations); the intervals hold "
                  "for all of them at once.")
    if not large:
        return Slices((), too_small, float(share.mean()), correction, f"Too few texts ({texts:,}) to look at kinds of "
                      f"texts: a slice needs {FEWEST}, and as many outside of it.")

    # The gap of each slice in units of the scatter that chance gives it; chance alone, many times.
    inside = np.stack([rows for _, _, rows in large])  # bool [M, N]
    counts = inside.sum(axis=1)
    scatter = share.std() * np.sqrt(1 / counts + 1 / (texts - counts))
    number = int(np.clip(MOST_NUMBERS // texts, 200, DRAWS))
    most = largest_gaps(inside, counts, share, scatter, number, np.random.default_rng(0))
    critical = float(np.quantile(most, 1 - LEVEL))

    # Each slice.
    found = []
    for (family, name, rows), gap, own in zip(large, gaps(inside, counts, share[None])[0], scatter, strict=True):
        size = abs(gap) / own if own else 0.0
        p = float((1 + (most >= size - 1e-9).sum()) / (1 + number))
        wrong = np.flatnonzero(rows & ~rights.any(axis=0))[:5]
        found.append(Slice(name, family, int(rows.sum()), wilson(share[rows].mean(), rows.sum(), max(critical, 1.96)),
                           Estimate(float(gap), float(gap - critical * own), float(gap + critical * own)), p,
                           bool(gap < 0 and p <= LEVEL), tuple(wrong.tolist())))
    found.sort(key=lambda each: (each.gap.value, each.name))
    return Slices(tuple(found), too_small, float(share.mean()), correction, sentence_of(found))


def gaps(inside: np.ndarray, counts: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return each slice's mean less that of the other texts: inside [M, N], shares [D, N] -> [D, M]."""
    sums = shares @ inside.T
    others = shares.sum(axis=1, keepdims=True) - sums
    return sums / counts - others / (inside.shape[1] - counts)


def largest_gaps(inside: np.ndarray, counts: np.ndarray, share: np.ndarray, scatter: np.ndarray, number: int,
                 rng: np.random.Generator) -> np.ndarray:
    """Return, for some permutations of the answers, the largest gap of any slice in units of its scatter: [number]."""
    if not scatter.any():
        return np.zeros(number)  # all right, or all wrong
    table, found = inside.astype(np.float32), []
    for start in range(0, number, 100):
        dealt = rng.permuted(np.tile(share.astype(np.float32), (min(100, number - start), 1)), axis=1)
        found.append(np.abs(gaps(table, counts, dealt) / scatter).max(axis=1))
    return np.concatenate(found)


def sentence_of(found: list[Slice]) -> str:
    """Say what the slices show."""
    worse = [each for each in found if each.worse]
    if not worse:
        return "No kind of text is shown to be harder than the others."
    gap = worse[0].gap
    more = f"; {len(worse) - 1} more {'is' if len(worse) == 2 else 'are'} worse than the rest, too" * (len(worse) > 1)
    return (f"Hardest: {worse[0].name}, {signed(-100 * gap.value)} points below the other texts "
            f"(95%: {signed(-100 * gap.high)} to {signed(-100 * gap.low)}){more}.")


def kinds(dev: Dev, label_names: tuple[str, ...]) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield the kinds of texts: (family, name, which texts: bool [N])."""
    # Quarters by length; where many texts are equally long, fewer.
    edges = np.unique(np.quantile(dev.tokens, [0.25, 0.5, 0.75], method="inverted_cdf"))
    part = np.searchsorted(edges, dev.tokens)
    for each in np.unique(part):
        rows = part == each
        low, high = int(dev.tokens[rows].min()), int(dev.tokens[rows].max())
        yield "length", f"{low} to {high} tokens" if low < high else f"{low} tokens", rows

    for name, found in (("with a negation", NEGATION.search), ("with “but” or another contrast", CONTRAST.search),
                        ("with a question", lambda text: "?" in text or "？" in text)):
        yield "words", name, np.fromiter(map(bool, map(found, dev.texts)), bool, len(dev.texts))

    yield "rare words", "with a word that training never saw", dev.rarest == 0
    yield "rare words", f"with a rare word (in 1 to {RARE} training texts)", (dev.rarest >= 1) & (dev.rarest <= RARE)
    yield "rare words", "with common words only", dev.rarest > RARE
    yield "rare words", "without a word", dev.rarest < 0

    counts = np.bincount(dev.labels, minlength=len(label_names))
    for label in sorted(np.argsort(-counts, kind="stable")[:MOST_LABELS].tolist()):
        yield "label", f"label “{label_names[label]}”", dev.labels == label
