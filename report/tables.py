"""Turn findings into tables. page.js gives each table the buttons that copy it as CSV and LaTeX."""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from markupsafe import Markup

from report.charts import interval
from report.findings import Findings, Provenance
from report.markup import (
    as_number,
    as_percent,
    as_points,
    counted,
    cut,
    duration,
    number,
    p_value,
    percent,
    tag,
)
from report.statistics import Estimate

ROWS, EPOCHS = 50, 100  # of most tables, and of epochs; a long table says how many rows it leaves out
SHORT, FEW = 14, 8  # a matrix has names above its columns if it has FEW of them, none longer than SHORT
ROW, TEXT, NUMBER, DRAWN = "row", "text", "n", "drawn"
"""What a column holds: the row's name, long text, numbers, or drawings, which no copy holds."""

Column = tuple[str, str]


def table(caption: str, columns: Sequence[Column], rows: Iterable[Sequence[object]], more: str = "",
          kind: str | None = None) -> Markup:
    """Return a table in a box of its own, which scrolls on a phone. more: what is left out, in words."""
    head = tag("tr", *(tag("th", name, scope="col", class_=None if what == ROW else what or None)
                       for name, what in columns))
    body = [tag("tr", *(_cell(cell, what) for cell, (_, what) in zip(row, columns, strict=True))) for row in rows]
    whole = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body), class_=kind)
    box = tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)
    return box + tag("p", more, class_="more") if more else box


def versus(found: Findings) -> Markup:
    """Return what the group was compared with (section 1)."""
    rows = found.verdict.versus
    reach = reach_of(other.difference for other in rows)
    return table("The same dev texts, answered by others", [
        ("compared with", ROW), ("its accuracy", NUMBER), ("difference in points (95%)", NUMBER),
        ("95% interval", DRAWN), ("only this right / only that", NUMBER), ("p, corrected", NUMBER)], [
        (other.name, percent(other.accuracy), as_points(other.difference), difference(other.difference, reach),
         f"{_count(other.only_ours)} / {_count(other.only_theirs)}", p_value(other.p_holm)) for other in rows])


def scores(found: Findings) -> Markup:
    """Return the group's own scores (section 1)."""
    verdict = found.verdict
    rows = [(name, as_percent(score), "–" if sd is None else percent(sd))
            for name, score, sd in (("accuracy", verdict.accuracy, verdict.accuracy_sd),
                                    ("macro-F1", verdict.macro_f1, verdict.macro_f1_sd))]
    if verdict.selection:
        honest = f"{verdict.selection.score}, if the epoch is chosen on other texts"
        rows.append((honest, percent(verdict.selection.honest), "–"))
    columns = [("score on dev", ROW), ("mean over seeds (95%)" if len(verdict.seeds) > 1 else "value (95%)", NUMBER)]
    if len(verdict.seeds) > 1:
        columns.append(("standard deviation over seeds", NUMBER))
    return table("Scores", columns, [row[:len(columns)] for row in rows])


def epochs(found: Findings) -> Markup:
    """Return the numbers behind the learning curves (section 2): about EPOCHS of them, the best ones included."""
    curves = found.curves
    step = math.ceil(curves.epochs / EPOCHS)
    shown = sorted({*range(1, curves.epochs + 1, step), *curves.best_epochs, curves.epochs})
    kinds = ((curves.train_loss, _loss), (curves.dev_loss, _loss), (curves.train_accuracy, percent),
             (curves.dev_accuracy, percent), (curves.dev_macro_f1, percent), (curves.top_share, percent))
    rows = [(f"{epoch} (best)" if epoch in curves.best_epochs else epoch,
             *(show(float(curve.mean[epoch - 1])) for curve, show in kinds)) for epoch in shown]
    columns = [("epoch", ROW), *((curve.name, NUMBER) for curve, _ in kinds)]
    left = curves.epochs - len(shown)
    return table("Every epoch" + (", mean over seeds" if len(curves.seeds) > 1 else ""), columns, rows,
                 f"and {counted(left, 'more epoch')} between them, in log.jsonl" if left else "")


