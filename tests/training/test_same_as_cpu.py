"""A device against the CPU on one batch: rounding passes, another number does not."""

import pytest
import torch
from torch import nn

from data.batching import FeatureBatch
from training.machine import CPU, Machine
from training.same_as_cpu import TOLERANCE, WrongDevice, logits, require_same

FLOAT, LOW = Machine(CPU), Machine(CPU, "bfloat16")


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Dropout(0.5), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3))

    def forward(self, features, mask):
        return self.layers(features)


def test_rounding_passes_and_dropout_does_not_show():
    """Catches: a comparison in training mode, which no two runs survive; a tolerance that bfloat16 does not meet."""
    torch.manual_seed(1)
    batch, model = FeatureBatch(torch.randn(8, 64), labels=None, index=torch.arange(8)), Head().train()
    expected = logits(model, batch, FLOAT)
    require_same(expected, logits(model, batch, FLOAT), FLOAT)
    require_same(expected, logits(model, batch, LOW), LOW)
    assert not torch.equal(expected, logits(model, batch, LOW)) and model.training


@pytest.mark.parametrize("machine", [FLOAT, LOW])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_the_limit_itself(machine, scale):
    """Catches: a limit that is absolute where logits are large, or relative where they are nearly zero."""
    expected = torch.tensor([[scale, -scale / 2], [0.0, scale / 3]])
    limit = TOLERANCE[machine.precision] * max(1.0, scale)
    require_same(expected, expected + 0.99 * limit, machine)
    with pytest.raises(WrongDevice, match=r"cpu computes other numbers than the CPU: .* differs by .*, where rounding"):
        require_same(expected, expected + torch.tensor([[0.0, 0.0], [1.01 * limit, 0.0]]), machine)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_not_finite(wrong):
    """Catches: NaN, which no comparison finds larger than a limit."""
    with pytest.raises(WrongDevice):
        require_same(torch.zeros(1, 2), torch.tensor([[0.0, wrong]]), LOW)
