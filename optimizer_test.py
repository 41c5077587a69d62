"""Does optimizer.AdamW train a small linear map to the known answer? Prints both; exit status 0 if so, 1 if not.

    ./setup.sh optimizer_test.py

1000 steps in float32, learning rate 1e-3, weight decay 1e-4. The answer, optimizer_test.npy, comes from an
implementation of its own in NumPy (`python tests/oracles.py`). It catches gross errors; small ones (such as an eps
that is ignored) and all special cases are for tests/test_optimizer.py.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from optimizer import AdamW

REFERENCE = Path(__file__).resolve().with_name("optimizer_test.npy")
# The subtlest error to be seen (weight decay scaled by the bias correction) makes 1.7e-5, float64 inside 0.7e-5.
TOLERANCE = 1e-5


def test_optimizer(opt_class: type[torch.optim.Optimizer]) -> torch.Tensor:
    """The weight [2, 3] of a linear map after 1000 steps with `opt_class` towards y = (x0 + x1, -x2)."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2, bias=False)
    optimizer = opt_class(model.parameters(), lr=1e-3, weight_decay=1e-4)
    for _ in range(1000):
        optimizer.zero_grad()
        x = torch.FloatTensor(rng.uniform(size=[model.in_features]))
        y = torch.stack([x[0] + x[1], -x[2]])
        ((y - model(x)) ** 2).sum().backward()
        optimizer.step()
    return model.weight.detach()


test_optimizer.__test__ = False  # for course scripts to call, not for pytest


def main() -> int:
    reference = torch.from_numpy(np.load(REFERENCE))
    actual = test_optimizer(AdamW)
    difference = (actual - reference).abs().max().item()
    good = difference <= TOLERANCE  # not for NaN
    print(f"reference:\n{reference.numpy()}\nactual:\n{actual.numpy()}")
    print(f"largest difference: {difference:.1e} (at most {TOLERANCE:.0e})")
    print("Optimizer test passed!" if good else "Optimizer test FAILED: see tests/test_optimizer.py for what is wrong")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
