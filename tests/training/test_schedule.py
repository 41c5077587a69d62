"""Learning rates at steps worked out by hand."""

import math

import pytest
import torch

from training.schedule import make_scheduler

TOP = 0.5


def rates(schedule, warmup, total, floor=0.0, steps=None):
    """The rate of each optimizer step of a run."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=TOP)
    scheduler = make_scheduler(optimizer, schedule, warmup, total, floor)
    seen = []
    for _ in range(steps or total):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def share(cosine):
    return 0.5 * (1 + math.cos(math.pi * cosine))


@pytest.mark.parametrize("schedule, warmup, total, floor, expected", [
    ("constant", 0.0, 4, 0.0, [1, 1, 1, 1]),
    ("constant", 0.5, 4, 0.0, [1 / 2, 1, 1, 1]),
    ("constant", 0.5, 4, 0.1, [1 / 2, 1, 1, 1]),
    ("linear", 0.0, 4, 0.0, [1, 3 / 4, 2 / 4, 1 / 4]),
    ("linear", 0.2, 10, 0.0, [1 / 2, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
    ("linear", 0.0, 4, 0.2, [1, 0.8, 0.6, 0.4]),
    ("cosine", 0.0, 4, 0.0, [1, share(1 / 4), 1 / 2, share(3 / 4)]),
    ("cosine", 0.25, 4, 0.0, [1, 1, share(1 / 3), share(2 / 3)]),
    ("cosine", 0.0, 2, 0.05, [1, 0.05 + 0.95 / 2]),
    ("linear", 1.0, 2, 0.0, [1 / 2, 1]),
    ("linear", 0.0, 1, 0.0, [1]),
    ("cosine", 0.3, 1, 0.0, [1]),
])
def test_rates_of_a_run(schedule, warmup, total, floor, expected):
    """Catches off-by-one steps, a first or last step at rate 0, warm-up counted twice, a floor added on top."""
    assert rates(schedule, warmup, total, floor) == pytest.approx([TOP * factor for factor in expected])


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_after_the_end_the_floor_stays(schedule):
    """Catches a negative rate, or one that rises again, when more steps are made than were planned."""
    assert rates(schedule, 0.0, 4, 0.1, steps=12)[4:] == pytest.approx([0.1 * TOP] * 8)


def test_every_group_keeps_its_own_top():
    """Catches one rate for all groups."""
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in (0.1, 0.2)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    scheduler = make_scheduler(optimizer, "linear", 0.0, 2)
    optimizer.step()
    scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([0.05, 0.1])


@pytest.mark.parametrize("stop", range(7))
def test_a_restored_scheduler_goes_on(stop):
    """Catches a state_dict that forgets the step: a resumed run would warm up again."""
    whole = rates("cosine", 0.4, 6)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=TOP)
    scheduler = make_scheduler(optimizer, "cosine", 0.4, 6)
    for _ in range(stop):
        optimizer.step()
        scheduler.step()
    saved = optimizer.state_dict(), scheduler.state_dict()
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=TOP)
    scheduler = make_scheduler(optimizer, "cosine", 0.4, 6)
    optimizer.load_state_dict(saved[0])
    scheduler.load_state_dict(saved[1])
    rest = []
    for _ in range(stop, 6):
        rest.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rest == whole[stop:]
