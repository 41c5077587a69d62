"""The tokenizer against the library it wraps, and against files that are missing, damaged or hostile."""

import json

import pytest
from tokenizers import ByteLevelBPETokenizer

from common.errors import UserError
from data.tokenizer import END_OF_TEXT, Tokenizer

TEXTS = ["a good film", "A Good Film", "not good , not bad", "", "x", "Café — naïve \x85 😀", "good " * 40]


@pytest.fixture(scope="module")
def backend() -> ByteLevelBPETokenizer:
    """A tiny byte-level BPE, cased."""
    backend = ByteLevelBPETokenizer()
    texts = ["a good film", "A bad film , not good"] * 5
    backend.train_from_iterator(texts, vocab_size=300, show_progress=False, special_tokens=[END_OF_TEXT])
    return backend


@pytest.fixture
def folder(tmp_path, backend):
    backend._tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_same_ids_as_the_library(folder, backend):
    """Catches texts lost, reordered across chunks, or encoded with other settings than the file's."""
    many = TEXTS * 400  # more than one chunk
    encoded = Tokenizer.load(folder).encode(many, max_length=1000, lowercase=False)
    end = backend.token_to_id(END_OF_TEXT)
    assert encoded.ids == [backend.encode(text).ids or [end] for text in many]
    assert encoded.truncated == 0


def test_vocab_and_merges_give_the_same(folder, backend, tmp_path_factory):
    """Catches GPT-2's older file layout read differently from tokenizer.json."""
    other = tmp_path_factory.mktemp("older")
    backend.save_model(str(other))
    a, b = Tokenizer.load(folder), Tokenizer.load(other)
    assert a.encode(TEXTS, 64, True) == b.encode(TEXTS, 64, True)
    assert a.pad_id == b.pad_id and len(a) == len(b) and a.fingerprint != b.fingerprint


def test_lowercase(folder):
    """Catches lower-casing that is skipped or always on."""
    tokenizer = Tokenizer.load(folder)
    lower, as_is = (tokenizer.encode(TEXTS[:2], 64, lowercase=case).ids for case in (True, False))
    assert lower[0] == lower[1] and as_is[0] != as_is[1]


def test_cut_and_count(folder):
    """Catches cutting at the wrong end, one token off, or without counting."""
    tokenizer = Tokenizer.load(folder)
    whole = tokenizer.encode(["a good film , not bad"], 1000, False).ids[0]
    for length in range(1, len(whole) + 2):
        encoded = tokenizer.encode(["a good film , not bad"], length, False)
        assert encoded.ids[0] == whole[:length]
        assert encoded.truncated == (length < len(whole))
    with pytest.raises(ValueError, match="max_length"):
        tokenizer.encode(["a"], 0, False)


def test_the_file_cannot_pad_or_truncate(folder, backend):
    """Catches a file whose own truncation cuts texts uncounted, or whose padding gets among the ids."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["truncation"] = {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    content["padding"] = {"strategy": {"Fixed": 99}, "direction": "Left", "pad_to_multiple_of": None,
                          "pad_id": 5, "pad_type_id": 0, "pad_token": "x"}
    path.write_text(json.dumps(content))
    encoded = Tokenizer.load(folder).encode(["a good film"], 64, False)
    assert encoded.ids == [backend.encode("a good film").ids]


def test_empty_text_is_one_end_token(folder):
    """Catches an empty id list, for which a model has no last token."""
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.encode([""], 8, False).ids == [[tokenizer.pad_id]]
    assert tokenizer.decode([tokenizer.pad_id]) == END_OF_TEXT
    assert tokenizer.encode([], 8, False).ids == []


def test_other_end_token(folder):
    """Catches ignoring the end token that a checkpoint names, in both forms Hugging Face writes."""
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    for token in ("x", {"content": "x", "lstrip": False}):
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": token}))
        assert Tokenizer.load(folder).pad_id == vocabulary["x"]


def test_fingerprint(folder):
    """Catches a fingerprint that misses a change, or changes without one."""
    before = Tokenizer.load(folder).fingerprint
    assert before == Tokenizer.load(folder).fingerprint and len(before) == 64
    path = folder / "tokenizer.json"
    path.write_bytes(path.read_bytes() + b"\n")
    assert Tokenizer.load(folder).fingerprint != before


def spoil(folder, what):
    path = folder / "tokenizer.json"
    if what == "missing":
        path.unlink()
    elif what == "cut":
        path.write_bytes(path.read_bytes()[:500])
    elif what == "a folder":
        path.unlink()
        path.mkdir()
    elif what == "another format":
        path.write_text("{}")
    elif what == "no end token":
        path.write_text(path.read_text().replace(END_OF_TEXT, "<end>"))
    elif what == "bytes":
        path.write_bytes(bytes(range(256)))
    elif what == "half of the older layout":
        path.rename(folder / "vocab.json")
    elif what == "damaged older layout":
        path.rename(folder / "vocab.json")
        (folder / "merges.txt").write_text("a b c d\n")
    elif what == "damaged settings":
        (folder / "tokenizer_config.json").write_text("{")
    elif what == "deep settings":
        (folder / "tokenizer_config.json").write_text("[" * 100_000)


@pytest.mark.parametrize("what", [
    "missing", "cut", "a folder", "another format", "no end token", "bytes", "half of the older layout",
    "damaged older layout", "damaged settings", "deep settings"])
def test_damage_is_a_user_error(folder, what):
    """Catches the library's bare Exceptions and panics reaching the user, and damage that loads silently."""
    spoil(folder, what)
    with pytest.raises(UserError) as caught:
        Tokenizer.load(folder)
    assert len(str(caught.value)) < 500 + len(str(folder))


def test_one_vocabulary_in_tokens_of_another(folder, tmp_path_factory):
    """Catches a token that is written with a space it has not, by the wrong tokens, or as text where it is special."""
    more = ByteLevelBPETokenizer()
    more.train_from_iterator(["a good goods film", "A bad film , not good"] * 9, vocab_size=320, show_progress=False,
                             special_tokens=["<|end|>"])
    larger = tmp_path_factory.mktemp("larger")
    more._tokenizer.save(str(larger / "tokenizer.json"))
    (larger / "tokenizer_config.json").write_text('{"eos_token": "<|end|>"}')
    old, new = Tokenizer.load(folder), Tokenizer.load(larger)
    parts = new.in_tokens_of(old)
    assert len(parts) == len(new) > len(old) and parts[new.pad_id] == [old.pad_id]
    for id, ids in enumerate(parts):
        if id == new.pad_id:
            continue
        assert "".join(old._backend.id_to_token(part) for part in ids) == new._backend.id_to_token(id)
    assert [len(ids) for ids in old.in_tokens_of(old)] == [1] * len(old)


def test_a_vocabulary_that_lacks_a_letter(folder, tmp_path_factory):
    """Catches a token left with no vector at all, which its mean would make NaN."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import models

    poor = tmp_path_factory.mktemp("poor")
    Backend(models.BPE({END_OF_TEXT: 0, "a": 1}, [])).save(str(poor / "tokenizer.json"))
    with pytest.raises(UserError, match="the old tokenizer cannot write the new one's token '!'"):
        Tokenizer.load(folder).in_tokens_of(Tokenizer.load(poor))
