"""What a run leaves behind: prediction files, its model, the closing table, and the baselines to compare it with."""

import csv
import io
import json
import re
import shlex
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

from safetensors.torch import save
from torch import Tensor

from common.errors import quoted
from common.files import make_folder, read_bounded, write_atomic
from common.terminal import can_show, say
from data.reader import Example
from finetuning.job import Job
from finetuning.settings import REPOSITORY
from models import fine_tuned
from training.evaluate import Score
from training.parallel.sharding import full_tensor_on_main

WORD = r"\w+|[^\w\s]"
"""A word for TF-IDF: any run of word characters, or any single other sign, as "!" and "n't" carry sentiment."""


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


def write_model(folder: Path, job: Job) -> None:
    """Write the trained classifier, so that predicting needs nothing but this folder. All processes call it."""
    task, model = job.task, job.model
    answers = model.answers(job.config).tolist()
    weights = {name: full_tensor_on_main(weight) for name, weight in model.weights().items()}
    if job.machine.group.is_main:
        fine_tuned.write(folder, fine_tuned.Description(
            task.name, task.names, task.spellings or task.names, task.lowercase, task.rules.names, task.max_length,
            task.keep_end, job.settings.fine_tune_mode, job.recipe.dropout, model.place, tuple(map(tuple, answers))),
            job.config, weights, job.tokenizer.files(task.max_length))
        how = f"; to use it:\n  ./setup.sh predict.py --run {shlex.quote(str(folder.parent))} TEXT"
        say(f"the model in {folder}{how if (REPOSITORY / 'predict.py').exists() else ''}")


def majority_class(train_labels: Sequence[int], texts: int) -> list[int]:
    """Return the most frequent training label (the smallest of them, if several are) as the answer to each text."""
    counts = Counter(train_labels)
    return [min(counts, key=lambda label: (-counts[label], label))] * texts


def tfidf_logistic_regression(train_texts: Sequence[str], train_labels: Sequence[int],
                              texts: Sequence[str]) -> list[int]:
    """Return the answers of logistic regression on TF-IDF weights of words and pairs of words (scikit-learn's default
    strength)."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    if len(set(train_labels)) < 2:
        return majority_class(train_labels, len(texts))
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=WORD)
    model = make_pipeline(words, LogisticRegression(max_iter=1000)).fit(train_texts, train_labels)
    return model.predict(texts).tolist()


def write_epoch(folder: Path, epoch: int, logits: Tensor) -> None:
    """Keep the logits [N, num_labels] that an epoch's weights give for dev; `report` draws from them how answers
    change. One small file for each epoch: an epoch that is trained again writes the same bytes again."""
    make_folder(folder)
    write_atomic(folder / f"epoch-{epoch:04}.safetensors", save({"dev": logits.contiguous()}))


def write_examples(folder: Path, dev: Sequence[Example], train_texts: Sequence[str], tokens: Sequence[int],
                   majority: Sequence[int], tfidf: Sequence[int]) -> None:
    """Write a line of JSON for each text of dev, in order: what `report` needs to know of it besides the logits.

    tokens: its length as the model reads it. rarest: how many training texts hold the text's rarest word, 0 for a word
    that training never saw; None for a text without a word. majority and tfidf: the labels that the baselines give.
    """
    known = Counter(word for text in train_texts for word in words_of(text))
    rows = ({"id": example.id, "text": example.text, "label": example.label, "tokens": length,
             "rarest": min((known[word] for word in words_of(example.text)), default=None),
             "majority": first, "tfidf": second}
            for example, length, first, second in zip(dev, tokens, majority, tfidf, strict=True))
    write_atomic(folder / "examples.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def words_of(text: str) -> set[str]:
    """Return the different words of a text in lower case."""
    return set(re.findall(r"\w+", text.lower()))


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
    """One run's rows in the closing table."""

    task: str
    majority: Score
    tfidf: Score
    run: Score
    best_epoch: int
    test: Score | None = None
    "If the test file has labels: the run on it."

    @classmethod
    def read(cls, record: dict[str, Any]) -> "Result":
        """Return the result that a result.json holds. TypeError or KeyError if it holds another thing."""
        scores = [Score(float(score["accuracy"]), float(score["macro_f1"]), int(score["examples"]))
                  for score in (record["majority"], record["tfidf"], record["run"], *filter(None, [record["test"]]))]
        return cls(str(record["task"]), *scores[:3], int(record["best_epoch"]), *scores[3:])


def finished(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """Return what a result.json holds if it is that of a finished run with this fingerprint; None if not."""
    try:
        record = json.loads(read_bounded(path, 1 << 20, follow=False))
        Result.read(record)
        return record if record["fingerprint"] == fingerprint else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def copy_predictions(source: Path, target: Path) -> None:
    """Write the prediction files that a run has kept into the folder where they are looked for."""
    make_folder(target)
    for path in sorted(source.glob("*.csv")):
        write_atomic(target / path.name, read_bounded(path, 1 << 30, follow=False))


def closing_table(tasks: Sequence[Sequence[Result]], mode: str) -> str:
    """For every task, of which there are results of one or more seeds: majority class, TF-IDF + logistic regression and
    this run on dev; this run on a labelled test."""
    lines = [f"{'dev set':<22}{'':<30}{'accuracy':<17}{'macro-F1':>10}"]
    for results in tasks:
        first, several = results[0], len(results) > 1
        name = f"{mode}, {len(results)} seeds" if several else f"{mode}, epoch {first.best_epoch}"
        rows = [(f"{first.task} ({first.run.examples})", "majority class", one(first.majority)),
                ("", "TF-IDF + logistic regression", one(first.tfidf)),
                ("", name, spread([result.run for result in results]))]
        if first.test is not None:
            rows.append((f"its test file ({first.test.examples})", name, spread([result.test for result in results])))
        lines += [f"{task:<22}{name:<30}{found}" for task, name, found in rows]
    lines += ["In brackets: the 95% interval that comes from the size of the dev set alone.",
              "The best epoch was chosen on dev, too."]
    if any(len(results) > 1 for results in tasks):
        lines.insert(-1, f"After {plus_minus()}: the standard deviation of the seeds.")
    return "\n".join(lines)


def one(score: Score) -> str:
    """Return a score for the table, 27 characters: accuracy with its interval, macro-F1."""
    low, high = score.interval
    return f"{score.accuracy:.3f} ({low:.2f}-{high:.2f}){score.macro_f1:>10.3f}"


def spread(scores: Sequence[Score]) -> str:
    """Return the mean and the standard deviation of several scores for the table; of one score, the score."""
    if len(scores) == 1:
        return one(scores[0])
    columns = []
    for values in ([score.accuracy for score in scores], [score.macro_f1 for score in scores]):
        deviation = f"{statistics.stdev(values):.3f}".removeprefix("0")
        columns.append(f"{statistics.mean(values):.3f} {plus_minus()} {deviation}")
    return f"{columns[0]:<13} {columns[1]:>13}"


def plus_minus() -> str:
    """Return the sign, or its two parts where the output's encoding lacks it."""
    return "\u00b1" if can_show("\u00b1") else "+-"
