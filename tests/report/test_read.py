"""Run folders are read as they were written, and whatever else lies there is refused in a line or two."""

import json
import os
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from common.errors import UserError
from report import files, read
from report.read import NotFinished, Older, load_groups, load_run
from tests.report.folders import change, change_line, lines, logits_for, write, write_run

LABELS = np.array([0, 1, 1, 0, 1, 0])
LOGITS = np.random.default_rng(0).normal(size=(3, 6, 2)).astype(np.float32)


@pytest.fixture
def run(tmp_path):
    """The folder of a finished run of three epochs on six texts."""
    return write_run(tmp_path / "own-full-model", LOGITS, LABELS)


def refused(path, *words, kind=UserError):
    """Check that a folder is refused in at most two lines, or three with a command, which have these words."""
    with pytest.raises(kind) as caught:
        load_groups([path])
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert message.count("\n") <= 1 and str(path) in message
    return message


def test_what_was_written_is_read(run):
    """Catches rows out of order, epochs out of order, and a best epoch counted from 0."""
    change(run / "result.json", best_epoch=2, test={"accuracy": 0.5})
    change_line(run / "dev" / "examples.jsonl", 2, rarest=None, text="a \ud800 surrogate", tfidf=1)
    found = load_run(run)
    assert np.array_equal(found.logits, LOGITS) and np.array_equal(found.best_logits, LOGITS[1])
    assert np.array_equal(found.dev.labels, LABELS) and found.dev.ids == tuple(f"id{place}" for place in range(6))
    assert found.dev.rarest.tolist() == [9, 9, -1, 9, 9, 9] and found.dev.tfidf.tolist() == [0, 0, 1, 0, 0, 0]
    assert found.dev.texts[2] == "a ? surrogate"  # which UTF-8 cannot hold, so a page could not be written
    assert (found.seed, found.mode, found.label_names, found.test_accuracy) == (1, "full-model",
                                                                                ("negative", "positive"), 0.5)
    assert [epoch.train_loss for epoch in found.epochs] == pytest.approx([0.7, 0.5, 0.3])


def test_labels_without_names_are_numbers(run):
    """Catches an index error where label_names is empty, as in files of your own without --label-names."""
    record = json.loads((run / "run.json").read_text())
    write(run / "run.json", record | {"task": record["task"] | {"label_names": []}})
    assert load_run(run).label_names == ("0", "1")


# ---- what is not a finished run --------------------------------------------------------------------------------------


def test_an_unfinished_run_says_how_to_go_on(run):
    """Catches a KeyError for a run that is still training, or an answer that does not say what to type."""
    (run / "result.json").unlink()
    assert "classifier.py --seed 1 --resume" in refused(run, "not finished", kind=NotFinished)


def test_a_run_of_an_older_version(run):
    """Catches a missing file reported as damage."""
    shutil.rmtree(run / "dev")
    refused(run, "older version", "again", kind=Older)


def test_epochs_of_an_older_version(run):
    """Catches a run that was begun by an older version and resumed by this one."""
    (run / "dev" / "epoch-0001.safetensors").unlink()
    refused(run, "epoch-0001.safetensors", "is missing", "again", kind=Older)


def test_a_folder_with_runs_names_them(run):
    """Catches a bare "no run.json" for the folder above."""
    message = refused(run.parent, "no run.json", "own-full-model")
    assert "There are" in message


def test_not_there(tmp_path):
    """Catches a traceback for a folder that does not exist, a file, or a pretraining run."""
    refused(tmp_path / "none", "no run.json")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "no run.json")
    (tmp_path / "pretrained").mkdir()
    write(tmp_path / "pretrained" / "run.json", {"settings": {}, "identity": {}})
    refused(tmp_path / "pretrained", "language model")


# ---- hostile files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["run.json", "result.json", "log.jsonl", "dev/examples.jsonl",
                                  "dev/epoch-0002.safetensors"])
def test_no_link_is_followed(run, tmp_path, file):
    """Catches a folder that makes us read another file of ours."""
    shutil.move(run / file, tmp_path / "secret")
    (run / file).symlink_to(tmp_path / "secret")
    refused(run, file, "link")


def test_no_linked_folder_is_followed(run, tmp_path):
    """Catches a link in the place of dev/, of model/, of an earlier run, or of a seed's run."""
    shutil.copytree(run, run / "real")
    (run / "previous").symlink_to(run / "real")
    (run / "real" / "serving.json").write_text('{"files": {"x": "y"}}')
    (run / "model").symlink_to(run / "real")
    found = load_run(run)
    assert found.before is None and found.model_files == {}
    shutil.move(run / "dev", tmp_path / "dev")
    (run / "dev").symlink_to(tmp_path / "dev")
    refused(run, "link")
    (tmp_path / "seeds").mkdir()
    (tmp_path / "seeds" / "seed-1").symlink_to(run)
    refused(tmp_path / "seeds", "no run.json")


