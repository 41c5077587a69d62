"""The page at the end of a run is another process's work: whatever happens to it, the run stays what it is."""

import sys

import pytest

from common import cli
from finetuning import page
from finetuning import run as finetuning_run
from finetuning.settings import Settings

STAND_IN = """
import pathlib, sys, time
pathlib.Path("asked").write_text(repr(sys.argv[1:]))
exec(pathlib.Path("do").read_text())
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder, and a repository elsewhere whose report/ does what the file `do` says."""
    repository, here = tmp_path / "repository", tmp_path / "here"
    (repository / "report").mkdir(parents=True)
    (repository / "report" / "__main__.py").write_text(STAND_IN)
    here.mkdir()
    (here / "do").write_text("")
    monkeypatch.chdir(here)
    monkeypatch.setattr(page, "REPOSITORY", repository)
    return here


def main(folders, monkeypatch, **changes):
    """The exit status of classifier.py's main, where `run` has finished runs in these folders."""
    monkeypatch.setattr(finetuning_run, "run", lambda settings, kind: folders)
    with pytest.raises(SystemExit) as end:
        finetuning_run.main(Settings(quick=True, **changes), None)
    return end.value.code


def test_one_process_for_all_runs(here, monkeypatch, capfd):
    """Catches a page that is asked for from another folder than ours, or a process for each task; in the current folder
    lies a report/ of someone else's.
    """
    (here / "report").mkdir()
    (here / "report" / "__main__.py").write_text("raise SystemExit('not this one')")
    (here / "do").write_text("print('the page is made')")
    if sys.version_info < (3, 11):
        (here / "report" / "__main__.py").unlink()
        (here / "report").rmdir()
    assert main([here / "a b", here / "c"], monkeypatch) == 0
    assert (here / "asked").read_text() == repr(["--brief", str(here / "a b"), str(here / "c")])
    assert capfd.readouterr() == ("the page is made\n", "")


@pytest.mark.parametrize("folders, changes", [([], {}), (["a"], {"report": False})], ids=str)
def test_no_page_where_none_is_wanted(here, monkeypatch, folders, changes):
    """Catches a page after --plan, in the second process of torchrun, or with --no-report."""
    assert main(folders, monkeypatch, **changes) == 0
    assert not (here / "asked").exists()


def test_no_page_in_a_copy_without_the_room(here, monkeypatch, tmp_path, capfd):
    """Catches an error in a copy of the repository that has no report/."""
    monkeypatch.setattr(page, "REPOSITORY", tmp_path)
    assert main(["a"], monkeypatch) == 0 and capfd.readouterr() == ("", "")


@pytest.mark.parametrize("do", ["sys.exit('no page: a reason')", "import os; os.kill(os.getpid(), 9)", "1 / 0"])
def test_a_page_that_fails_costs_nothing(here, monkeypatch, capfd, do):
    """Catches the page's exit status taken for the run's, and a run that does not say how to make the page by hand."""
    (here / "do").write_text(do)
    assert main(["runs/a b"], monkeypatch) == 0
    assert capfd.readouterr().err.endswith("there is no page, but all else is done; to make it by hand:\n"
                                           "  ./setup.sh -m report --brief 'runs/a b'\n")


def test_a_page_that_never_ends_is_ended(here, monkeypatch, capfd):
    """Catches a run that hangs at its end for the sake of a page."""
    (here / "do").write_text("time.sleep(600)")
    monkeypatch.setattr(page, "LONGEST", 0.5)
    assert main(["a"], monkeypatch) == 0 and "make it by hand" in capfd.readouterr().err


def test_an_interpreter_that_cannot_be_started(here, monkeypatch, capfd):
    """Catches a traceback where there is no room for another process."""
    monkeypatch.setattr(sys, "executable", str(here / "nothing"))
    assert main(["a"], monkeypatch) == 0 and "make it by hand" in capfd.readouterr().err


def test_ctrl_c_while_the_page_is_made(here, monkeypatch, capfd):
    """Catches a traceback, a status 0 for a command that was interrupted, and a user who fears for the run."""
    (here / "do").write_text("import os, signal; os.kill(os.getppid(), signal.SIGINT); time.sleep(600)")
    assert main(["a"], monkeypatch) == cli.EXIT_INTERRUPTED
    assert capfd.readouterr().err.endswith(
        "all else is done; to make it by hand:\n  ./setup.sh -m report --brief a\ninterrupted\n")
