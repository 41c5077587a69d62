"""What a reader sees of a page, in headless Chromium: wide and narrow, light and dark, and with hostile texts."""

import csv
import dataclasses
import io
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from report import page
from tests.report.made_up import comparison, findings

HOSTILE = ('<img src=x onerror="bad=1">', "</script><script>bad=1</script>", "\"'><svg/onload=bad=1>", "{{ 7*7 }}",
           "&lt;b&gt;", "=1+cmd|'/C calc'!A0", "\u202eright to left\u2066", "\x00\x1b[2J\x7f\ud800", "w" * 300,
           "</style>")
FACES = [(1280, False), (1280, True), (390, False), (390, True)]
NAMES = ("=1+2", 'a,"b"', "50% & more_x {y} \\z ~^#$ <b>", "-3", "@x")


def poisoned(value, texts, where=""):
    """Return findings with one of the texts after every text in them; what the code itself chose stays."""
    if dataclasses.is_dataclass(value):
        kept = ("outcome", "select_by")
        return dataclasses.replace(value, **{
            field.name: poisoned(getattr(value, field.name), texts, field.name)
            for field in dataclasses.fields(value) if field.name not in kept})
    if isinstance(value, tuple):
        return tuple(poisoned(one, texts, where) for one in value)
    if isinstance(value, Path):
        return Path(poisoned(str(value), texts))
    if isinstance(value, str):
        poisoned.count = getattr(poisoned, "count", 0) + 1
        return f"{value} {texts[poisoned.count % len(texts)]}"
    return value