@pytest.mark.parametrize("file", ["run.json", "log.jsonl", "dev/examples.jsonl", "dev/epoch-0001.safetensors"])
def test_a_pipe_does_not_hang(run, file):
    """Catches a read that waits for ever."""
    (run / file).unlink()
    os.mkfifo(run / file)
    refused(run, file, "regular")


def test_sizes_are_bounded(run, monkeypatch):
    """Catches files that fill the memory before anybody looks at them."""
    monkeypatch.setattr(files, "SMALL", 100)
    refused(run, "run.json", "too large")
    monkeypatch.undo()
    monkeypatch.setattr(read, "LARGE", 3 * 6 * 2 * 4 - 1)
    (run / "dev" / "examples.jsonl").write_text((run / "dev" / "examples.jsonl").read_text()[:0])
    refused(run, "no text")


def test_too_many_logits(run, monkeypatch):
    """Catches an array that is asked for before its size is looked at."""
    real = read.read_lines
    monkeypatch.setattr(read, "read_lines", lambda path, limit: real(path, 1 << 20))
    monkeypatch.setattr(read, "LARGE", 3 * 6 * 2 * 4 - 1)
    refused(run, "GB of logits")
    monkeypatch.setattr(read, "LARGE", 3 * 6 * 2 * 4)
    load_run(run)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"x"', "[" * 100_000, '{"a": 1}', "\xff"])
@pytest.mark.parametrize("file", ["run.json", "result.json", "log.jsonl", "dev/examples.jsonl", "model/serving.json"])
def test_json_of_another_kind(run, file, content):
    """Catches an AttributeError, KeyError or RecursionError on JSON that is not what was written."""
    (run / "model").mkdir()
    (run / file).write_text(content, encoding="latin-1")
    refused(run, file.split("/")[0])


@pytest.mark.parametrize("file, fields", [
    ("result.json", {"best_epoch": 0}), ("result.json", {"best_epoch": 4}), ("result.json", {"best_epoch": True}),
    ("result.json", {"best_epoch": "1"}), ("run.json", {"settings": {"seed": -1}}), ("run.json", {"identity": 3}),
    ("run.json", {"settings": {"seed": 10**30}}),
    ("run.json", {"task": {"num_labels": 1}}), ("run.json", {"task": {"num_labels": 10**9}}),
    ("run.json", {"task": {"num_labels": 2, "label_names": ["a"]}}),
    ("run.json", {"task": {"num_labels": 3, "label_names": ["a", "b", "c"]}}),
])
def test_values_out_of_range(run, file, fields):
    """Catches an index that is out of range, and a bool taken for a number."""
    change(run / file, **fields)
    refused(run)


@pytest.mark.parametrize("line, fields, said", [
    (0, {"label": 2}, "label"), (3, {"label": -1}, "label"), (1, {"tfidf": 7}, "tfidf"),
    (1, {"majority": 0.5}, "line 2"), (2, {"tokens": None}, "tokens"), (2, {"tokens": 10**40}, "tokens"),
    (4, {"id": "id1"}, "line 2"), (4, {"text": 3}, "line 5"), (4, {"id": None}, "line 5"),
    (5, {"rarest": -3}, "rarest"),
])
def test_rows_out_of_range(run, line, fields, said):
    """Catches labels that no logit stands for, and two texts of one id."""
    change_line(run / "dev" / "examples.jsonl", line, **fields)
    refused(run, "examples.jsonl", said)


@pytest.mark.parametrize("array", [
    np.full((6, 2), np.nan, np.float32), np.full((6, 2), np.inf, np.float32), np.zeros((5, 2), np.float32),
    np.zeros((6, 3), np.float32), np.zeros((6, 2), np.float64), np.zeros(12, np.float32)])
def test_logits_that_do_not_fit(run, array):
    """Catches NaN that would spread over the page, and broadcasting of a wrong shape."""
    save_file({"dev": array}, run / "dev" / "epoch-0002.safetensors")
    refused(run, "epoch-0002")


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 8, (1 << 40).to_bytes(8, "little"), b"\2\0\0\0\0\0\0\0{}",
                                     b"\2\0\0\0\0\0\0\0[]"])
def test_damaged_tensor_files(run, content):
    """Catches an error of the library that reaches the user as a traceback."""
    (run / "dev" / "epoch-0002.safetensors").write_bytes(content)
    refused(run, "epoch-0002")


