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
