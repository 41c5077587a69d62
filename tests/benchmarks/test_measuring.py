"""The measuring itself: turns, processes, choices of batches, targets, tables."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.contenders import Contender, take_turns
from benchmarks.results import (
    BEGIN,
    END,
    Result,
    Target,
    curves,
    exponents,
    json_lines,
    judge_all,
    machine_facts,
    markdown_tables,
    plot,
    put_between,
    spread_of,
    verdicts,
    with_earlier,
)
from benchmarks.workload import padded_tokens, spread, typical_batches
from common.errors import UserError


class Pretender:
    """A contender that holds memory, or fails, when told to."""

    def __init__(self, megabytes: int) -> None:
        self.block = np.ones(megabytes * 125_000)

    def add(self, a: int, b: int) -> int:
        return a + b

    def fail(self) -> None:
        raise ValueError("as asked")

    def die(self) -> None:
        os._exit(1)


def test_a_contender_answers_from_its_own_process() -> None:
    """Would catch lost results, and memory that is the parent's instead of the contender's."""
    parents = np.ones(50_000_000)  # 400 MB
    with Contender("small", 1, Pretender, 1) as small, Contender("large", 1, Pretender, 300) as large:
        seconds, result = small.do("add", 2, 3)
        assert result == 5 and 0 < seconds < 1
        assert large.peak_memory() - small.peak_memory() == pytest.approx(299, abs=40)
    del parents
    assert not small.process.is_alive()


def test_a_contender_that_fails_says_so() -> None:
    """Would catch a benchmark that hangs on, or passes over, a contender's error."""
    with Contender("clumsy", 1, Pretender, 1) as clumsy:
        with pytest.raises(RuntimeError, match="clumsy: ValueError: as asked"):
            clumsy.do("fail")
    with Contender("mortal", 1, Pretender, 1) as mortal:
        with pytest.raises(UserError, match="'mortal' died"):
            mortal.do("die")
    with pytest.raises(RuntimeError, match="unborn: TypeError"), Contender("unborn", 1, Pretender):
        pass


def test_turns_are_taken_in_changing_order() -> None:
    """Would catch one contender always going first, or rounds mixed up."""
    log = []
    moves = {name: lambda name=name: log.append(name) or float(len(log)) for name in "abc"}
    assert take_turns(2, moves) == {"a": (1.0, 6.0), "b": (2.0, 4.0), "c": (3.0, 5.0)}
    assert "".join(log) == "abcbca"


def test_typical_batches_stand_for_the_epoch() -> None:
    """Would catch a choice whose mean size is not the epoch's: the extrapolated time would be as wrong."""
    random = np.random.default_rng(0)
    lengths = random.integers(1, 200, 1003).tolist()
    order = [random.permutation(1003)[i:i + 8].tolist() for i in range(0, 1003, 8)]
    chosen = typical_batches(lengths, order, 6)
    sizes = [padded_tokens(lengths, rows) for rows in order if len(rows) == 8]
    assert len(chosen) == 6 and all(len(rows) == 8 for rows in chosen)
    assert np.mean([padded_tokens(lengths, rows) for rows in chosen]) == pytest.approx(np.mean(sizes), rel=0.01)


def test_spread_takes_all_sizes_alike() -> None:
    """Would catch a subset that favours short or long texts."""
    sizes = list(range(100))[::-1]
    assert spread(sizes, 4) == [12, 37, 62, 87]
    assert spread([3, 1, 2], 5) == [0, 1, 2]


def test_targets_compare_rounds_in_pairs() -> None:
    """Would catch a ratio turned round, or one of medians that drift apart: here the machine slows down by half."""
    results = [Result("r", "ours", (1.0, 2.0, 2.0)), Result("r", "peer", (3.0, 6.0, 6.3))]
    table = {(result.row, result.contender): result for result in results}
    verdict = Target("r", "peer", "faster", 3.0).judge({}, table)
    assert verdict["figure"] == pytest.approx(3.0) and verdict["met"]
    assert Target("r", "peer", "faster", 3.1).judge({}, table)["met"] is False
    assert Target("r", "peer", "cost", 0.3).judge({}, table)["met"] is False
    assert Target("r", "peer", "cost", 0.34).judge({}, table)["met"]
    assert Target("r", "", "limit", 1.9).judge({}, table)["met"] is False
    assert Target("r", "nobody", "cost", 1).judge({}, table) is None


