"""Checkpoints: what goes in comes out, whatever is damaged is refused before use, and nothing is ever executed."""

import ast
import contextlib
import hashlib
import io
import json
import os
import pickle
import random
import resource
import signal
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from tests.test_doors import python_files
from training.runs import checkpoint
from training.runs.checkpoint import CheckpointError
from training.runs.tensor_file import DTYPES, pieces

STATE = {"epoch": 2, "loss": 0.1 + 0.2, "tiny": 5e-324, "names": ["ä", "\x00", "\ud800"], "none": None, "on": True}
GROUPS = {
    "weights": {"w": torch.arange(12.0).reshape(3, 4).T, "b": torch.tensor(0.5)},  # one not contiguous, one 0-d
    "training": {"0.exp_avg": torch.tensor([0.1, -1e-30, 3e38]), "rng.cpu": torch.arange(200, dtype=torch.uint8)},
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with checkpoint `last`, and `best`, which shares its weights."""
    records = checkpoint.save(tmp_path, "last", STATE, GROUPS, 120)
    checkpoint.save(tmp_path, "best", {"score": 0.75}, {}, 120, reuse={"weights": records["weights"]})
    return tmp_path


def file_of(folder: Path, group: str) -> Path:
    return next(folder.glob(f"{group}-*.safetensors"))


def same(found: dict, expected: dict) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == expected[name].dtype and torch.equal(found[name], expected[name]) for name in expected)


def reseal(folder: Path, change) -> None:
    """Edit last.json as somebody would who knows how it is sealed."""
    document = json.loads((folder / "last.json").read_text())
    del document["sha256"]
    change(document)
    (folder / "last.json").write_text(json.dumps({**document, "sha256": checkpoint.seal(document)}))


def replace_tensor_file(folder: Path, content: bytes) -> None:
    """Put other bytes in the place of the weights, with name, length and checksums made to match."""
    sha256 = hashlib.sha256(content).hexdigest()
    name = f"weights-00000120-{sha256[:16]}.safetensors"
    (folder / name).write_bytes(content)
    reseal(folder, lambda document: document["files"].update(
        weights={"file": name, "bytes": len(content), "sha256": sha256}))


def test_what_is_saved_comes_back_exactly(saved):
    """Catches: a float that loses a bit in JSON, a tensor that loses its strides, its shape or its type."""
    state, groups = checkpoint.load(saved, "last")
    assert state == STATE
    assert groups.keys() == GROUPS.keys() and all(same(groups[name], GROUPS[name]) for name in GROUPS)
    state, groups = checkpoint.load(saved, "best")
    assert state == {"score": 0.75} and groups.keys() == {"weights"} and same(groups["weights"], GROUPS["weights"])
    assert sorted(path.suffix for path in saved.iterdir()) == [".json", ".json", ".safetensors", ".safetensors"]


def test_tensor_files_are_what_the_library_writes(tmp_path):
    """Catches: a file of our writer that the safetensors library, or anyone else's reader, understands differently."""
    tensors = {"b": torch.rand(3, 2), "a": torch.rand(5), "ö": torch.zeros(0, 3)}
    assert b"".join(pieces(tensors)) == safetensors.torch.save(tensors)
    mixed = {str(dtype): torch.tensor([[0, 1, 1]]).to(dtype) for dtype in DTYPES}
    assert same(safetensors.torch.load(b"".join(pieces(mixed))), mixed)


def test_files_that_no_checkpoint_names_are_removed(saved):
    """Catches: a disk that fills up with old checkpoints; and `best` losing its weights when `last` moves on."""
    (saved / "notes.txt").write_text("mine")
    checkpoint.save(saved, "last", STATE, GROUPS, 121)
    names = sorted(path.name.split("-")[0] + path.name[-20:-12] for path in saved.glob("*.safetensors"))
    assert len(names) == 3 and (saved / "notes.txt").exists()  # weights of 120 and 121, training of 121
    assert same(checkpoint.load(saved, "best")[1]["weights"], GROUPS["weights"])


def test_the_same_step_with_other_content_spares_the_other_checkpoint(saved):
    """Catches: a step done again with other bits (as on CUDA) whose file replaces the one that `best` names."""
    other = {"weights": {"w": torch.zeros(1)}, "training": {}}
    checkpoint.save(saved, "last", {}, other, 120)
    assert same(checkpoint.load(saved, "best")[1]["weights"], GROUPS["weights"])
    assert same(checkpoint.load(saved, "last")[1]["weights"], other["weights"])


def test_flipped_bits_of_the_json_are_found(saved):
    """Catches: a part of NAME.json that its seal does not cover."""
    path, chance = saved / "last.json", random.Random(0)
    content, accepted = path.read_bytes(), 0
    for position in range(0, len(content), 3):
        flipped = bytearray(content)
        flipped[position] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        try:
            found = checkpoint.read_document(path, "last")
        except CheckpointError:
            continue
        accepted += 1
        path.write_bytes(content)  # what is not found must not matter: white space, or 5E-324
        assert found == checkpoint.read_document(path, "last")
    assert accepted < len(content) / 300


@pytest.mark.parametrize("group", ["weights", "training"])
def test_flipped_bits_of_a_tensor_file_are_found(saved, group):
    """Catches: tensors used without a look at their checksum."""
    path, chance = file_of(saved, group), random.Random(0)
    content = path.read_bytes()
    for position in {0, 8, len(content) - 1, *chance.sample(range(len(content)), 40)}:
        flipped = bytearray(content)
        flipped[position] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError, match="damaged"):
            checkpoint.load(saved, "last")


