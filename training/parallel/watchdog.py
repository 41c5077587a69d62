"""The watchdog notices when a process of a run fails or vanishes, much sooner than PyTorch does."""

import os
import threading

BEAT = 4.0  # seconds between two heartbeats of a process
MISSED_BEATS = 10  # after so many without a heartbeat, a process counts as lost
GRACE = 10.0  # seconds that a process gets to end by itself after another one has failed


class Watchdog:
    """A thread that exchanges heartbeats with the other processes and ends this process if one of them is lost.

    Each process counts its heartbeats in torchrun's small key-value store. The first process checks all others, and the
    others check the first. One that fails counts itself under "failed"; only the first to do so reports to the user.
    """

    def __init__(self, store, rank: int, size: int, advice: str) -> None:
        """store: a connection that only the watchdog uses. advice: a line to print behind its messages."""
        self.store, self.rank, self.size, self.advice = store, rank, size, advice
        others = range(1, size) if rank == 0 else range(1)
        self._seen = dict.fromkeys(others, (-1, 0))  # heartbeats counted, how often the count was unchanged
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, before this process ends normally."""
        self._stop.set()
        self._thread.join(timeout=BEAT)

    def claim(self) -> bool:
        """Record a failure of this run. True if it is the first one, so that this process must report it."""
        try:
            return self.store.add("failed", 1) == 1
        except RuntimeError:
            return True  # without the store, every process reports for itself

    def _run(self) -> None:
        while not self._stop.wait(BEAT):
            try:
                self.store.add(f"beat {self.rank}", 1)
                if self.store.add("failed", 0):
                    self._leave()
                lost = self._lost()
            except RuntimeError as error:
                self._leave(f"torchrun's store cannot be reached any more: {str(error).splitlines()[0][:100]}")
                continue
            if lost is not None:
                self._leave(f"process {lost} of 0 .. {self.size - 1} has given no sign of life "
                            f"for {BEAT * MISSED_BEATS:.0f} seconds")

    def _lost(self) -> int | None:
        """Find a process whose heartbeats have stopped. Our own beats count the time: all may have been suspended."""
        for other, (before, missed) in self._seen.items():
            beats = self.store.add(f"beat {other}", 0)
            missed = missed + 1 if beats == before else 0
            self._seen[other] = (beats, missed)
            if missed >= MISSED_BEATS:
                return other
        return None

    def _leave(self, message: str | None = None) -> None:
        """End this process, which may hang in a call to the others, with a message if it is the first to report."""
        if message is None:
            self._stop.wait(GRACE)
        if self._stop.is_set():
            return
        if message is not None and self.claim():
            os.write(2, f"error: {message}.\n{self.advice}\n".encode())
        os._exit(1)
