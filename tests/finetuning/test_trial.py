"""What is known before training: memory against what is counted by hand, time by a clock of ours, a rate to take."""

import math

import pytest
import torch
from torch import nn

from common.errors import UserError
from data.batching import FeatureDataset, epoch_order
from finetuning.trial import (
    HIGH,
    LOW,
    STEPS,
    TIMED,
    WARM_UP,
    Clock,
    Trial,
    duration,
    find_rate,
    kept_for_backward,
    size,
    smoothed,
    suggested,
)
from training.loop import Feed, TrainState, classification
from training.machine import CPU, Machine

MACHINE = Machine(CPU)


class Head(nn.Module):
    """features [B, 6] -> logits [B, 2], through a hidden layer of 5."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))

    def forward(self, features, mask):
        return self.layers(features)


def trial(labels=lambda features: (features[:, 0] > 0).long()):
    torch.manual_seed(0)
    features = torch.randn(64, 6)
    data, model = FeatureDataset(features, labels(features)), Head()
    feed = Feed(lambda epoch: epoch_order(data.lengths, 8, 1, epoch), data.collate)
    return Trial(model, torch.optim.AdamW(model.parameters(), lr=1e-3), feed, classification, MACHINE)


def test_memory_is_what_the_backward_pass_keeps():
    """Catches: weights counted, a tensor counted twice or not at all, a model left in another mode."""
    one = trial()
    batch = one.feed.collate([0])
    before = torch.get_rng_state()
    kept = kept_for_backward(one.model.train(), batch, classification, MACHINE)
    # The features (6 floats), the output of the ReLU (5), the logits' log-softmax (2), the label (8 bytes), and the
    # weight that cross-entropy divides by (1).
    assert kept == 4 * (6 + 5 + 2 + 1) + 8
    assert one.model.training and all(parameter.grad is None for parameter in one.model.parameters())
    assert torch.equal(before, torch.get_rng_state())
    assert kept_for_backward(one.model, one.feed.collate([0] * 10), classification, MACHINE) > 9 * kept


def test_a_trial_ends_after_its_steps():
    """Catches: a trial that trains whole epochs, or fewer steps than it was asked for."""
    seen = []
    trial().run(11, lambda state: seen.append(state.step))
    assert seen == list(range(1, 12))


def test_the_time_of_an_epoch():
    """Catches: the first steps, which are slow, timed as all others; batches counted where tokens decide."""
    lengths = [10] * 40 + [20] * 40
    batches = [list(range(start, start + 4)) for start in range(0, 80, 4)]
    seconds = [0.0]

    def step(number):
        state = TrainState(batch=number, step=number)
        rows = batches[number - 1]
        seconds[0] += 5.0 if number <= WARM_UP else 0.001 * len(rows) * max(lengths[row] for row in rows)
        clock.step(state)

    clock = Clock(lambda epoch: batches, lengths, now=lambda: seconds[0])
    for number in range(1, WARM_UP + TIMED + 1):
        assert clock.seconds is None
        step(number)
    assert clock.seconds == pytest.approx(0.001 * (40 * 10 + 40 * 20))
    known = clock.seconds
    step(WARM_UP + TIMED + 1)
    assert clock.seconds == known


def test_words_for_sizes_and_times():
    """Catches: a unit that is a thousand times wrong."""
    assert [size(count) for count in (1, 5e6, 999e6, 1e9, 12.34e9)] == ["1 MB", "5 MB", "999 MB", "1.0 GB", "12.3 GB"]
    assert [duration(time) for time in (0.5, 42, 100, 3600, 9000)] == ["0.5 s", "42 s", "2 min", "60 min", "2.5 h"]


RATES = [LOW * (HIGH / LOW) ** (step / (STEPS - 1)) for step in range(STEPS)]


def curve(noise):
    """Flat, a fall around 1e-4, least at 1e-3, and up again; noise of a known kind on it."""
    torch.manual_seed(3)
    return [1.0 - 0.6 / (1 + (1e-4 / rate) ** 2) + (rate / 1e-2) ** 2 + noise * float(torch.randn(()))
            for rate in RATES]


@pytest.mark.parametrize("noise", [1e-3, 0.05])
def test_the_rate_of_a_known_curve(noise):
    """Catches: a rate chosen by the noise of the first steps, at the least loss itself, or where it rises again."""
    assert 5e-5 <= suggested(RATES, curve(noise)) <= 5e-4


def test_no_rate_where_the_loss_does_not_fall():
    """Catches: a rate invented out of noise."""
    torch.manual_seed(0)
    for losses in ([1.0 + 0.05 * float(torch.randn(())) for _ in RATES], [1 + rate for rate in RATES], [1.0] * 5, []):
        with pytest.raises(UserError, match="no learning rate of the range test"):
            suggested(RATES, losses)


def test_smoothing_is_unbiased():
    """Catches: a running mean that begins near zero."""
    assert smoothed([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])
    assert smoothed([1.0, 0.0])[1] == pytest.approx(0.09 / 0.19)


def test_a_range_test_finds_a_rate_that_trains(tmp_path, capsys):
    """Catches: rates that do not rise, a plot that is not written, a rate at which nothing is learnt."""
    one = trial()
    rate = find_rate(one, tmp_path / "deep" / "plot.png")
    assert (tmp_path / "deep" / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "plot.png" in capsys.readouterr().out
    assert LOW < rate < HIGH and math.isfinite(rate)
    again = trial()
    for group in again.optimizer.param_groups:
        group["lr"] = rate
    losses = []
    again.run(200, lambda state: losses.append(state.loss))
    assert losses[-1] < 0.5 * losses[0]


def test_groups_keep_the_ratio_of_their_rates(tmp_path):
    """Catches: a head's own rate that the range test levels."""
    one = trial()
    first, *rest = one.model.parameters()
    one.optimizer = torch.optim.AdamW([{"params": [first], "lr": 1e-4}, {"params": rest, "lr": 1e-3}], lr=1e-4)
    find_rate(one, tmp_path / "plot.png")
    low, high = (group["lr"] for group in one.optimizer.param_groups)
    assert high == pytest.approx(10 * low)
