"""Which shape for a small backbone: short pretraining runs that differ in one thing each, then a probe of each.

    ./setup.sh -m benchmarks.ablations --text FILE [FILE ...]

Runs that are in the results file already are not repeated. Losses are given per token of the base, because a larger
vocabulary makes fewer and harder tokens of the same text.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accuracy import ROOT, run_script
from benchmarks.probe import probe
from common import cli

BASE = {"hidden_size": 320, "num_hidden_layers": 4, "num_attention_heads": 5, "vocab_size": 8192, "long_share": 0.6,
        "bag_weight": 0.5, "rating_weight": 4.0}
CHANGES: tuple[dict[str, float], ...] = (
    {}, {"hidden_size": 256, "num_attention_heads": 4}, {"hidden_size": 448, "num_attention_heads": 7},
    {"num_hidden_layers": 2}, {"num_hidden_layers": 6}, {"vocab_size": 4096}, {"vocab_size": 16384},
    {"long_share": 0.0}, {"long_share": 1.0}, {"rating_weight": 0.0},
)
"""What is changed of BASE, one thing in each run (the number of heads follows the width)."""


@dataclass(frozen=True)
class Settings:
    """Which runs to make."""

    text: tuple[Path, ...]
    """Text files, as for pretrain.py."""
    tokens: float = 8e5
    """Tokens of each run."""
    tasks: tuple[str, ...] = ("sst", "cfimdb")
    """Tasks for the probe."""
    results: Path = ROOT / "benchmarks" / "results" / "ablations.jsonl"
    """One line for each run; new runs are added."""


def one_run(settings: Settings, change: dict[str, float]) -> dict:
    """Pretrain once and probe the result; a line for the results file."""
    with tempfile.TemporaryDirectory() as folder:
        flags = {"tokens": settings.tokens, "batch_tokens": 2048, "eval_every": 10**6, "precision": "float32",
                 **BASE, **change}
        command = ["pretrain.py", "--text", *map(str, settings.text), "--out", folder,
                   *(word for name, value in flags.items() for word in (f"--{name}", str(value)))]
        run_script(*command)
        out = Path(folder)
        (log,) = map(json.loads, (out / "log.jsonl").read_text().splitlines())
        times = json.loads((out / "times.jsonl").read_text().splitlines()[-1])
        (ids,) = (out / "ids").glob("*-held-out.bin")
        return {"change": change, "tokens": log["tokens"], "held_out_loss": log["held_out_loss"],
                "held_out_tokens": ids.stat().st_size // 2,
                "seconds": times["seconds"], "weights_mb": (out / "model" / "model.safetensors").stat().st_size / 1e6,
                "probe": {task: probe(out / "model", task) for task in settings.tasks}}


def table(runs: list[dict]) -> str:
    """The runs as a Markdown table; the first one is the base."""
    base = next(run for run in runs if not run["change"])
    lines = ["| changed | weights | held-out loss, per token of the base | "
             + " | ".join(f"{task}, frozen" for task in base["probe"]) + " |",
             "|---|---:|---:|" + "---:|" * len(base["probe"])]
    for run in runs:
        changed = ", ".join(f"{name} {value:g}" for name, value in run["change"].items()
                            if name != "num_attention_heads")
        # Text of which the base makes one token; the same for all, so that losses can be compared.
        loss = run["held_out_loss"] * run["held_out_tokens"] / base["held_out_tokens"]
        lines.append(f"| {changed or 'nothing'} | {run['weights_mb']:.1f} MB | {loss:.3f} | "
                     + " | ".join(f"{score:.3f}" for score in run["probe"].values()) + " |")
    return "\n".join(lines)


def main() -> None:
    """Make the runs that are missing, then print the table."""
    parser = cli.Parser(description=__doc__)
    cli.add_arguments(parser, Settings)
    settings = cli.from_arguments(Settings, parser.parse_args())
    runs = [json.loads(line) for line in settings.results.read_text().splitlines()] if settings.results.exists() else []
    for change in CHANGES:
        if any(run["change"] == change for run in runs):
            continue
        run = one_run(settings, change)
        runs.append(run)
        with open(settings.results, "a", encoding="utf-8") as file:
            file.write(json.dumps(run) + "\n")
        print(f"{change}: {run['held_out_loss']:.3f}, {run['probe']} ({run['seconds']:.0f} s)", flush=True)
    print(table(runs))


if __name__ == "__main__":
    cli.run(main)
