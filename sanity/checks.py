"""Run checks and show their results."""

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.student_files import describe

TOLERANCE = 1e-5  # float32 rounding is about 1e-6 here; every known mistake differs by 1e-4 or more


@dataclass(frozen=True)
class Result:
    """The result of one check."""

    difference: float
    "The largest difference from the known answer; infinite if the two cannot be compared."
    tolerance: float = TOLERANCE
    "The largest difference that passes."
    mistake: str = ""
    "The likely reason, if the check fails."
    note: str = ""
    "What to know, if the check passes."
    hole: str = ""
    "What the code under test says is not written yet."

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance; NaN is not."""
        return self.difference <= self.tolerance


class Mistake(Exception):
    """Ends a check, and names what the code under test does wrong."""


def difference(got: Tensor, want: Tensor) -> float:
    """Return the largest absolute difference; infinite for another shape, for NaN, or if `got` is not a tensor."""
    if not isinstance(got, Tensor) or got.shape != want.shape:
        return math.inf
    largest = (got - want).abs().max().item() if want.numel() else 0.0
    return math.inf if math.isnan(largest) else largest


def compare(got: Tensor, want: Tensor,
            mistakes: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]] = ()) -> Result:
    """Compare `got` with the known answer `want`; if they differ, look for a known mistake that gives `got`.

    mistakes: what a mistake gives, by its name; or pairs of both, where one mistake can be made in several ways.
    """
    distance = difference(got, want)
    if isinstance(got, Tensor) and want.numel():  # relative where numbers are large: so is their rounding
        distance /= max(1.0, want.abs().max().item())
    if distance <= TOLERANCE:
        return Result(distance)
    if not isinstance(got, Tensor):
        missing = " (is `return` missing?)" if got is None else ""
        return Result(distance, mistake=f"the result is a {type(got).__name__}, not a tensor{missing}")
    if got.shape != want.shape:
        return Result(distance, mistake=f"the shape is {list(got.shape)}, not {list(want.shape)}")

    for mistake, answer in mistakes.items() if isinstance(mistakes, Mapping) else mistakes:
        # Much nearer to the mistake's answer than to the right one. Mistakes can amplify rounding, so not equal to it.
        if difference(got.nan_to_num(), answer.nan_to_num()) <= max(TOLERANCE, 1e-3 * min(distance, 1.0)):
            return Result(distance, mistake=mistake)

    if got.isnan().any():
        return Result(distance, mistake="some numbers are NaN: the root of a negative number, 0 * inf, or a softmax "
                                        "over nothing but -inf?")
    index = (got - want).abs().argmax().item()
    place = [int(i) for i in torch.unravel_index(torch.tensor(index), want.shape)]
    return Result(distance, mistake=f"no known mistake; the largest difference is at {place}: "
                                    f"{got.flatten()[index]:.4f}, expected {want.flatten()[index]:.4f}")


def randomise(module: torch.nn.Module, scale: float = 0.3, seed: int = 0) -> torch.nn.Module:
    """Give every parameter random values, in LayerNorm too: gains of 1 would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return module


def run(component: str, checks: Sequence[Callable[..., Result]], *arguments: object,
        first_decides: bool = False) -> list[Result]:
    """Run checks; print a line for each (its docstring is its name), and the likely mistake if it fails.

    first_decides: if the first check fails, the others cannot tell what is wrong; they are only counted.
    """
    print(f"\n{component}")
    results: list[Result] = []
    later, told = 0, set()
    for check in checks:
        try:
            result, stopped = check(*arguments), False
        except Exception as error:  # the code under test may raise anything; the other checks must go on
            result, stopped = _result_of(error), True
        status = "TODO" if result.hole else "FAIL"
        results.append(result)

        # A hole or an error that stops several checks is told once, and so is a mistake at the root.
        follows = first_decides and len(results) > 1 and not results[0].passed
        if not result.passed and ((stopped and result.mistake in told) or (follows and status == "FAIL")):
            later += 1
            continue
        told.add(result.mistake)
        name = (check.__doc__ or check.__name__).partition("\n")[0].rstrip(".")
        shown = f"{result.difference:.0e}" if math.isfinite(result.difference) else "-"
        print(f"  {'ok' if result.passed else status:4}  {shown:5}  {name}")
        for line in textwrap.wrap(result.note if result.passed else result.mistake, 79 - 8):
            print(f"        {line}")
    if later:
        print(f"        {later} more fail, or wait: mend this first, then run again")
    return results


def _result_of(error: Exception) -> Result:
    """Return the result of a check that an error ended."""
    if isinstance(error, NotImplementedError):
        return Result(math.inf, mistake=f"not written yet: {_place(error)}", hole=str(error) or "a hole")
    if isinstance(error, Mistake):
        return Result(math.inf, mistake=str(error))
    return Result(math.inf, mistake=f"{type(error).__name__}: {error} ({_place(error)})")


def _place(error: Exception) -> str:
    """Return file:line of the last line of this repository that ran before the error."""
    file, line, _ = describe(error)
    return f"{file}:{line}" if file else "in a library"
