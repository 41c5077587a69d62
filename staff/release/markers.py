"""Cut the holes of the starter out of the solution, and fill them again.

A hole lies between two comments of its own, inside one function:

    # BEGIN SOLUTION
    ...
    # END SOLUTION

In the starter its lines are replaced by hints and by `raise NotImplementedError("file: Class.function")`.
"""

import ast
import difflib
import io
import itertools
import re
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BEGIN, END = "# BEGIN SOLUTION", "# END SOLUTION"


class MarkerError(Exception):
    """A marker is malformed, or stands where no hole can be. The message starts with file:line."""


@dataclass(frozen=True)
class Hole:
    """The lines of one function that the starter leaves out."""

    file: str
    function: str  # "CausalSelfAttention.forward"
    first: int  # the line of the BEGIN marker, counted from 1
    last: int  # the line of the END marker
    indent: str
    text: str  # the lines from marker to marker, both included

    @property
    def name(self) -> str:
        return f"{self.file}: {self.function}"


def find_holes(file: str, source: str) -> list[Hole]:
    """Return the holes of a source file from top to bottom; MarkerError for a marker that is not right."""
    lines, opened, holes = source.splitlines(keepends=True), None, []
    for line, text in markers(file, source):
        if text == BEGIN and opened is not None:
            raise MarkerError(f"{file}:{line}: a hole begins inside the hole of line {opened}")
        if text == END and opened is None:
            raise MarkerError(f"{file}:{line}: a hole ends here, and none has begun")
        if text == BEGIN:
            opened = line
            continue
        indent = lines[opened - 1][:-len(lines[opened - 1].lstrip())]
        if indent != lines[line - 1][:-len(lines[line - 1].lstrip())]:
            raise MarkerError(f"{file}:{line}: END is not indented as BEGIN in line {opened}")
        holes.append(Hole(file, enclosing_function(file, source, opened, line), opened, line, indent,
                          "".join(lines[opened - 1:line])))
        opened = None
    if opened is not None:
        raise MarkerError(f"{file}:{opened}: a hole begins here and never ends")
    for earlier, later in itertools.pairwise(holes):
        if earlier.function == later.function:
            raise MarkerError(f"{file}:{later.first}: {later.function} has a second hole; make it one")
    return holes


def markers(file: str, source: str) -> list[tuple[int, str]]:
    """Return (line, marker) of each marker comment; MarkerError for one that is misspelt, or not on its own line."""
    found = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        line = token.start[0]
        if token.type == tokenize.COMMENT:
            if token.string in (BEGIN, END):
                if token.line.strip() != token.string:
                    raise MarkerError(f"{file}:{line}: a marker needs a line of its own")
                found.append((line, token.string))
            elif looks_like_a_marker(token.string):
                raise MarkerError(f"{file}:{line}: {token.string!r} is misspelt: write {BEGIN!r} or {END!r}")
        elif token.type in (tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", None)):
            for offset, part in enumerate(token.string.split("\n")):
                if looks_like_a_marker(part):
                    raise MarkerError(f"{file}:{line + offset}: a marker in a string marks nothing")
    return found


def looks_like_a_marker(text: str) -> bool:
    """Whether a comment or a line of a string is, or was meant to be, a marker."""
    words = " ".join(re.sub(r"[^a-z ]", " ", text.lower()).split()[:3])
    return any(difflib.SequenceMatcher(None, words, marker).ratio() > 0.8
               for marker in ("begin solution", "end solution"))


def enclosing_function(file: str, source: str, first: int, last: int) -> str:
    """Return "Class.function" for the function whose body holds whole statements in the lines from first to last."""
    names: list[str] = []

    def search(node: ast.AST, outer: Sequence[str]) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                if child.body[0].lineno <= last and first <= child.end_lineno + 1:
                    search(child, [*outer, child.name])
                    if not isinstance(child, ast.ClassDef):
                        names.append(".".join([*outer, child.name]))
            else:
                search(child, outer)

    tree = ast.parse(source)
    search(tree, [])
    if len(names) != 1:
        where = f"crosses {' and '.join(sorted(names))}" if names else "is in no function"
        raise MarkerError(f"{file}:{first}: the hole {where}; a hole lies inside one function")

    # The lines are whole statements of one block: no `if` loses its body, no `else` its `if`.
    blocks = [block for node in ast.walk(tree) for field in ("body", "orelse", "finalbody")
              if isinstance(block := getattr(node, field, None), list)]
    inside = [[node for node in block if first < node.lineno < last] for block in blocks]
    widest = max(inside, key=lambda nodes: sum(node.end_lineno - node.lineno + 1 for node in nodes))
    if not widest:
        raise MarkerError(f"{file}:{first}: the hole is empty")
    covered = {line for node in widest for line in range(node.lineno, node.end_lineno + 1)}
    for node in (node for nodes in inside for node in nodes):
        if node.end_lineno > last or not covered.issuperset(range(node.lineno, node.end_lineno + 1)):
            raise MarkerError(f"{file}:{first}: the hole cuts through the statements around line {node.lineno}")
    return names[0]


def starter(file: str, source: str, hints: Mapping[str, Sequence[str]], filled: Sequence[str] = ()) -> str:
    """Return the starter's version of a source file.

    hints: lines for the student, by the hole's name; each hole must have some. filled: names of holes that keep their
    solution, without its markers.
    """
    lines = source.splitlines(keepends=True)
    for hole in reversed(find_holes(file, source)):
        if hole.name in filled:
            new = lines[hole.first:hole.last - 1]
        elif hole.name not in hints:
            raise MarkerError(f"{file}:{hole.first}: no hint for {hole.name} in holes.json")
        else:
            comments = [f"{hole.indent}# {hint}\n" for hint in hints[hole.name]]
            new = [*comments, f'{hole.indent}raise NotImplementedError("{hole.name}")\n']
        lines[hole.first - 1:hole.last] = new
    return "".join(lines)


def fill(file: str, unfilled: str, source: str, hints: Mapping[str, Sequence[str]]) -> str:
    """Put every hole of the solution `source` into its starter `unfilled`; the result is the solution, with markers.

    MarkerError if the starter has no such hole: then it was not made from this solution.
    """
    for hole in find_holes(file, source):
        comments = "".join(f"{hole.indent}# {hint}\n" for hint in hints[hole.name])
        gap = f'{comments}{hole.indent}raise NotImplementedError("{hole.name}")\n'
        if unfilled.count(gap) != 1:
            raise MarkerError(f"{file}: the starter does not hold {hole.name} once")
        unfilled = unfilled.replace(gap, hole.text)
    return unfilled


def helpers_left_behind(file: str, source: str) -> list[str]:
    """Return the functions outside the holes that only holes use: the starter would hand out half a solution."""
    holes, tree = find_holes(file, source), ast.parse(source)

    def in_hole(node: ast.AST) -> bool:
        return any(hole.first < node.lineno < hole.last for hole in holes)

    used: dict[str, bool] = {}  # name -> whether it is used outside the holes
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            name = node.id if isinstance(node, ast.Name) else node.attr
            used[name] = used.get(name, False) or not in_hole(node)
    return [node.name for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and not in_hole(node) and used.get(node.name, True) is False]
