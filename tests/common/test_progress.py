"""The bar shows on a terminal and nowhere else."""

import sys

import pytest

from common.cli import progress


@pytest.mark.parametrize("terminal", [False, True])
def test_silent_without_a_terminal(capsys, monkeypatch, terminal):
    """Catches progress bars in log files, and a bar that loses items or never shows."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert list(progress([1, 2], "reading")) == [1, 2]
    with progress(10, "fetching", "B") as bar:
        bar.update(10)
    shown = capsys.readouterr().err
    assert ("reading" in shown and "fetching" in shown) if terminal else shown == ""


def test_a_bar_of_parts_of_steps(capsys, monkeypatch):
    """Catches numbers such as 1.9999 steps, a resumed run that begins at 0%, and rounding that passes 100%."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress(4, "epoch: ", unit=None, done=1) as bar:
        for part in range(1, 8):
            bar.update(1 + 3 * part / 7 - bar.n)
        bar.refresh()
    shown = capsys.readouterr().err
    assert "epoch:  25%|" in shown and "epoch: 100%|" in shown and "/4" not in shown and "it/s" not in shown


@pytest.mark.parametrize("how", [{"silent": True}, {"delay": 60}], ids=str)
def test_a_bar_that_does_not_show(capsys, monkeypatch, how):
    """Catches a bar that was asked to stay away, or one that flickers for work that is soon done."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress(10, "evaluating", "batch", **how) as bar:
        bar.update(10)
    assert list(progress([1, 2], "reading", **how)) == [1, 2]
    assert capsys.readouterr().err == ""