def swap(a: Path, b: Path) -> None:
    a.rename(a.with_suffix(".x"))
    b.rename(a)
    a.with_suffix(".x").rename(b)


def link(path: Path) -> None:
    path.rename(path.with_suffix(".away"))
    path.symlink_to(path.with_suffix(".away").name)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def truncate(path: Path, share: float = 0.5) -> None:
    os.truncate(path, int(path.stat().st_size * share))


def record(document: dict, **parts) -> None:
    document["files"]["weights"].update(parts)


OUTSIDE = "weights-00000120-0123456789abcdef.safetensors"
DAMAGE = {
    "JSON cut": (lambda d: truncate(d / "last.json"), "damaged"),
    "JSON empty": (lambda d: truncate(d / "last.json", 0), "damaged"),
    "JSON missing": (lambda d: (d / "last.json").unlink(), "cannot read .*last.json: No such file"),
    "JSON edited": (lambda d: (d / "last.json").write_text((d / "last.json").read_text().replace(
        '"epoch": 2', '"epoch": 3')), "does not match its checksum"),
    "JSON a link": (lambda d: link(d / "last.json"), "is a link"),
    "JSON a pipe": (lambda d: pipe(d / "last.json"), "not a regular file"),
    "JSON a folder": (lambda d: folder(d / "last.json"), "not a regular file"),
    "JSON too long": (lambda d: os.truncate(d / "last.json", checkpoint.JSON_BYTES + 1), "longer than"),
    "JSON no text": (lambda d: (d / "last.json").write_bytes(b"\xff\xfe" + bytes(40)), "damaged"),
    "JSON nested deeply": (lambda d: (d / "last.json").write_text("[" * 10**6), "damaged"),
    "JSON with NaN": (lambda d: (d / "last.json").write_text('{"layout": 1, "x": NaN}'), "NaN"),
    "JSON with infinity": (lambda d: (d / "last.json").write_text('{"layout": 1, "x": 1e999}'), "damaged"),
    "JSON with a huge number": (lambda d: (d / "last.json").write_text("9" * 10**6), "damaged"),
    "JSON a list": (lambda d: (d / "last.json").write_text("[1]"), "damaged"),
    "last and best swapped": (lambda d: swap(d / "last.json", d / "best.json"), "calls itself 'best'"),
    "weights cut": (lambda d: truncate(file_of(d, "weights")), "bytes long instead of"),
    "weights longer": (lambda d: file_of(d, "weights").open("ab").write(b"x"), "bytes long instead of"),
    "weights missing": (lambda d: file_of(d, "weights").unlink(), "cannot read .*weights.*: No such file"),
    "weights a link": (lambda d: link(file_of(d, "weights")), "is a link"),
    "weights a pipe": (lambda d: pipe(file_of(d, "weights")), "not a regular file"),
    "weights and training swapped": (lambda d: swap(file_of(d, "weights"), file_of(d, "training")), "damaged"),
    "another layout": (lambda d: reseal(d, lambda x: x.update(layout=7)), "layout '7'; this program reads layout 1"),
    "layout no number": (lambda d: reseal(d, lambda x: x.update(layout=True)), "damaged"),
    "a part too many": (lambda d: reseal(d, lambda x: x.update(more=1)), "has the parts"),
    "a part too few": (lambda d: reseal(d, lambda x: x.pop("step")), "has the parts"),
    "state a list": (lambda d: reseal(d, lambda x: x.update(state=[])), "must be objects"),
    "files a list": (lambda d: reseal(d, lambda x: x.update(files=[])), "must be objects"),
    "record a string": (lambda d: reseal(d, lambda x: x["files"].update(weights="x")), "described wrongly"),
    "a path upwards": (lambda d: reseal(d, lambda x: record(x, file=f"../{OUTSIDE}")), "not the name of a tensor file"),
    "an absolute path": (lambda d: reseal(d, lambda x: record(x, file=f"/{OUTSIDE}")), "not the name of a tensor file"),
    "a name with NUL": (lambda d: reseal(d, lambda x: record(x, file="a\0b")), "not the name of a tensor file"),
    "a name that is a number": (lambda d: reseal(d, lambda x: record(x, file=3)), "not the name of a tensor file"),
    "another group's file": (lambda d: reseal(d, lambda x: record(x, file=x["files"]["training"]["file"])),
                             "not the name of a tensor file"),
    "a checksum of nothing": (lambda d: reseal(d, lambda x: record(x, sha256="")), "checksum"),
    "a checksum that is null": (lambda d: reseal(d, lambda x: record(x, sha256=None)), "checksum"),
    "a length that is text": (lambda d: reseal(d, lambda x: record(x, bytes="9")), "length"),
    "a length that is negative": (lambda d: reseal(d, lambda x: record(x, bytes=-1)), "bytes long instead of -1"),
    "sealed rubbish as weights": (lambda d: replace_tensor_file(d, b"rubbish, and plenty of it"), "not a safetensors"),
    "sealed emptiness as weights": (lambda d: replace_tensor_file(d, b""), "not a safetensors"),
    "a header of 2^63 bytes": (lambda d: replace_tensor_file(d, b"\xff" * 7 + b"\x7f{}"), "not a safetensors"),
    "offsets beyond the file": (lambda d: replace_tensor_file(d, tensor_file(
        '{"w":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}', b"")), "not a safetensors"),
    "a type nobody knows": (lambda d: replace_tensor_file(d, tensor_file(
        '{"w":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}}', b"1234")), "not a safetensors"),
}


