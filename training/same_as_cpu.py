"""Compare a device with the CPU on one batch: some devices compute wrong numbers in silence."""

from torch import Tensor, nn

from common.errors import UserError
from training.evaluate import leaves_model_as_found
from training.machine import Machine

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}
"""The largest difference of two logits that rounding explains, as a share of the largest logit (or of 1, if less)."""


class WrongDevice(UserError):
    """A device computes other numbers than the CPU."""


@leaves_model_as_found
def logits(model: nn.Module, batch: object, machine: Machine) -> Tensor:
    """Return the logits [B, num_labels] for a batch, float32 on the CPU, in eval mode."""
    with machine.autocast():
        return model(*batch.to(machine.device).inputs).float().cpu()


def require_same(expected: Tensor, found: Tensor, machine: Machine) -> None:
    """Raise WrongDevice unless the device's logits are the CPU's, up to rounding. Shapes [B, num_labels]."""
    scale = max(1.0, float(expected.abs().max()))
    difference = float((found - expected).abs().max())
    if not difference <= TOLERANCE[machine.precision] * scale:  # not: NaN, too
        raise WrongDevice(f"{machine.device} computes other numbers than the CPU: for the first batch a logit differs "
                          f"by {difference:.3g}, where rounding in {machine.precision} explains "
                          f"{TOLERANCE[machine.precision] * scale:.3g}")
