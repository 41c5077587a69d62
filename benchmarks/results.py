"""Results stand beside targets: in tables for people, and in JSON lines. PyTorch is not imported for this."""

import importlib.metadata
import json
import os
import platform
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from common.errors import UserError
from data.tasks import TASKS


@dataclass(frozen=True)
class Result:
    """One contender in one row: a cost (less is better) for each round."""

    row: str
    contender: str
    costs: tuple[float, ...]
    "Seconds or MB; those of one round were measured right after one another, so rounds can be compared in pairs."
    unit: Literal["s", "s/example", "MB", "share"] = "s"
    note: str = ""

    @property
    def shown(self) -> str:
        """Median and quartiles, in the unit that people read."""
        median, low, high = spread_of(self.costs)
        if self.unit == "s/example":
            return f"{1 / median:.2f} ({1 / high:.2f} to {1 / low:.2f}) examples/s"
        if self.unit == "MB":
            return f"{median:,.0f} MB"
        if self.unit == "share":
            return f"mean {statistics.mean(self.costs):.3f} ({min(self.costs):.3f} to {max(self.costs):.3f})"
        scale, unit = (1, "s") if median >= 1 else (1e3, "ms")
        return f"{median * scale:.3g} ({low * scale:.3g} to {high * scale:.3g}) {unit}"