def confusion(found: Findings) -> Markup:
    """Return the confusion matrix, shaded by the share of each label's texts (section 3)."""
    names, counts = found.classes.names, found.classes.confusion
    brief = len(names) <= FEW and all(len(name) <= SHORT for name in names)
    columns = [("label \\ answer", ROW), *((name if brief else str(place), "") for place, name in enumerate(names, 1))]
    rows = []
    for place, (name, row) in enumerate(zip(names, counts, strict=True)):
        total = row.sum() or 1.0
        cells = [tag("td", _count(count), title=f"{name}, answered {answer}: {percent(count / total)}",
                     class_=_classes(f"q{math.ceil(9 * count / total)}" if count else None,
                                     "right" if place == column else None))
                 for column, (count, answer) in enumerate(zip(row, names, strict=True))]
        rows.append((name if brief else f"{place + 1}: {name}", *cells))
    seeds = ", mean over seeds" if len(found.verdict.seeds) > 1 else ""
    return table(f"Texts by label (row) and answer (column){seeds}", columns, rows, kind="matrix")


def classes(found: Findings) -> Markup:
    """Return precision, recall and F1 of every label (section 3)."""
    left = found.classes.left_out
    return table("How good each label is (95%)", [
        ("label", ROW), ("texts", NUMBER), ("answered", NUMBER), ("precision", NUMBER), ("recall", NUMBER),
        ("F1", NUMBER)], [
        (one.name, number(one.texts, 0), _count(one.answered),
         as_percent(one.precision), as_percent(one.recall), as_percent(one.f1)) for one in found.classes.scores],
        f"and {counted(left, 'more label')} with fewer texts" if left else "")


def confused(found: Findings) -> Markup:
    """Return the most frequent confusions (section 3)."""
    names = found.label_names
    return table("The most frequent confusions", [
        ("label", ROW), ("answered", TEXT), ("texts", NUMBER), ("share of the label", NUMBER)], [
        (names[one.label], names[one.answer], _count(one.texts),
         percent(one.share)) for one in found.classes.most_confused])


def ordered(found: Findings) -> Markup:
    """Return the scores of labels on a scale (section 3)."""
    scale = found.classes.ordered
    return table("Labels on a scale (95%)", [("score", ROW), ("value", NUMBER)], [
        ("right, or one step off", as_percent(scale.within_one)),
        ("exactly one step off", as_percent(scale.off_by_one)),
        ("mean absolute error, in steps", as_number(scale.mean_absolute_error)),
        ("mean absolute error of the majority class", number(scale.majority_error)),
        ("weighted kappa (quadratic)", as_number(scale.kappa))])


def pairs(found: Findings) -> Markup:
    """Return what became of the counterfactual pairs (section 4)."""
    shares = found.pairs
    rows = [("both right", as_percent(shares.both_right)), ("one right", as_percent(shares.one_right)),
            ("each got the other's label", as_percent(shares.wrong_way)), ("both wrong", as_percent(shares.both_wrong)),
            ("same answer to both: the edit went unnoticed", as_percent(shares.unmoved))]
    if shares.by_chance is not None:
        rows.insert(1, ("both right, if right answers fell at random", percent(shares.by_chance)))
    return table(counted(shares.total, "pair"), [("the two texts of a pair", ROW), ("share (95%)", NUMBER)], rows)


def slices(found: Findings) -> Markup:
    """Return the slices, worst first (section 5)."""
    shown = found.slices.slices[:ROWS]
    reach = reach_of(one.gap for one in shown)
    left = len(found.slices.slices) - len(shown)
    return table("Accuracy by kind of text, worst first", [
        ("texts", ROW), ("how many", NUMBER), ("accuracy", NUMBER), ("gap to all others in points (95%)", NUMBER),
        ("95% interval", DRAWN), ("p, corrected", NUMBER)], [
        (one.name + (" (worse)" if one.worse else ""), number(one.texts, 0), percent(one.accuracy.value),
         as_points(one.gap), difference(one.gap, reach), p_value(one.p)) for one in shown],
        f"and {left:,} more kinds" if left else "")


def suspects(found: Findings) -> Markup:
    """Return the texts whose labels look wrong (section 6)."""
    shown, names, several = found.data_map.suspects[:12], found.label_names, len(found.verdict.seeds) > 1
    left = found.data_map.suspected - len(shown)
    columns = [("text", TEXT), ("label", ""), ("suggested", ""), ("probability", NUMBER), ("TF-IDF agrees", "")]
    rows = [(cut(found.dev.texts[one.text], 240), names[one.label], names[one.suggested],
             percent(one.probability, 0), "yes" if one.tfidf_agrees else "no", one.seeds) for one in shown]
    if several:
        columns.append(("seeds that suggest it", NUMBER))
    return table("Labels to look at, most suspicious first", columns, [row[:len(columns)] for row in rows],
                 f"and {left:,} more" if left else "")


