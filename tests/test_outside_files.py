"""What comes from outside: only regular files of a sensible size are read; no temporary folder, little memory, weights
that end in infinity.
"""

import io
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import pytest
import torch

from common.cli import LEAST_ADDRESS_SPACE
from common.errors import UserError
from common.files import open_regular, read_bounded, sha256_file
from common.patience import LEAST, while_it_moves
from data.tasks import custom_task
from finetuning.features import FeatureCache
from tests.finetuning.test_run import folder  # noqa: F401 (a fixture)
from tests.test_bad_input import FINE_TUNE, PRETRAIN, good, run  # noqa: F401 (a fixture among them)

ODD = {"a pipe": os.mkfifo, "a device": lambda path: path.symlink_to("/dev/zero"), "a folder": os.mkdir,
       "a socket": lambda path: os.mknod(path, 0o140644)}


@pytest.mark.parametrize("kind", ODD)
def test_only_regular_files_are_opened(tmp_path, kind):
    """Catches a process that waits for a pipe or reads a device until memory is full."""
    path = tmp_path / "x"
    ODD[kind](path)
    for read in (open_regular, lambda path: read_bounded(path, 10)):
        with pytest.raises(OSError, match=r"not a regular file|No such device"):
            read(path)
    with pytest.raises(UserError, match=r"cannot read .*x: (not a regular file|No such device)"):
        sha256_file(path)


def test_no_more_is_read_than_allowed(tmp_path):
    """Catches a huge file that is read to learn that it is too large, and one byte too few or too many allowed."""
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert read_bounded(path, 5) == b"12345"
    with pytest.raises(OSError, match="too large"):
        read_bounded(path, 4)
    os.truncate(path, 1 << 40)
    tracemalloc.start()
    try:
        with pytest.raises(OSError, match="larger than 1 MB"):
            read_bounded(path, 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    if Path("/proc/self/status").exists():  # a file that does not tell its size
        with pytest.raises(OSError, match="changes while it is read"):
            read_bounded("/proc/self/status", 1 << 20)


def test_slow_work_that_moves_is_waited_for():
    """Catches a limit on the whole time, a lost result or error, and work that is waited for although it stands."""
    have = [0]

    def work(pieces: int, size: int) -> str:
        for _ in range(pieces):
            time.sleep(0.02)
            have[0] += size
        return "done"

    received = lambda: have[0]  # noqa: E731
    assert while_it_moves(lambda: work(40, LEAST), received, 0.4) == "done"
    with pytest.raises(ZeroDivisionError):
        while_it_moves(lambda: 1 // 0, received, 0.4)
    with pytest.raises(TimeoutError, match=r"only \d+ bytes in 0.1 seconds"):
        while_it_moves(lambda: work(40, 1), received, 0.1)


def test_a_file_that_does_not_fit_into_memory(tmp_path, monkeypatch):
    """Catches a MemoryError that the nearest caller takes for the model's."""
    class Greedy(io.FileIO):
        def __init__(self, path, follow):
            super().__init__(path)

        def read(self, size: int = -1) -> bytes:
            return bytearray(1 << 62)

    (tmp_path / "x").touch()
    monkeypatch.setattr("common.files.open_regular", Greedy)
    with pytest.raises(OSError, match="not enough memory"):
        read_bounded(tmp_path / "x", 10)


def test_little_memory_for_a_data_file_is_named(tmp_path, monkeypatch):
    """Catches a lack of memory for the texts that is blamed on the model."""
    (tmp_path / "a.csv").write_text("id\tsentence\tsentiment\n0\tx\t1\n")
    task = custom_task(tmp_path / "a.csv", tmp_path / "a.csv", num_labels=2)
    monkeypatch.setattr("data.tasks.read_own", lambda *_: bytearray(1 << 62))
    with pytest.raises(UserError, match=r"a\.csv: there is not enough memory to read 56 bytes"):
        task.read("train")


@pytest.mark.parametrize("kind", ["a pipe", "a device", "too large"])
def test_stored_features_that_are_none_are_computed_anew(tmp_path, kind):
    """Catches a run that hangs on a pipe in its cache, or reads zeros without end."""
    cache = FeatureCache(tmp_path, limit=1 << 20)
    assert torch.equal(cache.get(["key"], lambda: torch.ones(2, 3)), torch.ones(2, 3))
    (path,) = tmp_path.iterdir()
    if kind == "too large":
        os.truncate(path, 1 << 40)
    else:
        path.unlink()
        ODD[kind](path)
    assert torch.equal(cache.get(["key"], lambda: torch.zeros(2, 3)), torch.zeros(2, 3))
    assert path.is_file() and not path.is_symlink()


@pytest.mark.skipif(sys.platform != "linux", reason="others do not limit address space")
@pytest.mark.parametrize("script", ["classifier.py", "pretrain.py"])
@pytest.mark.parametrize("megabytes", [650, 850, 1400])
def test_little_address_space_is_told_at_once(good, root, script, megabytes, monkeypatch):  # noqa: F811
    """Catches a hang or a traceback while SciPy is loaded."""
    words = FINE_TUNE if script == "classifier.py" else PRETRAIN
    done = subprocess.run(["bash", "-c", f'ulimit -v {megabytes << 10}; exec "$@"', "-", sys.executable, root / script,
                           *words], cwd=good, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (f"error: this process may use only {megabytes} MB of address space (ulimit -v); "
                           f"loading PyTorch takes {LEAST_ADDRESS_SPACE >> 20}\n")


@pytest.mark.parametrize("script, words", [("classifier.py", [*FINE_TUNE, "--out", "new"]), ("pretrain.py", PRETRAIN)])
def test_no_temporary_folder_is_needed(good, script, words, monkeypatch, capsys):  # noqa: F811
    """Catches a run that ends, in a container that may write to its results only, for want of a temporary folder."""
    def nowhere(*_: object, **__: object) -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.chdir(good)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_get_default_tempdir", nowhere)
    with pytest.raises(FileNotFoundError):
        tempfile.TemporaryDirectory()
    assert run(script, words) == 0, capsys.readouterr().err


@pytest.mark.parametrize("script, words, said", [
    ("classifier.py", [*FINE_TUNE, "--out", "far", "--epochs", "1", "--batch-size", "100", "--lr", "1e39"],
     "the weights' norm became"),
    ("classifier.py", [*FINE_TUNE, "--out", "far", "--epochs", "1", "--batch-size", "100", "--lr", "1e19"], "became"),
    *(("pretrain.py", [*PRETRAIN, "--out", "far", "--lr", lr], "became") for lr in ("1e10", "1e19", "1e38"))])
def test_a_run_that_leaves_the_finite_ends_as_divergence_does(good, script, words, said, monkeypatch, capsys,  # noqa: F811
                                                              tmp_path):
    """Catches status 0 with weights of NaN as the best ones, and tracebacks: OverflowError, multinomial on NaN."""
    monkeypatch.chdir(good)
    assert run(script, [*words[:words.index("--out")], "--out", str(tmp_path / "far"),
                        *words[words.index("--out") + 2:]]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and "Usual causes: a learning rate" in error
    assert len(error.splitlines()) == 2 and not list(Path(tmp_path).rglob("*.safetensors"))
