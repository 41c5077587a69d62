"""The one door for what is printed: nothing repaints a terminal, and no message that is lost costs anything else."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from common.errors import UserError, printable

COLOURS = {"good": 32, "warning": 33, "error": 31}  # green, yellow and red, as terminals number them
BARS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588", "_.-~=+*#"
"""Signs from low to high, and those for an encoding that lacks them."""


def say(text: str, error: bool = False, style: str = "") -> None:
    """Print lines at once, on standard output or standard error, with the control characters in them escaped.

    style: a key of COLOURS, for terminals that show them. A progress bar makes room.
    """
    stream, text = sys.stderr if error else sys.stdout, printable(text)
    if style and shows_colours(stream):
        text = f"\x1b[{COLOURS[style]}m{text}\x1b[0m"
    bars = getattr(sys.modules.get("tqdm"), "tqdm", None)  # not imported for this, or half imported
    with bars.external_write_mode(stream) if bars else contextlib.nullcontext():
        print(text, file=stream, flush=True)


def on_terminal() -> bool:
    """Tell whether a person sees both what is printed and the progress bars."""
    return sys.stdout.isatty() and sys.stderr.isatty()


def shows_colours(stream: TextIO) -> bool:
    """Tell whether a stream is a terminal with colours whose user wants them (https://no-color.org)."""
    old_windows = os.name == "nt" and "WT_SESSION" not in os.environ
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and not old_windows


def can_show(text: str) -> bool:
    """Tell whether the encoding of standard output has all characters of a text."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def spark_line(values: Sequence[float], width: int = 40) -> str:
    """Return one or more finite values as a line of at most `width` bars, each the mean of as many neighbours."""
    size = -(-len(values) // width)
    means = [sum(part) / len(part) for part in (values[i:i + size] for i in range(0, len(values), size))]
    low, span = min(means), (max(means) - min(means)) or 1
    signs = BARS[0] if can_show(BARS[0]) else BARS[1]
    return "".join(signs[int((mean - low) / span * (len(signs) - 1) + 0.5)] for mean in means)


class Surviving:
    """A text stream that drops what cannot be written: the reader is gone, the terminal is closed, the disk is full."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.lost: OSError | None = None  # why the stream goes nowhere by now

    def write(self, text: str) -> int:
        """Write or drop a text, with what the stream's encoding lacks as escapes. Returns its length."""
        with self._surviving():
            try:
                self.stream.write(text)
            except UnicodeEncodeError as error:  # ASCII, or a code page of Windows
                self.stream.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
        return len(text)

    def flush(self) -> None:
        """Flush or drop what was written."""
        with self._surviving():
            self.stream.flush()

    def require_whole(self) -> None:
        """Raise BrokenPipeError if the reader went away, and UserError if the output was lost in another way."""
        self.flush()
        if isinstance(self.lost, BrokenPipeError):
            raise self.lost
        if self.lost is not None:
            raise UserError(f"cannot write standard output: {self.lost.strerror or self.lost}\nAll else is done")

    @contextlib.contextmanager
    def _surviving(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.lost = self.lost or error
            # What the stream still holds would fail again, at the latest when Python ends.
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.stream.fileno())
                os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def surviving_output() -> Iterator[Surviving]:
    """Inside, standard output and standard error are Surviving. Gives standard output."""
    # Descriptors 0 to 2 must be taken: a file that is opened as one of them would be written to by whoever prints.
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)

    out, err = (Surviving(stream or io.StringIO()) for stream in (sys.stdout, sys.stderr))  # None: closed
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            yield out
        finally:
            out.flush()  # Python's own flush at its end would fail loudly
            err.flush()