def pages_of(texts):
    """Return a report of two seeds and a comparison, poisoned in the same places whatever the texts."""
    poisoned.count = 0
    return (page.report(poisoned(findings(seeds=2), texts)),
            page.comparison(poisoned(comparison(), texts)))


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Written pages: a report, a report with hostile texts, one of odd label names, a large one, comparisons."""
    folder = tmp_path_factory.mktemp("pages")
    hostile, hostile_comparison = pages_of(HOSTILE)
    contents = {
        "report": page.report(findings()), "seeds": page.report(findings(seeds=3)), "hostile": hostile,
        "names": page.report(findings(names=NAMES)), "comparison": page.comparison(comparison()),
        "hostile_comparison": hostile_comparison,
        "large": page.report(findings(texts=700, epochs=100, names=tuple(f"{n} {'x' * 99}" for n in range(20))))}
    for name, content in contents.items():
        (folder / f"{name}.html").write_text(content, encoding="utf-8")
    return SimpleNamespace(**{name: folder / f"{name}.html" for name in contents})


@pytest.mark.parametrize("width, dark", FACES)
@pytest.mark.parametrize("name", ["report", "hostile", "comparison", "hostile_comparison", "large"])
def test_a_page_is_quiet_and_fits(browser, pages, name, width, dark):
    """Catches: a request that leaves, a script or style that the policy stops, a page wider than a phone, a drawing
    without size or name, a label that is cut off, text too pale to read."""
    file = getattr(pages, name)
    browser.open(file, width, dark)
    assert browser.requests in ([file.as_uri()], [file.as_uri(), "data:,"])
    assert browser.console == []
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run(DRAWINGS) == []
    assert browser.run(PALE) == []


DRAWINGS = """
const wrong = [];
for (const svg of document.querySelectorAll("svg")) {
  const box = svg.getBoundingClientRect();
  const name = svg.getAttribute("aria-label") || svg.getAttribute("aria-hidden");
  if (!(box.width > 5 && box.height > 5 && name)) wrong.push("no size or name: " + svg.outerHTML.slice(0, 200));
  for (const text of svg.querySelectorAll("text")) {
    const there = text.getBoundingClientRect();
    if (there.left < box.left - 1 || there.right > box.right + 1 || there.top < box.top - 1 ||
        there.bottom > box.bottom + 1) wrong.push("cut off: " + text.textContent);
  }
}
for (const name of document.querySelectorAll("svg .name[transform]")) {
  const right = name.getBoundingClientRect().right;
  if ([...name.parentNode.querySelectorAll(".y")].some((text) => text.getBoundingClientRect().left < right))
    wrong.push("a number over the name of its axis: " + name.textContent);
}
for (const figure of document.querySelectorAll("figure")) {
  const axes = [...figure.querySelectorAll("svg .name")].filter((text) => text.textContent.trim());
  if (axes.length !== 2 || !figure.querySelector("figcaption").textContent.trim() ||
      figure.querySelector("svg[role=img] > desc").textContent.length < 20) wrong.push(figure.innerText);
}
if (document.querySelectorAll("figure").length < 2) wrong.push("no figures");
return wrong;
"""
"""Every drawing has a size and a name, and every chart a title, two axes with labels, and a description."""

PALE = """
function parts(colour) { return colour.match(/[\\d.]+/g).map(Number); }
function over(top, under) {
  const alpha = top.length > 3 ? top[3] : 1;
  return under.map((value, place) => alpha * top[place] + (1 - alpha) * value);
}
function light(colour) {
  const [r, g, b] = colour.map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function behind(element) {
  if (!element) return [255, 255, 255];
  const own = parts(getComputedStyle(element).backgroundColor);
  return own.length > 3 && own[3] === 0 ? behind(element.parentElement) : over(own, behind(element.parentElement));
}
const pale = new Set();
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const element = walk.currentNode.parentElement;
  if (!walk.currentNode.textContent.trim() || ["SCRIPT", "desc", "title"].includes(element.tagName)) continue;
  const style = getComputedStyle(element), drawn = element.tagName === "text";
  const under = element.matches("svg .badge") ? parts(getComputedStyle(element.previousSibling).fill).slice(0, 3)
    : behind(element);
  const [high, low] = [light(over(parts(drawn ? style.fill : style.color), under)), light(under)].sort((a, b) => b - a);
  const contrast = (high + 0.05) / (low + 0.05);
  if (contrast < 4.5) pale.add(contrast.toFixed(2) + " " + element.outerHTML.slice(0, 90));
}
return [...pale];
"""
"""The texts whose contrast with what is behind them is below 4.5 (WCAG AA)."""


def test_hostile_texts_are_shown_and_do_nothing(browser, pages, tmp_path):
    """Catches: any text of the findings that is put into the page as markup, in a table, a chart or an attribute."""
    shape = "return [...document.querySelectorAll('*')].map((one) => one.tagName)"
    harmless = pages_of(["a" * len(text) for text in HOSTILE])
    for name, content in zip(("hostile", "hostile_comparison"), harmless, strict=True):
        (tmp_path / "harmless.html").write_text(content, encoding="utf-8")
        browser.open(tmp_path / "harmless.html")
        expected = browser.run(shape)
        browser.open(getattr(pages, name))
        assert browser.run(shape) == expected
        assert browser.run("return [typeof bad, document.images.length, document.scripts.length]") == \
            ["undefined", 0, 1]
        attributes = browser.run("return [...document.querySelectorAll('*')].flatMap((e) => e.getAttributeNames())")
        assert not set(attributes) & {"onerror", "onload", "src", "style"}
        shown = browser.run("return document.body.innerText")
        for text in (HOSTILE[0], "</script>", "{{ 7*7 }}", "&lt;b&gt;", "\\u202eright", "\\x00\\x1b[2J"):
            assert text in shown
        assert not set(shown) & set("\u202e\u2066\x00\x1b\x7f")


def copied(browser, caption, kind):
    """Press a table's button, and return what it put into the clipboard."""
    return browser.driver.execute_async_script("""
        const [caption, kind, done] = arguments;
        const table = [...document.querySelectorAll("table")]
          .find((one) => one.caption.textContent.startsWith(caption));
        const tools = table.closest(".scroll").nextElementSibling;
        navigator.clipboard.writeText = async (text) => { if (kind.denied) throw Error(); tools.copied = text; };
        document.execCommand = () => { tools.copied = tools.querySelector("textarea").value; return kind.works; };
        [...tools.querySelectorAll("button")].find((one) => one.textContent === "copy as " + kind.name).click();
        setTimeout(() => done([tools.copied, tools.querySelector("button").textContent,
                               document.activeElement.value]), 50);""", caption, kind)


def test_a_table_is_copied_as_csv(browser, pages):
    """Catches: a cell that a spreadsheet would run, quotes that end a cell, drawn columns, numbers that are no more."""
    browser.open(pages.names)
    rows = list(csv.reader(io.StringIO(copied(browser, "How good each label", {"name": "CSV"})[0])))
    assert rows[0] == ["label", "texts", "answered", "precision", "recall", "F1"]
    assert [row[0] for row in rows[1:]] == ["'=1+2", 'a,"b"', NAMES[2], "-3", "'@x"]
    assert rows[1][1:] == ["24", "20", *["50.0% (45.0 to 55.0)"] * 3]
    rows = list(csv.reader(io.StringIO(copied(browser, "The same dev texts", {"name": "CSV"})[0])))
    assert rows[2] == ["TF-IDF + logistic regression", "40.0%", "\u22122.0 (\u22129.0 to +5.0)", "20 / 12", "0.600"]


