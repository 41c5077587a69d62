r"""Hand a byte-level BPE tokenizer to JavaScript: its parts as JSON, its regular expressions in JavaScript's words.

What `\w` or `\p{L}` means is not the same for the library (Oniguruma's expressions) and for a browser, or an older one.
So the library itself is asked which characters are in a class, and the page gets their ranges.
"""

import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from common.errors import UserError, quoted
from data.rules import C1
from models.fine_tuned import Description

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # what ByteLevel splits by
SPACES = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())  # as str.strip and Python's \s have it
SET = r"\\[wWsSdD]|\\[pP]\{\w+\}|\[\^?\]?(?:\\[^\n]|[^\\\[\]\n])+\]"  # brackets without brackets in them, too
PART = re.compile(rf"(?P<set>{SET})|(?P<edge>\\b)|(?P<code>\\[nrt])|(?P<sign>\\[^\w\s])"
                  r"|(?P<group>\(\?(?::|=|!|<=|<!)|\((?!\?)|[)|])|(?P<dot>\.)"
                  r"|(?P<many>(?:[*+?]|\{\d+(?:,\d*)?\})\??(?![*+?]))|(?P<literal>[^\\()\[\]{}|.*+?^$])")


class NotForJavaScript(UserError):
    """This tokenizer has a part that the page's JavaScript does not know."""


def spoken(files: Mapping[str, str], pad_id: int, what: Description) -> dict[str, Any]:
    """Return how a text becomes ids, for the page: rules, normaliser, splits, vocabulary, merges.

    files: the tokenizer's files, content by name. pad_id: what an empty text reads. NotForJavaScript if the tokenizer
    has another make than GPT-2's.
    """
    document = json.loads(files["tokenizer.json"])
    model, added = document["model"], document.get("added_tokens") or []
    plain = [token["content"] for token in added if not token["special"]]
    if plain:
        raise NotForJavaScript(f"its tokenizer has an added token, {quoted(plain[0])}")
    wrong = [key for key in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback",
                             "ignore_merges") if model.get(key)]
    after = document.get("post_processor") or {"type": "ByteLevel"}  # which changes offsets only
    if model.get("type") != "BPE" or wrong or after["type"] != "ByteLevel":
        raise NotForJavaScript(f"its tokenizer is not a plain byte-level BPE ({wrong or model.get('type')})")

    vocabulary = {**model["vocab"], **{token["content"]: token["id"] for token in added}}
    names = [""] * (max(vocabulary.values()) + 1)
    for name, id in vocabulary.items():
        names[id] = name
    pairs = (merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"])
    merges = [number for left, right in pairs for number in (
        vocabulary[left], vocabulary[right], vocabulary[left + right])]
    return {"rules": what.rules, "lowercase": what.lowercase, "spaces": SPACES,
            "c1": [C1[code] for code in sorted(C1)], "maxLength": what.max_length, "keepEnd": what.keep_end,
            "padId": pad_id, "normalizers": list(normalizers(document.get("normalizer"))),
            "splits": list(splits(document.get("pre_tokenizer"))), "names": names, "merges": merges}


def normalizers(part: dict[str, Any] | None) -> Iterator[list[str]]:
    """Yield the steps of a normaliser: [what, its arguments]."""
    kind = part["type"] if part else None
    if kind == "Sequence":
        for step in part["normalizers"]:
            yield from normalizers(step)
    elif kind == "Replace":
        yield ["replace", pattern_of(part["pattern"]), part["content"]]
    elif kind in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase"):
        yield [kind]
    elif kind is not None:
        raise NotForJavaScript(f"its tokenizer has a normaliser of the type {quoted(kind)}")


def splits(part: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Yield the steps that split a text into words: {pattern, keep: matches, gaps or both}, or {prefix: true}."""
    kind = part["type"] if part else None
    if kind == "Sequence":
        for step in part["pretokenizers"]:
            yield from splits(step)
    elif kind == "Split" and part["behavior"] in ("Removed", "Isolated"):
        kept = "both" if part["behavior"] == "Isolated" else "matches" if part["invert"] else "gaps"
        yield {"pattern": pattern_of(part["pattern"]), "keep": kept}
    elif kind == "ByteLevel":
        if part["add_prefix_space"]:
            yield {"prefix": True}
        if part.get("use_regex", True):
            yield {"pattern": translated(GPT2), "keep": "both"}
    else:
        raise NotForJavaScript(f"its tokenizer splits texts by the type {quoted(kind)}")


def pattern_of(pattern: dict[str, str]) -> str:
    """Return a pattern of tokenizer.json for JavaScript: {"Regex": ...} or {"String": ...}."""
    return translated(pattern["Regex"]) if "Regex" in pattern else "".join(map(escaped, pattern["String"]))


def translated(pattern: str) -> str:
    r"""Return a regular expression of Oniguruma's for JavaScript's flag `u`; NotForJavaScript if a part is unknown.

    Known are literals, brackets, groups, looking around, repetition, and the classes \w \s \d \b \p{...}.
    """
    done, at = [], 0
    while at < len(pattern):
        part = PART.match(pattern, at)
        if part is None:
            raise NotForJavaScript(f"its tokenizer's expression {quoted(pattern)} cannot be translated from character "
                                   f"{at}")
        kind, text, at = part.lastgroup, part[0], part.end()
        if kind == "set":
            text = f"[{members(text)}]"
        elif kind == "edge":
            word = f"[{members(chr(92) + 'w')}]"
            text = f"(?:(?<={word})(?!{word})|(?<!{word})(?={word}))"
        elif kind == "dot":
            text = r"[^\n]"
        elif kind in ("sign", "literal"):
            text = escaped(text[-1])
        done.append(text)
    return "".join(done)


def escaped(sign: str) -> str:
    """Return a character as JavaScript's regular expressions write it, in brackets and outside."""
    return sign if sign.isascii() and sign.isalnum() else f"\\u{{{ord(sign):x}}}"


@functools.cache
def members(name: str) -> str:
    r"""Return the characters of a class such as \w or [^\W_], as the library has it, for the inside of brackets.

    It has exceptions: a superscript two is in \w, and is not in [^\W_].
    """
    from tokenizers import Regex
    from tokenizers import normalizers as library

    every = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    others = library.Replace(Regex(name), "").normalize_str(every)
    inside = np.isin(*(np.frombuffer(signs.encode("utf-32-le"), np.uint32) for signs in (every, others)), invert=True)
    edges = np.flatnonzero(np.diff(inside, prepend=False, append=False)).reshape(-1, 2)  # from, and behind the last
    return "".join(escaped(every[low]) if low + 1 == end else f"{escaped(every[low])}-{escaped(every[end - 1])}"
                   for low, end in edges)
