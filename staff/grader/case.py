"""What a graded test is: inputs for the sandbox, and a verdict on what comes back. NumPy only.

A test is a generator function. It yields one Request, is sent the arrays that the submission's code made of it, and
raises Wrong where they are not right:

    @case
    def causality(rng):
        "Tokens see no later token"
        inputs = weights(rng) | {"x": rng.normal(size=(2, 7, 48))}
        got = yield Request("attention.forward", inputs)
        expect("y", got, attention(inputs))

The submission's code runs in another process (sandbox.py), which knows the inputs and nothing else. What is right, how
many points it gives and who sees it never leave this one.
"""

import zlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np

Arrays = dict[str, np.ndarray]

COMPONENTS = {"optimizer": "optimizer.py", "attention": "modules/attention.py", "layer": "modules/gpt2_layer.py",
              "model": "models/gpt2.py", "head": "classifier.py"}
"The parts that are tested one by one, and the file that each is written in."

ATOL, RTOL = 1e-5, 1e-4
"float32 rounding is about 2e-6 on numbers of this size; the nearest known mistake differs by 5e-4 (erf for tanh GELU)."


@dataclass(frozen=True)
class Request:
    """One call of a probe (probes/), in a fresh process: its name "component.function", and its inputs."""

    probe: str
    inputs: Arrays

    def arrays(self) -> Arrays:
        """Return the inputs as arrays that travel without pickle: numbers, bools and short texts."""
        arrays = {name: np.asarray(value) for name, value in self.inputs.items()}
        bad = [name for name, value in arrays.items() if value.dtype.kind not in "fiubU"]
        if bad:
            raise TypeError(f"{self.probe}: inputs {bad} are neither numbers, bools nor texts")
        return arrays


class Wrong(Exception):
    """A result that is not right. `measured` is shown to staff, and to students where the test's inputs are visible."""

    def __init__(self, measured: str) -> None:
        super().__init__(measured)
        self.measured = measured


@dataclass(frozen=True)
class Case:
    """One graded test of a component; its points and visibility are in points.json, under its name."""

    name: str  # "attention.causality"
    title: str
    function: Callable[[np.random.Generator], Generator[Request, Arrays, str | None]]

    @property
    def component(self) -> str:
        return self.name.partition(".")[0]


CASES: dict[str, Case] = {}


def case(function: Callable) -> Callable:
    """Register a graded test under the name `component.function`; its docstring's first line is its title."""
    name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
    if name in CASES:
        raise ValueError(f"two graded tests are called {name}")
    CASES[name] = Case(name, (function.__doc__ or name).partition("\n")[0].rstrip("."), function)
    return function


def generator(seed: bytes, name: str) -> np.random.Generator:
    """Return the random numbers of a test: the same for the same seed and name, on every machine."""
    return np.random.default_rng([*seed, zlib.crc32(name.encode())])


def numbers(name: str, got: Arrays, shape: tuple[int, ...] | None = None, finite: bool = True) -> np.ndarray:
    """Return `got[name]` in float64; raise Wrong where it is missing, of another shape, or not numbers."""
    if name not in got:
        raise Wrong(f"{name} is missing")
    found = got[name]
    if shape is not None and found.shape != tuple(shape):
        raise Wrong(f"{name} has the shape {list(found.shape)}, not {list(shape)}")
    if found.dtype.kind not in "fiub":
        raise Wrong(f"{name} is of the type {found.dtype}, not numbers")
    with np.errstate(all="ignore"):
        found = found.astype(np.float64)
    if finite and not np.isfinite(found).all():
        place = np.argwhere(~np.isfinite(found))[0]
        raise Wrong(f"{name}{at(place)} is {found[tuple(place)]}: the first of "
                    f"{int((~np.isfinite(found)).sum())} that are not finite")
    return found


def at(place: Sequence[int]) -> str:
    """Return an index as it is written in Python; nothing for that of a single number."""
    return f"[{', '.join(map(str, place))}]" if len(place) else ""


def expect(name: str, got: Arrays, *right: np.ndarray, atol: float = ATOL, rtol: float = RTOL) -> int:
    """Return which of the right answers `got[name]` is; raise Wrong where it is none of them."""
    return expect_all(got, *({name: np.asarray(want)} for want in right), atol=atol, rtol=rtol)


def expect_all(got: Arrays, *right: Arrays, atol: float = ATOL, rtol: float = RTOL) -> int:
    """Return which of the right sets of arrays `got` holds; raise Wrong where it is none of them.

    All arrays must be of one set: half of one answer and half of another is wrong. What is told of a wrong answer is
    where it first differs from the nearest right one.
    """
    found = {name: numbers(name, got, want.shape, finite=False) for name, want in right[0].items()}
    nearest, least = {}, np.inf
    for which, wanted in enumerate(right):
        beyond = {name: excess(found[name], want, atol, rtol) for name, want in wanted.items()}
        furthest = max((far.max(initial=0.0) for far in beyond.values()), default=0.0)
        if furthest <= 0.0:
            return which
        if furthest < least or not nearest:
            nearest, least, right_one = beyond, furthest, wanted
    name = next(name for name, far in nearest.items() if (far > 0.0).any())
    raise Wrong(difference(name, found[name], right_one[name], nearest[name] > 0.0))


def excess(found: np.ndarray, want: np.ndarray, atol: float, rtol: float) -> np.ndarray:
    """Return how far each number is beyond the tolerance: above 0 where it is wrong, infinite for NaN."""
    with np.errstate(all="ignore"):
        beyond = np.abs(found - want) - (atol + rtol * np.abs(want))
    return np.where(np.isfinite(beyond), beyond, np.inf)


def difference(name: str, found: np.ndarray, want: np.ndarray, wrong: np.ndarray) -> str:
    """Return where `found` first differs from `want`, how often, and by how much."""
    place = tuple(np.argwhere(wrong)[0])
    with np.errstate(all="ignore"):
        most = np.abs(found - want)[wrong].max()
    text = f"{name}{at(place)} is {found[place]:.6g}, not {want[place]:.6g}"
    if wrong.sum() > 1:
        text += f": the first of {int(wrong.sum())} that differ"
        text += f", by {most:.2g} at most" if most < np.inf else ""
    return text
