"""Where the time of a training step goes.

    ./setup.sh -m benchmarks.profiles                            our steps on SST's texts, GPT-2 124M
    ./setup.sh -m benchmarks.profiles --contender course --task cfimdb

Times are those of PyTorch's operations on the main thread, each without the operations that it calls.
"""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common import cli

KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "optimizer": ("Optimizer.step",),
    "dropout": ("aten::bernoulli_", "aten::random_", "aten::gt", "aten::dropout", "aten::native_dropout"),
    "gradient's norm": ("aten::linalg_vector_norm", "aten::_foreach_norm"),
    "zeros, copies": ("aten::fill_", "aten::zero_", "aten::copy_", "aten::embedding_dense_backward"),
    "softmax, masks": ("aten::_softmax", "aten::_softmax_backward_data", "aten::masked_fill_"),
    "GELU": ("aten::gelu", "aten::gelu_backward"),
    "LayerNorm": ("aten::native_layer_norm", "aten::native_layer_norm_backward"),
    "sums, products": ("aten::add", "aten::add_", "aten::mul", "aten::mul_", "aten::div", "aten::div_", "aten::sum"),
}


@dataclass(frozen=True)
class Settings:
    """What to profile."""

    contender: Literal["ours", "course", "Hugging Face", "Hugging Face, grouped"] = "ours"
    """Whose steps."""
    task: Literal["sst", "cfimdb"] = "sst"
    """On which texts."""
    shape: Literal["gpt2", "gpt2-tiny", "toy"] = "gpt2"
    """Of which model."""
    data: Path | None = None
    """Folder with the course's files. Default: as for the benchmarks."""
    steps: int = 4
    """On how many typical batches."""
    threads: int | None = None
    """Default: PyTorch's choice."""


def kind_of(operation: str) -> str:
    """The line of the table that an operation belongs to."""
    name = operation.split("#")[0]  # Optimizer.step#AdamW.step
    return next((kind for kind, names in KINDS.items() if name in names), "everything else")


def main() -> None:
    parser = cli.Parser(description=__doc__)
    cli.add_arguments(parser, Settings)
    settings = cli.from_arguments(Settings, parser.parse_args())

    import torch
    from torch.profiler import ProfilerActivity, profile

    from benchmarks.plan import PEERS
    from benchmarks.workload import SHAPES, Workload

    if settings.threads:
        torch.set_num_threads(settings.threads)
    contender = PEERS[settings.contender](Workload(settings.task, settings.data, SHAPES[settings.shape]))
    batches = contender.typical_batches(settings.steps)
    contender.train(*batches)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        contender.train(*batches)
    seconds: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        seconds[kind_of(event.key)] += event.self_cpu_time_total / 1e6 / settings.steps
    total = sum(seconds.values())
    print(f"{settings.contender}, {settings.task}, {settings.shape}, {torch.get_num_threads()} threads: "
          f"{total:.3f} s a step")
    for kind, value in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"    {kind:<20}{value:8.3f} s{value / total:8.1%}")


if __name__ == "__main__":
    cli.run(main)
