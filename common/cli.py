"""Command lines: flags that come from frozen dataclasses, and errors without tracebacks.

    @dataclass(frozen=True)
    class Settings:
        batch_size: int = 8
        "Examples per step."

        def __post_init__(self):
            if self.batch_size < 1:
                raise UserError("--batch-size must be at least 1")

    def main() -> None:
        parser = cli.Parser(description=__doc__)
        cli.add_arguments(parser, Settings)
        settings = cli.from_arguments(Settings, parser.parse_args())

    if __name__ == "__main__":
        cli.run(main)

Standard library only, and nothing heavy: `--help` answers at once.
"""

import argparse
import ast
import contextlib
import dataclasses
import inspect
import itertools
import math
import os
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

from common.errors import Stopped, UserError, printable

T = TypeVar("T")

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 128 + 2  # as a shell reports SIGINT
EXIT_BROKEN_PIPE = 128 + 13  # as a shell reports SIGPIPE


class Parser(argparse.ArgumentParser):
    """An argument parser that reads `--batch_size` as `--batch-size`, every flag alike; no abbreviations."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**{"allow_abbrev": False, **settings})

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        end = words.index("--") if "--" in words else len(words)
        return super().parse_known_args([_hyphenated(word) for word in words[:end]] + words[end:], namespace)

    def error(self, message: str) -> NoReturn:
        """End with exit status 2: what is wrong, and where to read on, in place of a screen full of flags."""
        self.exit(EXIT_USER_ERROR, f"error: {printable(message)}\nSee --help for every flag\n")


def add_arguments(parser: Parser, settings: type) -> None:
    """Give `parser` one flag for each field of the dataclass `settings`.

    Field `batch_size` becomes `--batch-size` (and `--batch_size`). The help is the string literal that
    follows the field in the class body, with the default added. int, float, str and Path fields take one
    value, `X | None` the same with None as its default, `tuple[X, ...]` one or more, `Literal[...]` one of
    its choices; a bool field has `--x` and `--no-x`. A field without a default is a required flag. Any other
    type is a TypeError: a bug, not the user's fault.
    """
    if not isinstance(parser, Parser):
        raise TypeError("add_arguments needs a common.cli.Parser, which knows both spellings of a flag")
    hints = typing.get_type_hints(settings)
    helps = field_help(settings)
    group = parser.add_argument_group(settings.__name__)
    for field in dataclasses.fields(settings):
        flag = "--" + field.name.replace("_", "-")
        default, required = _default(field)
        text = helps.get(field.name, "").replace("%", "%%")
        if hints[field.name] is bool:
            _add_switch(group, flag, field.name, bool(default), text)
            continue
        shown = "" if default is None or required else f" (default: {_as_words(default)})"
        group.add_argument(flag, dest=field.name, default=default, required=required,
                           help=text + shown.replace("%", "%%"), **_value(hints[field.name], flag))


def from_arguments(settings: type[T], namespace: argparse.Namespace) -> T:
    """Build the dataclass from parsed flags; its `__post_init__` raises UserError on senseless values."""
    return settings(**{field.name: getattr(namespace, field.name) for field in dataclasses.fields(settings)})


def require_ranges(settings: Any, *ranges: tuple[str, float, float | None]) -> None:
    """UserError for a field of `settings` that is not a number from low to high; for a dataclass's `__post_init__`.

    ranges: (field, low, high); without a high bound any finite number will do. A field that is None passes.
    """
    for name, low, high in ranges:
        value = getattr(settings, name)
        if value is not None and not (low <= value < math.inf if high is None else low <= value <= high):
            bounds = f"at least {low}" if high is None else f"from {low} to {high}"
            raise UserError(f"--{name.replace('_', '-')} must be {bounds}, not {value}")


def field_help(settings: type) -> dict[str, str]:
    """The string literal after each field of a dataclass (its bases' fields included), on one line."""
    texts: dict[str, str] = {}
    for base in reversed([base for base in settings.__mro__ if dataclasses.is_dataclass(base)]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body
        for field, text in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) \
                    and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                texts[field.target.id] = " ".join(str(text.value.value).split())
    return texts


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a script's `main` and end the process with its exit status, as `attempt` does when it fails."""
    sys.exit(attempt(main) or 0)


def hush_interrupts() -> None:
    """From now on Ctrl-C ends the process without a traceback outside `run`, too.

    For the seconds in which a script imports PyTorch.
    """
    usual = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            usual(kind, error, trace)
            return
        print("interrupted", file=sys.stderr, flush=True)
        os._exit(EXIT_INTERRUPTED)

    sys.excepthook = hook


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Of the processes that torchrun starts alike on a machine, silence all but the first; their exit status stays.

    For what all of them must find out alike, such as a wrong flag.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def attempt(function: Callable[[], T]) -> T:
    """What `function` returns; or else end the process, for a UserError with its message and exit status 2.

    Stopped ends with its message and status, Ctrl-C with 130; a reader that went away (`... | head`) with 141
    and no message. Bugs keep their traceback.
    """
    try:
        result = function()
        sys.stdout.flush()  # here, where a broken pipe can still be caught
        return result
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        status = EXIT_USER_ERROR
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        status = stopped.exit_status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = EXIT_INTERRUPTED
    except BrokenPipeError:
        # Python flushes standard output once more at exit; let that go nowhere instead of failing again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = EXIT_BROKEN_PIPE
    sys.exit(status)


def _hyphenated(word: str) -> str:
    """A long flag with hyphens for underscores in its name (never in its value); any other word as it is."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def _default(field: dataclasses.Field) -> tuple[Any, bool]:
    """A field's default value, and whether it has none and so must be given."""
    if field.default is not dataclasses.MISSING:
        return field.default, False
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory(), False
    return None, True


def _add_switch(group: Any, flag: str, dest: str, default: bool, text: str) -> None:
    """`--x` and `--no-x`; the help shows the one that changes something."""
    off = "--no-" + flag[2:]
    hide = argparse.SUPPRESS
    group.add_argument(flag, dest=dest, action="store_true", default=default, help=hide if default else text)
    group.add_argument(off, dest=dest, action="store_false", default=default,
                       help=f"Turn off: {text}" if default else hide)


def _value(hint: Any, flag: str) -> dict[str, Any]:
    """argparse's keywords for a flag with a value of type `hint`."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType) and len(inner) == 2 and inner[1] is type(None):
        return _value(inner[0], flag)
    if origin is typing.Literal:
        return {"choices": inner, "type": type(inner[0])}
    if origin is tuple and inner[1:] == (...,):
        return {"nargs": "+", "action": _StoreTuple, **_value(inner[0], flag)}
    if isinstance(hint, type) and (hint in (int, float, str) or issubclass(hint, os.PathLike)):
        return {"type": hint, "metavar": {int: "N", float: "X"}.get(hint, flag[2:].split("-")[-1].upper())}
    raise TypeError(f"{flag}: no flag can be made from the type {hint}")


class _StoreTuple(argparse.Action):
    """Store several values as a tuple, so that a frozen dataclass stays hashable."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, tuple(values))


def _as_words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
