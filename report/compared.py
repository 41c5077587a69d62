"""Turn a comparison of several groups into tables and charts."""

from collections.abc import Callable, Sequence

from markupsafe import Markup

from report.figures import line_of, over_epochs
from report.findings import Comparison, PairOfGroups, Row
from report.markup import as_percent, as_points, cut, duration, listed, number, p_value, percent
from report.tables import DRAWN, NUMBER, ROW, ROWS, TEXT, Column, difference, reach_of, table

OUTCOMES = {"better": "better", "worse": "worse", "luck": "about as good", "too few": "undecided"}


def side_by_side(found: Comparison) -> Markup:
    """Return the groups of a comparison side by side; task and mode only where they differ."""
    rows = found.rows[:ROWS]
    columns: list[tuple[Column, Callable[[Row], object]]] = [
        (("run", ROW), lambda one: one.name),
        (("task", ""), lambda one: one.task), (("mode", ""), lambda one: one.mode),
        (("seeds", NUMBER), lambda one: len(one.seeds)), (("dev texts", NUMBER), lambda one: number(one.texts, 0)),
        (("accuracy (95%)", NUMBER), lambda one: as_percent(one.accuracy)),
        (("sd over seeds", NUMBER), lambda one: "–" if one.accuracy_sd is None else percent(one.accuracy_sd)),
        (("macro-F1 (95%)", NUMBER), lambda one: as_percent(one.macro_f1)),
        (("best epoch", NUMBER), lambda one: listed(one.best_epochs, 5)),
        (("time of a run", NUMBER), lambda one: "–" if one.seconds is None else duration(one.seconds))]
    told = [(column, value) for column, value in columns
            if column[0] not in ("task", "mode") or len({value(row) for row in rows}) > 1]
    return table("Side by side", [column for column, _ in told], [[value(row) for _, value in told] for row in rows],
                 f"and {len(found.rows) - ROWS:,} more" if len(found.rows) > ROWS else "")


def tests(found: Comparison) -> Markup:
    """Return the paired tests of a comparison."""
    reach = reach_of(pair.versus.difference for pair in found.pairs)
    return table("Two by two, on the same dev texts", [
        ("one", ROW), ("other", ""), ("difference in points (95%)", NUMBER), ("95% interval", DRAWN),
        ("only one right / only other", NUMBER), ("p, corrected", NUMBER), ("the first is", "")], [
        (found.rows[pair.first].name, found.rows[pair.second].name, as_points(pair.versus.difference),
         difference(pair.versus.difference, reach), f"{pair.only_first:,} / {pair.only_second:,}",
         p_value(pair.versus.p_holm), OUTCOMES[pair.versus.outcome]) for pair in found.pairs[:ROWS]],
        f"and {len(found.pairs) - ROWS:,} more" if len(found.pairs) > ROWS else "")


def differing(found: Comparison, pair: PairOfGroups, most: int = 20) -> Markup:
    """Return the texts on which two groups differ."""
    dev, names = found.dev[pair.first], found.label_names[pair.first]
    first, second = (found.rows[place].name for place in (pair.first, pair.second))
    left = len(pair.differing) - most

    def answers(given: Sequence[int]) -> str:
        return listed([names[answer] for answer in dict.fromkeys(given)], 4)

    return table(f"Where {first} and {second} differ", [
        ("text", TEXT), ("label", ""), (first, ""), (second, "")], [
        (cut(dev.texts[one.text], 240), names[one.label],
         f"{answers(one.first)} {_tick(one.first_right)}", f"{answers(one.second)} {_tick(one.second_right)}")
        for one in pair.differing[:most]], f"and {left:,} more" if left > 0 else "")


def overlaid(found: Comparison) -> Markup:
    """Return the learning curves of several groups over one another."""
    rows = found.rows[:8]
    return Markup("").join(
        over_epochs(title, label, [line_of(getattr(row, field), row.name) for row in rows], [], shares)
        for title, label, field, shares in (("Accuracy on dev", "texts answered right, %", "dev_accuracy", True),
                                             ("Loss on dev", "mean cross-entropy, nats", "dev_loss", False)))


def _tick(right: float) -> str:
    return "✓" if right == 1 else "✗" if right == 0 else f"({percent(right, 0)} of seeds right)"
