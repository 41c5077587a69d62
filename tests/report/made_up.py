"""Findings made up for the tests of the page: every field filled, of any size, with any texts and names."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from report.calibration import Bin, Calibration, Coverage
from report.classes import Classes, ClassScore, Confused, Ordered
from report.curves import Annotation, Curve, Curves
from report.findings import Comparison, Differing, Findings, PairOfGroups, Provenance, Row
from report.labels import DataMap, Suspect
from report.mistakes import Deletion, Mistake, Mistakes, Words
from report.pairs import Pair, Pairs, Span
from report.read import Dev
from report.selection import Selection
from report.slices import Slice, Slices
from report.statistics import Estimate
from report.verdict import Verdict, Versus

SST = ("very negative", "negative", "neutral", "positive", "very positive")
SENTENCE = "the film is n't bad at all , but it never comes to life ."


def near(value: float, room: float = 0.05) -> Estimate:
    """A number with an interval around it."""
    return Estimate(value, value - room, value + room)


def findings(texts: int = 120, epochs: int = 12, seeds: int = 1, names: tuple[str, ...] = SST,
             text: str = SENTENCE, explained: int = 3, name: str = "runs/sst-full-model") -> Findings:
    """Findings about `seeds` runs of `epochs` epochs on dev texts that all begin with `text`."""
    random, labels = np.random.default_rng(7), len(names)
    dev = dev_set(texts, labels, text)
    some = tuple(range(min(texts, 60)))
    return Findings(
        name, "sst", "full-model", "gpt2", names, dev, verdict(texts, seeds, epochs), curves(epochs, seeds),
        classes(names, texts, random), pairs(text), slices(dev), data_map(dev, random),
        calibration(texts),
        Mistakes(0, texts // 2, tuple(Mistake(place, 0, labels - 1, 0.9, 0.05, 1,
                                              words(text) if place < explained else None) for place in some),
                 explained, f"{explained} of {texts // 2} mistakes are explained", "the colours hold in 2 of 3 texts"),
        tuple(provenance(seed) for seed in range(1, seeds + 1)), ("a note about the folder",))


def dev_set(texts: int, labels: int, text: str) -> Dev:
    """A dev set, with the labels in turns."""
    turn = np.arange(texts)
    return Dev(tuple(f"id{place}" for place in turn), tuple(f"{text} {place}" for place in turn), turn % labels,
               turn % 40 + 3, turn % 9, np.zeros(texts, int), turn % 2)


def verdict(texts: int, seeds: int, epochs: int) -> Verdict:
    """A verdict that says better, and not more than luck."""
    others = [Versus(name, accuracy=0.4, difference=near(gap, 0.07), per_seed=(gap,) * seeds, only_ours=20,
                     only_theirs=12, handicap=0.01, p=0.01, p_holm=p, test="McNemar's exact test.", outcome=outcome,
                     sentence=f"{outcome} than {name}.") for name, gap, p, outcome in (
        ("the majority class", 0.25, 0.0001, "better"), ("TF-IDF + logistic regression", -0.02, 0.6, "too few"))]
    return Verdict("Better than the majority class by 25 points; not shown to be better than TF-IDF.", "too few", texts,
                   tuple(range(1, seeds + 1)), near(0.52), 0.012 if seeds > 1 else None, near(0.5),
                   0.013 if seeds > 1 else None, tuple(others), "The run before is of another dev set.",
                   Selection("accuracy", 0.52, 0.51, near(0.01, 0.02), 0.01, epochs), ("One seed only.",))


def curves(epochs: int, seeds: int) -> Curves:
    """Curves that overfit."""
    at = np.arange(1, epochs + 1)

    def curve(name: str, values: np.ndarray) -> Curve:
        several = np.stack([values + 0.01 * seed for seed in range(seeds)])
        return Curve(name, several, several.mean(0), several.min(0), several.max(0))

    return Curves(epochs, tuple(range(1, seeds + 1)), (max(epochs // 2, 1),) * seeds,
                  curve("train loss", 1.6 * np.exp(-at / 6)), curve("dev loss", 1.2 + 0.02 * at),
                  curve("train accuracy", 1 - 0.6 * np.exp(-at / 6)), curve("dev accuracy", 0.5 - 0.2 * np.exp(-at)),
                  curve("dev macro-F1", 0.48 - 0.2 * np.exp(-at)), curve("most frequent answer", 0.3 + 0.2 / at), 1.57,
                  (Annotation("overfitting", 1, max(epochs // 2, 1), "dev loss rises.", "Stop earlier."),),
                  (("overfitting", "dev loss rises for 3 epochs"),))


def classes(names: tuple[str, ...], texts: int, random: np.random.Generator) -> Classes:
    """A confusion matrix of about so many texts."""
    labels = len(names)
    matrix = random.poisson(texts / labels ** 2, (labels, labels)) + np.eye(labels) * texts / labels / 2
    scores = tuple(ClassScore(place, name, texts // labels, 20, near(0.5), near(0.5), near(0.5))
                   for place, name in enumerate(names[:30]))
    return Classes(names, matrix.round() if labels <= 30 else None, scores, max(0, labels - 30),
                   tuple(Confused(0, other, 9, 0.3) for other in range(1, min(labels, 10))),
                   Ordered("The labels are SST's.", near(0.9), near(0.4), near(0.6), near(0.6), 1.2))


def pairs(text: str) -> Pairs:
    """Two pairs."""
    def pair(outcome: str) -> Pair:
        return Pair(0, 1, 0.93, ((Span(text * 9, False), Span("great ", True), Span(text * 9, False)),
                                 (Span(text * 9, False), Span("dreadful ", True), Span(text * 9, False))),
                    (0, 1), (0, 0), outcome)
    return Pairs(total=20, pairs=(pair("one right"), pair("both right")) * 4, at=np.zeros((20, 2), int), same_label=1,
                 both_right=near(0.4), one_right=near(0.5), wrong_way=near(0.05), both_wrong=near(0.05),
                 unmoved=near(0.45), by_chance=0.3, rule="Two texts are a pair if they share 80% of their words.",
                 outcomes=np.zeros((1, 20), int), left_out=3)


def slices(dev: Dev) -> Slices:
    """Two slices, one of them worse."""
    return Slices((Slice("with a negation", "words", 40, near(0.3), near(-0.2), 0.01, True, (0, 1)),
                   Slice("longer than 20 tokens", "length", 60, near(0.5), near(-0.01), 0.9, False, ())),
                  (("with but", 9),), 0.5, "Corrected for 8 kinds.", "One kind of text is worse: with a negation.")


def data_map(dev: Dev, random: np.random.Generator) -> DataMap:
    """A data map of all texts."""
    confidence, variability = random.random(len(dev.labels)), 0.4 * random.random(len(dev.labels))
    region = np.where(variability > 0.25, 1, np.where(confidence > 0.4, 0, 2))
    counts = tuple(int((region == place).sum()) for place in range(3))
    suspects = tuple(Suspect(place, 0, 1, 0.95, 0.01, True, 1) for place in range(min(len(dev.labels), 30)))
    return DataMap(confidence, variability, correctness=confidence, region=region, counts=counts,
                   rule="The regions are thirds.", suspects=suspects, suspected=41, noise=near(0.04, 0.02),
                   noise_sentence="About 4% of the labels look wrong.", explanation="Confident learning.")


def calibration(texts: int) -> Calibration:
    """A model that is too sure."""
    bins = tuple(Bin(low, low + 0.2, low + 0.1, near(low), texts / 4) for low in (0.2, 0.4, 0.6, 0.8))
    steps = tuple(Coverage(share / 10, 1 - share / 11, near(0.9 - share / 25)) for share in range(10, 0, -1))
    return Calibration(bins, near(0.1), 0.04, False, 0.7, 0.6, 1.8, 0.04, 1.2, 1.1, steps, "It is too sure.")


def words(text: str) -> Words:
    """Shares of a text's words, in turns for and against."""
    shares = tuple((word, (-1) ** place * 0.3 / (place % 7 + 1)) for place, word in enumerate(text.split()))
    at = np.linspace(0, 1, 6)
    return Words(shares, 0.9, 0.2, 0.003, Deletion(at, 0.9 - 0.8 * np.sqrt(at), 0.9 - 0.7 * at, True))


