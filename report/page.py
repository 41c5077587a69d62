"""Put findings into a page: one file that asks the network for nothing and runs no script but its own."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from common import cli
from common.errors import UserError
from common.files import make_folder, require_writable, write_atomic
from common.terminal import say
from report import charts, compared, figures, findings, markup, tables
from report.findings import Comparison, Findings
from report.read import Group, load_groups
from report.settings import PAGE, Settings

TEMPLATES = Path(__file__).parent / "templates"
NAME = 60  # characters of a label's name
BRIEF = 5.0  # seconds for the words of mistakes, where classifier.py waits for the page
FILTERS = ("as_number", "as_percent", "as_points", "counted", "cut", "duration", "listed", "number", "p_value",
           "percent", "points", "sentence")


def main(settings: Settings, runs: Sequence[Path]) -> NoReturn:
    """Do what `-m report` is asked to do; ends the process with its exit status."""
    cli.run(lambda: run(settings, runs))


def run(settings: Settings, runs: Sequence[Path]) -> int:
    """Write the pages, and say where each is. 2 if a page of several cannot be made; the others are."""
    if settings.live:
        return run_live(runs[0], settings.out or runs[0] / "live.html")
    if not settings.brief:
        write_page(runs, settings.out or (runs[0] / PAGE if len(runs) == 1 else Path(PAGE)), settings.explain)
        return 0
    status = 0
    for folder in runs:
        try:
            write_page([folder], folder / PAGE, settings.explain, BRIEF)
        except UserError as error:
            say(f"no page about {folder}: {error}", error=True)
            status = cli.EXIT_USER_ERROR
    return status


def run_live(folder: Path, out: Path) -> int:
    """Write the page with the run's model in it. UserError in a starter, which has no such page."""
    if find_spec("report.live") is None:
        raise UserError("this copy has no live page: it would show how GPT-2 is computed")
    from report import live  # here, as it imports PyTorch

    require_writable(out)
    live.write(folder, out)
    say(f"the page with this run's model in it: {out}")
    return 0


def write_page(runs: Sequence[Path], out: Path, explain: int, budget_s: float = float("inf")) -> None:
    """Write the page about some runs. UserError if a folder cannot be read or the page not be written."""
    require_writable(out)  # now, not after the explanations
    groups = load_groups(runs)
    content = page_of(groups, explain, budget_s)
    make_folder(out.parent)
    write_atomic(out, content)
    count = sum(len(group.runs) for group in groups)
    about = "this run" if count == 1 else f"these {count} seeds" if len(groups) == 1 else f"these {count} runs"
    say(f"the page about {about}: {out}")


def page_of(groups: Sequence[Group], explain: int, budget_s: float) -> str:
    """Return the page about one group, or the comparison of several."""
    if len(groups) == 1:
        return report(findings.of(groups[0], explain, budget_s))
    return comparison(findings.compare(groups))


def report(found: Findings) -> str:
    """Return the page about a group of runs. Names of labels are cut, as they come again and again."""
    names = tuple(markup.cut(name, NAME) for name in found.label_names)
    scores = tuple(replace(one, name=names[one.label]) for one in found.classes.scores)
    found = replace(found, label_names=names, classes=replace(found.classes, names=names, scores=scores))
    return render("report.html", f"{found.task}, {found.mode}", found)


def comparison(found: Comparison) -> str:
    """Return the page that compares groups."""
    names = tuple(tuple(markup.cut(name, NAME) for name in names) for names in found.label_names)
    found = replace(found, label_names=names)
    return render("compare.html", f"{len(found.rows)} runs compared", found)


def render(template: str, title: str, found: Findings | Comparison) -> str:
    """Return a page in which no style and no script can run but those of this room, whose hashes it states."""
    style, script = environment().get_template("style.css").render(), (TEMPLATES / "page.js").read_text("utf-8")
    return environment().get_template(template).render(
        title=title, found=found, style=Markup(style), script=Markup(script), style_hash=csp_hash(style),
        script_hash=csp_hash(script))


@cache
def environment() -> Environment:
    """Return what fills in the templates: every value becomes harmless text, unless charts or tables made it."""
    jinja = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
                        finalize=markup.safe)
    jinja.filters |= {name: getattr(markup, name) for name in FILTERS}
    jinja.globals |= {"charts": charts, "compared": compared, "figures": figures, "tables": tables}
    return jinja


def csp_hash(content: str) -> str:
    """Return how a Content-Security-Policy names an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
