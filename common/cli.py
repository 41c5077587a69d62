"""Make command lines from frozen dataclasses, print errors without tracebacks, and show progress.

It imports only light parts of the standard library, so that `--help` answers at once.
"""

import argparse
import ast
import contextlib
import dataclasses
import inspect
import itertools
import math
import os
import re
import shlex
import signal
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from common import interrupts
from common.errors import Stopped, UserError, one_line, quoted
from common.terminal import say, surviving_output

T = TypeVar("T")

LEAST_ADDRESS_SPACE = 1500 << 20  # bytes; with 1000 MB the smallest run fails

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 128 + 2  # as a shell reports SIGINT
EXIT_BROKEN_PIPE = 128 + 13  # and SIGPIPE


class Version(argparse.Action):
    """Prints which version this is, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from common.version import describe

        say(describe())
        parser.exit()


class HelpPage(argparse.HelpFormatter):
    """Fits a description to the terminal: prose is wrapped; indented lines are commands, each with its comment."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(_commands(part, width) if part.startswith(" ") else textwrap.fill(part, width)
                           for part in textwrap.dedent(text).strip("\n").split("\n\n"))


class Parser(argparse.ArgumentParser):
    """An argument parser that accepts `--page_width` for `--page-width`, and no abbreviated flags."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, "formatter_class": HelpPage, **settings})
        self.add_argument("-V", "--version", action=Version, nargs=0, default=argparse.SUPPRESS,
                          help="show the version, the commit, and the versions of Python and PyTorch")

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """Parse the words, with hyphens for underscores in flags before a `--`. A line break in one is an error."""
        words = list(sys.argv[1:] if args is None else args)
        for word in words:
            if len(word.splitlines()) > 1:  # in a message it would begin a line that looks like one of ours
                self.error(f"a line break in {quoted(word)}")
        end = words.index("--") if "--" in words else len(words)
        return super().parse_known_args([_hyphenated(word) for word in words[:end]] + words[end:], namespace)

    def error(self, message: str) -> NoReturn:
        """End the process with status 2 and one line on what is wrong; argparse would print every flag."""
        self.exit(EXIT_USER_ERROR, f"error: {one_line(message)}\nSee --help for every flag\n")


def add_arguments(parser: Parser, settings: type) -> None:
    """Give `parser` one flag for each field of the dataclass `settings`.

    Field `page_width` becomes `--page-width` (and `--page_width`). Its help is the string literal that follows the
    field in the class body, with the default added. A field without a default is a required flag.

    int, float, str, Path and X | None take one value, tuple[X, ...] takes one or more, Literal[...] one of these, and
    float | Literal[...] a number or one of these. bool makes two flags without a value, `--x` and `--no-x`. Another
    type is a bug of ours: a TypeError.
    """
    if not isinstance(parser, Parser):
        raise TypeError("add_arguments needs a common.cli.Parser, which knows both spellings of a flag")
    hints = typing.get_type_hints(settings)
    helps = field_help(settings)
    group = parser.add_argument_group(settings.__name__)
    for field in dataclasses.fields(settings):
        flag = "--" + field.name.replace("_", "-")
        required = field.default is dataclasses.MISSING
        default = None if required else field.default
        text = helps.get(field.name, "").replace("%", "%%")
        if hints[field.name] is bool:
            # The help shows the one of two flags that differs from the default.
            group.add_argument(flag, dest=field.name, action="store_true", default=bool(default),
                               help=argparse.SUPPRESS if default else text)
            group.add_argument("--no-" + flag[2:], dest=field.name, action="store_false", default=bool(default),
                               help=f"Turn off: {text}" if default else argparse.SUPPRESS)
            continue
        if default not in (None, ()):
            words = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
            text += f" (default: {words})".replace("%", "%%")
        group.add_argument(flag, dest=field.name, default=default, required=required, help=text,
                           **_value(hints[field.name], flag))


def from_arguments(settings: type[T], namespace: argparse.Namespace) -> T:
    """Build the dataclass from parsed flags; its `__post_init__` raises UserError for bad values."""
    values = {field.name: getattr(namespace, field.name) for field in dataclasses.fields(settings)}
    # argparse gives lists, and a frozen dataclass with a list is not hashable.
    return settings(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def require_ranges(settings: Any, *ranges: tuple[str, float, float | None]) -> None:
    """Raise UserError unless each field in ranges (field, low, high) is None or lies there; high None: is finite."""
    for name, low, high in ranges:
        value = getattr(settings, name)
        if value is not None and not (low <= value < math.inf if high is None else low <= value <= high):
            bounds = f"at least {low}" if high is None else f"from {low} to {high}"
            raise UserError(f"--{name.replace('_', '-')} must be {bounds}, not {value}")


def field_help(settings: type) -> dict[str, str]:
    """Return the string literal after each field of a dataclass (of its bases too), on one line."""
    texts: dict[str, str] = {}
    for base in reversed([base for base in settings.__mro__ if dataclasses.is_dataclass(base)]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body
        for field, text in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) \
                    and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                texts[field.target.id] = " ".join(str(text.value.value).split())
    return texts


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a script's `main`, and end the process with its exit status, or as `attempt` does if it fails."""
    def interruptible() -> int | None:
        interrupts.swap(interrupts.end, signal.default_int_handler)  # from here on there is something to clear up
        return main()

    sys.exit(attempt(interruptible) or 0)


