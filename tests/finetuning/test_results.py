"""Prediction files, byte for byte; what results are compared with, on data whose answers are known; the table."""

import csv
import re
from dataclasses import replace

import pytest
import torch

from common.errors import UserError
from finetuning import results
from finetuning.results import (
    Result,
    closing_table,
    labels_left_out,
    majority_class,
    no_better,
    tfidf_logistic_regression,
    write_predictions,
    write_table,
)
from finetuning.settings import prediction_file
from training.evaluate import Score, score


def test_the_bytes_are_what_the_course_graders_read(tmp_path):
    """Catches a lost trailing space, a comma for the tab, CRLF, or ids that lose their form."""
    path = tmp_path / "full-model-sst-dev-out.csv"
    write_predictions(path, ["001", "d8f3", "zo\u00eb"], [0, 4, 2])
    assert path.read_bytes() == (b"id \t Predicted_Sentiment \n" b"001, 0 \n" b"d8f3, 4 \n" b"zo\xc3\xab, 2 \n")


@pytest.mark.parametrize("mode, task, split, name", [
    ("full-model", "sst", "dev", "full-model-sst-dev-out.csv"),
    ("last-linear-layer", "cfimdb", "test", "last-linear-layer-cfimdb-test-out.csv")])
def test_the_names_are_what_the_course_graders_open(tmp_path, mode, task, split, name):
    """Catches parts of the name in another order, or underscores."""
    assert prediction_file(tmp_path, mode, task, split) == tmp_path / name


def test_missing_folders_are_made_and_old_files_replaced(tmp_path):
    """Catches the course's crash where predictions/ does not exist, and rows appended to an older run's."""
    path = tmp_path / "a" / "b" / "out.csv"
    for labels in ([1, 1, 1], [0]):
        write_predictions(path, ["x", "y", "z"][:len(labels)], labels)
    assert path.read_text() == "id \t Predicted_Sentiment \nx, 0 \n"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path):
    """Catches a traceback; the message must name the folder."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot make the folder .*file"):
        write_predictions(tmp_path / "file" / "out.csv", ["x"], [0])


def test_a_file_that_cannot_be_written_is_a_user_error(tmp_path):
    """Catches a traceback where the name is taken by a folder."""
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*out\.csv"):
        write_predictions(tmp_path / "out.csv", ["x"], [0])
    assert list(tmp_path.iterdir()) == [tmp_path / "out.csv"]


@pytest.mark.parametrize("labels", [[0], [0, 1, 2]])
def test_too_few_or_too_many_labels_write_nothing(tmp_path, labels):
    """Catches a file that ends early and looks complete."""
    with pytest.raises(ValueError):
        write_predictions(tmp_path / "out.csv", ["x", "y"], labels)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    """Catches rows written straight into the file: half of them would be taken for a result."""
    path = tmp_path / "out.csv"
    write_predictions(path, ["x"], [1])

    def full_disk(path, content):
        raise UserError("no space left")

    monkeypatch.setattr(results, "write_atomic", full_disk)
    with pytest.raises(UserError):
        write_predictions(path, ["x"], [0])
    assert path.read_text() == "id \t Predicted_Sentiment \nx, 1 \n"


def test_majority_class():
    """Catches the majority of the dev labels, or a macro-F1 that ignores the classes never answered."""
    answers = majority_class([2, 2, 2, 0, 1], 4)
    assert answers == [2, 2, 2, 2]
    result = score([0, 0, 0, 2], answers)
    assert result.accuracy == 1 / 4 and result.macro_f1 == pytest.approx((0 + 2 * 1 / (1 + 4)) / 2)


@pytest.mark.parametrize("train", [[3, 1, 3, 1], [1, 3, 1, 3]])
def test_ties_go_to_the_smallest_label(train):
    """Catches an answer that depends on the order of the file."""
    assert majority_class(train, 2) == [1, 1]


def test_tfidf_learns_words_and_signs():
    """Catches a vectorizer that drops "!" or one-letter words, or a model fitted on dev: only these tell apart."""
    train = ["the film !", "a film !", "the end !", "the film .", "a film .", "the end ."] * 3
    labels = [1, 1, 1, 0, 0, 0] * 3
    assert tfidf_logistic_regression(train, labels, ["a new plot !", "this plot .", "end ."]) == [1, 0, 0]


def test_tfidf_learns_pairs_of_words():
    """Catches single words only: every word occurs equally often with both labels."""
    train = ["not good", "very bad", "very good", "not bad"] * 10
    labels = [0, 0, 1, 1] * 10
    assert tfidf_logistic_regression(train, labels, train) == labels


def test_one_class_to_learn_from():
    """Catches scikit-learn's error when the training file holds a single label: any answer is that one."""
    assert tfidf_logistic_regression(["a b", "c d"], [1, 1], ["a", "c", "x"]) == [1, 1, 1]


