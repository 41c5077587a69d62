"""What compares backbones: accuracies keyed by what decides them, probes that see knowledge, losses that compare."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import accuracy
from benchmarks.ablations import table
from benchmarks.probe import probe
from data.tasks import COURSE_DEFAULTS


def test_a_probe_sees_what_a_backbone_knows(root: Path, tmp_path: Path) -> None:
    """Catches a probe of the wrong vectors or labels: the bundled weights must show more than random ones can."""
    from models.config import GPT2Config
    from models.gpt2 import GPT2Model
    from models.pretrained import save_pretrained

    tiny = root / "models" / "gpt2-tiny"
    shape = GPT2Config(vocab_size=16384, hidden_size=64, num_hidden_layers=1, num_attention_heads=2,
                       max_position_embeddings=512)
    save_pretrained(GPT2Model(shape), tmp_path / "random", tokenizer_file=tiny / "tokenizer.json")
    assert probe(tiny, "sst-sample") > probe(tmp_path / "random", "sst-sample") + 0.05


def test_losses_of_other_vocabularies_are_compared_on_the_same_text() -> None:
    """Catches a vocabulary of half as many, harder tokens that seems worse than it is: 8 nats for twice the text."""
    common = {"tokens": 100, "seconds": 1.0, "weights_mb": 1.5, "probe": {"sst": 0.4}}
    runs = [{**common, "change": {}, "held_out_loss": 5.0, "held_out_tokens": 1000},
            {**common, "change": {"vocab_size": 16384}, "held_out_loss": 8.0, "held_out_tokens": 500}]
    lines = table(runs).splitlines()
    assert lines[2] == "| nothing | 1.5 MB | 5.000 | 0.400 |"
    assert lines[3] == "| vocab_size 16384 | 1.5 MB | 4.000 | 0.400 |"


def run_line(source: str, **values: object) -> dict:
    return {"task": "sst", "mode": "full-model", "backbone": "pretrained", "seed": 1, "accuracy": 0.5, "majority": 0.25,
            "tfidf": 0.4, "source": source, "recipe": asdict(COURSE_DEFAULTS["full-model"]), **values}


def test_runs_of_other_weights_or_settings_are_left_out(tmp_path: Path, root: Path) -> None:
    """Catches accuracies of an older model or of older defaults in the table of newer ones, random backbones tied to
    weights, and a line from before a setting existed that is taken for another setting.
    """
    model = tmp_path / "model"
    shutil.copytree(root / "models" / "gpt2-tiny", model)
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
