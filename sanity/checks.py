"""What a check measures, and how a list of checks is run and shown."""

import math
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
TOLERANCE = 1e-5  # float32 noise is around 1e-6 here, and every known mistake makes a difference of 1e-4 or more


@dataclass(frozen=True)
class Result:
    """What one check measured."""

    difference: float
    "The largest difference from what was expected; infinite where the two cannot be compared."
    tolerance: float = TOLERANCE
    "The largest difference that passes."
    mistake: str = ""
    "Where the check fails: the likely reason."

    @property
    def passed(self) -> bool:
        return self.difference <= self.tolerance


def difference(got: Tensor, want: Tensor) -> float:
    """The largest absolute difference; infinite for another shape, NaN, or something that is no tensor."""
    if not isinstance(got, Tensor) or got.shape != want.shape:
        return math.inf
    largest = (got - want).abs().max().item() if want.numel() else 0.0
    return math.inf if math.isnan(largest) else largest


def compare(got: Tensor, want: Tensor, mistakes: dict[str, Tensor] | None = None) -> Result:
    """Hold `got` to the known answer; where it fails, look for it among the answers that known mistakes give."""
    distance = difference(got, want)
    if distance <= TOLERANCE:
        return Result(distance)
    if not isinstance(got, Tensor):
        return Result(distance, mistake=f"the result is a {type(got).__name__}, not a tensor")
    if got.shape != want.shape:
        return Result(distance, mistake=f"the shape is {list(got.shape)}, not {list(want.shape)}")
    for mistake, answer in (mistakes or {}).items():
        # Much nearer to the mistake's answer than to the right one; exactly there it need not be, as mistakes
        # can amplify rounding.
        if difference(got.nan_to_num(), answer.nan_to_num()) <= max(TOLERANCE, 1e-3 * min(distance, 1.0)):
            return Result(distance, mistake=mistake)
    if got.isnan().any():
        return Result(distance, mistake="some numbers are NaN: a softmax over nothing but -inf?")
    index = (got - want).abs().argmax().item()
    place = [int(i) for i in torch.unravel_index(torch.tensor(index), want.shape)]
    return Result(distance, mistake=f"no known mistake; the largest difference is at {place}: "
                                    f"{got.flatten()[index]:.4f}, expected {want.flatten()[index]:.4f}")


def randomise(module: torch.nn.Module, scale: float = 0.3, seed: int = 0) -> torch.nn.Module:
    """Give every parameter random values, LayerNorm gains and biases too: gains of 1 would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return module


def run(component: str, checks: Iterable[Callable[..., Result]], *arguments: object) -> list[Result]:
    """Run checks and print a line for each: its docstring is its name. A failed one says what is likely wrong."""
    print(f"\n{component}")
    results = []
    for check in checks:
        try:
            result = check(*arguments)
            status = "ok" if result.passed else "FAIL"
        except NotImplementedError as error:
            status, result = "TODO", Result(math.inf, mistake=f"not implemented yet: {_place(error)}")
        except Exception as error:  # the code under test may raise anything; the other checks go on
            status = "FAIL"
            result = Result(math.inf, mistake=f"{type(error).__name__}: {error} ({_place(error)})")
        name = (check.__doc__ or check.__name__).partition("\n")[0].rstrip(".")
        print(f"  {status:4}  {name:64}  difference {result.difference:.1e}, tolerance {result.tolerance:.0e}")
        if not result.passed:
            print(f"        {result.mistake}")
        results.append(result)
    return results


def _place(error: BaseException) -> str:
    """file:line of the innermost line of the repository that an error went through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)
              if ROOT in Path(frame.filename).parents and ROOT / ".venv" not in Path(frame.filename).parents]
    return f"{Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].lineno}"
