"""The clock of a run decides when a checkpoint is due, and measures speed and memory."""

import time
from typing import Any

import torch

from training.memory import peak_memory

SHARE_OF_TIME = 0.02
"""Largest share of the time that saving by the clock may take, however slow the disk."""


class Clock:
    """Measures time since the last save and since the start of the lap (an epoch, or the resumed rest of one)."""

    def __init__(self) -> None:
        self._last_save = self._last_lap = time.monotonic()
        self._cost = self._saving = 0.0
        self._rows = 0

    def due(self, minutes: float | None) -> bool:
        """Tell whether `minutes` have passed since the last save, and enough for the next one to be cheap."""
        if minutes is None:
            return False
        return time.monotonic() - self._last_save >= max(minutes * 60, self._cost / SHARE_OF_TIME)

    def saved(self, seconds: float) -> None:
        """Record that a checkpoint has just been saved, in so many seconds."""
        self._last_save, self._cost = time.monotonic(), seconds
        self._saving += seconds

    def start(self, rows: int) -> None:
        """Start a lap in an epoch of which `rows` are done already."""
        self._last_lap, self._saving, self._rows = time.monotonic(), 0.0, rows

    def lap(self, rows: int) -> dict[str, Any]:
        """End a lap after `rows` of the epoch and start the next one. Returns its record for times.jsonl.

        The record has the lap's seconds, how many of them went into saving, training examples a second, and the
        highest memory of this process so far: on the CPU, and on a CUDA device that PyTorch uses.
        """
        seconds, done, saving = time.monotonic() - self._last_lap, rows - self._rows, self._saving
        self.start(0)
        record = {"seconds": round(seconds, 3), "saving seconds": round(saving, 3),
                  "examples a second": round(done / seconds, 2) if seconds else None,
                  "peak memory MB": round(peak_memory())}
        if torch.cuda.is_available():
            record["peak device memory MB"] = torch.cuda.max_memory_allocated() // 10**6
        return record
