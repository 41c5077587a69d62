"""Time this project beside its peers, and print how it compares.

    ./setup.sh -m benchmarks                 every row, on 2 cores with 22 GB free
    ./setup.sh -m benchmarks --full          more rounds and texts, in half an hour
    ./setup.sh -m benchmarks --rows adamw    some rows only

Contenders take turns, so that whatever else the machine does hits all alike. Writes results.jsonl, tables.md and
growth.png into the output folder. Most targets are for the course's files and GPT-2 124M; without these files the rows
run on the bundled samples, and are not judged.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Literal

from common import cli
from common.errors import UserError
from common.files import make_folder, write_atomic

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
RECORD = Path(__file__).resolve().parent / "results" / "performance.jsonl"

ROW_NAMES = ("adamw", "training", "frozen", "evaluation", "memory", "quick", "pretraining", "serving",
             "growth", "buckets", "gpu")


@dataclass(frozen=True)
class Settings:
    """What to measure."""

    rows: tuple[str, ...] = ROW_NAMES
    """Which rows: adamw training frozen evaluation memory quick pretraining serving growth buckets gpu."""
    full: bool = False
    """More rounds, more texts."""
    data: Path | None = None
    """Folder with the course's files. Default: those in data/, else the bundled samples, whose texts are shorter."""
    shape: Literal["gpt2", "gpt2-tiny", "toy"] = "gpt2"
    """Model that the peers train; the targets are for gpt2."""
    threads: int | None = None
    """Threads of each contender. Default: PyTorch's choice, one for each core."""
    out: Path = Path("runs/benchmarks")
    """Folder for the results."""
    docs: bool = False
    """Put tables and plot into docs/performance.md too, and the results beside the benchmarks. If only some rows are
    measured, the others stay as an earlier run on the same machine has put them there."""

    def __post_init__(self) -> None:
        for row in self.rows:
            if row not in ROW_NAMES:
                raise UserError(f"--rows: there is no row {row!r}; there are {', '.join(ROW_NAMES)}")
        cli.require_ranges(self, ("threads", 1, None))
        if self.data is not None and not self.data.is_dir():
            raise UserError(f"--data: there is no folder {self.data}")


def main() -> None:
    parser = cli.Parser(description=__doc__)
    cli.add_arguments(parser, Settings)
    settings = cli.from_arguments(Settings, parser.parse_args())

    import torch

    from benchmarks import results as tables
    from benchmarks.rows import ROWS
    from benchmarks.workload import Plan

    threads = settings.threads or torch.get_num_threads()
    effort = {
        "full": {"rounds": 4, "batches": 4, "texts": 512, "long_texts": 64, "seeds": 4, "epochs": 4,
                 "memory_tasks": ("sst", "cfimdb")},
        "short": {"rounds": 2, "batches": 2, "texts": 256, "long_texts": 24, "seeds": 2, "epochs": 1,
                  "memory_tasks": ("sst",)},
    }["full" if settings.full else "short"]
    plan = Plan(threads=threads, shape=settings.shape, data=settings.data, **effort)
    files = {task: plan.work(task).files.train.name for task in ("sst", "cfimdb")}
    facts = tables.machine_facts(threads) | {"plan": effort, "shape": settings.shape, "files": files}
    print("\n".join(fill(f"{name}: {fact}", 79, subsequent_indent="    ") for name, fact in facts.items()), flush=True)
    results: list[tables.Result] = []
    make_folder(settings.out)
    for row in settings.rows:
        began = time.monotonic()
        for result in ROWS[row](plan):
            results.append(result)
            print(result.lines(), flush=True)
        print(f"{row}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        write_atomic(settings.out / "results.jsonl", tables.json_lines(facts, results))
    print(f"\n{tables.verdict_lines(facts, results)}")
    write_atomic(settings.out / "tables.md", tables.markdown_tables(facts, results))
    tables.plot(results, settings.out / "growth.png")
    if settings.docs:
        if set(settings.rows) != set(ROW_NAMES) and RECORD.exists():
            results = tables.with_earlier(facts, results, RECORD.read_text(encoding="utf-8"))
        content = f"\n{tables.markdown_tables(facts, results)}\n"
        write_atomic(PAGE, tables.put_between(PAGE.read_text(encoding="utf-8"), tables.BEGIN, tables.END, content,
                                              "docs/performance.md"))
        write_atomic(RECORD, tables.json_lines(facts, results))
        tables.plot(results, PAGE.parent / "growth.png")
    print(f"\nresults.jsonl, tables.md and plots are in {settings.out}")


if __name__ == "__main__":
    cli.run(main)