def test_tables_show_rates_and_verdicts() -> None:
    """Would catch a table that reads the wrong way round."""
    results = [Result("training, sst", "ours", (0.1, 0.1), "s/example"),
               Result("training, sst", "course", (0.4, 0.4), "s/example"),
               Result("training, sst", "Hugging Face", (0.12, 0.12), "s/example")]
    facts = machine_facts(1)
    markdown = markdown_tables(facts, results)
    assert "10.00 (10.00 to 10.00) examples/s" in markdown and "2.50 (2.50 to 2.50) examples/s" in markdown
    assert [verdict["met"] for verdict in judge_all(facts, results)] == [True, False]
    assert "| training, sst | at least 2 x as fast as course | 4 x | met |" in markdown
    assert "1.2 x | **missed** |" in markdown
    records = [json.loads(line) for line in json_lines(facts, results).splitlines()]
    assert [next(iter(record)) for record in records] == ["facts"] + ["result"] * 3 + ["target"] * 2


@pytest.mark.parametrize("facts, reason", [
    ({"files": {"sst": "ids-sst-sample-train.csv"}, "shape": "gpt2"}, "set for the real files"),
    ({"files": {"sst": "ids-sst-train.csv"}, "shape": "toy"}, "set for GPT-2 124M"),
])
def test_what_a_target_was_not_set_for_is_not_judged(facts: dict, reason: str) -> None:
    """Would catch a MISSED for texts too short to have padding, and AdamW's targets let off with the others."""
    results = [Result("training, sst", "ours", (1.0,)), Result("training, sst", "course", (1.1,)),
               Result("AdamW step, gpt2", "ours", (2.0,)), Result("AdamW step, gpt2", "course", (1.0,))]
    assert [verdict["met"] for verdict in judge_all(facts, results)] == [False, None]
    assert [outcome for *_, outcome in verdicts(facts, results)] == ["MISSED", f"not judged: {reason}"]
    facts["files"]["sst"], facts["shape"] = "ids-sst-train.csv", "gpt2"
    assert [verdict["met"] for verdict in judge_all(facts, results)] == [False, False]


def test_alike_means_within_the_noise() -> None:
    """Would catch a difference that is called noise, or noise that is called a difference."""
    table = {("r", name): Result("r", name, costs, "share") for name, costs in
             {"a": (0.30, 0.35, 0.40), "b": (0.31, 0.33, 0.41), "c": (0.40, 0.44, 0.50)}.items()}
    assert Target("r", "b", "alike", 0.05, "a").judge({}, table)["met"]
    assert Target("r", "a", "alike", 0.05, "a").judge({}, table)["figure"] == 1
    assert Target("r", "c", "alike", 0.05, "a").judge({}, table)["met"] is False


def test_rows_measured_again_replace_the_earlier_ones() -> None:
    """Would catch a table that mixes machines, keeps a stale row beside its new one, or loses the other rows."""
    facts = {"processor": "x", "load": 0.1, "plan": {"memory_tasks": ("sst", "cfimdb")}}  # JSON has no tuples
    old = [Result("a", "ours", (1.0, 2.0)), Result("b", "ours", (3.0,), "MB", "note")]
    new = [Result("a", "ours", (1.5,))]
    earlier = json_lines(facts, old)
    assert with_earlier({**facts, "load": 0.9}, new, earlier) == [old[1], new[0]]
    with pytest.raises(UserError, match="processor differ"):
        with_earlier({**facts, "processor": "y"}, new, earlier)


def test_tables_go_between_their_marks() -> None:
    """Would catch a page that loses what is written around its tables, or grows with each run."""
    page = f"above\n{BEGIN}old\n{END}below\n"
    once = put_between(page, BEGIN, END, "new\n", "page")
    assert once == f"above\n{BEGIN}new\n{END}below\n" and put_between(once, BEGIN, END, "new\n", "page") == once
    with pytest.raises(UserError, match="page has lost its marks"):
        put_between("above\n", BEGIN, END, "new\n", "page")


def test_quartiles_of_few_rounds() -> None:
    """Would catch a crash where a row is measured once."""
    assert spread_of([2.0]) == (2.0, 2.0, 2.0)
    assert spread_of([1.0, 2.0, 3.0]) == (2.0, 1.5, 2.5)


def test_growth_is_read_off_and_drawn(tmp_path: Path) -> None:
    """Would catch exponents of the wrong axis, or a plot that cannot be made without a display."""
    results = [Result("growth, texts", str(n), (n * 1e-3,)) for n in (64, 128, 256)]
    results += [Result("growth, width", str(n), (n**2 * 1e-6,)) for n in (64, 128)]
    found = curves(results)
    np.testing.assert_allclose(exponents(*found["texts"]), [1, 1])
    np.testing.assert_allclose(exponents(*found["width"]), [2])
    plot(results, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_line(root: Path) -> None:
    """Would catch a row misspelt that passes unnoticed, and a traceback in place of a line."""
    command = [sys.executable, "-m", "benchmarks", "--rows", "adamv"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: --rows: there is no row 'adamv'")
