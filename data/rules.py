"""Named rules that undo what is no language in the course's files, and what differs between train and test.

Each rule is a pure function from text to text and can be switched off by its name, so that its effect can be
measured. What is merely unusual (Penn Treebank tokens, "did n't") stays: train, dev and test share it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from common.errors import UserError

# A tag, or a tag that has lost its ">". One branch for each way to go on, so matching takes linear time.
_BREAK_TAGS = re.compile(r" ?(?:<\s*br\s*(?:/\s*>?|>)\s*)+", re.IGNORECASE)

_BRACKETS = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}"}
_DETOKENISE = (
    (re.compile("|".join(_BRACKETS), re.IGNORECASE), lambda match: _BRACKETS[match[0].upper()]),
    (re.compile(r"\\([/*])"), r"\1"),
    (re.compile(r"`` ?| ?''"), '"'),
    (re.compile(r" (n't|'(?:s|re|ve|ll|d|m))\b", re.IGNORECASE), r"\1"),
    (re.compile(r" ([,.;:!?%)\]}])"), r"\1"),
    (re.compile(r"([(\[{$]) "), r"\1"),
)


def unquote_again(text: str) -> str:
    """Undo a second round of CSV quoting: `"a ""b"" c"` -> `a "b" c`.

    CFIMDB's test file has been through it, its train and dev files have not. Only a text that certainly has
    been is changed: it begins and ends with a quote mark, holds others, and every one of those is doubled.
    """
    inner = text[1:-1]
    quoted = len(text) > 1 and text[0] == text[-1] == '"'
    twice = quoted and '""' in inner and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if twice else text


def unquote_wrapped(text: str) -> str:
    """Undo the round of CSV quoting that all three CFIMDB files share, behind a leading space.

    It leaves their quote marks doubled, and tripled at both ends. Off by default: train and test agree in it.
    """
    return unquote_again(text.strip())


def map_control_characters(text: str) -> str:
    r"""Read the control characters U+0080 to U+009F as the Windows-1252 characters they were.

    `\x96` becomes an en dash, `\x91` an opening quote mark; the five that Windows-1252 leaves unassigned are
    dropped. They got there by reading Windows-1252 text as Latin-1.
    """
    return text.translate(_C1)


def drop_break_tags(text: str) -> str:
    """Write one space for a run of HTML break tags, broken-up ones too: `a .< br /><br />B` -> `a . B`."""
    return _BREAK_TAGS.sub(" ", text)


def detokenise(text: str) -> str:
    """Undo Penn Treebank tokens: `-LRB- it is n't , \\`\\` so '' -RRB-` -> `(it isn't, "so")`.

    Off by default: a backbone pretrained on ordinary prose may gain by it, but the course does without.
    """
    for pattern, replacement in _DETOKENISE:
        text = pattern.sub(replacement, text)
    return text


def strip_spaces(text: str) -> str:
    """Drop white space at both ends. The course's sentences begin with a space, samples and your own do
    not.
    """
    return text.strip()


RULES: dict[str, Callable[[str], str]] = {
    "unquote-again": unquote_again,
    "unquote-wrapped": unquote_wrapped,
    "control-characters": map_control_characters,
    "break-tags": drop_break_tags,
    "detokenise": detokenise,
    "strip": strip_spaces,
}
"""Every rule by its name on the command line, in the order in which rules are applied."""


@dataclass(frozen=True)
class Rules:
    """A choice of rules; call it on a text. `Rules()` changes nothing."""

    names: tuple[str, ...] = ()
    "Names from `RULES`, in any order."

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in RULES:
                raise UserError(f"no reader rule is called {name!r}; there are {', '.join(RULES)}")

    def __call__(self, text: str) -> str:
        for name, rule in RULES.items():
            if name in self.names:
                text = rule(text)
        return text

    def without(self, *names: str) -> "Rules":
        """The same choice with these rules switched off. UserError for a name that is no rule."""
        Rules(names)
        return Rules(tuple(name for name in self.names if name not in names))

    def plus(self, *names: str) -> "Rules":
        """The same choice with these rules switched on. UserError for a name that is no rule."""
        return Rules((*self.without(*names).names, *names))


COURSE_RULES = Rules(("unquote-again", "control-characters", "break-tags", "strip"))
"""For the course's files and the samples."""

OWN_RULES = Rules(("strip",))
"""For your own files: they are taken at their word."""


def _c1_table() -> dict[int, str | None]:
    table: dict[int, str | None] = {}
    for code in range(0x80, 0xA0):
        try:
            table[code] = bytes([code]).decode("cp1252")
        except UnicodeDecodeError:
            table[code] = None
    return table


_C1 = _c1_table()
