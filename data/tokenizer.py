"""Turn text into token ids, with the tokenizer files that lie beside a checkpoint."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError, quoted

END_OF_TEXT = "<|endoftext|>"
_CHUNK = 1000  # texts encoded at once; the library's results take far more memory than the ids kept of them


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
        self._backend = backend
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
        try:
            if len(paths) == 1:
                backend = tokenizers.Tokenizer.from_buffer(contents[0])
            else:
                backend = tokenizers.ByteLevelBPETokenizer(*map(str, paths))._tokenizer
        except Exception as error:  # the library raises bare Exceptions
            raise TokenizerError(f"cannot read the tokenizer {paths[0]}: {quoted(error, 200)}") from error
        digest = hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents))
        return cls(backend, _end_of_text(folder), digest.hexdigest())

    def __len__(self) -> int:
        """Return the number of tokens: ids run from 0 to this - 1."""
        return self._backend.get_vocab_size()

    def encode(self, texts: Sequence[str], max_length: int, lowercase: bool) -> Encoded:
        """Encode texts, each cut after `max_length` tokens; an empty one becomes `[pad_id]`: each has a last token."""
        if max_length < 1:
            raise ValueError(f"max_length must be at least 1, not {max_length}")
        ids: list[list[int]] = []
        truncated = 0
        for start in range(0, len(texts), _CHUNK):
            chunk = [text.lower() if lowercase else text for text in texts[start:start + _CHUNK]]
            for encoding in self._backend.encode_batch_fast(chunk):
                truncated += len(encoding.ids) > max_length
                ids.append(encoding.ids[:max_length] or [self.pad_id])
        return Encoded(ids, truncated)

    def in_tokens_of(self, other: "Tokenizer") -> list[list[int]]:
        """Spell each of our tokens in the tokens of `other`, also byte-level: ids for each, in order of our ids."""
        parts = [[other.pad_id] if id == self.pad_id else other._parts(self._backend.id_to_token(id))
                 for id in range(len(self))]
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


def _read(path: Path) -> bytes:
    """Return the bytes of a file. TokenizerError if it cannot be read."""
    try:
        return path.read_bytes()
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
