"""The data map (Swayamdipta et al. 2020), and labels that look wrong (confident learning, Northcutt et al. 2021)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import softmax

from report.read import Group
from report.statistics import Estimate, percentiles, wilson

REGIONS = ("easy", "ambiguous", "hard")
EASY, HARD = 0.8, 0.2  # share of epochs in which a text is right: easy from the first, hard up to the second
FEWEST, FEWEST_OF_A_LABEL = 50, 5  # texts, to say something about the labels
MOST_SHOWN = 50
SUREST = 5  # one of so many texts
DRAWS, MOST_NUMBERS = 500, 40_000_000


@dataclass(frozen=True)
class Suspect:
    """A text whose label looks wrong. Only a person who reads the text can tell."""

    text: int  # position in dev
    label: int
    suggested: int
    probability: float  # that the model gives the suggested label, mean over seeds
    of_label: float  # that it gives the label
    tfidf_agrees: bool  # TF-IDF + logistic regression suggests the same
    seeds: int  # of the seeds, so many answer the suggested label


@dataclass(frozen=True)
class DataMap:
    """Section 6."""

    confidence: np.ndarray  # float64 [N]: mean probability of the true label over epochs and seeds
    variability: np.ndarray  # float64 [N]: its standard deviation over epochs, mean over seeds
    correctness: np.ndarray  # float64 [N]: share of epochs and seeds in which the answer is right
    region: np.ndarray  # int64 [N]: index in REGIONS
    counts: tuple[int, int, int]  # texts in each region
    rule: str  # how the regions are drawn, in words
    suspects: tuple[Suspect, ...]  # most confident first, up to 50
    suspected: int  # how many there are
    noise: Estimate | None  # share of wrong labels if the model is believed (confident learning); None: too few texts
    noise_sentence: str  # what it means and what it cannot know
    explanation: str  # how labels come to be suspected, in words
    region_names: tuple[Literal["easy", "ambiguous", "hard"], ...] = REGIONS
    noise_at_most: Estimate | None = None  # share of labels that contradict the model where it is surest


def data_map(group: Group) -> DataMap:
    """Look at every text over all epochs, and for labels that the best epochs confidently contradict."""
    dev, runs, every = group.dev, group.runs, np.arange(len(group.dev.labels))

    # Probability of the true label: [E, N] for each seed.
    of_label = [softmax(run.logits, axis=2)[:, every, dev.labels].astype(float) for run in runs]
    right = np.concatenate([run.logits.argmax(axis=2) == dev.labels for run in runs])  # [all epochs, N]
    confidence = np.mean([own.mean(axis=0) for own in of_label], axis=0)
    variability = np.mean([own.std(axis=0) for own in of_label], axis=0)
    correctness = right.mean(axis=0)
    region = np.where(correctness >= EASY, 0, np.where(correctness <= HARD, 2, 1))
    rule = (f"easy: right in {EASY:.0%} of the epochs or more; hard: in {HARD:.0%} or fewer; ambiguous: between."
            + (" With one epoch no text is ambiguous." if len(right) == 1 else ""))

    # Labels.
    probabilities = np.mean([softmax(run.best_logits.astype(float), axis=1) for run in runs], axis=0)  # [N, K]
    answers = np.stack([run.best_logits.argmax(axis=1) for run in runs])
    suggested = suggestions(probabilities, dev.labels)
    suspicious = np.flatnonzero((suggested >= 0) & (suggested != dev.labels))
    margin = probabilities[every, suggested] - probabilities[every, dev.labels]
    suspects = tuple(
        Suspect(text, int(dev.labels[text]), int(suggested[text]), float(probabilities[text, suggested[text]]),
                float(probabilities[text, dev.labels[text]]), bool(dev.tfidf[text] == suggested[text]),
                int((answers[:, text] == suggested[text]).sum()))
        for text in suspicious[np.argsort(-margin[suspicious], kind="stable")][:MOST_SHOWN].tolist())
    noise, most = noise_of(probabilities, dev.labels), None
    if noise is not None:
        surest = np.argsort(-probabilities.max(axis=1), kind="stable")[:len(every) // SUREST]
        contradicted = probabilities[surest].argmax(axis=1) != dev.labels[surest]
        most = wilson(float(contradicted.mean()), len(surest))
    return DataMap(confidence, variability, correctness, region, tuple(np.bincount(region, minlength=3).tolist()), rule,
                   suspects, len(suspicious), noise, noise_sentence(noise, most), EXPLANATION,
                   noise_at_most=most)


EXPLANATION = (
    "For each label, take the mean probability that the model gives it on texts that have it: so sure the model "
    "usually is of that label. A text is suspected if another label reaches its own mean there, and is the most "
    "probable one that does. The model never trained on these texts, so it has not learned their mistakes.")


def suggestions(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the label that the model confidently gives each text, -1 for none: int64 [N], of probabilities [N, K]."""
    every = np.arange(probabilities.shape[1])
    counts = np.bincount(labels, minlength=len(every))
    sums = np.bincount(labels, probabilities[np.arange(len(labels)), labels], minlength=len(every))
    with np.errstate(invalid="ignore", divide="ignore"):
        usual = np.where(counts > 0, sums / counts, np.inf)
    sure = np.where(probabilities >= usual, probabilities, -1.0)
    return np.where(sure.max(axis=1) >= 0, sure.argmax(axis=1), -1)


def noise_share(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of wrong labels by confident learning: of each label, that of its confident texts which are
    confidently of another one, weighted by how many texts have it."""
    suggested, number = suggestions(probabilities, labels), probabilities.shape[1]
    sure = suggested >= 0
    have = np.bincount(labels, minlength=number)
    confident = np.bincount(labels[sure], minlength=number)
    wrong = np.bincount(labels[sure & (suggested != labels)], minlength=number)
    return float((have * wrong / np.maximum(confident, 1)).sum() / len(labels))


def noise_of(probabilities: np.ndarray, labels: np.ndarray) -> Estimate | None:
    """Return the share of wrong labels with its interval by resampling texts; None if there are too few."""
    counts = np.bincount(labels)
    if len(labels) < FEWEST or counts[counts > 0].min() < FEWEST_OF_A_LABEL or (counts > 0).sum() < 2:
        return None
    rng, number = np.random.default_rng(0), int(np.clip(MOST_NUMBERS // probabilities.size, 50, DRAWS))
    drawn = [noise_share(probabilities[rows], labels[rows])
             for rows in (rng.integers(len(labels), size=len(labels)) for _ in range(number))]
    return percentiles(noise_share(probabilities, labels), np.array(drawn))


def noise_sentence(noise: Estimate | None, most: Estimate | None) -> str:
    """Say what the two estimates mean, and what they cannot know."""
    if noise is None or most is None:
        return "Too few texts to estimate how many labels are wrong."
    return (
        f"Of the fifth of the texts that the model is surest of, {most.value:.1%} have another label (95%: "
        f"{most.low:.1%} to {most.high:.1%}): if wrong labels fall on texts at random, no larger share of all labels "
        "is wrong. Counting every text on which the model is confidently of another opinion gives "
        f"{noise.value:.1%} (95%: {noise.low:.1%} to {noise.high:.1%}), but a text that it misunderstands looks the "
        "same as a wrong label, so that many of these are its own mistakes. Neither figure sees a wrong label that the "
        "model shares. Read ten of the texts below: the share that you would relabel says more.")
