"""Results stand beside targets: in tables for people, and in JSON lines. PyTorch is not imported for this."""

import importlib.metadata
import json
import os
import platform
import re
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import fill
from typing import Any, Literal

import numpy as np

from common.errors import UserError
from data.tasks import TASKS


@dataclass(frozen=True)
class Result:
    """One contender in one row: a cost (less is better) for each round."""

    row: str
    contender: str
    costs: tuple[float, ...]
    "Seconds or MB; those of one round were measured right after one another, so rounds can be compared in pairs."
    unit: Literal["s", "s/example", "s/token", "MB", "share"] = "s"
    note: str = ""

    @property
    def shown(self) -> str:
        """Median and quartiles, in the unit that people read."""
        median, low, high = spread_of(self.costs)
        if self.unit == "s/example":
            return f"{1 / median:.2f} ({1 / high:.2f} to {1 / low:.2f}) examples/s"
        if self.unit == "s/token":
            return f"{1 / median:,.0f} ({1 / high:,.0f} to {1 / low:,.0f}) tokens/s"
        if self.unit == "MB":
            return f"{median:,.0f} MB"
        if self.unit == "share":
            return f"mean {statistics.mean(self.costs):.3f} ({min(self.costs):.3f} to {max(self.costs):.3f})"
        scale, unit = (1, "s") if median >= 1 else (1e3, "ms")
        return f"{median * scale:.3g} ({low * scale:.3g} to {high * scale:.3g}) {unit}"

    def lines(self) -> str:
        """Return what a terminal of 80 columns shows."""
        said = fill(f"{self.row}, {self.contender}: {self.shown}", 79, subsequent_indent="    ")
        note = fill(self.note, 79, initial_indent="    ", subsequent_indent="    ")
        return f"{said}\n{note}" if note else said


def spread_of(values: Sequence[float]) -> tuple[float, float, float]:
    """Return median, lower and upper quartile."""
    return tuple(np.quantile(values, (0.5, 0.25, 0.75)).tolist())


def machine_facts(threads: int) -> dict[str, Any]:
    """Collect what the numbers depend on besides the code."""
    import torch

    facts = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(), "threads": threads,
             "system": platform.system(), "python": platform.python_version()}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        said = dict(re.findall(r"^(model name|flags)\s*: (.*)$", cpuinfo.read_text(), re.MULTILINE))
        facts["processor"] = said.get("model name", facts["processor"])
        facts["instructions"] = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
                                 if flag in said.get("flags", "").split()]
        facts["memory_gb"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
        facts["load"] = os.getloadavg()[0]
    facts["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return facts | {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy")}


