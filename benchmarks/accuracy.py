"""Measure accuracy: every task and mode, several seeds, the bundled backbone and random weights of its shape.

    ./setup.sh -m benchmarks.accuracy                                the table of models/gpt2-tiny/README.md
    ./setup.sh -m benchmarks.accuracy --tasks sst-sample --seeds 1   a quick look

Runs classifier.py with its defaults, a process for each run; runs that are in the results file already are not
repeated, so an interrupted command goes on where it stopped. Accuracies are on dev, at the best epoch, which is
chosen on dev.
"""

import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Literal

from benchmarks.results import put_between
from common import cli
from common.errors import UserError
from common.files import sha256_file, write_atomic
from data.tasks import TASKS
from finetuning import settings as classifier
from finetuning.recipes import Recipe
from models.hub import LIKE

ROOT = classifier.REPOSITORY
PAGES = (ROOT / "README.md", ROOT / "models" / "gpt2-tiny" / "README.md")
BEGIN, END = "<!-- accuracy -->\n", "<!-- end of accuracy -->"
MODES = ("last-linear-layer", "full-model")
COURSE = {  # published dev accuracies of the course, GPT-2 124M
    ("sst", "last-linear-layer"): 0.462, ("sst", "full-model"): 0.513,
    ("cfimdb", "last-linear-layer"): 0.861, ("cfimdb", "full-model"): 0.976,
}


@dataclass(frozen=True)
class Settings:
    """Which runs to make."""

    model: Path = classifier.TINY
    """The backbone."""
    tasks: tuple[str, ...] = ("sst", "cfimdb", "sst-sample", "cfimdb-sample")
    """Tasks of classifier.py."""
    modes: tuple[Literal["last-linear-layer", "full-model"], ...] = MODES
    """Fine-tune modes."""
    backbones: tuple[Literal["pretrained", "random"], ...] = ("pretrained", "random")
    """The backbone's own weights, or random ones of the same shape."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of fine-tuning."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the matrix products."""
    write: bool = False
    """Put the table into README.md and the model card."""
    results: Path = ROOT / "benchmarks" / "results" / "accuracy.jsonl"
    """One line for each run; new runs are added."""


def run_python(*words: str, env: dict[str, str] | None = None) -> str:
    """Run Python in the repository and return what it prints; UserError with its last words if it fails."""
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, env=env)
    if done.returncode:
        raise UserError(f"`{' '.join(words)}` failed:\n{done.stderr.strip()[-500:]}")
    return done.stdout


