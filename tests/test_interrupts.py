"""Ctrl-C wherever it comes: while training it waits for the step, everywhere else it ends the script at once."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

import engine.adamw
import finetuning.job
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


ROOMS = {"FastAdamW": engine.adamw, **dict.fromkeys(("make_model", "read_splits", "hash_tensors"), finetuning.job)}


@pytest.mark.parametrize("place", ["make_model", "read_splits", "hash_tensors", "FastAdamW", "fit", "write_split",
                                   "tfidf_logistic_regression"])
def test_ctrl_c_outside_training_acts_at_once(here, monkeypatch, capfd, place):
    """Catches Ctrl-C that is answered by waiting for a step where there is none, or that costs what was trained."""
    room = ROOMS.get(place, finetuning.run)
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


@pytest.mark.parametrize("module", ["finetuning.settings", "pretraining.settings", "classifier"])
def test_the_ctrl_c_of_other_programs_is_left_alone(root, module):
    """Catches a program of someone else's that ends without a word of its own because it imports one of our rooms."""
    code = f"import signal, {module}; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


def start_training(root, words, **streams):
    """A run of classifier.py that will not end by itself, after its first epoch."""
    process = subprocess.Popen([sys.executable, str(root / "classifier.py"), *words, "--epochs", "100000"],
                               env={**os.environ, "PYTHONPATH": str(root)}, **streams)
    while not (RUN / "best.json").exists():
        assert process.poll() is None
        time.sleep(0.1)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_saves_although_nobody_listens(here, root, number):
    """Catches a save that is lost because `tee` died of the same Ctrl-C, or because the terminal is gone."""
    reader, writer = os.pipe()
    process = start_training(root, FINE_TUNE, stdout=writer, stderr=subprocess.STDOUT)
    os.close(writer)
    os.close(reader)
    process.send_signal(number)
    assert process.wait() == 128 + number
    saved = (RUN / "last.json").read_bytes()
    assert b'"epoch"' in saved and not list(here.rglob("*.tmp"))
    # It is a checkpoint: another run of these settings is told what differs, and not that it is damaged.
    other = [*FINE_TUNE, "--resume", "--seed", "5"]
    assert run("classifier.py", other) == 2 and (RUN / "last.json").read_bytes() == saved


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_stop_saves_although_the_disk_of_the_log_is_full(here, root):
    """Catches training, or the save of a stop, that ends because its messages have no room."""
    with open("/dev/full", "w") as full:
        process = start_training(root, FINE_TUNE, stdout=full, stderr=full)
    before = (RUN / "log.jsonl").stat().st_size
    while (RUN / "log.jsonl").stat().st_size == before:  # it goes on
        assert process.poll() is None
        time.sleep(0.1)
    process.terminate()
    assert process.wait() == 143


def test_without_room_for_its_output_a_run_ends_whole_and_says_so(here, root):
    """Catches a lost table with status 0, or a run that is cut short by a full disk that holds only its output."""
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, str(root / "classifier.py"), *FINE_TUNE], stdout=full, text=True,
                              stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(root)})
    assert done.returncode == 2 and (RUN / "result.json").exists()
    assert len(list(here.glob("predictions/*-out.csv"))) == 2
    assert done.stderr == "error: cannot write standard output: No space left on device\nAll else is done\n"


def test_a_lost_terminal_is_ignored_under_nohup(here, root):
    """Catches a run that was started to survive the terminal and ends with it."""
    process = start_training(root, FINE_TUNE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    before = (RUN / "log.jsonl").stat().st_size
    with contextlib.suppress(FileNotFoundError):
        while (RUN / "log.jsonl").stat().st_size == before:
            assert process.poll() is None
            time.sleep(0.1)
    process.terminate()
    assert process.wait() == 143
