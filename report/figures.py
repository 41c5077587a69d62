"""Turn findings into charts, and texts into coloured or edited texts."""

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from report.charts import Axis, Line, Mark, Points, around, curves, reliability, scatter
from report.curves import Curve, Curves
from report.findings import Findings
from report.markup import counted, cut, listed, number, percent, tag
from report.mistakes import Mistakes, Words
from report.pairs import Span

MARKS = 9  # at the learning curves
WORDS = 8000  # coloured in all, so that a page with many reviews stays small
POINTS, EPOCHS = 6000, 400  # drawn at most, in a data map and in a curve
AROUND = 60  # characters shown on each side of an edit


def learning(found: Findings) -> Markup:
    """Return four learning curves with their seed bands, and marks at what happened (section 2)."""
    what, marks = found.curves, marks_of(found.curves)
    guesses = [_level(what, name, float(np.mean(answers == found.dev.labels)))
               for name, answers in (("majority class", found.dev.majority), ("TF-IDF", found.dev.tfidf))]
    chance = Line(f"guessing: {number(what.chance_loss)}", [(1, what.chance_loss), (what.epochs, what.chance_loss)])
    loss = [line_of(what.train_loss, "training"), line_of(what.dev_loss, "dev"), chance]
    accuracy = [line_of(what.train_accuracy, "training"), line_of(what.dev_accuracy, "dev"), *guesses]
    return Markup("").join([
        over_epochs("Loss", "mean cross-entropy, nats", loss, marks),
        over_epochs("Accuracy", "texts answered right, %", accuracy, marks, True),
        over_epochs("Macro-F1 on dev", "mean F1 of the labels, %", [line_of(what.dev_macro_f1, "dev")], marks, True),
        over_epochs("Most frequent answer on dev", "its share of the answers, %", [line_of(what.top_share, "dev")],
                     marks, True)])


def marks_of(what: Curves) -> list[Mark]:
    """Return the best epochs, and where faults begin; the same for several seeds is one mark."""
    epochs: dict[int, list[int]] = {}
    for seed, epoch in zip(what.seeds, what.best_epochs, strict=True):
        epochs.setdefault(epoch, []).append(seed)
    several = len(what.seeds) > 1
    marks = [Mark(epoch, f"epoch {epoch}: the best" + (f" of seed {listed(seeds)}" if several else ""))
             for epoch, seeds in sorted(epochs.items())]
    marks += [Mark(one.epoch, f"epoch {one.epoch}: {one.fault}" + (f" (seed {one.seed})" if several else ""))
              for one in what.annotations]
    return marks[:MARKS]


def data_map(found: Findings) -> Markup:
    """Return every dev text by confidence and variability (section 6)."""
    what, texts = found.data_map, len(found.data_map.region)
    shown = np.arange(0, texts, math.ceil(texts / POINTS) or 1)
    groups = []
    for place, name in enumerate(what.region_names):
        here = shown[what.region[shown] == place]
        groups.append(Points(f"{name}: {what.counts[place]:,}", list(zip(
            what.variability[here].tolist(), what.confidence[here].tolist(), strict=True))))
    most = float(np.nanmax(what.variability, initial=0.1))
    return scatter("Data map: a point is a text of dev", Axis("variability (standard deviation over epochs)", 0, most),
                   Axis("mean probability of the true label", 0, 1), groups,
                   f"{len(shown):,} of {texts:,} texts are drawn." if len(shown) < texts else "")


def confidence(found: Findings) -> Markup:
    """Return the reliability diagram (section 7)."""
    bins = [(one.confidence, one.accuracy.value, one.accuracy.low, one.accuracy.high, one.answers)
            for one in found.calibration.bins]
    return reliability("Confidence and accuracy", Axis("mean confidence, %", 0, 1, percent=True),
                       Axis("texts answered right, %", 0, 1, percent=True), bins)


