"""How much is measured, and who takes part."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.arena import Contender
from benchmarks.workload import SHAPES, Workload


@dataclass(frozen=True)
class Plan:
    """How much to measure."""

    threads: int
    shape: str
    data: Path | None
    rounds: int
    "Where a round is long, half as many are made."
    batches: int
    "Typical batches timed in a round; half as many of long texts."
    texts: int
    """Texts evaluated in a round. As many as in a small data set, because what makes evaluation fast is batches of like
    length, which a few texts do not give."""
    long_texts: int
    "Long texts evaluated in a round."
    memory_tasks: tuple[str, ...]
    "On whose longest batches the peak of memory is measured."
    seeds: int
    "Seeds for comparing accuracies."
    epochs: int
    "Epochs for comparing accuracies."

    @property
    def long_rounds(self) -> int:
        """How often to do what takes long."""
        return (self.rounds + 1) // 2

    def work(self, task: str, texts: int | None = None, **changes: Any) -> Workload:
        """The workload on a task, on `texts` of its texts or as many as there are."""
        work = Workload(task, self.data, SHAPES[self.shape], **changes)
        return work if texts is None else replace(work, texts=min(texts, len(work.files.read("train"))))


def make_course(work: Workload) -> Any:
    """The contenders are made, and their libraries imported, in their own processes."""
    from benchmarks.course import Course
    return Course(work)


def make_hugging_face(work: Workload) -> Any:
    from benchmarks.huggingface import HuggingFace
    return HuggingFace(work)


def make_grouped(work: Workload) -> Any:
    from benchmarks.huggingface import GroupedByLength
    return GroupedByLength(work)


def make_ours(work: Workload) -> Any:
    from benchmarks.ours import Ours
    return Ours(work)


def make_bfloat16(work: Workload) -> Any:
    return make_ours(replace(work, precision="bfloat16"))


PEERS: dict[str, Callable[[Workload], Any]] = {
    "ours": make_ours, "course": make_course, "Hugging Face": make_hugging_face, "Hugging Face, grouped": make_grouped}


def enter(stack: ExitStack, plan: Plan, makers: dict[str, Callable[[Workload], Any]],
          work: Workload) -> dict[str, Contender]:
    """Start the contenders, all together, and wait for them; they end with the stack."""
    contenders = {name: Contender(name, plan.threads, make, work) for name, make in makers.items()}
    return {name: stack.enter_context(contender) for name, contender in contenders.items()}
