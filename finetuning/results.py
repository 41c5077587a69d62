"""What a run leaves behind: prediction files, the closing table, and the baselines to compare it with."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.files import make_folder, write_atomic
from training.evaluate import Score, score


def prediction_file(folder: Path, mode: str, task: str, split: str) -> Path:
    """Where the predictions of a run go: predictions/full-model-sst-dev-out.csv and so on."""
    return folder / f"{mode}-{task}-{split}-out.csv"


def write_predictions(path: Path, ids: Sequence[str], labels: Sequence[int]) -> None:
    """Write a row `{id}, {label} ` for each example, in the order of the data file: what the course's graders read."""
    rows = "".join(f"{id}, {label} \n" for id, label in zip(ids, labels, strict=True))
    make_folder(path.parent)
    write_atomic(path, "id \t Predicted_Sentiment \n" + rows)


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


@dataclass(frozen=True)
class Result:
    """One task's rows in the closing table."""

    task: str
    majority: Score
    tfidf: Score
    run: Score
    best_epoch: int


def closing_table(results: list[Result], mode: str) -> str:
    """For every task: the majority class, TF-IDF + logistic regression, and this run, on dev."""
    lines = [f"{'dev set':<16}{'':<32}{'accuracy':>18}{'macro-F1':>10}"]
    for result in results:
        rows = (("majority class", result.majority), ("TF-IDF + logistic regression", result.tfidf),
                (f"this run, {mode}, epoch {result.best_epoch}", result.run))
        for number, (name, dev) in enumerate(rows):
            task = f"{result.task} ({dev.examples})" if number == 0 else ""
            lines.append(f"{task:<22}{name:<38}{dev.accuracy:.3f} ± {dev.standard_error:.3f}{dev.macro_f1:>10.3f}")
    lines.append("± is the standard error that comes from the size of the dev set alone; "
                 "the best epoch was chosen on dev, too.")
    return "\n".join(lines)
