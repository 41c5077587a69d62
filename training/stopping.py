"""Ctrl-C and SIGTERM without loss: the first asks for a stop after the running step, the second stops at once."""

import os
import signal
from types import FrameType

from common.errors import Stopped


class StopSignals:
    """While inside `with StopSignals() as stop:`, the first SIGINT or SIGTERM only sets stop.requested.

    Whoever trains looks at it between two steps, saves, and raises stop.stopped(how to go on). A second signal has its
    old effect and ends the process at once; what was saved before stays. One that came too late, when training was
    done, has its old effect where the block ends. Main thread only.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, speak: bool = True) -> None:
        self.requested: int | None = None
        self.speak = speak  # of several processes, one says that it is stopping
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.signal(number, self._ask) for number in self.SIGNALS}
        return self

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        self._restore()
        if error is None and self.requested is not None:
            number, self.requested = self.requested, None
            signal.raise_signal(number)

    def stopped(self, message: str) -> Stopped:
        """The exception to raise once everything is saved; ends the process with 130 (SIGINT) or 143 (SIGTERM)."""
        return Stopped(message, 128 + int(self.requested or signal.SIGINT))

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        if self.requested is not None:  # the second, of the other kind
            self._restore()
            signal.raise_signal(number)
            return
        self.requested = number
        # Only this one: where both came at once, Python complains of a signal that has lost its handler meanwhile.
        signal.signal(number, self._before.pop(number))
        if self.speak:  # not by print: the signal may have come in the middle of one
            os.write(2, b"\nfinishing the step, then saving; press Ctrl-C again to stop at once\n")

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
