"""Text for pretraining: documents, a tokenizer trained on them, and their token ids in one file on disk.

A corpus may be larger than memory: documents are read one at a time, ids are memory-mapped.
"""

import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from common.cli import progress
from common.errors import UserError
from common.files import open_regular, read_bounded, replacing, sha256_file, write_atomic
from common.terminal import say
from data.tokenizer import END_OF_TEXT, Tokenizer, TokenizerError, asking_library, check_words, chunks

HELD_OUT_EVERY = 500  # one document in so many is never trained on
SHORT_TEXT = (100, 20, 5, 2)  # the same for a text so short that this would be less than a block, in turn
LONGEST_DOCUMENT = 10_000_000  # bytes; a gzip file of 3 MB can hold a line of 3 GB
UNRATED = 255  # a token's byte where no rating goes with it

SEPARATE_WORDS = (r"[^\W_]+?(?=n't\b)|n't\b|'(?:s|re|ve|ll|d|m)\b"  # is n't, it 's: as the Penn Treebank splits
                  r"|[^\W_]+|[.!?*=_-]{2,}|[^\w\s]|_")
"""What counts as a word. White space only separates, so "It isn't bad!" and "It is n't bad !" give the same tokens."""

SAME_SIGNS = ((r"<\s*br\s*/?\s*>", " "), ("-lrb-", "("), ("-rrb-", ")"), (r"\\/", "/"),
              ("``|''|[“”]", '"'), ("[‘’`]", "'"))
"""Ways of writing the same sign, undone after lower-casing: line-break tags, Penn Treebank brackets, curly quotes."""

STATED = re.compile(
    r"(?<![\w.,/*-])(?P<value>10|\d(?:[.,]\d+)?)(?: stars?)?\s*(?:/|out of)\s*(?:10|ten)\b(?: stars?\b)?"
    r"(?![/.,]?\d|\s*(?:of|in|people|times|years|minutes)\b)", re.IGNORECASE)
"""A number of ten, but neither a date (9/10/2001) nor a share ("9 out of 10 people")."""


class CorpusError(UserError):
    """A text file cannot be read, or holds too little."""


class TooFewTokens(CorpusError):
    """The text gives fewer tokens than the vocabulary asks for."""


class TooLittleText(CorpusError):
    """The text is too short for a block to train on and another one to validate with."""


def documents(paths: Sequence[Path]) -> Iterator[str]:
    """One document a line, from plain or gzip files in UTF-8; empty lines are passed over.

    CorpusError for a file that cannot be read, and a line that is not UTF-8, too long, or holds an endless word.
    """
    for path in paths:
        number = 0
        try:
            with open_regular(path) as raw:
                file = io.BufferedReader(gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw
                while line := file.readline(LONGEST_DOCUMENT + 1):
                    number += 1
                    if len(line) > LONGEST_DOCUMENT:
                        raise CorpusError(f"{path}, line {number}, has more than {LONGEST_DOCUMENT:,} bytes; "
                                          "a line is one document: break it")
                    if text := line.decode("utf-8").strip():
                        check_words(text)
                        yield text
        except (OSError, EOFError, zlib.error) as error:
            raise CorpusError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
        except UnicodeDecodeError as error:
            raise CorpusError(f"{path}, line {number}, is not UTF-8: {error.reason}") from error
        except TokenizerError as error:
            raise CorpusError(f"{path}, line {number}: {error}") from error


def train_tokenizer(paths: Sequence[Path], vocab_size: int, sample_every: int, path: Path) -> None:
    """Train a lower-casing byte-level BPE on every `sample_every`-th document; write it to `path` (tokenizer.json)."""
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Backend

    backend = Backend(models.BPE())
    same = [normalizers.Replace(Regex(pattern), sign) for pattern, sign in SAME_SIGNS]
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase(), *same])
    backend.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SEPARATE_WORDS), "removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[END_OF_TEXT], show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    sample = (text for number, text in enumerate(documents(paths)) if number % sample_every == 0)
    with asking_library("cannot train a tokenizer on the text"):
        backend.train_from_iterator(progress(sample, "tokenizer", "document"), trainer)
    if backend.get_vocab_size() < vocab_size:
        raise TooFewTokens(f"the text gives only {backend.get_vocab_size()} tokens, not {vocab_size}")
    write_atomic(path, backend.to_str(pretty=True))