def provenance(seed: int) -> Provenance:
    """How a run came about."""
    return Provenance(Path(f"runs/sst-full-model-seeds/seed-{seed}"), seed,
                      f"classifier.py --data sst --seed {seed}", "a293b37e77efd137" * 2 + "+",
                      (("python", "3.11.7"), ("torch", "2.13.0")), "Linux-6.18-x86_64", "float32",
                      "all of it agreed", (("backbone", "c57b2d3b" * 8), ("tokenizer", "55afce4f" * 8)), 12, 812.0,
                      510.7, 478.0, 0)


def comparison(name: str = "runs/b", text: str = SENTENCE, names: tuple[str, ...] = SST) -> Comparison:
    """Two groups over the same dev texts."""
    line = curves(12, 2)
    row = Row("runs/a", "sst", "full-model", (1, 2), 120, near(0.52), 0.01, near(0.5), 0.01, (6, 7), 812.0,
              line.dev_accuracy, line.dev_loss)
    other = replace(row, name=name, accuracy=near(0.45), seeds=(1,), accuracy_sd=None)
    versus = verdict(120, 2, 12).versus[0]
    differing = tuple(Differing(place, 0, (0, 0), (1, 0), 1.0, 0.5) for place in range(30))
    dev = dev_set(120, len(names), text)
    return Comparison((row, other), (dev, dev), (names, names), (PairOfGroups(0, 1, versus, 30, 12, differing),),
                      "The first is better by 7 points.", ("A note.",))