def tensor_file(header: str, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header.encode() + data


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused(saved, name):
    """Catches: a damaged, mixed up or forged checkpoint that is used, hangs, or ends in a traceback."""
    damage, says = DAMAGE[name]
    damage(saved)
    with pytest.raises(CheckpointError, match=says) as caught:
        checkpoint.load(saved, "last")
    assert str(saved) in str(caught.value) and len(str(caught.value).splitlines()) <= 2 and len(str(caught.value)) < 600


def test_a_damaged_checkpoint_keeps_its_files(saved):
    """Catches: tidying up after a new `last` that removes what a damaged `best` may still be rescued from."""
    truncate(saved / "best.json")
    weights = file_of(saved, "weights")
    checkpoint.save(saved, "last", {}, {"weights": {}}, 121)
    assert weights.exists()


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
                    max_leaves=8)
PARTS = st.dictionaries(st.sampled_from(["layout", "name", "step", "files", "state", "sha256"]),
                        JSON | st.sampled_from([1, "last", {}, {"weights": {"file": "x", "bytes": 1, "sha256": "y"}}]))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(content=st.binary() | st.text().map(str.encode) | JSON.map(lambda value: json.dumps(value).encode())
       | PARTS.map(lambda parts: json.dumps(parts).encode()), seal=st.booleans())
def test_any_content_is_read_or_refused(tmp_path_factory, content, seal):
    """Catches: bytes, JSON or sealed documents for which the reader raises anything but CheckpointError."""
    path = tmp_path_factory.getbasetemp() / "last.json"
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    if seal and isinstance(document, dict):
        document.pop("sha256", None)
        with contextlib.suppress(ValueError):  # NaN cannot be sealed
            content = json.dumps({**document, "sha256": checkpoint.seal(document)}).encode()
    path.write_bytes(content)
    try:
        found = checkpoint.read_document(path, "last")
    except CheckpointError:
        return
    assert found["layout"] == 1 and found["name"] == "last" and isinstance(found["state"], dict)


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("group", ["last.json", "weights", "training", "weights, sealed"])
def test_a_planted_pickle_is_never_executed(saved, tmp_path_factory, group):
    """Catches: a reader that falls back to pickle or torch.load for what is not safetensors or JSON."""
    for number, dump in enumerate((pickle.dumps, torch_dumps)):
        executed = tmp_path_factory.getbasetemp() / f"executed-{number}"
        payload = dump(Payload(executed))
        if group == "weights, sealed":
            replace_tensor_file(saved, payload)
        else:
            (saved / group if group == "last.json" else file_of(saved, group)).write_bytes(payload)
        with pytest.raises(CheckpointError):
            checkpoint.load(saved, "last")
        assert not executed.exists()
        pickle.loads(pickle.dumps(Payload(executed)))  # it would have shown
        assert executed.exists()
        executed.rmdir()