@dataclass(frozen=True)
class Blocks:
    """A batch for a language model: consecutive tokens, for each the one that follows, and their documents' ratings."""

    input_ids: Tensor  # [B, T] int64
    targets: Tensor  # [B, T] int64: the same, one token on
    ratings: Tensor | None = None  # [B, T] float32, 0 to 1, NaN where a document has none; None for a corpus without

    def __len__(self) -> int:
        return len(self.input_ids)

    def to(self, device: torch.device | str) -> "Blocks":
        """The same batch on `device`."""
        ratings = None if self.ratings is None else self.ratings.to(device)
        return Blocks(self.input_ids.to(device), self.targets.to(device), ratings)


class Corpus:
    """Token ids of many documents end to end, each followed by the end-of-text token, memory-mapped.

    Cut into chunks of T tokens, T a multiple of SHORT; what is left at the end is not used. A chunk is trained on
    whole, or as SHORT blocks of T / SHORT tokens, which is cheaper and teaches most of what a long block does. Row r of
    chunk c has the number c * (SHORT + 1) + r: r < SHORT is a short block, r = SHORT the whole chunk.
    """

    SHORT = 4

    def __init__(self, path: Path, T: int):
        count = path.stat().st_size // 2
        self.T = T
        self.chunks = (count - 1) // T
        if self.chunks < 1:
            raise CorpusError(f"{count} tokens in {path} are not enough for one block of {T}: give more text")
        self.ids = np.memmap(path, dtype=np.uint16, mode="r")
        beside = ratings_file(path)
        self.ratings = np.memmap(beside, dtype=np.uint8, mode="r") if beside.exists() else None

    def counts(self, vocab_size: int, tokens: int = 2_000_000) -> Tensor:
        """[vocab_size] int64: how often each token occurs in about `tokens` tokens spread over the text."""
        step = max(self.chunks * self.T // tokens, 1)
        sample = self.ids[:self.chunks * self.T].reshape(self.chunks, self.T)[::step]
        return torch.from_numpy(np.bincount(sample.flatten(), minlength=vocab_size))

    def collate(self, rows: Sequence[int]) -> Blocks:
        """The blocks with these row numbers, all of one length."""
        chunk, part = np.divmod(np.asarray(rows), self.SHORT + 1)
        whole = part[0] == self.SHORT
        T = self.T if whole else self.T // self.SHORT
        starts = chunk * self.T + (0 if whole else part * T)
        ids = torch.from_numpy(np.stack([self.ids[start:start + T + 1] for start in starts]).astype(np.int64))
        ratings = None
        if self.ratings is not None:
            stored = np.stack([self.ratings[start:start + T] for start in starts])
            ratings = torch.from_numpy(np.where(stored == UNRATED, np.nan, stored / 100).astype(np.float32))
        return Blocks(ids[:, :-1], ids[:, 1:], ratings)

    def order(self, batch_tokens: int, long_share: float, seed: int, epoch: int) -> list[list[int]]:
        """The batches of one pass, every chunk in one of them, as row numbers; order by (seed, epoch) only.

        A batch has batch_tokens tokens, or fewer, in blocks of one length; long_share of the chunks stay whole.
        """
        random = np.random.default_rng((seed, epoch))
        rows = random.permutation(self.chunks)[:, None] * (self.SHORT + 1) + np.arange(self.SHORT + 1)
        whole = round(long_share * self.chunks)
        batches = []
        for kind, T in ((rows[:whole, self.SHORT], self.T), (rows[whole:, :self.SHORT], self.T // self.SHORT)):
            kind = random.permutation(kind.flatten())
            size = max(batch_tokens // T, 1)
            batches += [kind[start:start + size].tolist() for start in range(0, len(kind), size)]
        return [batches[position] for position in random.permutation(len(batches))]

    def evaluation_order(self, batch_tokens: int) -> list[list[int]]:
        """All chunks, whole, in file order."""
        rows = np.arange(self.chunks) * (self.SHORT + 1) + self.SHORT
        size = max(batch_tokens // self.T, 1)
        return [rows[start:start + size].tolist() for start in range(0, len(rows), size)]


def ratings_file(ids: Path) -> Path:
    """The file beside one of token ids that holds a byte for each: its document's rating of 100, or UNRATED."""
    return ids.with_suffix(".ratings")


def encode(paths: Sequence[Path], tokenizer: Tokenizer, folder: Path, ratings: bool = False,
           T: int = 0) -> tuple[Path, Path]:
    """Write the token ids of all documents to (training, held-out) files in `folder`; each holds a block of T tokens.

    One document in HELD_OUT_EVERY is held out; of a short text a larger share, which is said. TooLittleText where
    no share will do. ratings: as for encode_share.
    """
    need = T and T + 1  # a block, and the token that follows it
    for every in (HELD_OUT_EVERY, *(share for share in SHORT_TEXT if share < HELD_OUT_EVERY)):
        files = encode_share(paths, tokenizer, folder, every, ratings)
        train, held_out = (file.stat().st_size // 2 for file in files)
        if min(train, held_out) >= need:
            if every != HELD_OUT_EVERY:
                say(f"the text is short: one document in {every} is held out for validation, not in {HELD_OUT_EVERY}")
            return files
        if train < need:
            break
    count = sum(int((np.fromfile(file, dtype=np.uint16) == tokenizer.pad_id).sum()) for file in files)
    raise TooLittleText(f"{train + held_out:,} tokens in {count:,} document{'s' * (count != 1)} (a line is one) are "
                        f"not enough for one block of {T:,} to train on and one, from other documents, to validate "
                        f"with: each takes {need:,} tokens")


def encode_share(paths: Sequence[Path], tokenizer: Tokenizer, folder: Path, every: int,
                 ratings: bool) -> tuple[Path, Path]:
    """Write the same files with one document in `every` held out, unless they are there, undamaged.

    ratings: take the ratings that documents state ("8/10") out of their text, and write them to files beside these.
    """
    if len(tokenizer) > 2**16:
        raise CorpusError(f"a vocabulary of {len(tokenizer)} does not fit the two bytes that an id has here")
    texts = [[path.suffix == ".gz", fingerprint(path)] for path in paths]
    key = json.dumps([tokenizer.fingerprint, ratings, every, texts])
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    files = [folder / f"{name}-train.bin", folder / f"{name}-held-out.bin"]
    wanted = files + ([ratings_file(file) for file in files] if ratings else [])
    sums = folder / f"{name}.json"
    if not intact(wanted, sums):
        try:
            with ExitStack() as stack, progress(0, "encoding", "document") as bar:
                parts = [stack.enter_context(open(stack.enter_context(replacing(file)), "wb")) for file in wanted]
                write_documents(documents(paths), tokenizer, parts, every, ratings, bar)
        except MemoryError as error:  # named here, or else it would be the model's
            raise CorpusError("there is not enough memory to encode the text") from error
        write_atomic(sums, json.dumps({file.name: sha256_file(file) for file in wanted}))
    return files[0], files[1]


def write_documents(texts: Iterator[str], tokenizer: Tokenizer, parts: Sequence[BinaryIO], every: int, ratings: bool,
                    bar: Any) -> None:
    """Write documents to open files: ids to train on, ids of one in `every`, and if wanted the ratings of both."""
    count = 0
    for chunk in chunks(texts):
        stated = [None] * len(chunk)
        if ratings:
            chunk, stated = zip(*map(take_out_rating, chunk), strict=True)
        ids = tokenizer.encode(chunk, max_length=2**31, lowercase=False).ids
        held_out = [(count + row) % every == 0 for row in range(len(chunk))]
        for number in range(2):
            rows = [row for row, held in enumerate(held_out) if held == number]
            tokens = (token for row in rows for token in (*ids[row], tokenizer.pad_id))
            parts[number].write(np.fromiter(tokens, dtype=np.uint16).tobytes())
            if ratings:
                parts[2 + number].write(_for_each_token([stated[row] for row in rows], [ids[row] for row in rows]))
        count += len(chunk)
        bar.update(len(chunk))


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a text file. CorpusError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open_regular(path) as file, progress(path.stat().st_size, f"checking {path.name}", "B") as bar:
            while piece := file.read(1 << 20):
                digest.update(piece)
                bar.update(len(piece))
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()


def intact(files: Sequence[Path], sums: Path) -> bool:
    """Whether the files are those whose SHA-256 `sums` holds."""
    try:
        stored = json.loads(read_bounded(sums, 1 << 20))
        return stored == {file.name: sha256_file(file) for file in files}
    except (OSError, ValueError, RecursionError, UserError):
        return False


def take_out_rating(text: str) -> tuple[str, float | None]:
    """The text without its rating, and the rating, 0 to 10; the text as it is, and None, where it states none.

    A text that states several ratings which differ speaks of several things, and counts as one without.
    """
    stated = {float(match["value"].replace(",", ".")) for match in STATED.finditer(text)}
    if len(stated) != 1:
        return text, None
    return " ".join(STATED.sub(" ", text).split()), stated.pop()


def _for_each_token(ratings: Sequence[float | None], ids: Sequence[list[int]]) -> bytes:
    """Each document's rating, 0 to 10, as a byte of 0 to 100 for each of its tokens; UNRATED for its end."""
    return b"".join(bytes([UNRATED if rating is None else round(10 * rating)]) * len(document) + bytes([UNRATED])
                    for rating, document in zip(ratings, ids, strict=True))
