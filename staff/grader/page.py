"""Show a class's results on one page: what each test told apart, and which mistakes were behind it."""

import html
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #ffffff; --line: #d4d4d4; --bar: #3b78c3; --rest: #eceff3 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #16181c; --line: #3a3f47; --bar: #6aa3ea; --rest: #262b33 } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
       max-width: 75rem; padding: 0 1rem }
table { border-collapse: collapse; width: 100%; font-size: .9rem }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid var(--line);
         overflow-wrap: anywhere }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.bar { background: var(--rest); height: .8rem; min-width: 6rem; border-radius: 2px }
.bar div { background: var(--bar); height: 100%; border-radius: 2px }
.scroll { overflow-x: auto }
"""

Row = Mapping[str, Any]
SHOWN = 3  # mistakes of a test


def page(rows: Mapping[str, Row]) -> str:
    """Return the page of a class: submission's name -> the content of its results.json."""
    graded = {name: row for name, row in rows.items() if row["extra_data"]["receipt"]}
    scores = [row["score"] for row in graded.values()]
    total = sum(test["max_score"] for row in list(rows.values())[:1] for test in row["tests"])
    summary = f"{len(rows)} submissions, {len(graded)} graded."
    if scores:
        summary += (f" Points of {total:g}: median {statistics.median(scores):g}, mean {statistics.fmean(scores):.1f}, "
                    f"lowest {min(scores):g}, highest {max(scores):g}.")
    body = [
        "<h1>Class results</h1>", f"<p>{html.escape(summary)}</p>",
        "<h2>Points</h2>", histogram(scores, total),
        "<h2>Tests</h2>",
        "<p>Discrimination is the correlation of a test with the points of all other tests, from -1 to 1: near 0 it "
        "tells nobody apart, below 0 the better submissions fail it, so look at the test.</p>",
        tests_table(list(graded.values())),
        *same_code(graded),
        *left_out({name: row for name, row in rows.items() if name not in graded}),
    ]
    return ('<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Class results</title>\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<style>{STYLE}</style></head><body>\n" + "\n".join(body) + "\n</body></html>\n")


def tests_table(rows: Sequence[Row]) -> str:
    """Return a line for each test: share passed, discrimination, most frequent mistakes."""
    lines = []
    for index, test in enumerate(rows[0]["tests"] if rows else ()):
        results = [row["tests"][index] for row in rows]
        passed = [float(result["score"]) for result in results]
        others = [sum(one["score"] for one in row["tests"]) - score for row, score in zip(rows, passed, strict=True)]
        share = sum(result["status"] == "passed" for result in results) / len(results)
        mistakes = Counter(why_of(result) for result in results if result["status"] != "passed")
        said = "<br>".join(f"{count} &times; {html.escape(why)}" for why, count in mistakes.most_common(SHOWN))
        r = correlation(passed, others)
        lines.append([f'<td class="number">{html.escape(test["number"])}</td>', f"<td>{html.escape(test['name'])}</td>",
                      f'<td class="number">{test["max_score"]:g}</td>', f"<td>{bar(share)}</td>",
                      f'<td class="number">{share:.0%}</td>',
                      f'<td class="number">{"" if r is None else f"{r:.2f}"}</td>', f"<td>{said}</td>"])
    head = "".join(f'<th class="{kind}">{name}</th>' for name, kind in (
        ("No.", "number"), ("Test", ""), ("Points", "number"), ("Passed", ""), ("", "number"),
        ("Discrimination", "number"), ("Most frequent mistakes", "")))
    return table(head, map("".join, lines))


def why_of(result: Row) -> str:
    """Return the diagnosis of a failed test, or else how it failed."""
    extra = result["extra_data"]
    return extra["mistake"] or {"failed": "no known mistake"}.get(extra["status"], extra["status"])


def correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Return Pearson's correlation; None where one of the two is constant."""
    try:
        return statistics.correlation(x, y)
    except statistics.StatisticsError:
        return None


def histogram(scores: Sequence[float], total: float) -> str:
    """Return how many submissions lie in each tenth of the points."""
    counts = Counter(min(9, int(10 * score / total)) for score in scores) if total else Counter()
    most = max(counts.values(), default=1)
    lines = [f'<td class="number">{total * tenth / 10:g} to {total * (tenth + 1) / 10:g}</td>'
             f'<td class="number">{counts[tenth]}</td><td>{bar(counts[tenth] / most)}</td>'
             for tenth in range(9, -1, -1)]
    return table('<th class="number">Points</th><th class="number">Submissions</th><th></th>', lines)


def same_code(rows: Mapping[str, Row]) -> list[str]:
    """Return a list of submissions whose graded files are the same, byte for byte; nothing if there are none."""
    groups: dict[str, list[str]] = {}
    for name, row in rows.items():
        groups.setdefault(row["extra_data"]["receipt"]["submission"], []).append(name)
    items = [f"<li>{html.escape(', '.join(names))}</li>" for names in groups.values() if len(names) > 1]
    return ["<h2>The same files</h2>", "<ul>", *items, "</ul>"] if items else []


def left_out(rows: Mapping[str, Row]) -> list[str]:
    """Return a list of submissions that could not be graded, with the reason."""
    items = [f"<li>{html.escape(name)}: {html.escape(' '.join(row['output'].splitlines())[:400])}</li>"
             for name, row in rows.items()]
    return ["<h2>Not graded</h2>", "<ul>", *items, "</ul>"] if items else []


def bar(share: float) -> str:
    """Return a bar that is filled to a share from 0 to 1."""
    return f'<div class="bar"><div style="width:{100 * share:.0f}%"></div></div>'


def table(head: str, lines) -> str:
    """Return a table that scrolls where the window is narrow."""
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'
