"""Run all that wants a GPU, in one command: tests, agreement, speed beside Hugging Face, equal bits, pretraining.

    ./setup.sh -m benchmarks.gpu --minutes 12 --data DATA --corpus TEXTS
    python -m benchmarks.gpu ...                         in this folder, where torch and transformers are there already
    python -m benchmarks.gpu --device cpu --tiny         try the command out

Needs no network and nothing but torch and transformers; it says which versions differ from requirements.txt, and what
is left out. Each part is a process with a time limit of its own: one that fails, hangs or runs out of memory costs that
part alone. OUT/results.jsonl grows with every result, OUT/tables.md with every part. What is left of the time goes into
pretraining a model of gpt2-tiny's shape in OUT/pretrain; the same command goes on with it.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import fill
from typing import Any, Literal, TextIO

from common import cli
from common.errors import UserError, one_line
from common.files import make_folder, write_atomic

ROOT = Path(__file__).resolve().parent.parent
SECONDS = {"engine": 90, "adamw": 60, "sst": 120, "cfimdb": 150, "tests": 90, "repeat": 90, "resume": 120,
           "pretraining": 60, "corpus": 0}
"""The parts in their order, and how long each may take of 12 minutes; the last one takes what is left."""
RECORD = "benchmarks.gpu "
"""A line of a part that begins so is a record, in JSON."""


@dataclass(frozen=True)
class Settings:
    """What to run, on what."""

    minutes: float = 12.0
    """Time for everything."""
    parts: tuple[str, ...] = tuple(SECONDS)
    """Which parts, in this order: engine adamw sst cfimdb tests repeat resume pretraining corpus."""
    data: Path | None = None
    """Folder with the course's files. Default: those in data/, else the bundled samples."""
    corpus: Path | None = None
    """Folder with texts to pretrain on: *.txt and *.txt.gz, one document a line."""
    start: Path | None = None
    """Folder with a model to pretrain further. Default: random weights of gpt2-tiny's shape."""
    tokens: float = 200e6
    """Tokens of pretraining in all, over as many commands as it takes."""
    out: Path = Path("runs/gpu")
    """Folder for the results."""
    device: Literal["cuda", "cpu"] = "cuda"
    """Where to compute; cpu is for trying the command out."""
    tiny: bool = False
    """Toy sizes and few of everything."""

    def __post_init__(self) -> None:
        for part in self.parts:
            if part not in SECONDS:
                raise UserError(f"--parts: there is no part {part!r}; there are {', '.join(SECONDS)}")
        if self.minutes <= 0:
            raise UserError(f"--minutes must be more than 0, not {self.minutes}")
        for flag, folder in (("--data", self.data), ("--corpus", self.corpus), ("--start", self.start)):
            if folder is not None and not folder.is_dir():
                raise UserError(f"{flag}: there is no folder {folder}")