def version(package: str) -> str | None:
    """Return which version of a package is installed; None without it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@dataclass(frozen=True)
class Target:
    """A bound that a row should keep."""

    row: str
    peer: str
    "Contender to compare with; empty for a limit in the row's own unit."
    kind: Literal["faster", "cost", "limit", "alike"]
    """faster: peer's cost / ours, at least; cost: ours / peer's, at most; limit: ours itself, at most; alike: the
    probability of a mean difference over the rounds as large as the one found, if it is due to chance, at least."""
    bound: float
    contender: str = "ours"
    task: str = ""
    "The task for whose real files, and for GPT-2 124M, the bound was set; empty where neither matters."

    def judge(self, facts: dict[str, Any], results: dict[tuple[str, str], Result]) -> dict[str, Any] | None:
        """Compare: return the figure with quartiles, and the verdict; None where something was not measured."""
        ours, peer = results.get((self.row, self.contender)), results.get((self.row, self.peer))
        if ours is None or (self.kind != "limit" and peer is None):
            return None
        if self.kind == "limit":
            figures = ours.costs
        elif self.kind == "alike":
            from scipy.stats import ttest_rel  # late: it takes a second
            figures = [1.0 if ours.costs == peer.costs else float(ttest_rel(ours.costs, peer.costs).pvalue)]
        else:
            pairs = zip(ours.costs, peer.costs, strict=True)
            figures = [theirs / mine if self.kind == "faster" else mine / theirs for mine, theirs in pairs]
        median, low, high = spread_of(figures)
        met = median >= self.bound if self.kind in ("faster", "alike") else median <= self.bound

        # The samples' texts are short, and have little padding to save.
        real, reason = TASKS[self.task].train.name if self.task else None, ""
        if facts.get("files", {}).get(self.task, real) != real:
            reason = "set for the real files"
        elif self.task and facts.get("shape", "gpt2") != "gpt2":
            reason = "set for GPT-2 124M"
        return asdict(self) | {"figure": median, "low": low, "high": high, "met": None if reason else met,
                               "not_judged": reason}


TARGETS = (
    Target("AdamW step, gpt2", "torch fused", "cost", 1.25),
    Target("AdamW step, gpt2", "course", "cost", 1.0),
    Target("AdamW memory, gpt2", "", "limit", 64),
    Target("AdamW step, gpt2-tiny", "torch fused", "cost", 1.25),
    Target("training, sst", "course", "faster", 2.0, task="sst"),
    Target("training, sst", "Hugging Face", "faster", 1.5, task="sst"),
    Target("training, cfimdb", "course", "faster", 1.5, task="cfimdb"),
    Target("training, cfimdb", "Hugging Face", "faster", 2.5, task="cfimdb"),
    Target("training, sst", "Hugging Face, grouped", "faster", 1.45, task="sst"),
    Target("training, cfimdb, grouped", "Hugging Face, grouped", "faster", 2.0, task="cfimdb"),
    Target("training, sst, best precision", "Hugging Face, grouped", "faster", 1.3, task="sst"),
    Target("frozen, 10 epochs", "course", "faster", 25, task="sst"),
    Target("frozen, later epoch", "first epoch", "cost", 0.01, task="sst"),
    Target("evaluation, sst", "Hugging Face", "faster", 2.0, task="sst"),
    Target("evaluation, cfimdb", "Hugging Face", "faster", 2.0, task="cfimdb"),
    Target("evaluation, sst", "Hugging Face, grouped", "faster", 1.5, task="sst"),
    Target("evaluation, cfimdb", "Hugging Face, grouped", "faster", 1.5, task="cfimdb"),
    Target("quick run, first batch", "", "limit", 2.5),
    Target("quick run, first batch", "import torch", "cost", 1.6),
    Target("quick run, whole", "", "limit", 40),
    Target("peak memory, sst", "course", "cost", 1.0, task="sst"),
    Target("peak memory, sst", "Hugging Face", "cost", 1.0, task="sst"),
    Target("peak memory, cfimdb", "course", "cost", 1.0, task="cfimdb"),
    Target("peak memory, cfimdb", "Hugging Face", "cost", 0.5, task="cfimdb"),
    Target("pretraining, gpt2-tiny", "plain loop", "faster", 1.5),
    Target("one sentence, gpt2-tiny", "", "limit", 0.015),
    Target("dev error, buckets", "random order", "alike", 0.05, "bucketed"),
    *(Target(f"GPU training, {task}", peer, "faster", 1.3, task=task) for task in ("sst", "cfimdb")
      for peer in ("Hugging Face", "Hugging Face, grouped")),
    *(Target(f"GPU AdamW step, {shape}", "torch fused", "cost", 1.1) for shape in ("gpt2", "gpt2-tiny")),
)


def judge_all(facts: dict[str, Any], results: Iterable[Result]) -> list[dict[str, Any]]:
    """Judge every target whose row was measured."""
    table = {(result.row, result.contender): result for result in results}
    return [verdict for target in TARGETS if (verdict := target.judge(facts, table)) is not None]


WANTED = {"faster": "at least {bound:g} x as fast as {peer}", "cost": "at most {bound:g} x {peer}",
          "alike": "{peer} is as good: p at least {bound:g}", "limit": "at most {bound:g}"}


def verdicts(facts: dict[str, Any], results: Sequence[Result]) -> Iterator[tuple[str, str, str, str]]:
    """Say in words what was judged: (row, target, figure as `1.62 x (1.60 to 1.65)`, `met` or `MISSED`)."""
    for verdict in judge_all(facts, results):
        figure = f"{verdict['figure']:.3g}" + (" x" if verdict["kind"] in ("faster", "cost") else "")
        if verdict["low"] != verdict["high"]:
            figure += f" ({verdict['low']:.3g} to {verdict['high']:.3g})"
        reason = verdict["not_judged"]
        outcome = f"not judged: {reason}" if reason else "met" if verdict["met"] else "MISSED"
        yield verdict["row"], WANTED[verdict["kind"]].format(**verdict), figure, outcome


def verdict_lines(facts: dict[str, Any], results: Sequence[Result]) -> str:
    """Return each target beside what was measured, for a terminal of 80 columns."""
    return "\n".join(["targets", *(f"    {row}: {target}\n        {figure}   {outcome}"
                                  for row, target, figure, outcome in verdicts(facts, results))])


def markdown_tables(facts: dict[str, Any], results: Sequence[Result]) -> str:
    """Write targets and results for docs/performance.md, with the machine's facts."""
    rows = [("what", "target", "measured", ""), ("---",) * 4, *verdicts(facts, results), (),
            ("row", "contender", "measured", ""), ("---",) * 4,
            *((result.row, result.contender, result.shown, result.note) for result in results)]
    facts_line = (f"{facts['processor']}, {facts['cores']} cores, {facts['threads']} threads for each contender, "
                  f"{facts.get('memory_gb', '?')} GB; load before the run {facts.get('load', 0):.1f}; "
                  f"Python {facts['python']}, PyTorch {facts['torch']}, Transformers {facts['transformers']}.")
    lines = [f"| {' | '.join(row)} |" if row else "" for row in rows]
    return "\n".join([facts_line, "", *lines, ""]).replace("MISSED", "**missed**")