def test_words_never_seen_before():
    """Catches a crash where dev shares no word with train."""
    answers = tfidf_logistic_regression(["a", "b"], [0, 1], ["x y", "?"])
    assert len(answers) == 2 and set(answers) <= {0, 1}


def test_the_closing_table():
    """Catches columns that run into each other and numbers in each other's place."""
    results = [[result] for result in (
               Result("sst", Score(0.25, 0.1, 100), Score(0.4, 0.35, 100), Score(0.5, 0.45, 100), 7),
               Result("cfimdb-sample", Score(0.5, 0.3, 1101), Score(1.0, 1.0, 1101), Score(0.9, 0.89, 1101), 10))]
    lines = closing_table(results, "last-linear-layer").splitlines()
    numbers = [re.findall(r"\d\.\d{3}", line) for line in lines]
    assert numbers == [[], ["0.250", "0.100"], ["0.400", "0.350"], ["0.500", "0.450"],
                       ["0.500", "0.300"], ["1.000", "1.000"], ["0.900", "0.890"], [], []]
    assert [re.findall(r"\((\d\.\d\d)-(\d\.\d\d)\)", line) for line in lines[3:6]] == [
        [("0.40", "0.60")], [("0.47", "0.53")], [("1.00", "1.00")]]
    assert "sst (100) " in lines[1] and "cfimdb-sample (1101) " in lines[4]
    assert "last-linear-layer, epoch 7 " in lines[3] and "last-linear-layer, epoch 10 " in lines[6]
    assert len({len(line) for line in lines[:7]}) == 1 and max(map(len, lines)) <= 79


def test_three_texts_all_right_prove_little():
    """Catches an interval of no width: 3 of 3 is no evidence for more than 44%."""
    three = Score(1.0, 1.0, 3)
    assert "1.000 (0.44-1.00)" in closing_table([[Result("own", three, three, three, 1)]], "full-model")


def test_a_table_of_predictions_is_read_back_by_any_program(tmp_path):
    """Catches a first column without a name, separators in names and ids, and labels of other rows."""
    names, ids = ("so, so", 'a "hit"', "\uc88b\ub2e4"), ["001", "x y", "zo\u00eb"]
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, -1e4, 2.5], [90.0, 0.0, 0.0]])
    write_table(tmp_path / "new" / "table.csv", ids, logits, names)
    with open(tmp_path / "new" / "table.csv", encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["id", "label", "name", *(f"p_{name}" for name in names)]
    assert [row[:3] for row in rows] == [["001", "1", names[1]], ["x y", "2", names[2]], ["zo\u00eb", "0", names[0]]]
    assert rows[0][3:] == ["0.042010", "0.843795", "0.114195"] and rows[2][3:] == ["1.000000", "0.000000", "0.000000"]


def test_the_table_shows_a_scored_test_file():
    """Catches a test score that is shown as dev's, or lines that are too wide for a terminal."""
    score = Score(0.5, 0.4, 120)
    result = Result("cfimdb-sample", score, score, Score(0.75, 0.7, 120), 7, Score(0.25, 0.2, 240))
    lines = closing_table([[result], [replace(result, test=None)]], "last-linear-layer").splitlines()
    assert lines[3].startswith("                      last-linear-layer, epoch 7    0.750 ")
    assert lines[4].startswith("its test file (240)   last") and " 0.250 (" in lines[4] and lines[4].endswith(" 0.200")
    assert len(lines) == 1 + 4 + 3 + 2 and max(map(len, lines)) <= 79


@pytest.mark.parametrize("predicted, labels, said", [
    ([0, 1, 2], [2, 1, 0], None),
    ([0, 1, 2, 2], [0, 1, 1, 0], None),  # one more than dev has is no label left out
    ([0, 0, 1], [0, 1, 2], "warning: this run predicts 2 of 3 labels, never 'c'; try --class-weights balanced with "
                           "--select-by macro-f1"),
    ([2, 2, 2], [0, 1, 2], "warning: this run predicts one label only, 'c'; try a higher rate (--lr find shows one), "
                           "more --epochs, or --class-weights balanced with --select-by macro-f1"),
    ([0, 0], [0, 0], None)])
def test_labels_that_are_never_predicted(predicted, labels, said):
    """Catches a run that leaves labels out in silence, and a warning where dev has no other label."""
    line = labels_left_out(predicted, labels, "abc")
    assert (line and line.replace("\n  ", " ")) == said and all(len(part) < 80 for part in (line or "").splitlines())


def test_a_run_that_is_no_better_than_the_majority():
    """Catches a run that has learnt nothing and does not say so, and a warning for one that has."""
    majority = Score(0.6, 0.3, 10)
    assert no_better(Score(0.61, 0.2, 10), majority) is None
    for accuracy in (0.6, 0.5):
        line = no_better(Score(accuracy, 0.5, 10), majority)
        assert line.startswith("warning: this run is not better than the majority class; try more --epochs")
        assert all(len(part) < 80 for part in line.splitlines())
