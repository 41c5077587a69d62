"""Check a source file without running it: it must parse, and be finished."""

import ast
import itertools
import re
import sys
import warnings
from collections.abc import Iterator

from submission.manifest import PACKAGES, PROVIDED, PYTHON, Finding

# Access tokens and keys, by the form that each service gives them.
SECRET = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{36,}|AKIA[0-9A-Z]{16}|sk-[A-Za-z0-9_-]{32,})\b"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
# A comment above a `raise NotImplementedError` that marks it as a hole: code that is to be written.
MARKER = re.compile(r"#.*\b(?:TODO|YOUR CODE|SOLUTION)\b", re.IGNORECASE)


def check_source(file: str, content: bytes, classes: dict[str, tuple[str, ...]]) -> list[Finding]:
    """Return the problems of one source file. classes: what it must define, as in the manifest."""
    try:
        text = content.decode("utf-8-sig")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text, file, feature_version=PYTHON)
    except UnicodeDecodeError:
        return [Finding(file, "not UTF-8")]
    except SyntaxError as error:
        return [Finding(file, f"not valid Python {'.'.join(map(str, PYTHON))}: {error.msg}", error.lineno)]
    except (ValueError, RecursionError, MemoryError) as error:  # a NUL; brackets nested too deep
        return [Finding(file, f"cannot be parsed: {error or type(error).__name__}")]

    lines = re.split("\r\n|\r|\n", text)  # as Python counts lines; str.splitlines() knows more line ends
    return [
        *missing_definitions(file, tree, classes),
        *(Finding(file, f"imports {name}, which is neither packed nor part of the course: move what it needs into "
                        "this file", line) for name, line in foreign_imports(tree)),
        *(Finding(file, f"not done: {name} still raises NotImplementedError", line,
                  unfinished=True)
          for name, line in holes(tree, lines)),
        *(Finding(file, "this looks like an access token or a private key: take it out", number)
          for number, line in enumerate(lines, start=1) if SECRET.search(line)),
    ]


def foreign_imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield (module, line) of every import that will fail elsewhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            whole = module in ("modules", "models") or node.level
            names = [f"{module}.{alias.name}".strip(".") for alias in node.names] if whole else [module]
        else:
            continue
        for name in names:
            top = name.partition(".")[0]
            if top not in sys.stdlib_module_names | PACKAGES and not {top, name} & PROVIDED:
                yield name, node.lineno


def missing_definitions(file: str, tree: ast.Module, classes: dict[str, tuple[str, ...]]) -> Iterator[Finding]:
    """Report classes and methods of `classes` that the file lacks, and empty methods."""
    defined = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    for name, methods in classes.items():
        if name not in defined:
            yield Finding(file, f"class {name} is missing")
            continue
        found = {node.name: node for node in defined[name].body if isinstance(node, ast.FunctionDef)}
        for method in methods:
            if method not in found:
                yield Finding(file, f"class {name} has no method {method}", defined[name].lineno)
            elif all(map(_says_nothing, found[method].body)):
                yield Finding(file, f"not done: {name}.{method} is empty", found[method].lineno,
                              unfinished=True)


def holes(tree: ast.Module, lines: list[str]) -> Iterator[tuple[str, int]]:
    """Yield (function, line) of every hole: a `raise NotImplementedError` that stands for code to be written.

    A raise is a hole if a call can reach it, and either no condition guards it or a comment above it marks it. So a
    raise behind a `return`, or a refusal such as `if x.is_sparse: raise ...`, is not a hole.
    """
    for name, statement, guarded in _reachable_raises(tree.body, "", guarded=False):
        raised = statement.exc.func if isinstance(statement.exc, ast.Call) else statement.exc
        if isinstance(raised, ast.Name) and raised.id == "NotImplementedError" \
                and (not guarded or _is_marked(statement.lineno, lines)):
            yield name or "the module", statement.lineno


def _reachable_raises(block: list[ast.stmt], name: str, guarded: bool) -> Iterator[tuple[str, ast.Raise, bool]]:
    """Yield (function, raise, whether a condition guards it) for a block, in order, until the block is left."""
    for statement in block:
        if isinstance(statement, ast.Raise):
            yield name, statement, guarded
        elif isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if not any(ast.unparse(mark).endswith("abstractmethod") for mark in statement.decorator_list):
                yield from _reachable_raises(statement.body, f"{name}.{statement.name}".lstrip("."), False)
        else:
            for field in ("body", "orelse", "finalbody"):
                inner = getattr(statement, field, [])
                yield from _reachable_raises(inner, name, guarded or isinstance(statement, ast.If))
            for branch in [*getattr(statement, "handlers", []), *getattr(statement, "cases", [])]:
                yield from _reachable_raises(branch.body, name, guarded=True)
        if _leaves(statement):
            return


def _leaves(statement: ast.stmt) -> bool:
    """Return whether the rest of the block after this statement can never run; in doubt, False."""
    if isinstance(statement, ast.If):
        return any(map(_leaves, statement.body)) and any(map(_leaves, statement.orelse))
    if isinstance(statement, ast.With):
        return any(map(_leaves, statement.body))
    return isinstance(statement, (ast.Return, ast.Raise, ast.Continue, ast.Break))


def _is_marked(line: int, lines: list[str]) -> bool:
    """Return whether a comment right above line number `line`, or at its end, marks a hole."""
    above = itertools.takewhile(lambda text: text.strip()[:1] in ("", "#"), reversed(lines[:line - 1]))
    return any(MARKER.search(text) for text in [lines[line - 1], *above])


def _says_nothing(statement: ast.stmt) -> bool:
    """Return whether a statement is a docstring, `...` or `pass`."""
    constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return constant or isinstance(statement, ast.Pass)
