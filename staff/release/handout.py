"""Write what the handout says of points and policy, from the grader's own table, and draw its figure.

A figure that this makes twice is the same file: no date, no random names.
"""

import io
import json
import re
from pathlib import Path

import numpy as np

from staff.grader.case import CASES, COMPONENTS
from staff.grader.grade import declared
from staff.release.build import ROOT

GRADER = ROOT / "staff" / "grader"
PAGE, FIGURE = Path("docs/assignment.md"), Path("docs/assignment/decay.svg")


def write(root: Path = ROOT) -> None:
    """Write both files anew."""
    (root / PAGE).write_text(with_tables((root / PAGE).read_text(encoding="utf-8")), encoding="utf-8")
    (root / FIGURE).write_text(figure(), encoding="utf-8")


def with_tables(page: str) -> str:
    """Return the page with the tables between its markers replaced."""
    for name, table in (("points", points()), ("policy", policy())):
        pattern = re.compile(rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        if len(pattern.findall(page)) != 1:
            raise ValueError(f"{PAGE} must hold the markers of {name} once")
        page = pattern.sub(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", page)
    return page


def paths(steps: int = 400) -> dict[str, np.ndarray]:
    """Return where two weights go, [steps + 1, 2]: Adam with coupled decay and with decoupled decay, float64.

    The surface is 50 (x - 1)^2 + 0.05 (y - 1)^2: steep along x, flat along y. Without decay both end at (1, 1).
    """
    lr, beta1, beta2, eps, decay = 0.02, 0.9, 0.999, 1e-6, 0.5
    result = {}
    for coupled in (True, False):
        p, m, v = np.array([0.2, 1.8]), np.zeros(2), np.zeros(2)
        path = [p.copy()]
        for t in range(1, steps + 1):
            g = np.array([100.0, 0.1]) * (p - 1.0) + coupled * decay * p
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
            p = p - lr * np.sqrt(1 - beta2**t) / (1 - beta1**t) * m / (np.sqrt(v) + eps)
            p = p - (not coupled) * lr * decay * p
            path.append(p.copy())
        result["coupled (L2)" if coupled else "decoupled (AdamW)"] = np.array(path)
    return result


def figure() -> str:
    """Return the picture of both paths as SVG."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    with plt.rc_context({"svg.hashsalt": "decay", "font.size": 10, "svg.fonttype": "none"}):
        axes = plt.figure(figsize=(6.2, 4)).add_axes((0.1, 0.13, 0.87, 0.84))
        x, y = np.meshgrid(np.linspace(-0.05, 1.55, 120), np.linspace(-0.1, 2.0, 120))
        axes.contour(x, y, np.sqrt(50 * (x - 1) ** 2 + 0.05 * (y - 1) ** 2), 14, colors="0.8", linewidths=0.7)
        for (title, path), color in zip(paths().items(), ("tab:orange", "tab:blue"), strict=True):
            axes.plot(*path.T, color=color, lw=1.6, label=title)
            axes.plot(*path[-1], "o", color=color)
        axes.plot(0.2, 1.8, "ks", ms=5)
        axes.annotate("start", (0.2, 1.8), textcoords="offset points", xytext=(-8, 8))
        axes.plot(1, 1, "k*", ms=9)
        axes.annotate("minimum without decay", (1, 1), textcoords="offset points", xytext=(8, -4))
        axes.set(xlabel="steep weight", ylabel="flat weight", xlim=(-0.05, 1.55), ylim=(-0.1, 2.0))
        axes.legend(loc="lower left", frameon=False)
        file = io.StringIO()
        plt.savefig(file, format="svg", metadata={"Date": None})
        plt.close()
    return re.sub(r"[ \t]+\n", "\n", file.getvalue())


def points() -> str:
    """Return the points of every graded test as tables, one for each part."""
    entries = json.loads((GRADER / "points.json").read_text(encoding="utf-8"))
    declared(None)  # fills CASES
    parts: dict[str, list[str]] = {}
    for name in entries:
        parts.setdefault(CASES[name].component, []).append(name)
    blocks = [f"{sum(entry['points'] for entry in entries.values()):g} points in all."]
    for part, names in parts.items():
        rows = [f"| {entries[name]['number']} | {CASES[name].title} | {entries[name]['points']:g} |" for name in names]
        file = f" (`{COMPONENTS[part]}`)" if part in COMPONENTS else ""
        blocks.append(f"**{part}**{file}: {sum(entries[name]['points'] for name in names):g} points\n\n"
                      "| number | what is tested | points |\n|---|---|---|\n" + "\n".join(rows))
    return "\n\n".join(blocks)


def policy() -> str:
    """Return what is accepted where there is more than one right way, from the grader's policy."""
    rules = json.loads((GRADER / "policy.json").read_text(encoding="utf-8"))
    rows = [f"| {rule['of']} | {rule['question']} | {rule['answer']} |" for rule in rules]
    return "| part | question | answer |\n|---|---|---|\n" + "\n".join(rows)
