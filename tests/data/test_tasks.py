"""The table of tasks, your own tasks, and what is said when files are missing."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from data.download import FILES
from data.reader import DataError
from data.tasks import TASKS, NotDownloaded, custom_task


def test_course_contract():
    """Catches drift from the course: class counts, lower-casing, lengths."""
    assert {name: task.num_labels for name, task in TASKS.items()} == {
        "sst": 5, "cfimdb": 2, "sst-sample": 5, "cfimdb-sample": 2}
    assert all(task.lowercase for task in TASKS.values())
    assert {name: task.max_length for name, task in TASKS.items()} == {
        "sst": 128, "cfimdb": 512, "sst-sample": 128, "cfimdb-sample": 512}


def test_downloadable_tasks_use_the_downloaded_files():
    """Catches a task that looks for a file under a name or in a folder that the download does not fill."""
    tasks = [task for task in TASKS.values() if task.downloadable]
    wanted = {path for task in tasks for path in (task.train, task.dev, task.test)}
    assert {path.name for path in wanted} == set(FILES)
    assert {path.parent for path in wanted} == {Path(__file__).resolve().parents[2] / "data"}


def test_paths_do_not_depend_on_the_working_folder(tmp_path, monkeypatch):
    """Catches paths relative to wherever the script is started."""
    monkeypatch.chdir(tmp_path)
    TASKS["sst-sample"].check_files()


def test_missing_course_files(tmp_path):
    """Catches a bare "no such file": the message must name the file and how to get it."""
    here = Path(__file__)
    task = dataclasses.replace(TASKS["sst"], train=here, dev=tmp_path / "ids-sst-dev.csv", test=None)
    with pytest.raises(NotDownloaded) as caught:
        task.check_files()
    message = str(caught.value)
    assert str(task.dev) in message and __file__ not in message and "\n" not in message
    assert "./setup.sh -m data.download" in message


def test_missing_own_files(tmp_path):
    """Catches sending people to the download for files that it does not have."""
    with pytest.raises(UserError, match="no such file") as caught:
        custom_task(tmp_path / "a.csv", tmp_path / "b.csv", num_labels=2).check_files()
    message = str(caught.value)
    assert "a.csv" in message and "b.csv" in message and "download" not in message
    assert not isinstance(caught.value, NotDownloaded)


def test_own_task_reads(tmp_path):
    """Catches label names, numbers or rules that do not reach the reader."""
    path = tmp_path / "own.csv"
    path.write_text("id\tsentence\tsentiment\na\t a <br /> b\tgood\nb\tc\t2\n")
    task = custom_task(path, path, path, num_labels=3, label_names=["bad", "good", "best"])
    assert [(e.text, e.label) for e in task.read("train")] == [("a <br /> b", 1), ("c", 2)]
    assert task.read("test") == task.read("train")
    assert custom_task(path, path, label_names=["x", "y"]).num_labels == 2
    with pytest.raises(DataError, match=r"own\.csv:2"):
        custom_task(path, path, num_labels=3).read("dev")
    with pytest.raises(UserError, match="no test file"):
        custom_task(path, path, num_labels=3).read("test")


@pytest.mark.parametrize(("settings", "message"), [
    ({"num_labels": 1}, "at least 2 labels"),
    ({"num_labels": 3, "label_names": ["a", "b"]}, "2 label names for 3 labels"),
    ({"label_names": ["a", "a"]}, "differ"),
    ({"label_names": ["a", " "]}, "empty"),
    ({"num_labels": 2, "name": "../up"}, "cannot name a task"),
    ({"num_labels": 2, "name": ""}, "cannot name a task"),
    ({"num_labels": 2, "name": "-x"}, "cannot name a task"),
])
def test_senseless_tasks(settings, message):
    """Catches a task that fails late, or whose name leaves its run folder."""
    with pytest.raises(UserError, match=message):
        custom_task("a", "b", **settings)


def test_tasks_need_the_standard_library_only(root):
    """Catches an import that would slow `--help` down or keep the submission check from running anywhere."""
    code = ("import data.tasks, data.download, sys\n"
            "print({'torch', 'numpy', 'tokenizers', 'pooch', 'tqdm'} & set(sys.modules))")
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
