"""The one door for what is printed: nothing repaints a terminal, and no message that is lost costs anything else."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from common.errors import UserError, printable


def say(text: str, error: bool = False) -> None:
    """Print lines at once, on standard output or standard error, with the control characters in them escaped."""
    print(printable(text), file=sys.stderr if error else sys.stdout, flush=True)


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
