"""The clock: when the next checkpoint is due, and how fast an epoch was."""

from training.runs.session import Clock


def test_saving_by_the_clock_takes_two_percent_at_most(monkeypatch):
    """Catches: a slow disk on which saving takes as long as training."""
    now = 0.0
    monkeypatch.setattr("training.runs.session.time.monotonic", lambda: now)
    clock = Clock()
    now = 299.0
    assert not clock.due(5) and not clock.due(None)
    now = 300.0
    assert clock.due(5)
    now = 330.0
    clock.saved(30.0)  # half a minute: not again before 25 minutes have passed
    now = 330.0 + 1499.0
    assert not clock.due(5)
    now = 330.0 + 1500.0
    assert clock.due(5)
    clock.saved(0.1)
    now += 300.0
    assert clock.due(5)


def test_a_lap_counts_what_was_done_in_it(monkeypatch):
    """Catches: a resumed epoch that looks faster than it was because earlier examples are counted."""
    now = 100.0
    monkeypatch.setattr("training.runs.session.time.monotonic", lambda: now)
    clock = Clock()
    clock.start(rows=40)
    now = 102.0
    clock.saved(0.5)
    now = 110.0
    lap = clock.lap(rows=100)
    assert lap["seconds"] == 10.0 and lap["examples a second"] == 6.0 and lap["saving seconds"] == 0.5
    now = 120.0
    assert clock.lap(rows=100)["examples a second"] == 10.0