def spread_of(values: Sequence[float]) -> tuple[float, float, float]:
    """Return median, lower and upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return statistics.median(values), low, high


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
    return facts | {name: importlib.metadata.version(name) for name in ("torch", "transformers", "tokenizers", "numpy")}


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

    def not_judged(self, facts: dict[str, Any]) -> str:
        """Say why the bound means nothing for what these facts describe; empty if it does mean something."""
        if not self.task:
            return ""
        real = TASKS[self.task].train.name
        if facts.get("files", {}).get(self.task, real) != real:
            return "set for the real files"  # the samples' texts are short, and have little padding to save
        return "" if facts.get("shape", "gpt2") == "gpt2" else "set for GPT-2 124M"

    def judge(self, facts: dict[str, Any], results: dict[tuple[str, str], Result]) -> dict[str, Any] | None:
        """Compare: return the figure with quartiles, and the verdict; None where something was not measured."""
        ours, peer = results.get((self.row, self.contender)), results.get((self.row, self.peer))
        if ours is None or (self.kind != "limit" and peer is None):
            return None
        if self.kind == "limit":
            figures = list(ours.costs)
        elif self.kind == "alike":
            from scipy.stats import ttest_rel  # late: it takes a second
            figures = [1.0 if ours.costs == peer.costs else float(ttest_rel(ours.costs, peer.costs).pvalue)]
        else:
            figures = [a / b for a, b in zip(ours.costs, peer.costs, strict=True)]
        if self.kind == "faster":
            figures = [1 / figure for figure in figures]
        median, low, high = spread_of(figures)
        reason = self.not_judged(facts)
        met = median >= self.bound if self.kind in ("faster", "alike") else median <= self.bound
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
    Target("training, cfimdb", "Hugging Face", "faster", 1.3, task="cfimdb"),
    Target("frozen, 10 epochs", "course", "faster", 25, task="sst"),
    Target("frozen, later epoch", "first epoch", "cost", 0.01, task="sst"),
    Target("evaluation, sst", "Hugging Face", "faster", 2.0, task="sst"),
    Target("evaluation, cfimdb", "Hugging Face", "faster", 2.0, task="cfimdb"),
    Target("quick run, first batch", "", "limit", 5),
    Target("quick run, whole", "", "limit", 40),
    Target("peak memory, sst", "course", "cost", 1.0, task="sst"),
    Target("peak memory, sst", "Hugging Face", "cost", 1.0, task="sst"),
    Target("peak memory, cfimdb", "course", "cost", 1.0, task="cfimdb"),
    Target("peak memory, cfimdb", "Hugging Face", "cost", 1.0, task="cfimdb"),
    Target("dev error, buckets", "random order", "alike", 0.05, "bucketed"),
    Target("GPU training, sst", "Hugging Face", "faster", 1.3, task="sst"),
)


def judge_all(facts: dict[str, Any], results: Iterable[Result]) -> list[dict[str, Any]]:
    """Judge every target whose row was measured."""
    table = {(result.row, result.contender): result for result in results}
    return [verdict for target in TARGETS if (verdict := target.judge(facts, table)) is not None]


def verdict_text(verdict: dict[str, Any], missed: str) -> str:
    """Say `met`, or `missed` in the word given, or why there is no verdict."""
    if verdict["not_judged"]:
        return f"not judged: {verdict['not_judged']}"
    return "met" if verdict["met"] else missed


def figure_text(verdict: dict[str, Any]) -> str:
    """Write the figure: `1.62 x (1.60 to 1.65)`."""
    text = f"{verdict['figure']:.3g}" + (" x" if verdict["kind"] in ("faster", "cost") else "")
    if verdict["low"] != verdict["high"]:
        text += f" ({verdict['low']:.3g} to {verdict['high']:.3g})"
    return text


def target_text(verdict: dict[str, Any]) -> str:
    """Write the target: `at least 1.5 x as fast as Hugging Face`."""
    if verdict["kind"] == "faster":
        return f"at least {verdict['bound']:g} x as fast as {verdict['peer']}"
    if verdict["kind"] == "cost":
        return f"at most {verdict['bound']:g} x {verdict['peer']}"
    if verdict["kind"] == "alike":
        return f"{verdict['peer']} is as good: p at least {verdict['bound']:g}"
    return f"at most {verdict['bound']:g}"


def text_tables(facts: dict[str, Any], results: Sequence[Result]) -> str:
    """Write all results, then the targets, for a terminal."""
    lines = []
    for row in dict.fromkeys(result.row for result in results):
        lines.append(row)
        lines += [f"    {result.contender:<24}{result.shown}" + (f"   ({result.note})" if result.note else "")
                  for result in results if result.row == row]
    lines.append("\ntargets")
    for verdict in judge_all(facts, results):
        lines.append(f"    {verdict['row']:<26}{target_text(verdict):<42}{figure_text(verdict):<26}"
                     f"{verdict_text(verdict, 'MISSED')}")
    return "\n".join(lines)


def markdown_tables(facts: dict[str, Any], results: Sequence[Result]) -> str:
    """Write the same for docs/performance.md, with the machine's facts."""
    lines = [f"{facts['processor']}, {facts['cores']} cores, {facts['threads']} threads for each contender, "
             f"{facts.get('memory_gb', '?')} GB; load before the run {facts.get('load', 0):.1f}; "
             f"Python {facts['python']}, PyTorch {facts['torch']}, Transformers {facts['transformers']}.", "",
             "| what | target | measured | |", "|---|---|---|---|"]
    for verdict in judge_all(facts, results):
        lines.append(f"| {verdict['row']} | {target_text(verdict)} | {figure_text(verdict)} | "
                     f"{verdict_text(verdict, '**missed**')} |")
    lines += ["", "| row | contender | measured | |", "|---|---|---|---|"]
    lines += [f"| {result.row} | {result.contender} | {result.shown} | {result.note} |" for result in results]
    return "\n".join(lines) + "\n"


BEGIN, END = "<!-- tables: written by benchmarks --docs -->\n", "<!-- end of tables -->\n"


def put_between(text: str, begin: str, end: str, content: str, page: str) -> str:
    """Replace what stands between two marks in a text; UserError, naming the page, if a mark is gone."""
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise UserError(f"{page} has lost its marks {begin.strip()} and {end.strip()}")
    return f"{before}{begin}{content}{end}{after}"


def replace_tables(page: str, tables: str) -> str:
    """Replace what stands between the two marks of docs/performance.md."""
    return put_between(page, BEGIN, END, f"\n{tables}\n", "docs/performance.md")


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
