"""Text for pretraining: every token once a pass, nothing held out is trained on, one spelling for one word."""

import gzip
import os
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.tokenizer import Tokenizer
from pretraining import corpus
from pretraining.corpus import (
    Blocks,
    Corpus,
    CorpusError,
    TooFewTokens,
    documents,
    encode,
    ratings_file,
    take_out_rating,
    train_tokenizer,
)

FUZZ = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = """It isn't bad! It's the plot I didn't like, and "the end" (a long one) -- can't they've...
The film is well-made; we'll see it again, won't we? I'd say 4/5 or 7.5/10, she said: 'yes'.
A dull, dull, DULL movie... Nobody's fault! They're fine actors & they're trying * * 1/2
"""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "text.txt").write_text(TEXT * 3)
    train_tokenizer([folder / "text.txt"], 300, 1, folder / "tokenizer.json")
    return Tokenizer.load(folder)


# --- documents


def test_one_document_a_line_from_plain_and_gzip_files(tmp_path):
    """Catches lost last lines, empty documents, files in another order, and CRLF or other line ends kept."""
    (tmp_path / "a.txt").write_bytes("one\n\n  two \r\n\t\nzo\u00eb \u2028 x".encode())
    with gzip.open(tmp_path / "b.txt.gz", "wb") as file:
        file.write(b"drei\nvier\n")
    paths = [tmp_path / "b.txt.gz", tmp_path / "a.txt"]
    assert list(documents(paths)) == ["drei", "vier", "one", "two", "zo\u00eb \u2028 x"]


