"""Prediction files, byte for byte."""

import pytest

from common.errors import UserError
from training import predictions
from training.predictions import prediction_file, write_predictions


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

    monkeypatch.setattr(predictions, "write_atomic", full_disk)
    with pytest.raises(UserError):
        write_predictions(path, ["x"], [0])
    assert path.read_text() == "id \t Predicted_Sentiment \nx, 1 \n"
