"""docs/assignment.md: its tables, its figure and its numbers are computed, not remembered."""

import json
import math
import re

import numpy as np
import pytest

from staff.release import handout
from staff.release.build import ROOT

PAGE = (ROOT / handout.PAGE).read_text(encoding="utf-8")


def test_points_and_policy_are_the_graders_own():
    """Catches: points changed in the grader alone. `./setup.sh -m staff.release handout` writes them."""
    assert handout.with_tables(PAGE) == PAGE


def test_a_page_without_its_markers_is_refused():
    """Catches: tables that silently stay as they were."""
    with pytest.raises(ValueError, match="markers of points once"):
        handout.with_tables("# no markers\n")


def test_the_figure_is_current_and_shows_what_the_text_says():
    """Catches: a figure drawn by other code, and a caption with other numbers."""
    assert (ROOT / handout.FIGURE).read_text(encoding="utf-8") == handout.figure()
    paths = handout.paths()
    steep, flat = paths["coupled (L2)"][-1]
    assert round(steep, 3) == 0.995 and round(flat, 2) == 0.17
    assert paths["decoupled (AdamW)"][-1] == pytest.approx([0.92, 0.92], abs=0.016)
    assert "the steep weight stays at 0.995 and the flat one falls to 0.17" in PAGE


def rows(after, count):
    """The cells of the first `count` table rows after a text."""
    lines = [line for line in PAGE[PAGE.index(after):].splitlines() if line.startswith("|")][2:2 + count]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def numbers(cell):
    return [float(number) for number in re.findall(r"-?\d+\.?\d*", cell.replace("−", "-"))]


def test_the_worked_attention_example():
    """Catches: a worked example with wrong numbers."""
    vectors = np.array([[numbers(cell) for cell in row[1:]] for row in rows("**In numbers.**", 3)])
    q, k, v = vectors.transpose(1, 0, 2)
    scores = q @ k.T / math.sqrt(2)
    weights = np.where(np.tri(3, dtype=bool), np.exp(scores), 0)
    weights /= weights.sum(axis=1, keepdims=True)
    shown = rows("| token | scores |", 3)
    for i in range(3):
        assert numbers(shown[i][1]) == pytest.approx(scores[i], abs=6e-4)
        assert numbers(shown[i][2]) == pytest.approx(weights[i], abs=6e-4)
        assert numbers(shown[i][3]) == pytest.approx(weights[i] @ v, abs=6e-4)
    unmasked = np.exp(scores[0]) / np.exp(scores[0]).sum() @ v
    assert unmasked == pytest.approx([0.797, 0.797], abs=6e-4) and "(0.797, 0.797)" in PAGE


def test_the_worked_first_step_gelu_and_loss():
    """Catches: other wrong numbers."""
    m, v = 0.1 * 0.3, 0.001 * 0.3**2
    alpha = 0.001 * math.sqrt(0.001) / 0.1
    shown = rows("**The first step, in numbers.**", 3)
    assert numbers(shown[0][1])[-1] == pytest.approx(m)
    assert numbers(shown[1][1])[-1] == pytest.approx(math.sqrt(v), abs=1e-5)
    assert numbers(shown[2][1])[-1] == pytest.approx(alpha, rel=1e-2)
    assert alpha * m / math.sqrt(v) == pytest.approx(0.001, rel=1e-3)
    assert 0.001 * m / math.sqrt(v) == pytest.approx(0.00316, rel=1e-2)
    for x, exact, tanh in (map(float, (cell.replace("−", "-") for cell in row)) for row in rows("| x | exact |", 3)):
        assert exact == pytest.approx(x / 2 * (1 + math.erf(x / math.sqrt(2))), abs=6e-6)
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        assert tanh == pytest.approx(x / 2 * (1 + math.tanh(inner)), abs=6e-6)
    p = np.exp([2.0, 1.0, 0.0]) / np.exp([2.0, 1.0, 0.0]).sum()
    assert p == pytest.approx([0.665, 0.245, 0.090], abs=6e-4)
    assert -np.log(p[:2]) == pytest.approx([0.408, 1.408], abs=6e-4)


def test_expected_figures_are_the_readmes():
    """Catches: a handout that promises another accuracy than the README's table, which a command writes."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    columns = ["sst, last-linear-layer", "sst, full-model", "cfimdb, last-linear-layer", "cfimdb, full-model"]
    cells = [next(line for line in readme.splitlines() if line.startswith(f"| {name} |")).split("|")
             for name in columns]
    table = rows("What to expect on dev:", 4)
    for row, cell in zip(table, (2, 3, 5, 6), strict=True):
        assert [numbers(value)[0] for value in row[1:]] == [numbers(of_run[cell])[0] for of_run in cells]


def test_sections_are_those_that_the_checks_name():
    """Catches: `sanity_check.py` sending a student to a section that is not there."""
    holes = json.loads((ROOT / "sanity" / "holes.json").read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ ([\d.]+?)\.? ", PAGE, re.MULTILINE)
    assert {hole["section"] for hole in holes.values()} <= set(headings)