def require_address_space() -> None:
    """Raise UserError under a `ulimit -v` in which PyTorch and SciPy hang or crash while they are loaded."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < LEAST_ADDRESS_SPACE:
        raise UserError(f"this process may use only {limit >> 20} MB of address space (ulimit -v); "
                        f"loading PyTorch takes {LEAST_ADDRESS_SPACE >> 20}")


@contextlib.contextmanager
def only_first_process_prints() -> Iterator[None]:
    """Silence all processes that torchrun started here but the first, for an error that all find: a wrong flag."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


@contextlib.contextmanager
def adding_advice(advice: Mapping[type[Exception], Callable[[Any], str]]) -> Iterator[None]:
    """Add a line to errors of the given types: advice[type](error), which says what flag mends it."""
    try:
        yield
    except tuple(advice) as error:
        words = next(words for kind, words in advice.items() if isinstance(error, kind))
        error.args = (f"{error}\n{words(error)}",)
        raise


def same_command(*flags: str) -> str:
    """Return the command line of this process with some flags at its end, quoted for a shell."""
    return shlex.join([*(word for word in sys.argv if word not in flags), *flags])


def attempt(function: Callable[[], T]) -> T:
    """Return function(), or print its error without a traceback and end the process.

    The exit status is 2 for a UserError, its own for Stopped, 130 for Ctrl-C, and 141, without a message, if the reader
    of our output went away (`... | head`). Output that cannot be written is dropped: the function runs to its end. Bugs
    keep their traceback.
    """
    with surviving_output() as output:
        try:
            result = function()
            output.require_whole()
            return result
        except UserError as error:
            say(f"error: {error}", error=True, style="error")
            status = EXIT_USER_ERROR
        except Stopped as stopped:
            say(str(stopped), error=True)
            status = stopped.exit_status
        except KeyboardInterrupt:
            say("interrupted", error=True)
            status = EXIT_INTERRUPTED
        except BrokenPipeError:
            status = EXIT_BROKEN_PIPE
        sys.exit(status)


def progress(work: Iterable[Any] | int, desc: str, unit: str | None = "it", *, done: int = 0, delay: float = 0,
             silent: bool = False) -> Any:
    """Return a tqdm bar on standard error that goes away at the end.

    work: an iterable to loop over through the bar, or a number of steps, counted by calling `update(n)`, of which
    `done` are done already. unit None: no numbers, for parts of a step. delay: seconds until it shows. The bar is
    silent if standard error is not a terminal, so that logs stay readable, and in all processes that torchrun starts
    but the first.
    """
    from tqdm import tqdm  # here, so that `--help` does not wait for it

    silent = silent or not sys.stderr.isatty() or os.environ.get("RANK", "0") != "0"
    steps = {"total": work, "initial": done} if isinstance(work, int) else {"iterable": work}
    shape = {"unit": unit} if unit else {"bar_format": "{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"}
    return tqdm(**steps, **shape, desc=desc, delay=delay, leave=False, disable=silent)


def _hyphenated(word: str) -> str:
    """Return a flag with hyphens for underscores in its name (not in its value); any other word as it is."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") else word


def _commands(text: str, width: int) -> str:
    """Return lines of a command and its comment; where one is too long, comments go under their commands."""
    lines = text.splitlines()
    if max(map(len, lines)) <= width:
        return text
    rows = [re.split(r" {2,}", line.strip(), maxsplit=1) for line in lines]
    shown = []
    for command, *comment in rows:
        shown.append(" \\\n".join(textwrap.wrap(command, width - 2, initial_indent="    ", subsequent_indent="        ",
                                               break_long_words=False, break_on_hyphens=False)))
        shown += [textwrap.fill(part, width, initial_indent="      # ", subsequent_indent="      # ")
                  for part in comment]
    return "\n".join(shown)


def _value(hint: Any, flag: str) -> dict[str, Any]:
    """Return argparse's keywords for a flag with values of type `hint`."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    word = flag[2:].split("-")[-1].upper()
    if origin in (typing.Union, types.UnionType):
        kinds = [kind for kind in inner if kind is not type(None)]
        if len(kinds) == 1 < len(inner):
            return _value(kinds[0], flag)
        if len(kinds) == 2 and kinds[0] is float and typing.get_origin(kinds[1]) is typing.Literal:
            return _number_or_word(typing.get_args(kinds[1]))
    if origin is typing.Literal:
        return {"choices": inner, "type": type(inner[0])}
    if origin is tuple and inner[1:] == (...,):
        # The word stands for choices, too: argparse would name them all twice in the usage, on one line.
        return {"nargs": "+", "metavar": word, **_value(inner[0], flag)}
    if isinstance(hint, type) and (hint in (int, float, str) or issubclass(hint, os.PathLike)):
        return {"type": hint, "metavar": {int: "N", float: "X"}.get(hint, word)}
    raise TypeError(f"{flag}: no flag can be made from the type {hint}")


def _number_or_word(words: Sequence[str]) -> dict[str, Any]:
    """Return argparse's keywords for a flag that takes a float or one of some words."""
    def parse(text: str) -> float | str:
        try:
            return text if text in words else float(text)
        except ValueError:
            wanted = " or ".join(["a number", *words])
            raise argparse.ArgumentTypeError(f"{wanted} is wanted, not {quoted(text)}") from None

    return {"type": parse, "metavar": "|".join(["X", *words])}
