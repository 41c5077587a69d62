"""The command `-m report`: what it accepts, what it says, where its pages are."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from common.errors import UserError
from report import page
from report.settings import Settings
from tests.report.folders import logits_for, write_run
from tests.report.made_up import comparison, findings


@pytest.fixture
def made_up(monkeypatch):
    """Reads no folder: a folder is one run, one named *-seeds three runs, one named broken cannot be read."""
    asked = []

    def load_groups(paths):
        if any(path.name == "broken" for path in paths):
            raise UserError("broken: log.jsonl: no epoch\nFinish the run")
        return [SimpleNamespace(runs=(path,) * (3 if path.name.endswith("-seeds") else 1)) for path in paths]

    def of(group, explain, budget_s):
        asked.append((explain, budget_s))
        return findings(seeds=len(group.runs))

    monkeypatch.setattr(page, "load_groups", load_groups)
    monkeypatch.setattr(page, "findings", SimpleNamespace(of=of, compare=lambda groups: comparison()))
    return asked


def folders(tmp_path, *names):
    """Make folders, and return their paths."""
    for name in names:
        (tmp_path / name).mkdir()
    return [tmp_path / name for name in names]


def report(*words, cwd):
    """Run the command in a process of its own."""
    root = Path(__file__).resolve().parents[2]
    return subprocess.run([sys.executable, "-m", "report", *words], cwd=cwd, capture_output=True, text=True,
                          env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"})


def test_help_is_light_and_narrow(root):
    """Catches: --help that waits for NumPy or PyTorch, or is wider than a terminal."""
    code = ("import runpy, sys; sys.argv = ['report', '--help']\n"
            "try: runpy.run_module('report', run_name='__main__')\n"
            "finally: print([name for name in ('torch', 'numpy', 'scipy', 'jinja2') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True,
                          env={"COLUMNS": "79", "PATH": "/usr/bin:/bin"})
    assert done.returncode == 0 and done.stdout.endswith("[]\n")
    assert "--live" in done.stdout and max(map(len, done.stdout.splitlines())) <= 79


@pytest.mark.parametrize("words, said", [
    (["nothing-here"], "error: no run folder 'nothing-here'\n"),
    ([], "error: the following arguments are required: RUN\nSee --help for every flag\n"),
    ([".", "--explain", "51"], "error: --explain must be from 0 to 50, not 51\n"),
    ([".", "--brief", "--out", "x.html"],
     "error: --brief writes a page into each run's folder: leave out --out and --live\n"),
    ([".", "..", "--live"], "error: --live shows one run's model: give one run\n"),
])
def test_a_mistake_is_told_at_once(tmp_path, words, said):
    """Catches: a traceback, another exit status, a mistake that is found after the work."""
    done = report(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_a_folder_without_a_run_is_told(tmp_path):
    """Catches: a traceback where the folder is no run; half a page."""
    done = report(".", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and 1 <= done.stderr.count("\n") <= 2
    assert list(tmp_path.iterdir()) == []


def test_pages_go_where_they_are_said_to_be(made_up, tmp_path, monkeypatch, capsys):
    """Catches: a page in a wrong folder; one that names another place; a comparison that overwrites a run's page."""
    monkeypatch.chdir(tmp_path)
    folders(tmp_path, "a", "b-seeds")
    for words, runs, out, said in [
            ({}, ["a"], "a/report.html", "the page about this run: a/report.html"),
            ({}, ["b-seeds"], "b-seeds/report.html", "the page about these 3 seeds: b-seeds/report.html"),
            ({}, ["a", "b-seeds"], "report.html", "the page about these 4 runs: report.html"),
            ({"out": Path("new/x.html")}, ["a"], "new/x.html", "the page about this run: new/x.html")]:
        assert page.run(Settings(**words), [Path(run) for run in runs]) == 0
        assert capsys.readouterr().out == said + "\n"
        assert (tmp_path / out).read_text(encoding="utf-8").startswith("<!doctype html>")
        (tmp_path / out).unlink()
    assert made_up == [(10, float("inf"))] * 3


def test_brief_makes_a_page_for_each(made_up, tmp_path, capsys):
    """Catches: one bad run that costs the others their pages; explanations that keep classifier.py waiting."""
    first, broken, last = folders(tmp_path, "a", "broken", "b-seeds")
    assert page.run(Settings(brief=True), [first, broken, last]) == 2
    out, err = capsys.readouterr()
    assert out == f"the page about this run: {first}/report.html\nthe page about these 3 seeds: {last}/report.html\n"
    assert err == f"no page about {broken}: broken: log.jsonl: no epoch\nFinish the run\n"
    assert made_up == [(10, 5.0)] * 2
    assert [path.name for path in tmp_path.rglob("*.html")] == ["report.html"] * 2


def test_a_page_that_cannot_be_written_costs_no_work(made_up, tmp_path):
    """Catches: minutes of explanations before a wrong --out is told."""
    run, = folders(tmp_path, "a")
    with pytest.raises(UserError, match="is a folder"):
        page.run(Settings(out=tmp_path), [run])
    assert made_up == []


def test_a_page_that_fails_leaves_the_old_one(made_up, tmp_path, monkeypatch):
    """Catches: a page that is half written, or lost, when a new one cannot be made."""
    run, = folders(tmp_path, "a")
    page.run(Settings(), [run])
    before = (run / "report.html").read_bytes()
    monkeypatch.setattr(page, "render", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        page.run(Settings(), [run])
    assert [(path.name, path.read_bytes()) for path in run.iterdir()] == [("report.html", before)]


@pytest.mark.parametrize("texts, labels, seeds, epochs", [(1, 2, 1, 1), (2, 2, 1, 2), (24, 2, 2, 1), (300, 5, 3, 4),
                                                          (120, 40, 1, 2)])
def test_a_run_of_any_size_has_its_page(tmp_path, capsys, texts, labels, seeds, epochs):
    """Catches: findings that the page cannot show, from one text to some hundred, alone and compared."""
    random = np.random.default_rng(texts)
    truth = random.integers(0, labels, texts)
    names = [f"seeds/seed-{seed}" for seed in range(1, seeds + 1)] + ["other"]
    for seed, name in enumerate(names, 1):
        write_run(tmp_path / name, random.normal(size=(epochs, texts, labels)) + logits_for(truth, labels, 0.7), truth,
                  seed=seed, identity={"recipe": name == "other"})
    folder, other, out = tmp_path / "seeds", tmp_path / "other", tmp_path / "compared.html"
    assert page.run(Settings(brief=True, explain=0), [folder, other]) == 0
    assert page.run(Settings(out=out), [folder, other]) == 0
    assert capsys.readouterr().err == ""
    for file, sections in ((folder / "report.html", 9), (other / "report.html", 9), (out, 4)):
        content = file.read_text(encoding="utf-8")
        assert content.count("<section") == content.count("What to do.") == sections
        assert not re.search(r"\b(nan|None|inf|np\.)\b", content.split("</style>")[1].split("<script>")[0])
