"""What docs/ says is there: the tests it names, the pages and files it links to."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
TEST = re.compile(r"(tests/[\w/]+\.py)(?:::(\w+))?")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_is_named_exists(page):
    """Catches a promise whose test was renamed, moved or never written."""
    for file, name in TEST.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / file).is_file(), file
        code = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert not name or name in {node.name for node in code.body if isinstance(node, ast.FunctionDef)}, name


def test_every_promise_has_its_test():
    """Catches a fault added to the table of reliability.md without a test that shows what is said of it."""
    table = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8").split("## Faults and promises")[1]
    rows = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| what happens")]
    assert len(rows) > 25
    assert [row for row in rows if not TEST.search(row.split("|")[3])] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    """Catches a page that was renamed or never written."""
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
