"""Notices when a process of a run has failed or vanished, even where torch would wait for it much longer."""

import os
import threading

BEAT = 4.0
"""Seconds between two signs of life."""
MISSED_BEATS = 10
"""A process that gives no sign of life this often is taken for lost."""
GRACE = 10.0
"""Seconds that a process has to end by itself once another one has failed."""
KEPT = "The last checkpoint is intact: start again with --resume, with as many processes as you like"


class Watch:
    """A thread with a connection of its own to the run's store, the place where torchrun's processes found each other.

    Each process counts its beats there. The first process looks at everyone's, the others at the first one's. A
    process that fails says so in the store, and by that gets the word: one message is printed, not one a process.
    """

    def __init__(self, store, rank: int, size: int) -> None:
        self.store, self.rank, self.size = store, rank, size
        self._others = range(1, size) if rank == 0 else range(1)
        self._seen = dict.fromkeys(self._others, (-1, 0))  # beats counted, how often they were the same
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the watch; for a process that is about to end in order."""
        self._stop.set()
        self._thread.join(timeout=BEAT)

    def claim(self) -> bool:
        """Report a failure of this run; whether it is for this process to tell the user, because it was the first."""
        try:
            return self.store.add("failed", 1) == 1
        except RuntimeError:
            return True  # nobody can be asked

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
        """A process whose beats have stopped. Counted in our own beats: whoever was suspended with it blames nobody."""
        for other in self._others:
            beats, missed = self.store.add(f"beat {other}", 0), self._seen[other]
            missed = missed[1] + 1 if beats == missed[0] else 0
            self._seen[other] = (beats, missed)
            if missed >= MISSED_BEATS:
                return other
        return None

    def _leave(self, message: str | None = None) -> None:
        """End this process, which may be stuck: after a message, if nobody else has given one, or a time of grace."""
        if message is None:
            self._stop.wait(GRACE)
        if self._stop.is_set():
            return
        if message is not None and self.claim():
            os.write(2, f"error: {message}.\n{KEPT}\n".encode())
        os._exit(1)