def bins(found: Findings) -> Markup:
    """Return the numbers behind the reliability diagram (section 7)."""
    return table("Confidence and accuracy", [
        ("confidence", ROW), ("answers", NUMBER), ("mean confidence", NUMBER), ("right (95%)", NUMBER)], [
        (f"{percent(one.low)} to {percent(one.high)}", _count(one.answers),
         percent(one.confidence), as_percent(one.accuracy)) for one in found.calibration.bins])


def coverage(found: Findings) -> Markup:
    """Return accuracy if the model may abstain (section 7)."""
    return table("If it answers only where it is most confident", [
        ("answers", ROW), ("least confidence", NUMBER), ("right (95%)", NUMBER)], [
        (f"{percent(one.coverage, 0)} of the texts", percent(one.threshold), as_percent(one.accuracy))
        for one in found.calibration.coverage])


def unexplained(found: Findings) -> Markup:
    """Return the mistakes whose words are not coloured (section 8)."""
    mistakes, names = found.mistakes, found.label_names
    rest = [one for one in mistakes.mistakes if one.words is None]
    shown = rest[:12]
    left = mistakes.total - mistakes.explained - len(shown)
    return table(("More" if mistakes.explained else "The") + " mistakes, most confident first", [
        ("text", TEXT), ("label", ""), ("answer", ""), ("probability", NUMBER)], [
        (cut(found.dev.texts[one.text], 240), names[one.label], names[one.answer],
         percent(one.probability, 0)) for one in shown], f"and {left:,} more" if left > 0 else "")


def runs(found: Findings) -> Markup:
    """Return how the runs came about: what is the same for all seeds, and a column for each where it is not."""
    shown = found.provenance[:12]
    rows: dict[str, Callable[[Provenance], object]] = {
        "seed": lambda one: one.seed, "folder": lambda one: one.path, "commit": _commit,
        "epochs": lambda one: one.epochs, "time": lambda one: "–" if one.seconds is None else duration(one.seconds),
        "examples a second": lambda one: _or_dash(one.examples_per_second),
        "peak memory, MB": lambda one: _or_dash(one.peak_memory_mb),
        "precision": lambda one: one.precision, "engine": lambda one: one.engine,
        "times resumed": lambda one: one.resumed, "platform": lambda one: one.platform}
    for name in list(dict.fromkeys(name for one in shown for name, _ in one.versions))[:ROWS]:
        rows[name] = lambda one, name=name: dict(one.versions).get(name, "–")
    for name in list(dict.fromkeys(name for one in shown for name, _ in one.hashes))[:ROWS]:
        rows[f"SHA-256 of {name}"] = lambda one, name=name: tag("code", dict(one.hashes).get(name, "–"))

    answers = [(name, *(answer(one) for one in shown)) for name, answer in rows.items()]
    if len(shown) == 1:
        return table("How it came about", [("", ROW), ("this run", TEXT)], answers)
    same = [row[:2] for row in answers if len(set(row[1:])) == 1]
    columns = [("", ROW), *((f"seed {one.seed}", TEXT) for one in shown)]
    return table("The same for all seeds", [("", ROW), ("all seeds", TEXT)], same) + table(
        "What differs", columns, [row for row in answers if len(set(row[1:])) > 1])


def _cell(cell: object, what: str) -> Markup:
    if isinstance(cell, Markup) and cell.startswith("<td"):
        return cell
    if what == ROW:
        return tag("th", cell, scope="row")
    return tag("td", cell, class_=what or None, dir="auto" if what == TEXT else None)


def difference(found: Estimate, reach: float) -> Markup:
    """Return a difference with its interval as a drawing, on a scale from -reach to reach."""
    return interval(found.low, found.value, found.high, -reach, reach, 0.0, f"{as_points(found)} points; line: 0")


def reach_of(found: Iterable[Estimate]) -> float:
    """Return how far from 0 the ends of some intervals lie."""
    ends = [abs(end) for one in found for end in (one.low, one.high) if math.isfinite(end)]
    return max(ends, default=0.0) or 1.0


def _classes(*names: str | None) -> str | None:
    return " ".join(filter(None, names)) or None


def _count(texts: float) -> str:
    return number(texts, 0 if float(texts).is_integer() else 1)


def _loss(value: float) -> str:
    return number(value, 3) if np.isfinite(value) else "–"


def _or_dash(value: float | None) -> str:
    return "–" if value is None else number(value, 0)


def _commit(run: Provenance) -> str:
    if run.commit is None:
        return "unknown"
    return run.commit.rstrip("+") + (", with files changed since" if run.commit.endswith("+") else "")