def damaged(path, kind):
    """Write a damaged file and say what must be said about it."""
    whole = gzip.compress(b"".join(b"document %d\n" % number for number in range(5000)))
    content, said = {
        "bad UTF-8": (b"fine\n" * 9000 + b"caf\xe9\n" + b"fine\n", "line 9001, is not UTF-8"),
        "cut UTF-8": ("caf\u00e9".encode()[:-1], "line 1, is not UTF-8"),
        "truncated": (whole[:len(whole) // 2], "cannot read"),
        "damaged": (whole[:400] + bytes(100) + whole[500:], "cannot read"),
        "no gzip at all": (b"plain text\n", "cannot read"),
    }[kind]
    path.write_bytes(content)
    return said


@pytest.mark.parametrize("kind, name", [("bad UTF-8", "a.txt"), ("cut UTF-8", "a.txt"), ("truncated", "a.gz"),
                                        ("damaged", "a.gz"), ("no gzip at all", "a.gz")])
def test_damaged_files_are_named(tmp_path, kind, name):
    """Catches a traceback from the decoder, the line counted within the decoder's buffer, or an end taken for whole."""
    said = damaged(tmp_path / name, kind)
    with pytest.raises(CorpusError) as caught:
        list(documents([tmp_path / name]))
    assert said in str(caught.value) and name in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    """Catches a traceback."""
    with pytest.raises(CorpusError, match=r"cannot read .*a\.txt"):
        list(documents([tmp_path / "a.txt"]))


def test_documents_are_read_one_at_a_time(tmp_path):
    """Catches a corpus that is loaded to be read: 16 MB of text must not take even one."""
    (tmp_path / "a.txt").write_bytes(b"a film\n" * 2_400_000)
    tracemalloc.start()
    try:
        assert sum(1 for _, _ in zip(documents([tmp_path / "a.txt"]), range(10_000), strict=False)) == 10_000
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


# --- tokenizer


@pytest.mark.parametrize("one, other", [
    ("It isn't bad!", "It is n't bad !"),
    ("It isn't bad!", "it  ISN\u2019T bad!"),
    ("It's can't we'll they've", "it 's ca n't we 'll they 've"),
    ("(a long one)", "-LRB- a long one -RRB-"),
    ('"the end"', "`` the end ''"),
    ('"the end"', "\u201cthe end\u201d"),
    ("'yes'", "\u2018yes\u2019"),
    ("'yes'", "` yes '"),
    ("7.5/10", "7.5 \\/ 10"),
    ("bad.<br /><br />Dull", "bad . dull"),
    ("plot<BR>end", "plot end"),
    ("cafe\u0301", "caf\u00e9"),
    ("well-made", "well - made"),
])
def test_prose_and_treebank_text_give_the_same_ids(tokenizer, one, other):
    """Catches SST's spelling and a review's taken for different words, which would halve what pretraining teaches."""
    ids, others = tokenizer.encode([one, other], 100, lowercase=False).ids
    assert ids == others


@pytest.mark.parametrize("one, other", [("bad!", "bad."), ("isn't", "is"), ("...", ". . ."), ("a b", "ab"), ("(", ")")])
def test_what_differs_stays_different(tokenizer, one, other):
    """Catches a normalisation that removes what carries the sentiment."""
    ids, others = tokenizer.encode([one, other], 100, lowercase=False).ids
    assert ids != others


@FUZZ
@given(st.text(max_size=80))
def test_any_text_can_be_encoded(tokenizer, text):
    """Catches unknown tokens and lost characters: what is decoded has the letters and signs of what was encoded, and
    encoding it again gives the same.
    """
    ids = tokenizer.encode([text], 1000, lowercase=False).ids[0]
    decoded = tokenizer.decode(ids)
    assert all(0 <= number < len(tokenizer) for number in ids)
    if tokenizer.pad_id not in ids and text.isascii() and text.isprintable() and not set(text) & set("<>`'\\-"):
        assert "".join(decoded.split()) == "".join(text.lower().split())
        assert tokenizer.encode([decoded], 1000, lowercase=False).ids[0] == ids


def test_vocabulary_has_the_size_asked_for(tokenizer, tmp_path):
    """Catches a tokenizer of another size than asked for, a file left by a failure, or a message without numbers."""
    assert len(tokenizer) == 300 and tokenizer.decode([tokenizer.pad_id]) == "<|endoftext|>"
    (tmp_path / "text.txt").write_text("too little")
    with pytest.raises(TooFewTokens, match=r"only \d+ tokens, not 300$"):
        train_tokenizer([tmp_path / "text.txt"], 300, 1, tmp_path / "tokenizer.json")
    assert not (tmp_path / "tokenizer.json").exists()


def test_only_the_sample_is_trained_on(tmp_path):
    """Catches a sample_every that is ignored or shifted: the words of the other documents must not become tokens."""
    lines = [("abcabcabc " if number % 3 == 0 else "xyzxyzxyz ") * 5 for number in range(30)]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    train_tokenizer([tmp_path / "text.txt"], 259, 3, tmp_path / "tokenizer.json")
    tokenizer = Tokenizer.load(tmp_path)
    abc, xyz = tokenizer.encode(["abcabcabc", "xyzxyzxyz"], 100, lowercase=False).ids
    assert len(abc) < len(xyz) == 10


# --- ids on disk


def write_ids(path, count):
    """A file of ids that tell their own position."""
    np.arange(count, dtype=np.uint16).tofile(path)
    return path


@FUZZ
@given(st.integers(1, 12), st.integers(0, 200), st.integers(0, 200), st.floats(0, 1), st.integers(0, 5))
def test_every_token_is_predicted_once_a_pass(tmp_path, quarter, extra, batch_tokens, long_share, epoch):
    """Catches tokens left out or seen twice, blocks that overlap or miss one where they meet, targets that are not the
    next token, batches of mixed length or more tokens than asked for.
    """
    T = 4 * quarter
    text = Corpus(write_ids(tmp_path / "ids.bin", T + 1 + extra), T)
    predicted = []
    for rows in text.order(batch_tokens, long_share, seed=3, epoch=epoch):
        batch = text.collate(rows)
        B, length = batch.input_ids.shape
        assert len(batch) == len(rows) == B and length in (T, quarter)
        assert B == 1 or B * length <= batch_tokens
        assert batch.input_ids.dtype == batch.targets.dtype == torch.int64
        assert torch.equal(batch.targets, batch.input_ids + 1)
        assert torch.equal(batch.input_ids - batch.input_ids[:, :1], torch.arange(length).expand(B, length))
        predicted += batch.targets.flatten().tolist()
    assert sorted(predicted) == list(range(1, text.chunks * T + 1))
    assert 0 <= T + 1 + extra - (text.chunks * T + 1) < T  # left over: less than a block


@FUZZ
@given(st.integers(1, 6), st.integers(0, 100), st.integers(1, 100))
def test_evaluation_sees_every_token_once_in_order(tmp_path, quarter, extra, batch_tokens):
    """Catches a perplexity over a part of the held-out text, or over short blocks, which are harder."""
    T = 4 * quarter
    text = Corpus(write_ids(tmp_path / "ids.bin", T + 1 + extra), T)
    batches = [text.collate(rows).targets for rows in text.evaluation_order(batch_tokens)]
    assert all(batch.shape[1] == T for batch in batches)
    assert torch.cat(batches).flatten().tolist() == list(range(1, text.chunks * T + 1))


@pytest.mark.parametrize("long_share, expected", [(0.0, 0), (0.25, 25), (1.0, 100)])
def test_the_share_of_long_blocks(tmp_path, long_share, expected):
    """Catches a share of blocks where a share of the text is meant, or one turned round."""
    text = Corpus(write_ids(tmp_path / "ids.bin", 801), 8)
    rows = [row for batch in text.order(16, long_share, 0, 0) for row in batch]
    assert sum(row % 5 == 4 for row in rows) == expected
    assert len(rows) == expected + 4 * (100 - expected)


def test_order_depends_on_seed_and_epoch_only(tmp_path):
    """Catches an order from a global generator, or the same one in every pass."""
    text = Corpus(write_ids(tmp_path / "ids.bin", 801), 8)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    orders = {(seed, epoch): text.order(32, 0.5, seed, epoch) for seed in range(3) for epoch in range(3)}
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()
    assert len({str(order) for order in orders.values()}) == 9
    assert Corpus(tmp_path / "ids.bin", 8).order(32, 0.5, 2, 1) == orders[2, 1]


@pytest.mark.parametrize("count", [0, 1, 8])
def test_too_little_text(tmp_path, count):
    """Catches a corpus without a single block: an empty file cannot even be mapped."""
    with pytest.raises(CorpusError, match=rf"{count} tokens in .* are not enough for one block of 8"):
        Corpus(write_ids(tmp_path / "ids.bin", count), 8)
    assert Corpus(write_ids(tmp_path / "ids.bin", 9), 8).chunks == 1


def test_a_corpus_larger_than_memory(tmp_path):
    """Catches a file that is loaded: 64 GB (of zeros that take no room on disk) must take less than a megabyte."""
    path = tmp_path / "ids.bin"
    path.touch()
    os.truncate(path, 2**36)
    tracemalloc.start()
    try:
        text = Corpus(path, 512)
        last = text.collate([(text.chunks - 1) * 5 + 4, (text.chunks - 2) * 5 + 4])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert last.input_ids.shape == (2, 512) and peak < 1 << 20


def test_counts(tmp_path):
    """Catches counts of another text, or of tokens that no block holds."""
    np.array([0, 1, 1, 2, 0, 1, 1, 2, 5, 5], dtype=np.uint16).tofile(tmp_path / "ids.bin")
    assert Corpus(tmp_path / "ids.bin", 4).counts(7).tolist() == [2, 4, 2, 0, 0, 0, 0]


def test_a_batch_moves_whole():
    """Catches targets left behind on another device."""
    batch = Blocks(torch.zeros(1, 2), torch.ones(1, 2), torch.ones(1, 2)).to("meta")
    assert {tensor.device.type for tensor in (batch.input_ids, batch.targets, batch.ratings)} == {"meta"}


# --- encoding


@pytest.fixture
def text(tmp_path):
    """25 documents, each with words of its own."""
    path = tmp_path / "text.txt"
    path.write_text("\n".join(f"number {number}" for number in range(25)))
    return path


def read(path):
    return np.fromfile(path, dtype=np.uint16).tolist()


def test_held_out_documents_are_never_trained_on(tokenizer, text, tmp_path, monkeypatch):
    """Catches a document in both files or in neither, one that is not ended, and a held-out file of the beginning
    only.
    """
    monkeypatch.setattr(corpus, "HELD_OUT_EVERY", 10)
    train, held_out = encode([text], tokenizer, tmp_path)
    ids = [[*one, tokenizer.pad_id] for one in
           tokenizer.encode([f"number {number}" for number in range(25)], 100, lowercase=False).ids]
    assert read(held_out) == ids[0] + ids[10] + ids[20]
    assert read(train) == [token for number in range(25) if number % 10 for token in ids[number]]


def test_ratings_lie_beside_the_tokens_of_their_documents(tokenizer, tmp_path, monkeypatch):
    """Catches a rating given to a neighbour, to held-out text from training text, to the token between documents, or
    still to be read in the text; and tokens that are not the ones asked for in a block.
    """
    monkeypatch.setattr(corpus, "HELD_OUT_EVERY", 3)
    lines = ["held out 5/10", "a fine film 8/10", "nothing said", "held out, unrated", "dull 2.5 out of 10", "more"]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    train, held_out = encode([tmp_path / "text.txt"], tokenizer, tmp_path, ratings=True)
    without = ["held out", "a fine film", "nothing said", "held out, unrated", "dull", "more"]
    ids = [[*one, tokenizer.pad_id] for one in tokenizer.encode(without, 100, lowercase=False).ids]
    assert read(train) == ids[1] + ids[2] + ids[4] + ids[5]
    shares = {1: 80, 2: 255, 4: 25, 5: 255}
    wanted = [byte for number, share in shares.items() for byte in [share] * (len(ids[number]) - 1) + [255]]
    assert list(ratings_file(train).read_bytes()) == wanted
    assert list(ratings_file(held_out).read_bytes()) == [50] * (len(ids[0]) - 1) + [255] * (1 + len(ids[3]))

    text = Corpus(train, 4)
    for row in range(text.chunks * 5):
        start, T = (row // 5 * 4, 4) if row % 5 == 4 else (row // 5 * 4 + row % 5, 1)
        share = torch.tensor([float("nan") if byte == 255 else byte / 100 for byte in wanted[start:start + T]])
        torch.testing.assert_close(text.collate([row]).ratings, share[None], equal_nan=True)


def test_ratings_are_left_in_the_text_unless_asked_for(tokenizer, tmp_path):
    """Catches text that is changed for a run which does not guess ratings, or one run's ids taken for the other's."""
    (tmp_path / "text.txt").write_text("held out\na fine film 8/10\n")
    plain, _ = encode([tmp_path / "text.txt"], tokenizer, tmp_path)
    rated, _ = encode([tmp_path / "text.txt"], tokenizer, tmp_path, ratings=True)
    assert tokenizer.decode(read(plain)[:-1]).strip() == "a fine film 8 / 10"
    assert tokenizer.decode(read(rated)[:-1]).strip() == "a fine film"
    assert Corpus(plain, 4).ratings is None and Corpus(plain, 4).collate([0]).ratings is None


def times(files):
    return [path.stat().st_mtime_ns for path in files]


def test_ids_are_reused_while_nothing_changed(tokenizer, text, tmp_path):
    """Catches hours of encoding at every start, or a start on the ids of another text or tokenizer."""
    folder = tmp_path / "ids"
    folder.mkdir()
    files = encode([text], tokenizer, folder)
    before = times(files)
    assert encode([text], tokenizer, folder) == files and times(files) == before
    os.utime(text, (1, 1))
    moved = text.rename(tmp_path / "moved.txt")
    assert encode([moved], tokenizer, folder) == files and times(files) == before
    moved.write_text(moved.read_text().replace("number 7", "number 8"))
    os.utime(moved, (1, 1))  # as large and as old as before
    edited = encode([moved], tokenizer, folder)
    assert not {*edited} & {*files} and read(edited[0]) != read(files[0])
    train_tokenizer([moved], 258, 1, tmp_path / "tokenizer.json")
    other = encode([moved], Tokenizer.load(tmp_path), folder)
    assert len(set(folder.iterdir())) == 9 and read(other[0]) != read(edited[0])


@pytest.mark.parametrize("how", ["lost", "cut", "flipped", "empty", "a link to nowhere", "another's"])
@pytest.mark.parametrize("which", range(5))
def test_damaged_files_are_made_anew(tokenizer, text, tmp_path, which, how):
    """Catches training on damaged ids, without held-out text, or without ratings: after an interruption between two
    files, or years on a disk.
    """
    first_two = encode([text], tokenizer, tmp_path, ratings=True)
    files = [*first_two, *map(ratings_file, first_two), *tmp_path.glob("*.json")]
    content = [path.read_bytes() for path in files]
    path, old = files[which], content[which]
    path.unlink()
    if how == "a link to nowhere":
        path.symlink_to("nowhere")
    elif how != "lost":
        path.write_bytes({"cut": old[:-2], "flipped": bytes([old[0] ^ 1]) + old[1:], "empty": b"",
                          "another's": content[which - 1]}[how])
    assert encode([text], tokenizer, tmp_path, ratings=True) == first_two
    assert [path.read_bytes() for path in files] == content


def test_a_line_without_end_takes_little_memory(tokenizer, tmp_path):
    """Catches gigabytes for a small gzip file with one line: 50 MB here, where 20 times that were taken."""
    with gzip.open(tmp_path / "a.gz", "wb") as file:
        file.write(b"fine\n")
        for _ in range(50):
            file.write(b"film " * 200_000)
    assert (tmp_path / "a.gz").stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(CorpusError, match=r"a\.gz, line 2, has more than 10,000,000 bytes"):
            encode([tmp_path / "a.gz"], tokenizer, tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()
    assert [path.name for path in tmp_path.iterdir()] == ["a.gz"]


def test_documents_of_any_length_are_read(tokenizer, tmp_path, monkeypatch):
    """Catches a limit that cuts a book, or a chunk of documents lost or held out at the wrong number."""
    monkeypatch.setattr("data.tokenizer._CHUNK_CHARACTERS", 20_000)
    books = [f"book {number} " + "a good film " * (900 + 300 * number) for number in range(9)]
    (tmp_path / "a.txt").write_text("\n".join(books))
    train, held_out = encode([tmp_path / "a.txt"], tokenizer, tmp_path)
    ids = [[*one, tokenizer.pad_id] for one in tokenizer.encode(books, 2**31, lowercase=False).ids]
    assert read(held_out) == ids[0] and read(train) == [token for one in ids[1:] for token in one]


@pytest.mark.parametrize("use", ["train", "encode"])
def test_a_word_without_end_is_named(tokenizer, tmp_path, use):
    """Catches a panic of the tokenizers library, in training and in encoding."""
    (tmp_path / "a.txt").write_text("fine\n\n" + "x" * 2_000_000)
    with pytest.raises(CorpusError, match=r"a\.txt, line 3: a text holds a word of 2,000,000 characters"):
        if use == "train":
            train_tokenizer([tmp_path / "a.txt"], 258, 1, tmp_path / "tokenizer.json")
        else:
            encode([tmp_path / "a.txt"], tokenizer, tmp_path)


@pytest.mark.parametrize("name", ["a.txt", "a.gz"])
@pytest.mark.parametrize("kind", ["a pipe", "a device", "a folder"])
def test_text_that_is_no_file(tokenizer, tmp_path, name, kind):
    """Catches waiting for a pipe for ever, and reading zeros until the disk is full."""
    path = tmp_path / name
    {"a pipe": os.mkfifo, "a device": lambda path: path.symlink_to("/dev/zero"), "a folder": os.mkdir}[kind](path)
    for use in (lambda: list(documents([path])), lambda: encode([path], tokenizer, tmp_path)):
        with pytest.raises(CorpusError, match=rf"cannot read .*{name}: not a regular file"):
            use()


def test_little_memory_for_the_text_is_named(tokenizer, text, tmp_path, monkeypatch):
    """Catches a lack of memory for the text that is blamed on the model's size."""
    monkeypatch.setattr(corpus, "take_out_rating", lambda text: bytearray(1 << 62))
    with pytest.raises(CorpusError, match="not enough memory to encode the text"):
        encode([text], tokenizer, tmp_path, ratings=True)


def test_a_failed_encoding_leaves_nothing(tokenizer, tmp_path):
    """Catches ids of half a text taken for the whole at the next start."""
    (tmp_path / "a.txt").write_bytes(b"fine\n" * 600 + b"caf\xe9\n")
    with pytest.raises(CorpusError):
        encode([tmp_path / "a.txt"], tokenizer, tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "a.txt"]


def test_a_vocabulary_too_large_for_two_bytes(tmp_path):
    """Catches ids that wrap around."""

    class Large:
        def __len__(self):
            return 2**16 + 1

    with pytest.raises(CorpusError, match="65537 does not fit"):
        encode([], Large(), tmp_path)


# --- ratings that texts state


@pytest.mark.parametrize("text, left, rating", [
    ("A fine film. 8/10", "A fine film.", 8.0),
    ("A fine film: 8 / 10.", "A fine film: .", 8.0),
    ("I'd say 7.5/10, no more", "I'd say , no more", 7.5),
    ("Ich gebe 6,5/10!", "Ich gebe !", 6.5),
    ("10 out of 10 from me", "from me", 10.0),
    ("3 Out Of Ten", "", 3.0),
    ("8 stars out of 10 stars", "", 8.0),
    ("0/10", "", 0.0),
    ("8/10? Yes, 8/10.", "? Yes, .", 8.0),
])
def test_a_rating_is_taken_out(text, left, rating):
    """Catches a rating left in the text, where guessing it would be reading it; the wrong number; half points lost."""
    assert take_out_rating(text) == (left, rating)


@pytest.mark.parametrize("text", [
    "", "No rating here.", "Seen on 9/10/2001.", "on 10/9/10 or 1999/10/10", "9 out of 10 people left", "24/7", "9/11",
    "4 out of 10 times", "18/10", "110/10", "8/100", "8/10.5", "-3/10", "Acting 8/10, plot 3/10",
    "7/10ths of the film", "half/10"])
def test_what_is_no_rating_stays(text):
    """Catches dates, shares and marks for parts of a film taken for what the writer thinks of it."""
    assert take_out_rating(text) == (text, None)


@given(st.text(alphabet="0123456789/. outfen,stars-", max_size=40))
def test_what_is_left_states_nothing(text):
    """Catches a text from which one rating was taken and another left, numbers beyond the scale, and a text changed
    though it states nothing.
    """
    left, rating = take_out_rating(text)
    if rating is None:
        assert left == text
    else:
        assert 0 <= rating <= 10 and len(left) < len(text)
