"""Stored features: hashes that see every bit, a cache that nothing can make wrong or harmful."""

import json
import os
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from finetuning import features
from finetuning.features import FeatureCache, LastToken, hash_tensors

KEY = ("weights", "texts", "float32", "cpu")
WANTED = torch.arange(12, dtype=torch.float32).reshape(4, 3) / 7


class Compute:
    """Stands for the backbone; counts how often it is asked."""

    def __init__(self, result=WANTED):
        self.result, self.calls = result, 0

    def __call__(self):
        self.calls += 1
        return self.result.clone()


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(tmp_path / "features")


def fill(cache, key=KEY, result=WANTED):
    """Store features and give back their file."""
    before = set(cache.folder.glob("*")) if cache.folder.exists() else set()
    cache.get(key, Compute(result))
    path, = set(cache.folder.glob("*")) - before
    return path


def used(cache, key=KEY):
    """Whether the cache answers this key without computing; what it answers must be right either way."""
    compute = Compute()
    assert torch.equal(cache.get(key, compute), WANTED)
    return compute.calls == 0


def test_computed_once_and_read_back_bit_by_bit(cache, tmp_path):
    """Catches a cache that never hits, and one that stores features in another precision."""
    result = torch.tensor([[1 / 3, -0.0], [float("inf"), 1e-42]])
    compute = Compute(result)
    first = cache.get(KEY, compute)
    second = FeatureCache(tmp_path / "features").get(KEY, compute)
    assert compute.calls == 1 and first.dtype == second.dtype == torch.float32
    assert torch.equal(first.view(torch.int32), second.view(torch.int32))
    assert len(list(cache.folder.iterdir())) == 1


@pytest.mark.parametrize("place", range(len(KEY)))
def test_every_part_of_the_key_counts(cache, place):
    """Catches features of other weights, texts, precision or device taken for these."""
    fill(cache)
    other = [*KEY]
    other[place] += "x"
    assert used(cache) and not used(cache, other)


def test_a_truncated_file_is_computed_anew(cache):
    """Catches a crash or wrong features from half a file, at every length; the repaired file serves again."""
    path = fill(cache)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert not used(cache) and path.read_bytes() == whole
    assert used(cache)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_changed_byte_is_believed(cache, data):
    """Catches damage anywhere: in the header, the features or their checksum. A flip that changes nothing that is read
    (white space in the header) may be passed over, wrong features may not.
    """
    shutil.rmtree(cache.folder, ignore_errors=True)
    path = fill(cache)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    used(cache)
    assert used(cache)


def forge(header, body=b""):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


FOREIGN = {
    "junk": b"features",
    "no tensors": forge({}),
    "a header of petabytes": (2**60).to_bytes(8, "little"),
    "a type that PyTorch lacks": forge({"features": {"dtype": "F8_E8M0", "shape": [1], "data_offsets": [0, 1]}}, b"\0"),
    "an empty tensor of petabytes": forge({"features": {"dtype": "F32", "shape": [0, 2**50], "data_offsets": [0, 0]}}),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_file_is_computed_anew(cache, name):
    """Catches an error, or a large allocation, on what somebody else left under this name."""
    path = fill(cache)
    path.write_bytes(FOREIGN[name])
    assert not used(cache) and used(cache)


@pytest.mark.parametrize("checksum", [None, torch.zeros(32, dtype=torch.uint8), torch.zeros(32), torch.zeros(3, 3)])
def test_features_without_their_checksum_are_computed_anew(cache, checksum):
    """Catches a checksum that is optional, or compared in a way that fails on another type or shape."""
    path = fill(cache)
    save_file({"features": WANTED + 1} | ({} if checksum is None else {"sha256": checksum}), path)
    assert not used(cache)


def test_another_keys_file_is_computed_anew(cache):
    """Catches a checksum of the features alone: a file copied or renamed within the cache would still be valid."""
    mine, other = fill(cache), fill(cache, ("other", "texts", "float32", "cpu"), WANTED + 1)
    shutil.copyfile(other, mine)
    assert not used(cache)


def test_a_folder_in_the_files_place(cache):
    """Catches a crash where the name is taken by something that can be neither read nor replaced."""
    path = fill(cache)
    path.unlink()
    path.mkdir()
    assert not used(cache) and not used(cache)
    assert list(cache.folder.iterdir()) == [path]


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(28, "No space left on device"),
                                   SafetensorError("I/O error: No space left on device (os error 28)")])
