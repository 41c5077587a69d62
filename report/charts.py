"""Draw charts as SVG text, by hand: no script and no picture file. style.css sets every colour, for light and dark.

A chart is a <figure>: its title, the drawing, and what the signs in the drawing mean. The words stand outside the
drawing, where they can wrap on a phone. Every drawing has a name and a description for readers who cannot see it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from report.markup import counted, tag

WIDTH, HEIGHT = 380, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 26, 46  # the margins around the axes, which hold the labels
KINDS = "abcdefgh"
"""Classes of lines and points in style.css: each has its own colour, and its own dashes or shape."""
SHAPES = {"a": "M{x} {y}h0", "b": "M{left} {top}l5 5m0-5l-5 5", "c": "M{left} {low}h5l-2.5-5z"}
"""How a point of a kind is drawn: a dot, a cross, a triangle."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """What an axis shows."""

    label: str
    low: float
    high: float
    percent: bool = False
    whole: bool = False  # ticks at whole numbers only


@dataclass(frozen=True)
class Line:
    """A line through points (x, y), and a band (x, low, high) around it."""

    name: str
    points: Sequence[Point]
    band: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True)
class Mark:
    """A place on the x axis that is worth some words."""

    x: float
    words: str


@dataclass(frozen=True)
class Points:
    """A kind of points (x, y)."""

    name: str
    points: Sequence[Point]


def curves(title: str, x: Axis, y: Axis, lines: Sequence[Line], marks: Sequence[Mark] = (),
           note: str = "") -> Markup:
    """Return lines over one another, with a number at each mark; `key` says what the numbers mean."""
    frame = Frame(x, y)
    inside = [frame.axes()]
    for kind, line in zip(_kinds(), lines, strict=False):
        if line.band:
            edge = [(at, high) for at, _, high in line.band] + [(at, low) for at, low, _ in reversed(line.band)]
            inside.append(frame.path(edge, f"band {kind}"))
        inside.append(frame.path(line.points, f"line {kind}"))
        if len(line.points) == 1:  # a line of one point cannot be seen
            inside.append(frame.dots(line.points, "a", f"dots {kind}"))
    inside += frame.badges(marks)

    said = "; ".join(f"{line.name}: {_first_and_last(line.points, frame)}" for line in lines if line.points)
    legend = [(swatch(kind), line.name) for kind, line in zip(_kinds(), lines, strict=False)] if len(lines) > 1 else []
    return figure(title, frame, inside, f"{said}. {'; '.join(mark.words for mark in marks)}", legend, note)


def key(marks: Sequence[Mark]) -> Markup:
    """Return what the numbers at the marks of some charts mean."""
    return tag("ul", *(tag("li", tag("b", number, class_="badge"), " ", mark.words)
                       for number, mark in enumerate(marks, 1)), class_="legend")


def scatter(title: str, x: Axis, y: Axis, groups: Sequence[Points], note: str = "") -> Markup:
    """Return points in up to three kinds, each with a shape of its own."""
    frame = Frame(x, y)
    inside = [frame.axes()]
    legend = []
    for kind, group in zip(SHAPES, groups, strict=False):
        inside.append(frame.dots(group.points, kind, f"dots {kind}"))
        legend.append((_icon(tag("path", d=_shape(kind, 8, 6), class_=f"dots {kind}")),
                       group.name))
    said = "; ".join(f"{group.name}: {len(group.points):,} points" for group in groups)
    return figure(title, frame, inside, said, legend, note)


def reliability(title: str, x: Axis, y: Axis, bins: Sequence[tuple[float, float, float, float, float]],
                note: str = "") -> Markup:
    """Return a reliability diagram. A bin is (mean confidence, share right, its interval's low, high, texts)."""
    frame = Frame(x, y)
    inside = [frame.axes(), frame.path([(x.low, y.low), (x.high, y.high)], "diagonal")]
    for confidence, right, low, high, count in bins:
        inside.append(frame.path([(confidence, low), (confidence, high)], "whisker"))
        words = f"{counted(count, 'text')}: confidence {confidence:.0%}, right {right:.0%}"
        inside.append(tag("circle", tag("title", words), cx=_short(frame.x(confidence)), cy=_short(frame.y(right)),
                          r=4, class_="ball"))
    said = "; ".join(f"confidence {confidence:.0%}, right {right:.0%} of {counted(count, 'text')}"
                     for confidence, right, _, _, count in bins)
    legend = [(_icon(tag("circle", cx=12, cy=6, r=4, class_="ball")), "answers of similar confidence, 95% interval"),
              (_icon(tag("path", d="M2 11L22 1", class_="diagonal")), "where confidence is right")]
    return figure(title, frame, inside, said, legend, note)


def interval(low: float, value: float, high: float, start: float, end: float, mark: float | None, said: str) -> Markup:
    """Return a row of a forest plot for a table's cell: a point with its interval between start and end.

    mark: where a thin line stands, to compare with.
    """
    width, height = 150, 18
    span = (end - start) or 1.0

    def place(number: float) -> str:
        return _short(4 + (width - 8) * min(max((number - start) / span, 0.0), 1.0))

    middle = height / 2
    inside = [] if mark is None else [tag("path", d=f"M{place(mark)} 0V{height}", class_="diagonal")]
    inside.append(tag("path", d=f"M{place(low)} {middle}H{place(high)}", class_="whisker"))
    inside.append(tag("circle", cx=place(value), cy=middle, r=3.5, class_="ball"))
    return tag("svg", *inside, viewBox=f"0 0 {width} {height}", role="img", aria_label=said,
               class_="interval")


def swatch(kind: str) -> Markup:
    """Return a small sample of a line of a kind."""
    return _icon(tag("path", d="M1 6H23", class_=f"line {kind}"))


class Frame:
    """The place of a chart's numbers in its drawing."""

    def __init__(self, x: Axis, y: Axis) -> None:
        self.x_axis, self.y_axis = _with_extent(x), _with_extent(y)

    def x(self, value: float) -> float:
        """Return the place of a number on the x axis, in the drawing's units."""
        return _place(value, self.x_axis, LEFT, WIDTH - RIGHT)

    def y(self, value: float) -> float:
        """Return the place of a number on the y axis; y grows downwards in a drawing."""
        return _place(value, self.y_axis, HEIGHT - BOTTOM, TOP)

    def path(self, points: Iterable[Point], kind: str) -> Markup:
        """Return a line through points. A point without a number breaks it."""
        pieces, pen = [], "M"
        for x, y in points:
            if drawable(x) and drawable(y):
                pieces.append(f"{pen}{_short(self.x(x))} {_short(self.y(y))}")
                pen = "L"
            else:
                pen = "M"
        return tag("path", d="".join(pieces), class_=kind)

    def dots(self, points: Iterable[Point], shape: str, kind: str) -> Markup:
        """Return points as one path: a tenth of the bytes of an element for each."""
        return tag("path", class_=kind, d="".join(
            _shape(shape, self.x(x), self.y(y)) for x, y in points if drawable(x) and drawable(y)))

    def badges(self, marks: Sequence[Mark]) -> list[Markup]:
        """Return a thin line with a number at its top for each mark, one under another where they are close."""
        inside, taken = [], []
        for number, mark in enumerate(marks, 1):
            at, row = self.x(mark.x), 0
            while any(row == other and abs(at - there) < 20 for there, other in taken):
                row += 1
            taken.append((at, row))
            top = TOP - 13 + 19 * row
            inside += [tag("path", d=f"M{_short(at)} {top}V{HEIGHT - BOTTOM}", class_="mark"),
                       tag("circle", cx=_short(at), cy=top, r=9, class_="badge"),
                       tag("text", number, x=_short(at), y=top + 4, class_="badge")]
        return inside

    def axes(self) -> Markup:
        """Return the grid, the numbers at it and the axes' labels."""
        inside = []
        for value in ticks(self.y_axis):
            at = _short(self.y(value))
            inside += [tag("path", d=f"M{LEFT} {at}H{WIDTH - RIGHT}", class_="grid"),
                       tag("text", self.words(value, self.y_axis), x=LEFT - 7, y=_short(self.y(value) + 4),
                           class_="y")]
        for value in ticks(self.x_axis):
            at = _short(self.x(value))
            inside += [tag("path", d=f"M{at} {HEIGHT - BOTTOM}v4", class_="tick"),
                       tag("text", self.words(value, self.x_axis), x=at, y=HEIGHT - BOTTOM + 17, class_="x")]
        inside.append(tag("path", d=f"M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}", class_="tick"))
        inside.append(tag("text", self.x_axis.label, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 9, class_="x name"))
        middle = (TOP + HEIGHT - BOTTOM) / 2
        inside.append(tag("text", self.y_axis.label, x=12, y=middle, transform=f"rotate(-90 12 {middle})",
                          class_="x name"))
        return Markup("".join(inside))

    def words(self, value: float, axis: Axis) -> str:
        """Return a number as its axis writes it."""
        step = _step(axis)
        if axis.percent:
            return f"{100 * value:.{max(0, -math.floor(math.log10(100 * step) + 1e-9))}f}%"
        return f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def figure(title: str, frame: Frame, inside: Sequence[Markup], said: str, legend: Sequence[tuple[Markup, str]],
           note: str) -> Markup:
    """Return a drawing with its title, and the signs in it with their words."""
    axes = f"Across: {frame.x_axis.label}. Up: {frame.y_axis.label}."
    picture = tag("svg", tag("desc", f"{axes} {said}"[:1500]), *inside, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img",
                  aria_label=f"{title}. {axes}")
    rows = [tag("li", sign, " ", words) for sign, words in legend]
    return tag("figure", tag("figcaption", title), picture, tag("ul", *rows, class_="legend") if rows else "",
               tag("p", note, class_="note") if note else "", class_="chart")


def ticks(axis: Axis) -> list[float]:
    """Return round numbers on an axis, three to seven of them."""
    step = _step(axis)
    first = math.ceil(axis.low / step - 1e-9)
    return [step * number for number in range(first, math.floor(axis.high / step + 1e-9) + 1)]


def around(values: Iterable[float], label: str, **how: bool) -> Axis:
    """Return an axis that holds all values that can be drawn, with a little room."""
    there = [value for value in values if drawable(value)] or [0.0, 1.0]
    low, high = min(there), max(there)
    room = 0.06 * (high - low) or 0.05 * (abs(high) or 1.0)
    limits = (max(low - room, 0.0) if low >= 0 else low - room, high + room)
    return Axis(label, limits[0], min(limits[1], 1.0) if how.get("percent") and high <= 1 else limits[1], **how)


def drawable(value: float) -> bool:
    """Tell whether a number has a place on an axis: not NaN, not infinite, nor as good as that."""
    return -1e12 < value < 1e12


def _step(axis: Axis) -> float:
    rough = (axis.high - axis.low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor, most in ((1, 2), (2, 10), (5, 50), (10, math.inf))
                        if (rough / power) ** 2 <= most)
    return max(step, 1.0) if axis.whole else step


def _with_extent(axis: Axis) -> Axis:
    """An axis from a number to the same number, as far as a float can tell, has no place for a point."""
    if axis.high - axis.low > 1e-9 * max(abs(axis.low), abs(axis.high), 1e-3):
        return axis
    middle = axis.low if drawable(axis.low) else 0.0
    return Axis(axis.label, middle - 0.5, middle + 0.5, axis.percent, axis.whole)


def _place(value: float, axis: Axis, start: float, end: float) -> float:
    return start + (end - start) * min(max((value - axis.low) / (axis.high - axis.low), 0.0), 1.0)


def _shape(kind: str, x: float, y: float) -> str:
    return SHAPES[kind].format(x=_short(x), y=_short(y), left=_short(x - 2.5), top=_short(y - 2.5),
                               low=_short(y + 2.5))


def _icon(inside: Markup) -> Markup:
    return tag("svg", inside, viewBox="0 0 24 12", class_="swatch", aria_hidden="true")


def _kinds() -> Iterable[str]:
    return (KINDS[number % len(KINDS)] for number in range(10_000))


def _first_and_last(points: Sequence[Point], frame: Frame) -> str:
    ends = [points[0], points[-1]] if len(points) > 1 else points
    return " to ".join(f"{y:.3g} at {frame.words(x, frame.x_axis)}" for x, y in ends)


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
