"""Ctrl-C and SIGTERM: the first waits for the step, the second does not wait; exit status as a shell expects it."""

import os
import signal
import subprocess
import sys

import pytest

from common import cli
from common.errors import Stopped
from training.runs.stop_signals import StopSignals

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_only_asks(number, capfd):
    """Catches: a signal that interrupts the step, or that says nothing to who pressed the keys."""
    before = {each: signal.getsignal(each) for each in SIGNALS}
    with pytest.raises(Stopped), StopSignals() as stop:
        assert stop.requested is None
        signal.raise_signal(number)
        assert stop.requested == number
        assert signal.getsignal(number) == before[number]  # a second one works at once, also within a long call
        raise Stopped("saved", 128 + stop.requested)
    assert capfd.readouterr().err == "\nfinishing the step, then saving; press Ctrl-C again to stop at once\n"
    assert {each: signal.getsignal(each) for each in SIGNALS} == before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_came_too_late_is_passed_on(number, capfd):
    """Catches: Ctrl-C in the last moment of training that is answered and then forgotten."""
    seen = []
    before = signal.signal(number, lambda number, frame: seen.append(number))
    try:
        with StopSignals() as stop:
            signal.raise_signal(number)
            assert not seen
        assert seen == [number] and stop.requested is None
    finally:
        signal.signal(number, before)


def test_the_second_ctrl_c_interrupts(capfd):
    """Catches: a user who cannot get out."""
    with pytest.raises(KeyboardInterrupt), StopSignals():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_the_signals_work_again_after_an_error():
    """Catches: handlers that stay when the block is left by an exception."""
    before = {each: signal.getsignal(each) for each in SIGNALS}
    with pytest.raises(ZeroDivisionError), StopSignals():
        _ = 1 / 0
    assert {each: signal.getsignal(each) for each in SIGNALS} == before


SCRIPT = """
import os, signal, sys
from common import cli
from common.errors import Stopped
from training.runs.stop_signals import StopSignals
def main():
    with StopSignals() as stop:
        for number in map(int, sys.argv[1:]):
            os.kill(os.getpid(), number)
        raise Stopped("saved", 128 + stop.requested)
cli.run(main)
"""


@pytest.mark.parametrize("signals, status", [
    ([signal.SIGINT], 130), ([signal.SIGTERM], 143), ([signal.SIGHUP], 129), ([signal.SIGINT, signal.SIGINT], 130),
    ([signal.SIGTERM, signal.SIGTERM], -signal.SIGTERM), ([signal.SIGINT, signal.SIGTERM], -signal.SIGTERM)])
def test_the_exit_status_names_the_signal(root, signals, status):
    """Catches: a stopped run that looks finished, or failed, to the script that started it; a traceback."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, *map(str, map(int, signals))], cwd=root, text=True,
                          capture_output=True, env={**os.environ, "PYTHONPATH": str(root)})
    assert done.returncode == status  # minus the signal where it killed the process, which a shell shows as 143
    assert "Traceback" not in done.stderr and done.stderr.count("finishing the step") == 1
    assert done.stderr.endswith({1: "saved\n", 2: "interrupted\n"}[len(signals)]) or status < 0


def test_a_signal_is_heard_although_its_message_is_lost(monkeypatch):
    """Catches an error out of the handler, in the middle of a step, where standard error is a pipe without a reader."""
    def broken(*_):
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(Stopped), StopSignals() as stop:
        monkeypatch.setattr(os, "write", broken)
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested == signal.SIGTERM
        raise Stopped("saved", 143)


def test_an_ignored_lost_terminal_stays_ignored():
    """Catches nohup undone."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.requested is None and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_both_signals_at_once_end_the_process_quietly(root):
    """Catches: a traceback of Python's own where Ctrl-C reaches a process together with its launcher's SIGTERM."""
    script = SCRIPT.replace("for number in", """signal.pthread_sigmask(signal.SIG_BLOCK, [2, 15])
        for number in""").replace("raise Stopped", """signal.pthread_sigmask(signal.SIG_UNBLOCK, [2, 15])
        raise Stopped""")
    done = subprocess.run([sys.executable, "-c", script, "2", "15"], cwd=root, text=True, capture_output=True,
                          env={**os.environ, "PYTHONPATH": str(root)})
    assert done.returncode == -signal.SIGTERM
    assert done.stderr == "\nfinishing the step, then saving; press Ctrl-C again to stop at once\n"


def test_stopped_ends_a_script_with_its_message(capsys):
    """Catches: a stop that is shown as an error."""
    def main():
        raise Stopped("stopped after step 3", 130)

    with pytest.raises(SystemExit) as caught:
        cli.run(main)
    assert caught.value.code == 130 and capsys.readouterr().err == "stopped after step 3\n"
