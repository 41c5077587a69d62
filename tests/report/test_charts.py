"""The drawings: numbers stand where they belong, and whatever is asked for can be drawn."""

import itertools
import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from report import charts, markup
from report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, Frame, Line, Mark, Points

UNIT = Axis("x", 0, 1)
SVG = "{http://www.w3.org/2000/svg}"


def parsed(figure: Markup) -> ElementTree.Element:
    """Return a figure as a tree; an error if it is not well formed."""
    return ElementTree.fromstring(str(figure))


def path_of(figure, kind):
    """Return the points of the path of a kind, as pairs of numbers."""
    d = next(one.get("d") for one in parsed(figure).iter("path") if one.get("class") == kind)
    return [tuple(map(float, pair)) for pair in re.findall(r"[ML]([\d.]+) ([\d.]+)", d)]


def test_a_line_goes_through_its_points():
    """Catches: an axis upside down, a scale without its margins, points in another order."""
    drawn = charts.curves("t", UNIT, Axis("y", 0, 10), [Line("a", [(0, 0), (1, 10), (0.5, 5)])])
    right, low = WIDTH - RIGHT, HEIGHT - BOTTOM
    assert path_of(drawn, "line a") == [(LEFT, low), (right, TOP), ((LEFT + right) / 2, (TOP + low) / 2)]


def test_a_number_that_is_not_one_breaks_the_line():
    """Catches: NaN in a path, which makes a browser drop the rest of it; a line over the gap."""
    drawn = charts.curves("t", UNIT, UNIT, [Line("a", [(0, 0), (0.5, math.nan), (0.7, math.inf), (1, 1)])])
    line = next(one.get("d") for one in parsed(drawn).iter("path") if one.get("class") == "line a")
    assert line.count("M") == 2 and "L" not in line


def test_points_have_a_shape_for_each_kind():
    """Catches: kinds that only their colour tells apart, a point that is lost."""
    groups = [Points(name, [(0.5, 0.5), (0.25, 0.75)]) for name in ("easy", "hard", "odd")]
    drawn = parsed(charts.scatter("t", UNIT, UNIT, groups))
    paths = [one.get("d") for one in drawn.find("svg") if one.get("class", "").startswith("dots")]
    assert [d.lower().count("m") for d in paths] == [2, 4, 2]  # a cross is two strokes
    assert len({re.sub(r"[\d.]+ [\d.]+", "", d, count=1)[:6] for d in paths}) == 3


@pytest.mark.parametrize("low, high, whole, expected", [
    (0, 1, False, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
    (0.4, 0.62, False, ["0.40", "0.45", "0.50", "0.55", "0.60"]),
    (1, 3, True, ["1", "2", "3"]),
    (1, 60, True, ["10", "20", "30", "40", "50", "60"]),
    (-0.3, 0.3, False, ["-0.3", "-0.2", "-0.1", "0.0", "0.1", "0.2", "0.3"]),
    (0, 20_000, False, ["0", "5,000", "10,000", "15,000", "20,000"]),
])
def test_ticks_are_round_numbers(low, high, whole, expected):
    """Catches: half an epoch, 0.30000000000000004, a tick outside the axis, two ticks with the same words."""
    axis = Axis("x", low, high, whole=whole)
    assert [Frame(axis, UNIT).words(value, axis) for value in charts.ticks(axis)] == expected


@settings(deadline=None)
@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e6), st.booleans())
def test_every_axis_has_some_ticks_inside(low, span, percent):
    """Catches: an endless list of ticks, an axis without any, words that say the same number twice."""
    axis = Axis("x", low, low + span, percent)
    found = charts.ticks(axis)
    assert 3 <= len(found) <= 9
    assert all(low - 1e-6 * span <= value <= low + span + 1e-6 * span for value in found)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(), st.floats()), max_size=5), st.text(max_size=20))
def test_anything_can_be_drawn(points, words):
    """Catches: a crash on NaN, infinity, nothing, one point, equal points; words that are no text in XML."""
    x, y = charts.around([x for x, _ in points], words), charts.around([y for _, y in points], words, percent=True)
    for drawn in (charts.curves(words, x, y, [Line(words, points)], [Mark(1.0, words)]),
                  charts.scatter(words, x, y, [Points(words, points)]),
                  charts.key([Mark(1.0, words)])):
        text = "".join(parsed(drawn).itertext())
        assert " ".join(markup.visible(words).split()) in " ".join(text.split())


def test_an_axis_of_one_value_has_room():
    """Catches: a division by zero for a run of one epoch or of equal losses."""
    assert path_of(charts.curves("t", Axis("x", 1, 1), Axis("y", 0.5, 0.5), [Line("a", [(1, 0.5)])]), "line a") == [
        ((LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2)]


def test_an_interval_stands_on_its_scale():
    """Catches: an interval drawn from the wrong end, or outside its cell."""
    drawn = ElementTree.fromstring(str(charts.interval(-0.5, 0, 0.5, -1, 1, 0.0, "said")))
    line, whisker, ball = drawn
    assert (ball.get("cx"), line.get("d")[:4], whisker.get("d")) == ("75", "M75 ", "M39.5 9.0H110.5")
    assert drawn.get("aria-label") == "said"


def test_marks_do_not_hide_each_other():
    """Catches: two marks at one epoch whose numbers lie upon one another."""
    drawn = parsed(charts.curves("t", Axis("x", 1, 60), UNIT, [Line("a", [(1, 0), (60, 1)])],
                                 [Mark(10, "one"), Mark(10, "two"), Mark(11, "three"), Mark(40, "four")]))
    places = [(float(one.get("cx")), float(one.get("cy"))) for one in drawn.iter("circle")]
    assert len(places) == 4
    assert all(math.dist(one, other) > 17 for one, other in itertools.combinations(places, 2))


@pytest.mark.parametrize("value, digits, expected", [(0.5, 2, "0.50"), (-0.004, 2, "0.00"), (-0.05, 2, "\u22120.05"),
                                                     (1234.5, 1, "1,234.5")])
def test_numbers_have_a_real_minus_sign(value, digits, expected):
    """Catches: -0.00, and a hyphen that a spreadsheet takes for a formula."""
    assert markup.number(value, digits) == expected


def test_what_cannot_be_seen_is_shown():
    """Catches: a text that turns the page around, or hides a part of itself; a family of emoji taken apart."""
    assert markup.visible("a\u202eb\x00\u2067c\ufeff\ud800") == "a\\u202eb\\x00\\u2067c\\ufeff\\ud800"
    kept = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \U0001f468\u200d\U0001f469 \u00e9\u4e2d\n\t"
    assert markup.visible(kept) == kept


def test_only_markup_is_markup():
    """Catches: an attribute that a quote ends, text that becomes an element."""
    made = markup.tag("p", "<b>", Markup("<i></i>"), class_="a", title='">\'<')
    assert made == "<p class=\"a\" title=\"&#34;&gt;&#39;&lt;\">&lt;b&gt;<i></i></p>"
