"""What was measured, what was aimed at, and the table that puts the two side by side."""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from benchmarks.arena import spread_of
from benchmarks.pages import put_between
from common.errors import UserError


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
        """Median and quartiles in the unit that people read."""
        median, low, high = spread_of(list(self.costs))
        if self.unit == "s/example":
            return f"{1 / median:.2f} ({1 / high:.2f} to {1 / low:.2f}) examples/s"
        if self.unit == "MB":
            return f"{median:,.0f} MB"
        if self.unit == "share":
            return f"mean {statistics.mean(self.costs):.3f} ({min(self.costs):.3f} to {max(self.costs):.3f})"
        scale, unit = (1, "s") if median >= 1 else (1e3, "ms")
        return f"{median * scale:.3g} ({low * scale:.3g} to {high * scale:.3g}) {unit}"


@dataclass(frozen=True)
class Target:
    """What is promised of a row."""

    row: str
    peer: str
    "Contender to compare with; empty for a limit in the row's own unit."
    kind: Literal["faster", "cost", "limit", "alike"]
    """faster: peer's cost / ours, at least; cost: ours / peer's, at most; limit: ours itself, at most; alike: the
    probability of a mean difference over the rounds as large as the one found, if it is due to chance, at least."""
    bound: float
    contender: str = "ours"

    def judge(self, results: dict[tuple[str, str], Result]) -> dict[str, Any] | None:
        """The figure with quartiles, and whether the target is met; None where something was not measured."""
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
        met = median >= self.bound if self.kind in ("faster", "alike") else median <= self.bound
        return {"row": self.row, "contender": self.contender, "peer": self.peer, "kind": self.kind,
                "bound": self.bound, "figure": median, "low": low, "high": high, "met": met}


TARGETS = (
    Target("AdamW step, gpt2", "torch fused", "cost", 1.25),
    Target("AdamW step, gpt2", "course", "cost", 1.0),
    Target("AdamW memory, gpt2", "", "limit", 64),
    Target("AdamW step, gpt2-tiny", "torch fused", "cost", 1.25),
    Target("training, sst", "course", "faster", 2.0),
    Target("training, sst", "Hugging Face", "faster", 1.5),
    Target("training, cfimdb", "course", "faster", 1.5),
    Target("training, cfimdb", "Hugging Face", "faster", 1.3),
    Target("frozen, 10 epochs", "course", "faster", 25),
    Target("frozen, later epoch", "first epoch", "cost", 0.01),
    Target("evaluation, sst", "Hugging Face", "faster", 2.0),
    Target("evaluation, cfimdb", "Hugging Face", "faster", 2.0),
    Target("quick run, first batch", "", "limit", 5),
    Target("quick run, whole", "", "limit", 40),
    Target("peak memory, sst", "course", "cost", 1.0),
    Target("peak memory, sst", "Hugging Face", "cost", 1.0),
    Target("peak memory, cfimdb", "course", "cost", 1.0),
    Target("peak memory, cfimdb", "Hugging Face", "cost", 1.0),
    Target("dev error, buckets", "random order", "alike", 0.05, "bucketed"),
    Target("GPU training, sst", "Hugging Face", "faster", 1.3),
)


def judge_all(results: Iterable[Result]) -> list[dict[str, Any]]:
    """Every target whose row was measured."""
    table = {(result.row, result.contender): result for result in results}
    return [verdict for target in TARGETS if (verdict := target.judge(table)) is not None]


def figure_text(verdict: dict[str, Any]) -> str:
    """`1.62 x (1.60 to 1.65)`."""
    text = f"{verdict['figure']:.3g}" + (" x" if verdict["kind"] in ("faster", "cost") else "")
    if verdict["low"] != verdict["high"]:
        text += f" ({verdict['low']:.3g} to {verdict['high']:.3g})"
    return text


def target_text(verdict: dict[str, Any]) -> str:
    """`at least 1.5 x as fast as Hugging Face`."""
    if verdict["kind"] == "faster":
        return f"at least {verdict['bound']:g} x as fast as {verdict['peer']}"
    if verdict["kind"] == "cost":
        return f"at most {verdict['bound']:g} x {verdict['peer']}"
    if verdict["kind"] == "alike":
        return f"{verdict['peer']} is as good: p at least {verdict['bound']:g}"
    return f"at most {verdict['bound']:g}"


def text_tables(results: Sequence[Result]) -> str:
    """All results, then the targets, for a terminal."""
    lines = []
    for row in dict.fromkeys(result.row for result in results):
        lines.append(row)
        lines += [f"    {result.contender:<24}{result.shown}" + (f"   ({result.note})" if result.note else "")
                  for result in results if result.row == row]
    lines.append("\ntargets")
    for verdict in judge_all(results):
        lines.append(f"    {verdict['row']:<26}{target_text(verdict):<42}{figure_text(verdict):<26}"
                     f"{'met' if verdict['met'] else 'MISSED'}")
    return "\n".join(lines)


def markdown_tables(facts: dict[str, Any], results: Sequence[Result]) -> str:
    """The same for docs/performance.md, with the machine's facts."""
    lines = [f"{facts['processor']}, {facts['cores']} cores, {facts['threads']} threads for each contender, "
             f"{facts.get('memory_gb', '?')} GB; load before the run {facts.get('load', 0):.1f}; "
             f"Python {facts['python']}, PyTorch {facts['torch']}, Transformers {facts['transformers']}.", "",
             "| what | target | measured | |", "|---|---|---|---|"]
    for verdict in judge_all(results):
        lines.append(f"| {verdict['row']} | {target_text(verdict)} | {figure_text(verdict)} | "
                     f"{'met' if verdict['met'] else '**missed**'} |")
    lines += ["", "| row | contender | measured | |", "|---|---|---|---|"]
    lines += [f"| {result.row} | {result.contender} | {result.shown} | {result.note} |" for result in results]
    return "\n".join(lines) + "\n"


BEGIN, END = "<!-- tables: written by benchmarks --docs -->\n", "<!-- end of tables -->\n"


def replace_tables(page: str, tables: str) -> str:
    """The page with what stands between the two marks replaced."""
    return put_between(page, BEGIN, END, f"\n{tables}\n", "docs/performance.md")


def json_lines(facts: dict[str, Any], results: Sequence[Result]) -> str:
    """One line of facts, then one for each result and each target."""
    records = [{"facts": facts}, *({"result": asdict(result)} for result in results),
               *({"target": verdict} for verdict in judge_all(results))]
    return "".join(json.dumps(record) + "\n" for record in records)


def with_earlier(facts: dict[str, Any], results: Sequence[Result], earlier: str) -> list[Result]:
    """The results, and before them those of an earlier run's JSON lines in rows that were not measured again.

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
