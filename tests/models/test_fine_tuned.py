"""A classifier's folder: what is written comes back, and nothing else is believed."""

import json
from dataclasses import replace

import pytest
import torch

from common.errors import UserError
from models import fine_tuned
from models.config import GPT2Config
from models.fine_tuned import SERVING, Description, ModelFolderError, read, write
from models.hub import WEIGHTS

CONFIG = GPT2Config(vocab_size=11, max_position_embeddings=7, hidden_size=6, num_hidden_layers=2,
                    num_attention_heads=3, intermediate_size=5, attention_probs_dropout_prob=0.2)
DESCRIPTION = Description("own", ("bad", "bön"), ("1", "2"), False, ("strip", "break-tags"), 5, True, "full-model",
                          0.25, "gpt", ((0.5, -1.25), (3.0, 1e-7)))
WEIGHTS_ = {"gpt.w": torch.arange(6.0).reshape(2, 3), "head.b": torch.tensor([1.5])}
TOKENIZER = {"tokenizer.json": "{}", "tokenizer_config.json": "{\"a\": 1}"}


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "model", DESCRIPTION, CONFIG, WEIGHTS_, TOKENIZER)
    return tmp_path / "model"


def test_what_is_written_is_read(folder):
    """Catches a field that is lost, rounded or turned into another type, and transposed or half-precision weights."""
    description, config, weights = read(folder)
    assert (description, config) == (DESCRIPTION, CONFIG)
    assert weights.keys() == WEIGHTS_.keys() and all(torch.equal(weights[name], WEIGHTS_[name]) for name in weights)
    assert {path.name for path in folder.iterdir()} == {WEIGHTS, "config.json", SERVING, *TOKENIZER}


def test_transposed_and_bfloat16_weights(folder):
    """Catches memory written as it lies, and a type that the file does not keep."""
    write(folder, DESCRIPTION, CONFIG, {"a": WEIGHTS_["gpt.w"].T, "b": torch.ones(2, dtype=torch.bfloat16)}, TOKENIZER)
    weights = read(folder)[2]
    assert torch.equal(weights["a"], WEIGHTS_["gpt.w"].T) and weights["b"].dtype == torch.float32


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_changed_or_missing_file_is_named(folder, name):
    """Catches a file that is used without a look at its hash."""
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ModelFolderError, match=f"{name} is damaged"):
        read(folder)
    (folder / name).unlink()
    with pytest.raises(ModelFolderError, match=f"lacks {name}"):
        read(folder)


def test_an_interrupted_write_leaves_no_complete_folder(folder, monkeypatch):
    """Catches a description that names the weights of one run and the tokenizer of another."""
    def stop(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr(fine_tuned, "write_atomic", stop)
    with pytest.raises(KeyboardInterrupt):
        write(folder, DESCRIPTION, CONFIG, {"other": torch.ones(1)}, TOKENIZER)
    with pytest.raises(ModelFolderError, match=r"no fine-tuned classifier: there is no serving\.json"):
        read(folder)


def test_a_full_disk_is_a_user_error(folder, monkeypatch):
    """Catches the safetensors library's own exception, which keeps its traceback."""
    def full(*_, **__):
        raise fine_tuned.SafetensorError("I/O error: No space left on device (os error 28)")
    monkeypatch.setattr(fine_tuned, "save_file", full)
    with pytest.raises(UserError, match=r"cannot write .*model\.safetensors.*No space left"):
        write(folder, DESCRIPTION, CONFIG, WEIGHTS_, TOKENIZER)


@pytest.mark.parametrize("changes", [
    {"layout": 2}, {"layout": None}, {"task": 5}, {"label_names": []}, {"label_names": ["a"]},
    {"label_names": "ab"}, {"label_names": ["a", 2]}, {"spellings": ["1"]}, {"lowercase": 1}, {"rules": {}},
    {"max_length": 0}, {"max_length": True}, {"max_length": 2.0}, {"keep_end": None},
    {"dropout": "0.1"}, {"dropout": float("inf")},
    {"answers": [[1.0]]}, {"answers": [[1.0, float("nan")]]}, {"answers": 3}, {"more": 1}, {"files": None},
    {"files": {}}, {"files": {WEIGHTS: "0", "config.json": "0", "tokenizer.json": "0", "../x": "0"}},
    {"files": {WEIGHTS: 0, "config.json": "0", "tokenizer.json": "0"}}])
def test_an_edited_description_is_refused(folder, changes):
    """Catches values that would fail far from here with a traceback, or lead to a file outside of the folder."""
    path = folder / SERVING
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ModelFolderError, match=r"serving\.json is (damaged|in another layout)"):
        read(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_other_content_is_refused(folder, content):
    """Catches a traceback out of the JSON library."""
    (folder / SERVING).write_bytes(content)
    with pytest.raises(ModelFolderError, match=r"serving\.json is damaged"):
        read(folder)


def test_any_label_names_come_back(folder):
    """Catches names that JSON or the file's encoding changes."""
    names = ("a\tb", "\u4e2d\u6587 \U0001f600", '"', "\u2028")
    write(folder, replace(DESCRIPTION, label_names=names, spellings=names, answers=()), CONFIG, WEIGHTS_, TOKENIZER)
    assert read(folder)[0].label_names == names
