"""A session takes one run through training: it saves checkpoints, and resumes from them as if nothing had happened."""

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from common.errors import Stopped
from training.loop import Diverged, TrainState
from training.memory import peak_memory
from training.parallel.process_group import ALONE, Group
from training.parallel.sharding import full_tensor_on_main, shard_like
from training.runs import checkpoint
from training.runs.checkpoint import CheckpointError, FileRecord, compare_json, require_like
from training.runs.run_folder import RunFolder
from training.runs.stop_signals import StopSignals

BEST = {"epoch": 0, "step": 0, "score": 0.0}  # a pattern for keys and types of the best epoch's record
SHARE_OF_TIME = 0.02  # largest share of the time that saving by the clock may take, however slow the disk


class OtherRun(CheckpointError):
    """The checkpoint belongs to a run with other settings or data."""


class Session:
    """Saves and restores the whole state of a run: weights, optimizer, scheduler, TrainState, generators, best epoch.

    Run the loop inside `with training():`, pass it `after_step`, and call `end_epoch` at the end of each epoch.

    identity: JSON values that decide the result: settings, and fingerprints of data, weights and tokenizer. A
    checkpoint with another identity is refused. It holds all of `model`'s parameters and buffers: if the backbone is
    frozen, pass the head alone, with the backbone's hash in `identity`. In a `group` only the first process reads and
    writes, and all processes must make the same calls. end: the highest epoch, batch and step that the run can reach.
    """

    def __init__(self, run: RunFolder, model: nn.Module, optimizer: torch.optim.Optimizer,
                 scheduler: torch.optim.lr_scheduler.LRScheduler | None, state: TrainState, *, identity: dict[str, Any],
                 end: TrainState | None = None, save_minutes: float | None = None, save_steps: int | None = None,
                 stop: StopSignals | None = None, group: Group = ALONE) -> None:
        self.run, self.model, self.optimizer, self.scheduler, self.state = run, model, optimizer, scheduler, state
        self.identity = json.loads(json.dumps(identity, default=str))
        self.end = end or TrainState(checkpoint.MOST, checkpoint.MOST, checkpoint.MOST)
        self.save_minutes, self.save_steps, self.stop, self.group = save_minutes, save_steps, stop, group
        self.best: dict[str, Any] | None = None  # epoch, step and score of the best epoch so far
        self._saved_at: tuple[int, int, int] | None = None
        self._clock = Clock()

    @property
    def best_epoch(self) -> int:
        """Number of the best epoch, counted from 1; 0 before the first."""
        return 0 if self.best is None else self.best["epoch"]

    def resume(self) -> None:
        """Restore checkpoint `last`. OtherRun or CheckpointError, and an unchanged folder, if it does not fit."""
        # Read and check. The tensors are memory-mapped: clone them, because their file will be removed.
        stored, groups = self.group.broadcast_from_main(self._read_last)
        tensors = {name: tensor.clone() for name, tensor in groups["training"].items()}
        generators = {name: tensors.pop(name) for name in list(tensors) if name.startswith("rng.")}
        optimizer = checkpoint.unflatten_optimizer(self.optimizer, tensors, stored["optimizer"])

        # Restore.
        self._load_weights(groups["weights"])
        try:
            self.optimizer.load_state_dict(optimizer)
            self.group.restore_generators(generators)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{self.run.path}: its checkpoint does not fit: {str(error)[:200]}") from error
        if self.scheduler is not None:
            self.scheduler.load_state_dict(stored["scheduler"])
        self.run.resume(stored["log"], stored["train"]["step"])
        for name, value in stored["train"].items():
            setattr(self.state, name, value)
        self.best, self._saved_at = stored["best"], self._position()

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Run the loop inside this: the clock counts, and a signal to stop waits until `after_step` has saved."""
        self._clock.start(self.state.rows if self.state.batch else 0)
        try:
            with self.stop or contextlib.nullcontext():
                yield
        except Diverged as error:
            kept = f"the checkpoint of step {self._saved_at[2]} is kept" if self._saved_at else "nothing was saved"
            error.args = (f"{error}; {kept}",)
            raise

    def after_step(self) -> None:
        """Save if it is time to. Raise Stopped, after saving, if a signal has asked to stop."""
        by_count = self.save_steps is not None and self.state.step % self.save_steps == 0
        by_clock = self.group.is_main and self._clock.due(self.save_minutes)  # each process has its own clock
        signal, due = self.group.highest(self._signal(), by_count or by_clock)
        if signal:
            self._stop(signal)
        if due:
            self.save()

    def end_epoch(self, metrics: dict[str, Any], score: float | None = None) -> None:
        """Log an epoch's metrics, save, stop if asked to; keep the weights if the score is higher than all before."""
        self.run.log(metrics)
        written = {}
        if score is not None and (self.best is None or score > self.best["score"]):
            self.best = {"epoch": self.state.epoch, "step": self.state.step, "score": score}
            # First `best`, then `last`: `last` must never name a best epoch that is not there.
            state = {"identity": self.identity, "metrics": metrics, **self.best}
            written = self._write("best", state, {"weights": self._weights()})
        self.save(reuse=written)
        self.run.times({"epoch": self.state.epoch, "step": self.state.step, **self._clock.lap(self.state.rows)})
        (signal,) = self.group.highest(self._signal())
        if signal:
            self._stop(signal)

    def _signal(self) -> int:
        """Return the signal that asks this one of several processes to stop, or 0."""
        return 0 if self.stop is None else self.stop.requested or 0

    def _stop(self, signal: int) -> NoReturn:
        """Raise Stopped, after saving, with the exit status that a shell expects: 130 for SIGINT, 143 for SIGTERM."""
        if self._saved_at != self._position():
            self.save()
        raise Stopped(f"stopped after step {self.state.step}, saved in {self.run.path}", 128 + signal)

    def save(self, reuse: dict[str, FileRecord] | None = None) -> None:
        """Write checkpoint `last`. reuse: records of tensor files just written, to be named, not written again."""
        started = time.monotonic()
        tensors, numbers = checkpoint.flatten_optimizer(self.optimizer)
        groups = {"weights": self._weights(), "training": {**tensors, **self.group.generator_states()}}
        groups = {name: tensors for name, tensors in groups.items() if name not in (reuse or {})}
        state = {"identity": self.identity, "train": asdict(self.state), "optimizer": numbers,
                 "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
                 "best": self.best, "log": self.run.log_mark()}
        self._write("last", state, groups, reuse)
        self._saved_at = self._position()
        self._clock.saved(time.monotonic() - started)

    def load_best(self) -> None:
        """Load the best epoch's weights into the model."""
        self._load_weights(self.group.broadcast_from_main(self._read_best))

    def _write(self, name: str, state: dict[str, Any], groups: dict[str, dict[str, Tensor]],
               reuse: dict[str, FileRecord] | None = None) -> dict[str, FileRecord]:
        """Save a checkpoint on the first process. Returns its records there, empty records elsewhere."""
        groups = {group: {name: full_tensor_on_main(tensor) for name, tensor in tensors.items()}
                  for group, tensors in groups.items()}
        if not self.group.is_main:
            return {name: {} for name in groups}
        return checkpoint.save(self.run.path, name, state, groups, self.state.step, reuse)

    def _read_last(self) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
        """Read checkpoint `last` and hold its JSON to the types and shapes of this run's own."""
        stored, groups = self._read("last", ("weights", "training"))
        pattern = {"identity": self.identity, "train": asdict(TrainState()), "optimizer": stored.get("optimizer"),
                   "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
                   "best": None if stored.get("best") is None else BEST,
                   "log": {"bytes": 0, "sha256": ""}}
        require_like(pattern, stored, "last")
        stored["best"] = self._find_best(stored["best"])
        for place in (stored["train"], stored["best"] or {}):
            for name, most in (("epoch", self.end.epoch), ("batch", self.end.batch), ("step", self.end.step)):
                if place.get(name, 0) > most:
                    raise CheckpointError(f"{self.run.path}: its checkpoint is at {name} {place[name]}, "
                                          f"this run ends at {name} {most}")
        return stored, groups

    def _read_best(self) -> dict[str, Tensor]:
        """Read the weights of the best epoch that this run has seen."""
        stored, groups = self._read("best", ("weights",))
        if self.best is None or {key: stored.get(key) for key in self.best} != self.best:
            raise CheckpointError(f"{self.run.path / 'best.json'} is not the best epoch that this run has seen")
        return groups["weights"]

    def _find_best(self, known: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return the record of the best epoch so far. known: the record in checkpoint `last`.

        If a process died between the two saves of end_epoch, `best` is newer than `last`, and counts: its epoch is
        about to be trained again, and the files of the best epoch before it are gone.
        """
        if not checkpoint.exists(self.run.path, "best"):
            if known is not None:
                raise CheckpointError(f"{self.run.path}: the best epoch's checkpoint, best.json, is missing")
            return None
        stored, _ = self._read("best", ("weights",))
        require_like({"identity": self.identity, "metrics": stored.get("metrics"), **BEST}, stored, "best")
        if known is not None and stored["step"] < known["step"]:
            raise CheckpointError(f"{self.run.path / 'best.json'} is older than the best epoch that last.json names")
        return {key: stored[key] for key in BEST}

    def _position(self) -> tuple[int, int, int]:
        return self.state.epoch, self.state.batch, self.state.step

    def _read(self, name: str, groups: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
        """Read a checkpoint that must have these groups. OtherRun names every value of the identity that differs."""
        stored, found = checkpoint.load(self.run.path, name)
        if differences := compare_json(stored.get("identity"), self.identity):
            more = f"; and {len(differences) - 6} more" if len(differences) > 6 else ""
            raise OtherRun(f"{self.run.path} holds another run: {'; '.join(differences[:6])}{more}")
        if set(found) != set(groups):
            raise CheckpointError(f"{self.run.path}: checkpoint {name} does not consist of {' and '.join(groups)}")
        return stored, found

    def _weights(self) -> dict[str, Tensor]:
        """Return parameters and persistent buffers by name. Tied ones appear once, under their first name."""
        stored = self.model.state_dict()
        named = [*self.model.named_parameters(), *self.model.named_buffers()]
        return {name: tensor for name, tensor in named if name in stored}

    def _load_weights(self, weights: dict[str, Tensor]) -> None:
        """Copy stored weights into the model. CheckpointError, before any is copied, if they are another model's."""
        own = self._weights()
        for name in own.keys() | weights.keys():
            if name not in own or name not in weights or own[name].shape != weights[name].shape \
                    or own[name].dtype != weights[name].dtype:
                raise CheckpointError(f"{self.run.path}: the checkpoint's weight {name[:80]!r} does not fit the model")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(shard_like(weights[name], tensor))


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
        """End a lap after `rows` of the epoch and start the next one. Returns its record for times.jsonl."""
        seconds, done, saving = time.monotonic() - self._last_lap, rows - self._rows, self._saving
        self.start(0)
        record = {"seconds": round(seconds, 3), "saving seconds": round(saving, 3),
                  "examples a second": round(done / seconds, 2) if seconds else None,
                  "peak memory MB": round(peak_memory())}
        if torch.cuda.is_available():
            record["peak device memory MB"] = torch.cuda.max_memory_allocated() // 10**6
        return record