def test_a_table_is_copied_as_latex(browser, pages):
    """Catches: a sign that LaTeX reads as a command."""
    browser.open(pages.names)
    lines = copied(browser, "How good each label", {"name": "LaTeX"})[0].splitlines()
    assert lines[:2] == ["\\begin{tabular}{lrrrrr}", "  \\hline"] and lines[-1] == "\\end{tabular}"
    assert lines[6].startswith(r"  50\% \& more\_x \{y\} \textbackslash{}z \textasciitilde{}\textasciicircum{}\#\$ "
                               r"\textless{}b\textgreater{} & 24 & 20 & 50.0\% (45.0 to 55.0) & ")
    assert all(line.endswith(" \\\\") and line.count(" & ") == 5 for line in (lines[2], *lines[4:-2]))


@pytest.mark.parametrize("works", [True, False])
def test_a_denied_clipboard_leaves_a_way(browser, pages, works):
    """Catches: a button that does nothing where the browser forbids the clipboard, as for files on some systems."""
    browser.open(pages.report)
    text, said, field = copied(browser, "Scores", {"name": "CSV", "denied": True, "works": works})
    assert text.startswith("score on dev,value (95%)\naccuracy,52.0% (47.0 to 57.0)\n")
    assert said == ("copied" if works else "press Ctrl+C")
    assert works or field == text  # selected in the field


def test_light_or_dark_is_the_readers_choice(browser, pages):
    """Catches: a button that does nothing, or that the system's setting overrules."""
    browser.open(pages.report, dark=True)
    paper = "return getComputedStyle(document.documentElement).backgroundColor"
    seen = [browser.run(paper)]
    for _ in range(3):
        browser.run("document.getElementById('theme').click()")
        seen.append(browser.run(paper))
    assert seen[1] != seen[0] == seen[2] == seen[3]  # auto, light, dark, auto


def test_paper_gets_everything_and_no_buttons(browser, pages):
    """Catches: numbers hidden behind a triangle on paper, dark ink saved as a black page."""
    browser.open(pages.report, dark=True)
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": [
        {"name": "prefers-color-scheme", "value": "dark"}]})
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert browser.run("return [...document.querySelectorAll('button, nav')].every((one) => !one.offsetParent)")
    assert browser.run("return document.querySelectorAll('details:not([open])').length") == 0
    assert browser.run("return getComputedStyle(document.body).color") == "rgb(29, 29, 31)"
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_a_large_run_makes_a_small_page():
    """Catches: a list without an end. Long reviews, many labels with long names, every mistake explained."""
    names = tuple(f"label {number} {'x' * 5000}" for number in range(50))
    large = page.report(findings(5000, 150, 10, names, "word " * 1000, explained=50))
    assert len(large.encode()) < 1_500_000
    assert "more epochs" in large and "more labels" in large and "more characters" in large
    few = page.report(findings(70_000, 3000, 1, names[:30], "word " * 300, explained=0))
    assert len(few.encode()) < 1_500_000


@pytest.mark.parametrize("texts, epochs, names", [(1, 1, ("a", "b")), (24, 1, ("a", "b")), (2, 2, ("a", "b"))])
def test_the_smallest_runs_have_pages(texts, epochs, names):
    """Catches: a division by what is not there."""
    found = findings(texts, epochs, names=names, explained=0)
    whole = [found] if texts > 1 else []  # one text makes no pair
    nothing = dataclasses.replace(
        found, pairs=dataclasses.replace(found.pairs, total=0, pairs=(), both_right=None, unmoved=None),
        slices=dataclasses.replace(found.slices, slices=(), too_small=()),
        calibration=dataclasses.replace(found.calibration, temperature=None, ece_scaled=None, loss_scaled=None,
                                        bins=()),
        verdict=dataclasses.replace(found.verdict, selection=None, no_before=None, versus=()),
        curves=dataclasses.replace(found.curves, annotations=()), notes=())
    for one in (*whole, nothing):
        content = page.report(one)
        assert content.count("<section") == content.count("What to do.") == 9
        assert not re.search(r"\b(nan|None|inf)\b", content.split("</style>")[1].split("<script>")[0])
