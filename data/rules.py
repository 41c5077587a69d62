"""Rules that repair the texts of the course's files, each with a name, by which it can be switched off.

A rule is a pure function from text to text. It repairs damage (broken HTML, wrong characters) or a difference between
train and test. Unusual text that train, dev and test share stays as it is, such as Penn Treebank tokens ("did n't").
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from common.errors import UserError

# A tag, or a tag that has lost its ">". Each way to go on has a branch of its own, so matching takes linear time.
_BREAK_TAGS = re.compile(r" ?(?:<\s*br\s*(?:/\s*>?|>)\s*)+", re.IGNORECASE)

# U+0080 to U+009F -> the Windows-1252 character with the same byte, or nothing where there is none.
C1 = {code: bytes([code]).decode("cp1252", "ignore") for code in range(0x80, 0xA0)}


def unquote_again(text: str) -> str:
    """Undo a second round of CSV quoting, as in CFIMDB's test file: `"a ""b"" c"` -> `a "b" c`.

    A text is changed only if it was certainly quoted twice: it begins and ends with a quote mark, holds others between
    them, and all of these are doubled.
    """
    inner = text[1:-1]
    quoted = len(text) > 1 and text[0] == text[-1] == '"'
    twice = quoted and '""' in inner and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if twice else text


def map_control_characters(text: str) -> str:
    r"""Undo that somebody read Windows-1252 as Latin-1: `\x96` becomes an en dash, `\x91` an opening quote mark."""
    return text.translate(C1)


def drop_break_tags(text: str) -> str:
    """Replace HTML break tags in a row, damaged ones too, by one space: `a .< br /><br />B` -> `a . B`."""
    return _BREAK_TAGS.sub(" ", text)


def strip_spaces(text: str) -> str:
    """Remove white space at both ends. The course's sentences begin with a space; samples and your own do not."""
    return text.strip()


# All rules, in the order in which they are applied.
RULES: dict[str, Callable[[str], str]] = {
    "unquote-again": unquote_again,
    "control-characters": map_control_characters,
    "break-tags": drop_break_tags,
    "strip": strip_spaces,
}


@dataclass(frozen=True)
class Rules:
    """Some of the rules; call it on a text to apply them. `Rules()` changes nothing."""

    names: tuple[str, ...] = ()  # from RULES, in any order

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in RULES:
                raise UserError(f"there is no rule {name!r}; the rules are {', '.join(RULES)}")

    def __call__(self, text: str) -> str:
        for name, rule in RULES.items():
            if name in self.names:
                text = rule(text)
        return text

    def without(self, *names: str) -> "Rules":
        """Return these rules without the ones named. UserError for an unknown name."""
        Rules(names)
        return Rules(tuple(name for name in self.names if name not in names))


COURSE_RULES = Rules(tuple(RULES))  # for the course's files and the samples
OWN_RULES = Rules(("strip",))  # for your own files, whose texts are right as they are
