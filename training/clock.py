"""Where the time of a run goes: how often it may save, and how fast it is."""

import sys
import time
from typing import Any

import torch

SHARE_OF_TIME = 0.02
"""Saving by the clock takes no more than this share of the time, however slow the disk."""


class Clock:
    """Started when made; counts from the last save and from the last lap."""

    def __init__(self) -> None:
        self._last_save = self._last_lap = time.monotonic()
        self._cost = self._saving = 0.0
        self._rows = 0

    def due(self, minutes: float | None) -> bool:
        """Whether `minutes` have passed since the last save, and enough for the next one to be cheap."""
        if minutes is None:
            return False
        return time.monotonic() - self._last_save >= max(minutes * 60, self._cost / SHARE_OF_TIME)

    def saved(self, seconds: float) -> None:
        """Note that a checkpoint has just been saved, and how long that took."""
        self._last_save, self._cost = time.monotonic(), seconds
        self._saving += seconds

    def start(self, rows: int) -> None:
        """Begin a lap in the middle of an epoch of which `rows` are done."""
        self._last_lap, self._saving, self._rows = time.monotonic(), 0.0, rows

    def lap(self, rows: int) -> dict[str, Any]:
        """End a lap after `rows` of the epoch: seconds, of these saving, training examples a second, peak memory."""
        seconds, done, saving = time.monotonic() - self._last_lap, rows - self._rows, self._saving
        self.start(0)
        return {"seconds": round(seconds, 3), "saving seconds": round(saving, 3),
                "examples a second": round(done / seconds, 2) if seconds else None, **peak_memory()}


def peak_memory() -> dict[str, int]:
    """The most memory that this process has held so far, in MB; empty where the system does not tell."""
    peak = {}
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
        peak["peak memory MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 10**6
    if torch.cuda.is_available():
        peak["peak device memory MB"] = torch.cuda.max_memory_allocated() // 10**6
    return peak