BEGIN, END = "<!-- tables: written by benchmarks --docs -->\n", "<!-- end of tables -->\n"


def put_between(text: str, begin: str, end: str, content: str, page: str) -> str:
    """Replace what stands between two marks in a text; UserError, naming the page, if a mark is gone."""
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise UserError(f"{page} has lost its marks {begin.strip()} and {end.strip()}")
    return f"{before}{begin}{content}{end}{after}"


def json_lines(facts: dict[str, Any], results: Sequence[Result]) -> str:
    """Write one line of facts, then one for each result and each target."""
    records = [{"facts": facts}, *({"result": asdict(result)} for result in results),
               *({"target": verdict} for verdict in judge_all(facts, results))]
    return "".join(json.dumps(record) + "\n" for record in records)


def with_earlier(facts: dict[str, Any], results: Sequence[Result], earlier: str) -> list[Result]:
    """Return the results, after those of an earlier run's JSON lines in rows that were not measured again.

    UserError if the earlier run was made on another machine, with other packages, or another plan.
    """
    records = [json.loads(line) for line in earlier.splitlines()]
    facts = json.loads(json.dumps(facts))  # as they were read: tuples as lists
    theirs = next(record["facts"] for record in records if "facts" in record)
    differing = sorted(name for name in facts.keys() | theirs.keys()
                       if name != "load" and facts.get(name) != theirs.get(name))
    if differing:
        raise UserError(f"the rows measured earlier cannot stand beside these: {', '.join(differing)} differ; "
                        "measure all rows")
    again = {result.row for result in results}
    kept = [Result(**{**record["result"], "costs": tuple(record["result"]["costs"])}) for record in records
            if "result" in record and record["result"]["row"] not in again]
    return [*kept, *results]


AXES: dict[str, tuple[int, ...]] = {
    "texts": (64, 128, 256, 512, 1024),
    "length": (8, 16, 32, 64, 128, 256, 512),
    "batch": (1, 2, 4, 8, 16, 32, 64),
    "width": (64, 128, 256, 512),
    "depth": (1, 2, 4, 8, 16),
}
"""What is varied, one axis at a time."""


def curves(results: list[Result]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return axis -> (values, seconds), from the results of time_growth."""
    points = {axis: [(int(r.contender), r.costs[0]) for r in results if r.row == f"growth, {axis}"] for axis in AXES}
    return {axis: tuple(np.array(found).T) for axis, found in points.items() if found}


def exponents(values: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Return the power of the axis that time grows with between neighbouring points: 1 is linear."""
    return np.diff(np.log(seconds)) / np.diff(np.log(values))


def plot(results: list[Result], path: Path) -> None:
    """Draw a panel for each axis measured, log-log, with a line of slope 1 where time should grow; nothing for none."""
    from matplotlib.figure import Figure  # late: it takes a second

    found = curves(results)
    if not found:
        return
    figure = Figure(figsize=(3.2 * len(found), 3.2), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False)
    for panel, (axis, (values, seconds)) in zip(panels[0], found.items(), strict=True):
        panel.loglog(values, seconds, "o-", label="measured")
        if axis != "batch":  # an epoch has as many texts in larger batches, and fewer steps
            panel.loglog(values, seconds[-1] * values / values[-1], "--", color="gray", label="linear")
        panel.set_xticks(values, [f"{value:.0f}" for value in values])
        panel.set_xticks([], minor=True)
        panel.set_xlabel(axis)
        panel.set_title(f"steepest: {axis}^{exponents(values, seconds).max():.2f}")
    panels[0][0].set_ylabel("seconds an epoch")
    panels[0][0].legend()
    figure.savefig(path, dpi=120)
