"""Ctrl-C wherever it comes: while training it waits for the step, everywhere else it ends the script at once."""

import os
import signal
import subprocess
import sys
import time

import pytest

import finetuning.model
import finetuning.run
from tests.finetuning.test_run import folder  # noqa: F401 (a fixture)
from tests.test_bad_input import FINE_TUNE, PRETRAIN, RUN, run


@pytest.fixture
def here(folder, tmp_path, monkeypatch):  # noqa: F811
    """The working folder, with links to good input."""
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(finetuning.run, "keep_freed_memory", lambda: None)
    return tmp_path


@pytest.mark.parametrize("place", ["make_model", "read_splits", "hash_tensors", "FastAdamW", "fit", "write_split",
                                   "tfidf_logistic_regression"])
def test_ctrl_c_outside_training_acts_at_once(here, monkeypatch, capfd, place):
    """Catches Ctrl-C that is answered by waiting for a step where there is none, or that costs what was trained."""
    room = finetuning.model if place == "FastAdamW" else finetuning.run
    usual, after = getattr(room, place), []

    def interrupted(*given, **named):
        result = usual(*given, **named) if place == "fit" else None  # by then, only what comes after it is left
        signal.raise_signal(signal.SIGINT)
        time.sleep(0)
        after.append("went on")
        return result or usual(*given, **named)

    monkeypatch.setattr(room, place, interrupted)
    assert run("classifier.py", FINE_TUNE) == 130
    said = capfd.readouterr().err
    assert said.endswith("interrupted\n") and "Traceback" not in said
    assert bool(after) == ("finishing" in said) == (place == "fit")
    trained = place in ("fit", "write_split", "tfidf_logistic_regression")
    assert (RUN / "last.json").exists() == trained and not list(here.rglob("*.tmp"))
    if place in ("make_model", "read_splits", "hash_tensors"):
        assert not RUN.exists()

    monkeypatch.setattr(room, place, usual)
    if trained:  # what is there is all of the training
        monkeypatch.setattr(finetuning.run.Session, "after_step", lambda session: pytest.fail("trained again"))
    assert run("classifier.py", [*FINE_TUNE, "--resume"]) == 0
    assert len((RUN / "log.jsonl").read_text().splitlines()) == 2


AT_IMPORT = """
import os, runpy, signal, sys
class Finder:
    def find_spec(name, *_):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("script, words", [("classifier.py", FINE_TUNE), ("pretrain.py", PRETRAIN)])
def test_ctrl_c_while_pytorch_is_imported(here, root, script, words):
    """Catches the traceback of who changes their mind in the first seconds."""
    done = subprocess.run([sys.executable, "-c", AT_IMPORT, str(root / script), *words], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(root)})
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
    assert not list(here.glob("runs")) and not list(here.glob("pre"))
