"""What a backbone knows before anybody fine-tunes it: logistic regression on its frozen vectors, in a minute.

    ./setup.sh -m benchmarks.probe --models models/gpt2-tiny runs/pretrain/model

Each text becomes the vector of its last token; the vectors of train are standardised. Prints the best dev accuracy over
a few strengths of regularisation, chosen on dev: good for comparing backbones, not to be quoted as a result.
"""

from dataclasses import dataclass
from pathlib import Path

from common import cli

STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3)
"""Of scikit-learn's C: the smaller, the stronger the regularisation."""


@dataclass(frozen=True)
class Settings:
    """Which backbones, on what."""

    models: tuple[Path, ...] = (Path(__file__).resolve().parent.parent / "models" / "gpt2-tiny",)
    """Folders with models."""
    tasks: tuple[str, ...] = ("sst", "cfimdb")
    """Tasks of classifier.py."""


def probe(folder: Path, name: str) -> float:
    """The best dev accuracy on a task."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from data.tasks import TASKS
    from data.tokenizer import Tokenizer
    from models.last_token import LastTokenGPT2
    from training.device import Machine
    from training.features import LastToken
    from training.splits import read_splits

    backbone, task, machine = LastTokenGPT2.from_pretrained(str(folder)), TASKS[name], Machine.choose("cpu", "float32")
    longest = min(task.max_length, backbone.config.max_position_embeddings)
    splits = read_splits(task, Tokenizer.load(folder), longest)
    train, dev = (splits[split].predict(LastToken(backbone), machine, split).numpy() for split in ("train", "dev"))
    scores = []
    for strength in STRENGTHS:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
        scores.append(model.fit(train, splits["train"].labels).score(dev, splits["dev"].labels))
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
