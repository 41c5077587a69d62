"""Show a class's results on one page: what to look at first, which mistakes were made, what each test told apart."""

import html
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

STYLE = Path(__file__).with_name("page.css")

Row = Mapping[str, Any]
SHOWN, LISTED, LOOK = 3, 20, 8  # mistakes of a test; mistakes of the class; tests to look at
WEAK = 0.1
"A test whose discrimination is below this is listed, where it could have told people apart: see RARE."
RARE = 0.03
"Where fewer than this pass a test, or fail it, its discrimination says little."


def page(rows: Mapping[str, Row]) -> str:
    """Return the page of a class: submission's name -> the content of its results.json."""
    graded = {name: row for name, row in rows.items() if status_of(row) == "graded"}
    left_out = {name: row for name, row in rows.items() if name not in graded}
    scores = [row["score"] for row in graded.values()]
    total = sum(test["max_score"] for row in list(rows.values())[:1] for test in row["tests"])
    tests = [Test(index, [*graded.values()]) for index in range(len(next(iter(graded.values()))["tests"]))] \
        if graded else []
    body = [
        "<h1>Class results</h1>",
        f'<p class="where">{counted(len(rows), "submission")}, {len(graded)} graded, {total:g} points</p>',
        f'<p class="verdict">{summary(scores, total)}</p>',
        section("To look at", *look_at(left_out, graded, tests)),
        section("Mistakes", *mistakes(graded)) if graded else "",
        section("Points", *points(graded, scores, total)) if graded else "",
        section("Tests, the hardest first",
                "<p>Discrimination, r, is the correlation of a test with the points of all other tests, from -1 to 1. "
                "Near 0 the test tells nobody apart; below 0 the better submissions fail it.</p>",
                tests_table(sorted(tests, key=lambda test: test.share))) if graded else "",
    ]
    return ('<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Class results</title>\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<style>\n{STYLE.read_text(encoding='utf-8')}</style></head><body>\n"
            + "\n".join(filter(None, body)) + "\n</body></html>\n")


def status_of(row: Row) -> str:
    """Return "graded", "refused" or "grader error" for the content of a results.json."""
    if any(test["extra_data"]["status"] == "grader error" for test in row["tests"]):
        return "grader error"
    return "graded" if row["extra_data"]["receipt"] else "refused"


class Test:
    """What a class made of one test."""

    __test__ = False  # it is no test of ours

    def __init__(self, index: int, rows: Sequence[Row]):
        results = [row["tests"][index] for row in rows]
        passed = [float(result["score"]) for result in results]
        others = [sum(one["score"] for one in row["tests"]) - score for row, score in zip(rows, passed, strict=True)]
        self.number, self.name, self.points = (results[0][key] for key in ("number", "name", "max_score"))
        self.share = sum(result["status"] == "passed" for result in results) / len(results)
        self.discrimination = correlation(passed, others)
        self.mistakes = Counter(why_of(result) for result in results if result["status"] != "passed")

    @property
    def is_weak(self) -> bool:
        """Whether staff should look at it: nobody passes it, or it does not tell better from worse submissions."""
        r = self.discrimination
        return self.share == 0 or (RARE < self.share < 1 - RARE and r is not None and r < WEAK)


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


def summary(scores: Sequence[float], total: float) -> str:
    """Return the class's points in a sentence."""
    if not scores:
        return "No submission was graded."
    text = f"The median is {statistics.median(scores):g} of {total:g} points, the mean {statistics.fmean(scores):.1f}."
    if len(scores) > 3:
        low, _, high = (round(number, 1) for number in statistics.quantiles(scores, n=4, method="inclusive"))
        text += f" Half of the class has {low:g} to {high:g} points, all have {min(scores):g} to {max(scores):g}."
    return text


def look_at(left_out: Mapping[str, Row], graded: Mapping[str, Row], tests: Sequence[Test]) -> list[str]:
    """Return what needs a person: results that are no verdict, files that are the same, tests that tell little."""
    parts = []
    for status, title, why in (
            ("grader error", "The grader failed on", lambda row: "its results/*.json says why; start `grade` again"),
            ("refused", "Not graded", lambda row: " ".join(row["output"].splitlines()[1:])[:400])):
        found = [f"{escaped(name)}: {escaped(why(row))}" for name, row in left_out.items() if status_of(row) == status]
        parts += listed(f"{title}: {counted(len(found), 'submission')}", found)

    groups: dict[str, list[str]] = {}
    for name, row in graded.items():
        groups.setdefault(row["extra_data"]["receipt"]["submission"], []).append(name)
    same = [escaped(", ".join(names)) for names in groups.values() if len(names) > 1]
    parts += listed("The same graded files, byte for byte", same)

    weak = sorted((test for test in tests if test.is_weak), key=lambda test: test.discrimination or 0.0)
    lines = [f"{escaped(test.number)} {escaped(test.name)}: " + (
        "nobody passes" if test.share == 0 else f"{test.share:.0%} pass, discrimination {two_digits(test)}")
        for test in weak[:LOOK]]
    lines += [f"and {len(weak) - LOOK} more, in the table below"] if len(weak) > LOOK else []
    parts += listed("Tests that do not tell better submissions from worse ones", lines)
    return parts or ["<p>Nothing: all were graded, no two are the same, and each test tells something.</p>"]