@pytest.mark.parametrize("rows", [[], [2], [1, 3], [1, 1], [2, 1]])
def test_missing_epochs(run, rows):
    """Catches a curve with a hole, or one that goes back."""
    scores = {"train_loss": 1.0, "train_accuracy": 1.0, "dev_accuracy": 1.0, "dev_macro_f1": 1.0}
    lines(run / "log.jsonl", [{"epoch": epoch} | scores for epoch in rows])
    refused(run, "log.jsonl")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "1", True, 10**400])
def test_losses_that_are_no_numbers(run, value):
    """Catches NaN in a curve; json.loads takes NaN and Infinity."""
    change_line(run / "log.jsonl", 1, train_loss=value)
    refused(run, "log.jsonl")


def test_times_are_not_needed(run):
    """Catches a page that is refused for a damaged times.jsonl, on which nothing hangs."""
    (run / "times.jsonl").write_text("{")
    assert load_run(run).times == ()


# ---- groups ----------------------------------------------------------------------------------------------------------


def test_seeds_are_one_group(tmp_path):
    """Catches seeds that are taken apart, or put in the order of their names: 10 before 2."""
    for seed in (10, 2, 3):
        write_run(tmp_path / "own-seeds" / f"seed-{seed}", LOGITS, LABELS, seed=seed)
    group, = load_groups([tmp_path / "own-seeds"])
    assert group.name == "own-seeds" and [run.seed for run in group.runs] == [2, 3, 10]
    loose, = load_groups([tmp_path / "own-seeds" / f"seed-{seed}" for seed in (3, 10, 3)])  # one is given twice
    assert [run.seed for run in loose.runs] == [3, 10]


def test_what_differs_is_another_group(tmp_path):
    """Catches runs of another setting, other texts, other labels or the same seed that are averaged as seeds."""
    same = {"logits": LOGITS, "labels": LABELS}
    write_run(tmp_path / "a", **same, seed=1)
    write_run(tmp_path / "b", **same, seed=2)
    write_run(tmp_path / "rate", **same, seed=3, identity={"recipe": {"lr": 1}})
    write_run(tmp_path / "texts", **same, seed=4, texts=["other"] * 6)
    write_run(tmp_path / "labels", LOGITS, 1 - LABELS, seed=5)
    write_run(tmp_path / "choice", **same, seed=6, settings={"select_by": "macro-f1"})
    write_run(tmp_path / "again", **same, seed=1)
    groups = load_groups([tmp_path / name for name in ("a", "b", "rate", "texts", "labels", "choice", "again")])
    assert [[run.path.name for run in group.runs] for group in groups] == [
        ["a", "b"], ["rate"], ["texts"], ["labels"], ["choice"], ["again"]]


def test_two_folders_of_seeds_are_compared(tmp_path):
    """Catches seeds 1 and 2 of one folder and seed 3 of another, alike in all else, that melt into one group."""
    for folder, seeds in (("a", (1, 2)), ("b", (3, 4))):
        for seed in seeds:
            write_run(tmp_path / folder / f"seed-{seed}", LOGITS, LABELS, seed=seed)
    assert [group.name for group in load_groups([tmp_path / "a", tmp_path / "b"])] == ["a", "b"]


def test_a_random_backbone_differs_by_its_seed_alone(tmp_path):
    """Catches seeds with --random-backbone that are no group, since each has a backbone of its own."""
    for seed in (1, 2):
        write_run(tmp_path / f"{seed}", LOGITS, LABELS, seed=seed, identity={"backbone": str(seed) * 64},
                  settings={"random_backbone": True})
    assert len(load_groups([tmp_path / "1", tmp_path / "2"])) == 1


def test_names_are_short_and_differ(tmp_path):
    """Catches two columns of a table with one name."""
    paths = [tmp_path / name for name in ("x/own", "y/own", "y/other", "y/seed-3")]
    for path in paths:
        write_run(path, LOGITS, LABELS)
    assert [group.name for group in load_groups(paths)] == ["x/own", "y/own", "other", "y/seed-3"]


def test_the_run_before(run):
    """Catches an unfinished run taken for the one before, and the oldest taken for the newest."""
    for name, seed in (("previous", 7), ("previous-2", 8), ("previous-10", 9), ("previous-11", 10), ("previously", 11)):
        write_run(run / name, LOGITS, LABELS, seed=seed)
    (run / "previous-11" / "result.json").unlink()
    assert load_run(run).before.seed == 9
    shutil.rmtree(run / "previous-10" / "dev")
    found = load_run(run)
    assert found.before is None and "previous-10/" in found.no_before and "older" in found.no_before
    (run / "previous-10" / "run.json").write_text("{")
    assert "cannot be read" in load_run(run).no_before


def test_logits_of_answers():
    """Catches a helper of these tests that gives other answers."""
    assert logits_for([[0, 2]], 3).argmax(axis=2).tolist() == [[0, 2]]