@dataclass
class Report:
    """What was found so far: kept in files, so that nothing is lost whatever happens next."""

    out: Path
    facts: dict[str, Any] = field(default_factory=dict)
    results: list[Any] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    parts: list[dict[str, Any]] = field(default_factory=list)

    def add(self, record: dict[str, Any]) -> None:
        """Take a record: {"facts": ...}, {"result": ...}, {"check": ...} or {"part": ...}; print and store it."""
        from benchmarks.results import Result  # late: --help need not wait for it

        with open(self.out / "results.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        (kind, content), = record.items()
        if kind == "facts":
            self.facts = content
            print("\n".join(fill(f"{name}: {fact}", 79, subsequent_indent="    ")
                            for name, fact in content.items()), flush=True)
        elif kind == "result":
            result = Result(**content | {"costs": tuple(content["costs"])})
            self.results.append(result)
            print(result.lines(), flush=True)
        elif kind == "check":
            self.checks.append(content)
            found = fill(content["found"], 79, initial_indent="    ", subsequent_indent="    ")
            print(f"{content['what']}: {'ok' if content['ok'] else 'WRONG'}\n{found}", flush=True)
        else:
            self.parts.append(content)
            print(fill(f"part {content['name']}: {content['outcome']}, {content['seconds']:.0f} s", 79,
                       subsequent_indent="    ") + "\n", flush=True)
        if kind == "part" and self.facts:
            write_atomic(self.out / "tables.md", self.markdown())

    def markdown(self) -> str:
        """Write everything as tables."""
        from benchmarks.results import markdown_tables

        rows = ["| check |  | found |", "| --- | --- | --- |",
                *(f"| {check['what']} | {'ok' if check['ok'] else '**wrong**'} | {check['found']} |"
                  for check in self.checks),
                "", "| part | outcome | seconds |", "| --- | --- | --- |",
                *(f"| {part['name']} | {part['outcome']} | {part['seconds']:.0f} |" for part in self.parts)]
        machine = [f"GPU: {self.facts.get('gpu')}, {self.facts.get('gpu memory GB', '?')} GB; "
                   f"other versions than ours: {self.facts.get('other versions') or 'none'}; "
                   f"not installed: {self.facts.get('not installed') or 'nothing'}.", ""]
        return "\n".join([*machine, markdown_tables(self.facts, self.results), *rows, ""])


def main() -> int:
    parser = cli.Parser(description=__doc__)
    cli.add_arguments(parser, Settings)
    settings = cli.from_arguments(Settings, parser.parse_args())
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the part that runs must not go on alone
    end = time.monotonic() + 60 * settings.minutes
    make_folder(settings.out)
    report = Report(settings.out)
    outcome = run_part("machine", settings, report, 90)
    if outcome != "done":
        raise UserError(f"nothing can be measured here: {outcome}\n--device cpu --tiny tries the command out")
    for name in settings.parts:
        left = end - time.monotonic()
        limit = min(SECONDS[name] * settings.minutes / 12, left) if SECONDS[name] else left
        if limit < 1:
            report.add({"part": {"name": name, "outcome": "left out: the time is up", "seconds": 0.0}})
        else:
            run_part(name, settings, report, limit)
    from benchmarks.results import verdict_lines  # late: --help need not wait for it

    print(verdict_lines(report.facts, report.results))
    print(f"results.jsonl, tables.md and a log of each part are in {settings.out}")
    wrong = [check for check in report.checks if not check["ok"]]
    return 1 if wrong or any(part["outcome"].startswith(("failed", "killed")) for part in report.parts) else 0


def run_part(name: str, settings: Settings, report: Report, limit: float, module: str = "benchmarks.gpu_parts") -> str:
    """Run a part in a process of its own for at most `limit` seconds; return how it went, in a word or a line."""
    said = {key: str(value.resolve()) if isinstance(value, Path) else value
            for key, value in asdict(settings).items()}
    command = [sys.executable, "-u", "-m", module, name, json.dumps(said | {"seconds": limit})]
    started, outcome, last = time.monotonic(), "", ""
    with open(settings.out / f"{name}.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True,
                                   stderr=subprocess.STDOUT, errors="replace", start_new_session=True)
        try:
            for line in lines_until(process.stdout, started + limit):
                if line.startswith(RECORD):
                    report.add(json.loads(line.removeprefix(RECORD)))
                elif line.strip():
                    log.write(line)
                    log.flush()
                    last = line.strip()
            status = process.wait(max(started + limit - time.monotonic(), 1))
        except (TimeoutError, subprocess.TimeoutExpired):
            outcome = f"killed after {limit:.0f} s"
        finally:
            end_session(process)  # whatever it has started ends with it

    if not outcome:
        short = any(word in Path(log.name).read_text(encoding="utf-8") for word in ("out of memory", "OutOfMemory"))
        outcome = {0: "done", 3: f"left out: {last}"}.get(
            status, f"failed{', out of memory' * short}: {one_line(last, 300) or f'exit status {status}'}")
    report.add({"part": {"name": name, "outcome": outcome, "seconds": time.monotonic() - started}})
    return outcome


def environment() -> dict[str, str]:
    """Return the variables that a part gets: our folders, and float32 that is float32."""
    paths = [str(ROOT), str(ROOT / "course"), *filter(None, [os.environ.get("PYTHONPATH")])]
    changed = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    changed.pop("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", None)  # NVIDIA's containers set it: ten bits in place of 23
    return changed


def lines_until(stream: TextIO, end: float) -> Iterator[str]:
    """Yield lines as they come; TimeoutError if the stream is still open at the time `end`."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=max(end - time.monotonic(), 0.01))
        except queue.Empty:
            raise TimeoutError from None
        if line is None:
            return
        yield line


def end_session(process: subprocess.Popen) -> None:
    """End a process and all that it has started, at once."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


if __name__ == "__main__":
    cli.run(main)
