"""Turn text into token ids, with the tokenizer files that lie beside a checkpoint."""

import contextlib
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError, quoted
from common.files import read_bounded

END_OF_TEXT = "<|endoftext|>"
LARGEST_FILE = 32 << 20  # bytes; a vocabulary of 250,000 takes 17 million
LONGEST_STRING = 500_000  # bytes of one in the files; the library takes a thousand times that to look for a long token
MOST_IDS = 1_000_000  # a model has a vector for every id up to the largest
LONGEST_WORD = 100_000  # characters; the library gives up on far longer ones

# Texts encoded at once, and about how many characters; the library's results take far more memory than the ids kept.
_CHUNK, _CHUNK_CHARACTERS = 1000, 2_000_000
_PROBES = ["".join(map(chr, range(32, 127))), "x" * 200, "caf\u00e9 \u2014 \u4e2d\u6587 \U0001f600"]
_MOST_TOKENS = 8  # a probe's tokens for each of its bytes; one is usual


class TokenizerError(UserError):
    """A tokenizer file is missing or damaged, or does not fit the model."""


class Encoded(NamedTuple):
    """The token ids of some texts."""

    ids: list[list[int]]  # one list for each text, never empty
    truncated: int  # number of texts that were too long and were cut


class Tokenizer:
    """A byte-level BPE tokenizer in Hugging Face's file formats."""

    def __init__(self, backend: "tokenizers.Tokenizer", end_of_text: str, fingerprint: str) -> None:  # noqa: F821
        """Wrap a tokenizer that is loaded already; usually `Tokenizer.load` calls this."""
        pad_id = backend.token_to_id(end_of_text)
        if pad_id is None:
            raise TokenizerError(f"the tokenizer has no token {quoted(end_of_text)}, which padding needs")
        # The file may ask for these; here, `encode` cuts and the batch pads.
        backend.no_truncation()
        backend.no_padding()
        # What looks like a special token in a text is text: the library then takes no token that is marked as special,
        # and the end of text is marked now, whatever the file says.
        backend.add_special_tokens([end_of_text])
        backend.encode_special_tokens = True
        self._backend, self._end_of_text = backend, end_of_text
        self._size = max(backend.get_vocab().values()) + 1
        if self._size > MOST_IDS:
            raise TokenizerError(f"the tokenizer's largest id is {self._size - 1}; at most {MOST_IDS - 1} is sensible")
        self.pad_id: int = pad_id  # of the end-of-text token: GPT-2 has no padding token of its own
        self.fingerprint = fingerprint  # SHA-256 of the tokenizer's files

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "Tokenizer":
        """Load `tokenizer.json`, or else `vocab.json` and `merges.txt`, from a model's folder."""
        import tokenizers  # here, because only runs that tokenise need it

        folder = Path(folder)
        paths = [folder / "tokenizer.json"]
        if not paths[0].exists():
            paths = [folder / "vocab.json", folder / "merges.txt"]
        if not all(path.exists() for path in paths):
            raise TokenizerError(
                f"no tokenizer in {folder}: it holds neither tokenizer.json nor vocab.json and merges.txt")
        contents = [_read(path) for path in paths]
        for path, content in zip(paths, contents, strict=True):
            if re.search(rb'"[^"]{%d}' % LONGEST_STRING, content):
                raise TokenizerError(f"{path} holds a string of more than {LONGEST_STRING:,} bytes: it is damaged")

        with asking_library(f"cannot read the tokenizer {paths[0]}"), _silent_library():
            if len(paths) == 1:
                backend = tokenizers.Tokenizer.from_buffer(contents[0])
            else:
                backend = tokenizers.ByteLevelBPETokenizer(*map(str, paths))._tokenizer
        with asking_library(f"{paths[0]} is no use for text"), _silent_library():
            for probe in _PROBES:
                count, most = len(backend.encode(probe).ids), _MOST_TOKENS * len(probe.encode())
                if count > most:
                    raise ValueError(f"it makes {count} tokens of {len(probe)} characters")
        digest = hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents))
        return cls(backend, _end_of_text(folder), digest.hexdigest())

    def __len__(self) -> int:
        """Return the largest id + 1, which is the number of tokens unless some ids are left out."""
        return self._size

    def encode(self, texts: Sequence[str], max_length: int, lowercase: bool, keep_end: bool = False) -> Encoded:
        """Encode texts, each cut after `max_length` tokens; an empty one becomes `[pad_id]`: each has a last token.

        keep_end: cut off the beginning of a text that is too long instead.
        TokenizerError for a word of more than LONGEST_WORD characters, and where the library or the memory fails.
        """
        if max_length < 1:
            raise ValueError(f"max_length must be at least 1, not {max_length}")
        ids: list[list[int]] = []
        truncated = 0
        with asking_library("cannot tokenise the texts"):
            for chunk in chunks(texts):
                for text in chunk:
                    check_words(text)
                chunk = [text.lower() for text in chunk] if lowercase else chunk
                for encoding in self._backend.encode_batch_fast(chunk):
                    truncated += len(encoding.ids) > max_length
                    kept = encoding.ids[-max_length:] if keep_end else encoding.ids[:max_length]
                    ids.append(kept or [self.pad_id])
        return Encoded(ids, truncated)

    def spans(self, text: str, max_length: int, keep_end: bool = False) -> list[tuple[int, int]]:
        """Return where each token of a text, lower-cased already if need be, stands in it: start, end."""
        with asking_library("cannot tokenise the text"):
            check_words(text)
            offsets = self._backend.encode(text).offsets
            return offsets[-max_length:] if keep_end else offsets[:max_length]

    def files(self, max_length: int) -> dict[str, str]:
        """Return the files that `load` and Hugging Face's AutoTokenizer read this tokenizer from: content by name."""
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_length,
                    **dict.fromkeys(("bos_token", "eos_token", "unk_token"), self._end_of_text)}
        return {"tokenizer.json": self._backend.to_str(pretty=True),
                "tokenizer_config.json": json.dumps(settings, indent=2) + "\n"}

    def in_tokens_of(self, other: "Tokenizer") -> list[list[int]]:
        """Spell each of our tokens in the tokens of `other`, also byte-level: ids for each, in order of our ids."""
        tokens = map(self._backend.id_to_token, range(len(self)))
        parts = [[other.pad_id] if token is None or id == self.pad_id else other._parts(token)  # None: an id left out
                 for id, token in enumerate(tokens)]
        if not all(parts):
            lacking = self._backend.id_to_token(parts.index([]))
            raise TokenizerError(f"the old tokenizer cannot write the new one's token {quoted(lacking)}")
        return parts

    def _parts(self, token: str) -> list[int]:
        """Return the ids of our tokens that make up `token`."""
        known = self._backend.token_to_id(token)
        return [known] if known is not None else [part.id for part in self._backend.model.tokenize(token)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some ids, special tokens included."""
        return self._backend.decode(list(ids), skip_special_tokens=False)


@contextlib.contextmanager
def asking_library(what: str) -> Iterator[None]:
    """Turn whatever the library raises into a TokenizerError: bare Exceptions, and panics, which are not even these."""
    try:
        yield
    except UserError:
        raise
    except MemoryError as error:
        raise TokenizerError(f"{what}: there is not enough memory") from error
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"{what}: {quoted(error, 200)}") from error


@contextlib.contextmanager
def _silent_library() -> Iterator[None]:
    """Send standard error nowhere: a panic writes its own report there, of any length, before it can be caught."""
    sys.stderr.flush()
    usual, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(usual, 2)
        os.close(usual)
        os.close(nowhere)


def chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Cut texts into lists of at most _CHUNK, which end when they have _CHUNK_CHARACTERS."""
    chunk, characters = [], 0
    for text in texts:
        chunk.append(text)
        characters += len(text)
        if len(chunk) == _CHUNK or characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def check_words(text: str) -> None:
    """TokenizerError if a word of a text is too long for the library."""
    if len(text) > LONGEST_WORD:
        for match in re.finditer(r"\w+", text):
            if (length := match.end() - match.start()) > LONGEST_WORD:
                raise TokenizerError(f"a text holds a word of {length:,} characters, {quoted(match[0], 40)}; "
                                     f"at most {LONGEST_WORD:,} can be tokenised")


def _read(path: Path) -> bytes:
    """Return the bytes of a file. TokenizerError if it cannot be read."""
    try:
        return read_bounded(path, LARGEST_FILE)
    except OSError as error:
        raise TokenizerError(f"cannot read {path}: {error.strerror or error}") from error


def _end_of_text(folder: Path) -> str:
    """Return the end-of-text token in `tokenizer_config.json`; GPT-2's if none is given there."""
    path = folder / "tokenizer_config.json"
    if not path.exists():
        return END_OF_TEXT
    try:
        settings = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"cannot read {path}: {error}") from error
    token = settings.get("eos_token") if isinstance(settings, dict) else None
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else END_OF_TEXT
