"""A probe shows what a backbone knows before it is fine-tuned: logistic regression on its vectors, in a minute.

    ./setup.sh -m benchmarks.probe --models models/gpt2-tiny runs/pretrain/model

Each text becomes the vector of its last token; vectors are standardised. Prints the best dev accuracy over a few
strengths of regularisation. As the best is chosen on dev, use it to compare backbones, and do not quote it as a result.
"""

from dataclasses import dataclass
from pathlib import Path

from common import cli
from finetuning import settings as classifier

STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3)
"""Of scikit-learn's C: the smaller, the stronger the regularisation."""


@dataclass(frozen=True)
class Settings:
    """Which backbones, on what."""

    models: tuple[Path, ...] = (classifier.TINY,)
    """Folders with models."""
    tasks: tuple[str, ...] = ("sst", "cfimdb")
    """Tasks of classifier.py."""


def probe(folder: Path, name: str) -> float:
    """Return the best dev accuracy on a task."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from benchmarks.ours import make_model_and_optimizer
    from data.tasks import TASKS
    from data.tokenizer import Tokenizer
    from finetuning.features import LastToken, read_splits
    from models.pretrained import read_config
    from training.machine import Machine

    task, machine = TASKS[name], Machine()
    model, _ = make_model_and_optimizer(classifier.Settings(model=str(folder)), task, machine, folder)
    longest = min(task.max_length, read_config(folder).max_position_embeddings)
    splits = read_splits(task, Tokenizer.load(folder), longest)
    train, dev = (splits[split].predict(LastToken(model.gpt), machine, split).numpy() for split in ("train", "dev"))
    scores = []
    for strength in STRENGTHS:
        regression = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
        scores.append(regression.fit(train, splits["train"].labels).score(dev, splits["dev"].labels))
    return max(scores)


def main() -> None:
    """Print a line for each model."""
    parser = cli.Parser(description=__doc__)
    cli.add_arguments(parser, Settings)
    settings = cli.from_arguments(Settings, parser.parse_args())
    for folder in settings.models:
        scores = {task: probe(folder, task) for task in settings.tasks}
        print(f"{folder}: " + ", ".join(f"{task} {score:.3f}" for task, score in scores.items()), flush=True)


if __name__ == "__main__":
    cli.run(main)
