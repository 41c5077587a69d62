"""The tokenizer against the library it wraps, and against files that are missing, damaged or hostile."""

import json
import os

import pytest
from tokenizers import ByteLevelBPETokenizer

from common.errors import UserError
from data.tokenizer import END_OF_TEXT, Tokenizer, chunks

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


HOSTILE = {  # what to change in tokenizer.json, and what must be said
    "an id far beyond any model": (lambda c: c["model"]["vocab"].update(zzzz=4_000_000_000), "largest id is 4000000"),
    "no token for what is unknown": (lambda c: c.update(
        model={"type": "WordLevel", "vocab": {END_OF_TEXT: 0, "a": 1}, "unk_token": "[UNK]"}), "Missing .UNK. token"),
    "an unknown token that is unknown": (lambda c: c.update(
        model={"type": "BPE", "vocab": {END_OF_TEXT: 0, "a": 1}, "merges": [], "unk_token": "[UNK]"}), "not found in"),
    "a panic while loading": (lambda c: c.update(
        normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}), "Cannot parse precompiled_charsmap"),
    "a panic while encoding": (lambda c: c.update(pre_tokenizer={
        "type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": False}), "retry-limit"),
    "a text a thousand times as long": (lambda c: c.update(
        normalizer={"type": "Replace", "pattern": {"String": "a"}, "content": "ab" * 5000}), "tokens of 95 characters"),
    "a token of 10 MB": (lambda c: c["added_tokens"].append(
        {**c["added_tokens"][0], "id": 300, "content": "x" * 10**7}), "a string of more than 500,000 bytes"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_files_are_refused_at_once(folder, what, capfd):
    """Catches errors that come only when a text is encoded, panics (which are no Exceptions), their reports of up to a
    megabyte on standard error, and seconds and gigabytes for a token that no text has.
    """
    change, said = HOSTILE[what]
    content = json.loads((folder / "tokenizer.json").read_text())
    change(content)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=said) as caught:
        Tokenizer.load(folder)
    assert len(str(caught.value)) < 500 + len(str(folder))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("kind", ["a pipe", "a device", "too large"])
def test_what_is_no_file_or_no_end_is_refused(folder, name, kind):
    """Catches waiting for a pipe that nobody writes to, and reading a device or a huge file until memory is full."""
    path = folder / name
    path.unlink(missing_ok=True)
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        path.touch()
        os.truncate(path, 1 << 36)
    said = "larger than 32 MB" if kind == "too large" else "not a regular file"
    with pytest.raises(UserError, match=rf"cannot read .*{name}: {said}"):
        Tokenizer.load(folder)


def test_the_size_is_that_of_the_largest_id(folder):
    """Catches a count of tokens taken for the ids' limit: an id beyond a model's vectors is found while training."""
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["zzzz"] = 999
    (folder / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = Tokenizer.load(folder)
    assert len(tokenizer) == 1000
    parts = tokenizer.in_tokens_of(tokenizer)
    assert len(parts) == 1000 and parts[999] == [999] and parts[998] == [tokenizer.pad_id]  # 998: no token has it


def test_long_texts_and_long_words(folder, capfd):
    """Catches a panic of the library on a word of millions of characters, and a long text of short ones refused."""
    tokenizer = Tokenizer.load(folder)
    for text in ("a good film " * 20_000, "\u4e2d\u6587\u3002" * 50_000, " " * 300_000 + "a"):
        assert tokenizer.encode([text], 8, False).truncated == 1
    with pytest.raises(UserError, match=r"a word of 10,000,000 characters, 'xxx.*\.\.\.'"):
        tokenizer.encode(["a good film", "a " + "x" * 10**7], 8, False)
    assert len(tokenizer.encode(["x" * 100_000], 8, True).ids[0]) == 8
    assert capfd.readouterr() == ("", "")


def test_little_memory_is_named(folder, monkeypatch):
    """Catches a lack of memory for the texts that is blamed on the model."""
    tokenizer = Tokenizer.load(folder)
    monkeypatch.setattr("data.tokenizer.chunks", lambda texts: bytearray(1 << 62))
    with pytest.raises(UserError, match="cannot tokenise the texts: there is not enough memory"):
        tokenizer.encode(["a"], 8, False)


def test_chunks_of_many_or_long_texts():
    """Catches texts lost where a chunk is full, and a chunk as large as all texts."""
    texts = ["x" * (1 + 700_000 * (number % 1500 > 1497)) for number in range(3210)]
    cut = list(chunks(texts))
    assert [text for chunk in cut for text in chunk] == texts
    assert all(len(chunk) <= 1000 and sum(map(len, chunk)) < 3_000_000 for chunk in cut) and len(cut) > 3
    assert list(chunks([])) == []


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


@pytest.mark.parametrize("special", [True, False, None])
def test_a_special_token_in_a_text_is_text(folder, backend, special):
    """Catches the end-of-text token taken from a user's text, whether the file marks it as special or not, or not at
    all: its vector is the last one that the head reads, and another user's text could be turned into it.
    """
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    added, = content["added_tokens"]
    content["added_tokens"] = [] if special is None else [{**added, "special": special, "rstrip": True}]
    path.write_text(json.dumps(content))
    tokenizer = Tokenizer.load(folder)
    text = f"a good{END_OF_TEXT} film{END_OF_TEXT}"
    ids, = tokenizer.encode([text], 64, False).ids
    assert tokenizer.pad_id not in ids and tokenizer.decode(ids) == text
    assert len(tokenizer) == backend.get_vocab_size()
    assert tokenizer.encode([""], 64, False).ids == [[tokenizer.pad_id]]


def test_other_added_tokens_are_still_taken(folder):
    """Catches a rule that also takes apart the words that somebody added to a vocabulary on purpose."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    token = {**content["added_tokens"][0], "id": 400, "content": "[PRODUCT]", "special": False}
    path.write_text(json.dumps({**content, "added_tokens": [*content["added_tokens"], token]}))
    tokenizer = Tokenizer.load(folder)
    number = len(tokenizer) - 1
    assert number in tokenizer.encode(["a [PRODUCT] film"], 64, False).ids[0]


def test_the_written_files_are_the_same_tokenizer(folder, backend, tmp_path_factory):
    """Catches a copy that loses the vocabulary, the end of text, or the rule for special tokens."""
    older, copy = tmp_path_factory.mktemp("older"), tmp_path_factory.mktemp("copy")
    backend.save_model(str(older))  # the two files of GPT-2
    for source in (folder, older):
        tokenizer = Tokenizer.load(source)
        for name, content in tokenizer.files(64).items():
            (copy / name).write_text(content, encoding="utf-8")
        again, texts = Tokenizer.load(copy), [*TEXTS, END_OF_TEXT]
        assert again.encode(texts, 64, False) == tokenizer.encode(texts, 64, False)
        assert (again.pad_id, len(again)) == (tokenizer.pad_id, len(tokenizer))


def test_spans_are_where_tokens_stand(folder):
    """Catches spans of another text, of other tokens, or uncut ones: an explanation would name the wrong words."""
    tokenizer = Tokenizer.load(folder)
    text = "a good film , not bad"
    spans = tokenizer.spans(text, 64)
    ids, = tokenizer.encode([text], 64, False).ids
    assert [tokenizer.decode([id]).strip() for id in ids] == [text[start:end].strip() for start, end in spans]
    assert tokenizer.spans(text, 3) == spans[:3]