def test_a_folder_that_cannot_be_written_costs_only_the_reuse(cache, monkeypatch, error):
    """Catches a training run that ends because its cache is read-only or the disk is full."""

    def refuse(*_):
        raise error

    monkeypatch.setattr(features, "save_file", refuse)
    assert not used(cache) and not used(cache)
    assert list(cache.folder.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path):
    """Catches a crash where the cache's folder cannot even be made."""
    (tmp_path / "file").write_text("in the way")
    assert not used(FeatureCache(tmp_path / "file" / "features"))


def test_a_file_that_may_only_be_read_is_used(cache, monkeypatch):
    """Catches a shared cache that is computed anew by everyone but its owner, who alone may set times."""
    fill(cache)

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    assert used(cache)


def test_the_folder_stays_below_its_limit(tmp_path):
    """Catches a cache that fills the disk, and one that throws away what was just stored or just used."""
    size = fill(FeatureCache(tmp_path / "measure")).stat().st_size
    cache = FeatureCache(tmp_path / "features", limit=3 * size)
    paths = {}
    for age, name in enumerate("abc"):
        paths[name] = fill(cache, (name,))
        os.utime(paths[name], (1000 + age, 1000 + age))
    assert used(cache, ("a",))
    paths["d"] = fill(cache, ("d",))
    assert set(cache.folder.iterdir()) == {paths["a"], paths["c"], paths["d"]}
    small = FeatureCache(tmp_path / "features", limit=size // 2)
    assert not used(small, ("e",)) and used(small, ("e",))
    assert len(list(cache.folder.iterdir())) == 1


def test_only_its_own_files_are_removed(tmp_path):
    """Catches a cache that tidies away what lies beside it."""
    cache = FeatureCache(tmp_path, limit=0)
    (tmp_path / "notes.txt").write_text("mine")
    fill(cache)
    fill(cache, ("another",))
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_files_can_be_looked_at(cache):
    """Catches a format of our own: any safetensors reader must show the features."""
    assert torch.equal(load_file(fill(cache))["features"], WANTED)


@pytest.mark.parametrize("change", [
    {"a": torch.tensor([1.0, 2.0, 3.5])}, {"b": torch.tensor([1.0, 2.0, 3.0])}, {"a": torch.tensor([[1.0, 2.0, 3.0]])},
    {"a": torch.tensor([1.0, 2.0, 3.0]).view(torch.int32)}, {"a": torch.tensor([1.0, 3.0, 2.0])},
    {"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([])}, {}])
def test_a_hash_sees_names_shapes_types_and_bits(change):
    """Catches weights that differ and are taken for the same."""
    assert hash_tensors(change) != hash_tensors({"a": torch.tensor([1.0, 2.0, 3.0])})


def test_a_hash_sees_nothing_else():
    """Catches a hash of the memory behind a tensor: its strides, gradients or inference mode must not matter. And
    types that NumPy lacks.
    """
    tensor = torch.arange(6.0).reshape(2, 3)
    with torch.inference_mode():
        inference = tensor + 0
    alike = (tensor.T.contiguous().T, torch.nn.Parameter(tensor), torch.arange(9.0)[:6].reshape(2, 3), inference)
    assert {hash_tensors({"a": other}) for other in alike} == {hash_tensors({"a": tensor})}
    assert hash_tensors({"a": torch.tensor(1.0, dtype=torch.bfloat16)}) != hash_tensors({"a": torch.tensor(1.0)})


def test_last_token_is_the_backbones():
    """Catches the wrong one of the backbone's results."""

    class Backbone(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            return {"last_hidden_state": None, "last_token": input_ids * attention_mask}

    ids, mask = torch.tensor([[5, 6]]), torch.tensor([[1, 0]])
    assert LastToken(Backbone())(ids, mask).tolist() == [[5, 0]]
