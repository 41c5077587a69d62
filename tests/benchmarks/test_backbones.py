"""What compares backbones: accuracies keyed by what decides them, and probes that see knowledge."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import accuracy
from benchmarks.probe import probe
from finetuning.recipes import COURSE_DEFAULTS
from models.hub import LIKE


@pytest.fixture
def toy(root: Path, tmp_path: Path) -> Path:
    """The folder of a small GPT-2 with random weights and gpt2-tiny's tokenizer."""
    from models.config import GPT2Config
    from models.gpt2 import GPT2Model
    from models.pretrained import save_pretrained

    shape = GPT2Config(vocab_size=16384, hidden_size=64, num_hidden_layers=1, num_attention_heads=2,
                       max_position_embeddings=512)
    tokenizer = root / "models" / "gpt2-tiny" / "tokenizer.json"
    save_pretrained(GPT2Model(shape), tmp_path / "toy", tokenizer_file=tokenizer)
    return tmp_path / "toy"


def test_a_probe_sees_what_a_backbone_knows(root: Path, toy: Path) -> None:
    """Catches a probe of the wrong vectors or labels: the bundled weights must show more than random ones can."""
    assert probe(root / "models" / "gpt2-tiny", "sst-sample") > probe(toy, "sst-sample") + 0.05


def test_a_run_is_made_once(root: Path, toy: Path, tmp_path: Path) -> None:
    """Catches a line that a later command does not know again, so that hours of runs would be repeated."""
    command = [sys.executable, "-m", "benchmarks.accuracy", "--results", str(tmp_path / "runs.jsonl"),
               "--model", str(toy), "--tasks", "sst-sample", "--seeds", "1", "--modes", "last-linear-layer",
               "--backbones", "pretrained"]
    first, second = (subprocess.run(command, cwd=root, capture_output=True, text=True) for _ in range(2))
    assert "sst-sample, last-linear-layer, pretrained, seed 1" in first.stdout, first.stderr
    (line,) = (tmp_path / "runs.jsonl").read_text().splitlines()
    run = json.loads(line)
    assert second.stdout.splitlines() == accuracy.table([run]).splitlines() == first.stdout.splitlines()[1:]
    assert run["examples"] == 120 and run["recipe"] == asdict(COURSE_DEFAULTS["last-linear-layer"])


def run_line(source: str, **values: object) -> dict:
    return {"task": "sst", "mode": "full-model", "backbone": "pretrained", "seed": 1, "accuracy": 0.5, "majority": 0.25,
            "tfidf": 0.4, "source": source, "recipe": asdict(COURSE_DEFAULTS["full-model"]), **values}


def test_runs_of_other_weights_or_settings_are_left_out(tmp_path: Path, root: Path) -> None:
    """Catches accuracies of an older model or of older defaults in the table of newer ones, random backbones tied to
    weights, and a line from before a setting existed that is taken for another setting.
    """
    model = tmp_path / "model"
    shutil.copytree(root / "models" / "gpt2-tiny", model)
    config = json.loads((model / "config.json").read_text())
    del config[LIKE]  # so that it is some model, with the course's settings
    (model / "config.json").write_text(json.dumps(config))
    lines = [run_line(accuracy.source(model, "pretrained")),
             run_line(accuracy.source(model, "random"), backbone="random")]
    del lines[1]["recipe"]["word_dropout"]
    other = run_line(lines[0]["source"], recipe=lines[0]["recipe"] | {"lr": 0.5})
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [other, *lines]))
    assert accuracy.read_results(tmp_path / "runs.jsonl", model) == lines
    with open(model / "model.safetensors", "ab") as file:
        file.write(b"more")
    assert accuracy.read_results(tmp_path / "runs.jsonl", model) == lines[1:]
    assert accuracy.read_results(tmp_path / "none.jsonl", model) == []


def test_the_table_gives_mean_spread_and_number_of_seeds() -> None:
    """Catches backbones or modes mixed up, a spread of one run, and rows in the order in which runs happened to end."""
    runs = [run_line("a", seed=seed, accuracy=value) for seed, value in enumerate((0.4, 0.5, 0.6))]
    runs.append(run_line("b", backbone="random", accuracy=0.3))
    runs.append(run_line("a", mode="last-linear-layer", accuracy=0.45))
    assert accuracy.table(runs).splitlines()[2:] == [
        "| sst, last-linear-layer | 0.250 | 0.400 |  | 0.450 (1) | 0.462 |",
        "| sst, full-model | 0.250 | 0.400 | 0.300 (1) | 0.500 ± 0.100 (3) | 0.513 |"]


def test_a_command_that_fails_is_shown(tmp_path: Path) -> None:
    """Catches a benchmark that records a run which did not happen."""
    settings = accuracy.Settings(model=tmp_path, tasks=("sst-sample",))
    with pytest.raises(accuracy.UserError, match=r"classifier\.py .*failed"):
        accuracy.one_run(settings, "sst-sample", "full-model", "pretrained", 1)