def mistakes(graded: Mapping[str, Row]) -> list[str]:
    """Return in how many submissions each mistake was found; a submission counts once for each."""
    found: Counter[tuple[str, str]] = Counter()
    for row in graded.values():
        found.update({(test["extra_data"]["test"].partition(".")[0], one) for test in row["tests"]
                      if test["status"] != "passed" for one in why_of(test).split("; and ")})
    most = max(found.values(), default=1)
    lines = [f'<td class="n">{count}</td><td class="wide">{bar(count / most)}</td><td class="part">{escaped(part)}</td>'
             f'<td class="text">{escaped(one)}</td>' for (part, one), count in found.most_common(LISTED)]
    if not lines:
        return ["<p>None: everybody passes every test.</p>"]
    rest = len(found) - len(lines)
    return [table("Mistakes", (("n", "Submissions"), ("", ""), ("", "Part"), ("text", "Mistake")), lines, "mistakes"),
            f'<p class="note">and {rest} more, none in more submissions than the last one here</p>' if rest else ""]


def points(graded: Mapping[str, Row], scores: Sequence[float], total: float) -> list[str]:
    """Return the share of the points that each part got, and how many submissions lie in each tenth of the points."""
    got, of = Counter(), Counter()
    for row in graded.values():
        for test in row["tests"]:
            part = test["extra_data"]["test"].partition(".")[0]
            got[part] += test["score"]
            of[part] += test["max_score"]
    parts = [f"<td>{escaped(part)}</td>"
             f'<td class="n">{most / len(graded):g}</td><td class="wide">{bar(got[part] / most if most else 0)}</td>'
             f'<td class="n">{got[part] / most if most else 0:.0%}</td>' for part, most in of.items()]

    counts = Counter(min(9, int(10 * score / total)) for score in scores) if total else Counter()
    most = max(counts.values(), default=1)
    tenths = [f'<td class="n">{total * tenth / 10:g} to {total * (tenth + 1) / 10:g}</td>'
              f'<td class="n">{counts[tenth]}</td><td class="wide">{bar(counts[tenth] / most)}</td>'
              for tenth in range(9, -1, -1)]
    return ['<div class="two">',
            table("Points by part", (("", "Part"), ("n", "Points"), ("", "Mean share"), ("n", "")), parts),
            table("Submissions by points", (("n", "Points"), ("n", "Submissions"), ("", "")), tenths), "</div>"]


def tests_table(tests: Iterable[Test]) -> str:
    """Return a line for each test: share passed, discrimination, most frequent mistakes."""
    lines = []
    for test in tests:
        said = "<br>".join(f"{count} &times; {escaped(why)}" for why, count in test.mistakes.most_common(SHOWN))
        lines.append(f'<td class="n">{escaped(test.number)}</td><td class="name">{escaped(test.name)}</td>'
                     f'<td class="n points">{test.points:g}</td><td>{bar(test.share)}</td>'
                     f'<td class="n">{test.share:.0%}</td>'
                     f'<td class="n discrimination">{two_digits(test)}</td><td class="text">{said}</td>')
    return table("Tests", (("n", "No."), ("", "Test"), ("n", "Points"), ("", "Passed"), ("n", ""),
                           ("n", "Discrimination"), ("text", "Most frequent mistakes")), lines, "tests")


def two_digits(test: Test) -> str:
    """Return a test's discrimination as a text; "" where it has none."""
    return "" if test.discrimination is None else f"{round(test.discrimination, 2) + 0:.2f}"  # never -0.00


def escaped(text: str) -> str:
    """Return a text in which nothing is a tag."""
    return html.escape(text)


def counted(number: int, noun: str) -> str:
    """Return "1 submission" or "2 submissions"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def section(title: str, *parts: str) -> str:
    """Return a part of the page under a heading."""
    return "\n".join(["<section>", f"<h2>{title}</h2>", *filter(None, parts), "</section>"])


def listed(title: str, items: Sequence[str]) -> list[str]:
    """Return a list under a title; nothing if it is empty."""
    return [f"<h3>{title}</h3>", "<ul>", *(f"<li>{item}</li>" for item in items), "</ul>"] if items else []


def bar(share: float) -> str:
    """Return a bar that is filled to a share from 0 to 1."""
    return f'<div class="bar"><div style="width:{100 * share:.0f}%"></div></div>'


def table(name: str, heads: Iterable[tuple[str, str]], lines: Iterable[str], kind: str = "") -> str:
    """Return a table that scrolls, also by keys, where the window is narrow. heads: (class, text) of each column."""
    head = "".join(f'<th scope="col" class="{column}">{text}</th>' for column, text in heads)
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return (f'<div class="scroll" tabindex="0" role="region" aria-label="{name}"><table class="{kind}">'
            f"<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>")