def abstaining(found: Findings) -> Markup:
    """Return accuracy over the share of texts that the model answers (section 7)."""
    rows = sorted(found.calibration.coverage, key=lambda one: one.coverage)
    line = Line("right", [(one.coverage, one.accuracy.value) for one in rows],
                [(one.coverage, one.accuracy.low, one.accuracy.high) for one in rows])
    ends = [end for one in rows for end in (one.accuracy.low, one.accuracy.high)]
    return curves("Accuracy if it may abstain", Axis("texts answered, the most confident first, %", 0, 1, percent=True),
                  around(ends, "right among these, %", percent=True), [line],
                  note="The band is the 95% interval.")


def deletion(found: Mistakes) -> Markup:
    """Return the mean deletion curve of the explained mistakes (section 8)."""
    curve = [one.words.deletion for one in found.mistakes if one.words is not None]
    grid = np.linspace(0, 1, 11)
    lines = [Line(name, list(zip(grid.tolist(), np.mean([np.interp(grid, one.removed, getattr(one, field))
                                                         for one in curve], axis=0).tolist(), strict=True)))
             for name, field in (("words with the largest shares first", "by_share"), ("words at random", "at_random"))]
    return curves("Do the colours tell the truth?", Axis("words taken out, %", 0, 1, percent=True),
                  Axis("probability of the answer", 0, 1), lines,
                  note=f"Mean of {counted(len(curve), 'mistake')}. The colours are right as far as the first line "
                       "falls faster than the second.")


def coloured(words: Words, texts: int) -> Markup:
    """Return a text with its words coloured by their shares, one of so many texts on the page."""
    most = max((abs(share) for _, share in words.words), default=0.0)
    shown = words.words[:min(600, WORDS // max(texts, 1))]
    inside: list[object] = []
    for word, share in shown:
        step = math.ceil(9 * abs(share) / most) if most and math.isfinite(share) else 0
        if step < 2:
            inside += [cut(word, 200), " "]
            continue
        kind = f"{'for' if share > 0 else 'against'}{step}"
        inside += [tag("span", cut(word, 200), class_=kind, title=number(share, 3)), " "]
    left = len(words.words) - len(shown)
    return tag("p", *inside, f"… and {counted(left, 'more word')}" if left else "", class_="words", dir="auto")


def edited(spans: Sequence[Span], element: str) -> Markup:
    """Return a text of a pair; what the other text lacks is in an element, del or ins. Long equal parts are cut."""
    inside: list[object] = []
    for place, span in enumerate(spans):
        if span.changed:
            inside.append(tag(element, cut(span.text, 300)))
            continue
        first, last = place == 0, place == len(spans) - 1
        head = "" if first else span.text[:AROUND].rsplit(" ", 1)[0]
        tail = "" if last else span.text[-AROUND:].split(" ", 1)[-1]
        inside.append(span.text if len(span.text) < 3 * AROUND else f"{head} … {tail}")
        if len(inside) > 40:  # pieces: the texts have little in common
            inside.append(" …")
            break
    return tag("p", *inside, class_="text", dir="auto")


def over_epochs(title: str, label: str, lines: Sequence[Line], marks: Sequence[Mark],
                shares: bool = False) -> Markup:
    """Return a chart of lines over the epochs; shares: they are percentages."""
    values = [y for line in lines for _, y in line.points] + [end for line in lines for _, *ends in line.band
                                                              for end in ends]
    last = max((x for line in lines for x, _ in line.points), default=1)
    return curves(title, Axis("epoch", 1 if last > 1 else 0, last, whole=True), around(values, label, percent=shares),
                  lines, marks)


def line_of(curve: Curve, name: str) -> Line:
    """Return a curve's mean as a line; where there are several seeds, from the lowest to the highest as its band."""
    several = len(curve.values) > 1
    shown = sorted({*range(0, len(curve.mean), math.ceil(len(curve.mean) / EPOCHS)), len(curve.mean) - 1})
    points = [(place + 1, float(curve.mean[place])) for place in shown]
    band = [(place + 1, float(curve.low[place]), float(curve.high[place])) for place in shown
            if several and math.isfinite(curve.low[place]) and math.isfinite(curve.high[place])]
    return Line(name, points, band)


def _level(what: Curves, name: str, share: float) -> Line:
    return Line(f"{name}: {percent(share)}", [(1, share), (what.epochs, share)])
