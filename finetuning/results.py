"""What a run leaves behind: prediction files, its model, the closing table, and the baselines to compare it with."""

import csv
import io
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

from torch import Tensor

from common.errors import quoted
from common.files import make_folder, write_atomic
from common.terminal import say
from data.tasks import Task
from data.tokenizer import Tokenizer
from finetuning.model import Model
from finetuning.recipes import Recipe
from finetuning.settings import REPOSITORY, Settings
from models import fine_tuned
from models.config import GPT2Config
from training.evaluate import Score, score
from training.machine import Machine
from training.parallel.sharding import full_tensor_on_main


def write_predictions(path: Path, ids: Sequence[str], labels: Sequence[int]) -> None:
    """Write a row `{id}, {label} ` for each example, in the order of the data file: what the course's graders read."""
    rows = "".join(f"{id}, {label} \n" for id, label in zip(ids, labels, strict=True))
    make_folder(path.parent)
    write_atomic(path, "id \t Predicted_Sentiment \n" + rows)


def table_header(label_names: Sequence[str]) -> list[str]:
    """Return the columns of a table of predictions: id, label (its number), name, and a probability for each name."""
    return ["id", "label", "name", *(f"p_{name}" for name in label_names)]


def table_row(id: str, label: int, probabilities: Sequence[float], label_names: Sequence[str]) -> list[str]:
    """Return one row of it."""
    return [id, str(label), label_names[label], *(f"{p:.6f}" for p in probabilities)]


def write_table(path: Path, ids: Sequence[str], logits: Tensor, label_names: Sequence[str]) -> None:
    """Write what was predicted as CSV, to be read by any program; logits: [N, num_labels], in the order of the ids."""
    content = io.StringIO()
    rows = csv.writer(content, lineterminator="\n")
    rows.writerow(table_header(label_names))
    rows.writerows(table_row(id, label, probabilities, label_names) for id, label, probabilities in zip(
        ids, logits.argmax(dim=1).tolist(), logits.double().softmax(dim=1).tolist(), strict=True))
    make_folder(path.parent)
    write_atomic(path, content.getvalue())


def write_model(folder: Path, settings: Settings, task: Task, recipe: Recipe, model: Model, config: GPT2Config,
                tokenizer: Tokenizer, machine: Machine) -> None:
    """Write the trained classifier, so that predicting needs nothing but this folder. All processes call it."""
    answers = model.answers(config).tolist()
    weights = {name: full_tensor_on_main(weight) for name, weight in model.weights().items()}
    if machine.group.is_main:
        fine_tuned.write(folder, fine_tuned.Description(
            task.name, task.names, task.spellings or task.names, task.lowercase, task.rules.names, task.max_length,
            task.keep_end, settings.fine_tune_mode, recipe.dropout, model.place, tuple(map(tuple, answers))),
            config, weights, tokenizer.files(task.max_length))
        how = f": ./setup.sh predict.py --run {shlex.quote(str(folder.parent))} TEXT"
        say(f"the model in {folder}{how if (REPOSITORY / 'predict.py').exists() else ''}")


def majority_class(train_labels: Sequence[int], dev_labels: Sequence[int]) -> Score:
    """Score the answer that is always the most frequent training label (the smallest of them, if several are)."""
    counts = Counter(train_labels)
    answer = min(counts, key=lambda label: (-counts[label], label))
    return score(dev_labels, [answer] * len(dev_labels))


def tfidf_logistic_regression(train_texts: Sequence[str], train_labels: Sequence[int], dev_texts: Sequence[str],
                              dev_labels: Sequence[int]) -> Score:
    """Score logistic regression on TF-IDF weights of words and pairs of words (scikit-learn's default strength)."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    if len(set(train_labels)) < 2:
        return majority_class(train_labels, dev_labels)
    # Any run of word characters or any single other sign is a word: "!" and "n't" carry sentiment.
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")
    model = make_pipeline(words, LogisticRegression(max_iter=1000)).fit(train_texts, train_labels)
    return score(dev_labels, model.predict(dev_texts).tolist())


def labels_left_out(predicted: Sequence[int], labels: Sequence[int], names: Sequence[str]) -> str | None:
    """Return a warning if some labels of dev are never predicted; None if all are."""
    there, said = set(labels), set(predicted)
    if there <= said:
        return None
    if len(said) == 1:
        what = (f"predicts one label only, {quoted(names[said.pop()], 40)}; try a higher rate (--lr find shows one), "
                "more --epochs, or --class-weights balanced with --select-by macro-f1")
    else:
        left = ", ".join(quoted(names[label], 40) for label in sorted(there - said)[:5])
        what = (f"predicts {len(there & said)} of {len(there)} labels, never {left}; try --class-weights balanced with "
                "--select-by macro-f1")
    return fill(f"warning: this run {what}", 79, subsequent_indent="  ")


def no_better(run: Score, majority: Score) -> str | None:
    """Return a warning if a run is not better than the majority class; None if it is."""
    if run.accuracy > majority.accuracy:
        return None
    return fill("warning: this run is not better than the majority class; try more --epochs, another rate (--lr find "
                "shows one), --class-weights balanced, or more data", 79, subsequent_indent="  ")


@dataclass(frozen=True)
class Result:
    """One task's rows in the closing table."""

    task: str
    majority: Score
    tfidf: Score
    run: Score
    best_epoch: int
    test: Score | None = None
    "If the test file has labels: the run on it."


def closing_table(results: list[Result], mode: str) -> str:
    """For every task: majority class, TF-IDF + logistic regression and this run on dev; this run on a labelled test."""
    lines = [f"{'dev set':<22}{'':<30}{'accuracy':<17}{'macro-F1':>10}"]
    for result in results:
        name = f"{mode}, epoch {result.best_epoch}"
        rows = [("majority class", result.majority), ("TF-IDF + logistic regression", result.tfidf),
                (name, result.run)]
        tasks = [f"{result.task} ({result.run.examples})", "", ""]
        if result.test is not None:
            rows.append((name, result.test))
            tasks.append(f"its test file ({result.test.examples})")
        for task, (name, found) in zip(tasks, rows, strict=True):
            low, high = found.interval
            lines.append(f"{task:<22}{name:<30}{found.accuracy:.3f} ({low:.2f}-{high:.2f}){found.macro_f1:>10.3f}")
    lines += ["In brackets: the 95% interval that comes from the size of the dev set alone.",
              "The best epoch was chosen on dev, too."]
    return "\n".join(lines)
