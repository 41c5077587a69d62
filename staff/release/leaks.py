"""Look for the solution's lines in a text, whatever its variables are called."""

import keyword
import re
from collections.abc import Iterable, Mapping

N = 8
"Length of the pieces that are compared, in tokens."

TOKEN = re.compile(r"""[A-Za-z_]\w*|\d[\w.]*|"[^"\n]*"|'[^'\n]*'|\*\*|//|<<|>>|[-+*/%@&|<>=!]=|->|\S""")
COMMENT = re.compile(r"#[^\n]*")


def tokens(text: str) -> list[str]:
    """Split a text as Python would, and give every variable the same name.

    What is called, and what follows a dot, keeps its name; strings and comments become nothing in particular.
    """
    words = TOKEN.findall(COMMENT.sub("", text))
    result = []
    for index, word in enumerate(words):
        if word[0] in "\"'":
            word = "text"
        elif (word[0].isalpha() or word[0] == "_") and not keyword.iskeyword(word):
            called = index + 1 < len(words) and words[index + 1] == "("
            attribute = index > 0 and words[index - 1] == "."
            if not called and not attribute:
                word = "name"
        result.append(word)
    return result


def pieces(text: str) -> set[tuple[str, ...]]:
    """Return the runs of N tokens that say something: that hold two words, rare operators or numbers, at least."""
    all_tokens = tokens(text)
    return {run for run in zip(*(all_tokens[start:] for start in range(N)), strict=False)
            if len({token for token in run if says_something(token)}) >= 2}


def says_something(token: str) -> bool:
    """Whether a token is neither a variable nor found in every line."""
    if token[0].isalpha() or token[0] == "_":
        return token not in ("name", "text") and not keyword.iskeyword(token)
    return token in ("@", "**", "//") or (token not in ("0", "1") and token[0].isdigit())


def leaks(solution: Mapping[str, str], given: Iterable[str], files: Mapping[str, str]) -> list[str]:
    """Return "file: piece (hole)" for each piece of a hole's solution that occurs in a file of the starter.

    solution: hole -> its lines. given: texts that the student may read anyway, such as documentation of PyTorch.
    """
    known = set().union(*map(pieces, given)) if given else set()
    secret = {piece: hole for hole, text in solution.items() for piece in pieces(text) - known}
    return [f"{file}: {' '.join(piece)} ({secret[piece]})" for file, text in files.items()
            for piece in sorted(pieces(text) & set(secret))]