def one_run(settings: Settings, task: str, mode: str, backbone: str, seed: int) -> dict:
    """Run classifier.py once, and return what it found as a line for the results file."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        run_python("classifier.py", "--model", str(settings.model), "--data", task, "--fine-tune-mode", mode,
                   "--seed", str(seed), "--precision", settings.precision, "--no-report",
                   "--out", f"{folder}/runs", "--predictions", f"{folder}/predictions",
                   *(["--random-backbone"] if backbone == "random" else []))
        seconds = time.monotonic() - started
        run = Path(folder, "runs", f"{task}-{mode}")
        result = json.loads((run / "result.json").read_text())
        recipe = asdict(recipe_now(settings.model, task, mode, backbone))
        ran = json.loads((run / "run.json").read_text())["identity"]["recipe"]  # not with what does not decide a step
        if not ran.items() <= recipe.items():
            raise UserError(f"{task}, {mode}: the run had the settings {ran}, not {recipe}")
    return {"task": task, "mode": mode, "backbone": backbone, "seed": seed, "precision": settings.precision,
            "accuracy": result["run"]["accuracy"], "macro_f1": result["run"]["macro_f1"],
            "examples": result["run"]["examples"], "best_epoch": result["best_epoch"],
            "majority": result["majority"]["accuracy"], "tfidf": result["tfidf"]["accuracy"],
            "recipe": recipe, "seconds": round(seconds, 1), "source": source(settings.model, backbone)}


def source(model: Path, backbone: str) -> str:
    """Return the SHA-256 of what decides the backbone: its weights, or only its shape where they are random."""
    if backbone == "pretrained":
        return sha256_file(model / "model.safetensors")
    shape = json.loads((model / "config.json").read_text(encoding="utf-8"))
    shape.pop(LIKE, None)  # only says which settings suit the weights
    return hashlib.sha256((json.dumps(shape, indent=2) + "\n").encode()).hexdigest()


def recipe_now(model: Path, task: str, mode: str, backbone: str) -> Recipe:
    """Return the settings of training that are the defaults today."""
    settings = classifier.Settings(model=str(model), fine_tune_mode=mode, random_backbone=backbone == "random")
    return settings.recipe(TASKS[task])


def read_results(path: Path, model: Path) -> list[dict]:
    """Return the runs in the results file that would be the same today.

    These had this model's weights, or random ones of its shape, and the settings that are the defaults now.
    """
    sources = {source(model, backbone) for backbone in ("pretrained", "random")}
    lines = path.read_text().splitlines() if path.exists() else []
    runs = []
    for run in map(json.loads, lines):
        now = recipe_now(model, run["task"], run["mode"], run["backbone"])
        if run["source"] in sources and Recipe(**run["recipe"]) == now:
            runs.append(run)
    return runs


def table(runs: list[dict]) -> str:
    """Write mean and standard deviation over seeds, as a Markdown table."""
    def cell(task: str, mode: str, backbone: str) -> str:
        found = [run["accuracy"] for run in runs
                 if (run["task"], run["mode"], run["backbone"]) == (task, mode, backbone)]
        if not found:
            return ""
        spread = f" ± {statistics.stdev(found):.3f}" if len(found) > 1 else ""
        return f"{statistics.mean(found):.3f}{spread} ({len(found)})"

    lines = ["| dev accuracy | majority | TF-IDF | random backbone | gpt2-tiny | course, GPT-2 124M |",
             "|---|---|---|---|---|---|"]
    rows = {(run["task"], run["mode"]) for run in runs}
    for task, mode in sorted(rows, key=lambda row: (Settings.tasks.index(row[0]), MODES.index(row[1]))):
        some = next(run for run in runs if run["task"] == task)
        course = COURSE.get((task, mode))
        lines.append(f"| {task}, {mode} | {some['majority']:.3f} | {some['tfidf']:.3f} | {cell(task, mode, 'random')} "
                     f"| {cell(task, mode, 'pretrained')} | {'' if course is None else f'{course:.3f}'} |")
    return "\n".join(lines)


def main() -> None:
    """Make the runs that are missing, then print the table."""
    parser = cli.Parser(description=__doc__)
    cli.add_arguments(parser, Settings)
    settings = cli.from_arguments(Settings, parser.parse_args())
    runs = read_results(settings.results, settings.model)
    done = {(run["task"], run["mode"], run["backbone"], run["seed"]) for run in runs}
    settings.results.parent.mkdir(parents=True, exist_ok=True)
    for seed, backbone, task, mode in product(settings.seeds, settings.backbones, settings.tasks, settings.modes):
        if (task, mode, backbone, seed) in done:
            continue
        run = one_run(settings, task, mode, backbone, seed)
        runs.append(run)
        with open(settings.results, "a", encoding="utf-8") as file:
            file.write(json.dumps(run) + "\n")
        print(f"{task}, {mode}, {backbone}, seed {seed}: {run['accuracy']:.3f} "
              f"at epoch {run['best_epoch']} ({run['seconds']:.0f} s)", flush=True)
    print(table(runs))
    if settings.write:
        for path in PAGES:
            text = path.read_text(encoding="utf-8")
            write_atomic(path, put_between(text, BEGIN, END, table(runs) + "\n", str(path)))


if __name__ == "__main__":
    cli.run(main)