def torch_dumps(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "pandas"}


def unpicklings(code: str) -> list[int]:
    """Lines that could unpickle: an import of such a module, torch.load without weights_only=True, allow_pickle."""
    lines = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            modules = [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [(node.module or "").split(".")[0]]
        else:
            modules = []
        given = {keyword.arg: getattr(keyword.value, "value", ...) for keyword in getattr(node, "keywords", [])}
        loads = isinstance(node, ast.Call) and ast.unparse(node.func).endswith("torch.load")
        if UNPICKLERS & set(modules) or (loads and given.get("weights_only") is not True) \
                or given.get("allow_pickle", False) is not False:
            lines.append(node.lineno)
    return lines


def test_nothing_in_the_code_unpickles(root):
    """Catches: a pickle, torch.load without weights_only=True or np.load(allow_pickle=True) anywhere but in tests."""
    files = [path for path in python_files(root) if path.relative_to(root).parts[0] != "tests"]
    assert len(files) > 20
    assert {path: lines for path in files if (lines := unpicklings(path.read_text("utf-8")))} == {}


@pytest.mark.parametrize("code", [
    "import pickle", "import os, pickle as p", "from pickle import loads", "def f():\n    import joblib",
    "torch.load(x)", "torch.load(x, weights_only=False)", "torch.load(x, weights_only=flag)",
    "np.load(x, allow_pickle=True)"])
def test_unpickling_is_recognised(code):
    """Catches: a grep that finds nothing because it looks for nothing."""
    assert unpicklings(code)
    assert not unpicklings("torch.load(x, weights_only=True); np.load(x); json.load(x)")


# ---- a file system that refuses -----------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_earlier_checkpoint(small_disk):
    """Catches: a half written checkpoint, or litter that keeps the disk full, after "no space left on device"."""
    checkpoint.save(small_disk, "last", STATE, GROUPS, 1)
    before = {path.name: path.read_bytes() for path in small_disk.iterdir()}
    big = {"training": GROUPS["training"], "weights": {"w": torch.zeros(100_000)}}
    with pytest.raises(UserError, match=r"No space left on device\n.*the checkpoint before it is kept"):
        checkpoint.save(small_disk, "last", STATE, big, 2)
    assert {path.name: path.read_bytes() for path in small_disk.iterdir()} == before
    checkpoint.save(small_disk, "last", STATE, GROUPS, 3)


def test_a_file_size_limit_leaves_the_earlier_checkpoint(saved):
    """Catches: the same, where no disk can be mounted: a quota."""
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(UserError, match=r"File too large\n.*the checkpoint before it is kept"):
            checkpoint.save(saved, "last", STATE, {**GROUPS, "weights": {"w": torch.zeros(100_000)}}, 121)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_any_call_that_fails_leaves_a_whole_checkpoint(tmp_path, monkeypatch):
    """Catches: a failing flush or rename, of whichever file, after which no checkpoint is whole."""
    calls = 0

    def failing_at(number, function):
        def wrapped(*arguments):
            nonlocal calls
            calls += 1
            if calls == number:
                raise OSError(5, "Input/output error")
            return function(*arguments)
        return wrapped

    whole = {name: getattr(os, name) for name in ("replace", "fsync")}
    for number in range(1, 10):  # a file: flush, rename, flush the folder; three files
        for name, function in whole.items():
            monkeypatch.setattr(os, name, function)
        checkpoint.save(tmp_path, "last", {"step": 1}, GROUPS, 1)
        calls = 0
        for name, function in whole.items():
            monkeypatch.setattr(os, name, failing_at(number, function))
        with pytest.raises(UserError, match="Input/output error"):
            checkpoint.save(tmp_path, "last", {"step": 2}, GROUPS, 2)
        step = checkpoint.load(tmp_path, "last")[0]["step"]
        assert step == (2 if number == 9 else 1)  # the last one flushes the folder after the fact
        assert len(list(tmp_path.iterdir())) == 3, "litter"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    """Catches: a traceback for a folder that has gone, or that is a file."""
    with pytest.raises(UserError, match=r"gone.*No such file or directory\n.*nothing was saved"):
        checkpoint.save(tmp_path / "gone", "last", STATE, GROUPS, 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Not a directory"):
        checkpoint.save(tmp_path / "file", "last", STATE, GROUPS, 1)
