"""One run's way through training: when to save, what, and how to go on from it as if nothing had happened."""

import contextlib
import json
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from training import checkpoint
from training.checkpoint import CheckpointError
from training.clock import Clock
from training.distributed import ALONE, Group
from training.likeness import differences, require_like
from training.loop import TrainState
from training.optimizer_state import flatten, unflatten
from training.run_folder import RunFolder
from training.sharding import divided_like, whole_to_save
from training.stopping import StopSignals

BEST = {"epoch": 0, "step": 0, "score": 0.0}
"""What is remembered of the best epoch, and of which types."""


class Session:
    """Everything that resuming means: weights, optimizer, scheduler, TrainState, generators, best epoch, log.

    Run the loop in `with training():`, hand it `after_step`, and call `end_epoch` at the end of each epoch. `identity`
    holds what must be the same for a run to be the same run: settings that matter and fingerprints of data, weights and
    tokenizer (JSON values, nested as you like). All of `model`'s parameters and buffers are stored: with a frozen
    backbone, hand over the head alone and put the backbone's hash into `identity`. Of the processes in a `group` the
    first one reads and writes; all must make the same calls.
    """

    def __init__(self, run: RunFolder, model: nn.Module, optimizer: torch.optim.Optimizer,
                 scheduler: torch.optim.lr_scheduler.LRScheduler | None, state: TrainState, *, identity: dict[str, Any],
                 save_minutes: float | None = None, save_steps: int | None = None,
                 stop: StopSignals | None = None, group: Group = ALONE) -> None:
        self.run, self.model, self.optimizer, self.scheduler, self.state = run, model, optimizer, scheduler, state
        self.identity = json.loads(json.dumps(identity, default=str))
        self.save_minutes, self.save_steps, self.stop, self.group = save_minutes, save_steps, stop, group
        self.best: dict[str, Any] | None = None
        "The best epoch so far: its epoch, step and score."
        self._saved_at: tuple[int, int, int] | None = None
        self._clock = Clock()

    @property
    def best_epoch(self) -> int:
        """Number of the best epoch, counted from 1; 0 before the first."""
        return 0 if self.best is None else self.best["epoch"]

    def resume(self) -> None:
        """Go on from checkpoint `last`. CheckpointError, before the folder changes, if it is not this run's."""
        stored, groups = self.group.from_main(self._read_last)
        training = {name: tensor.clone() for name, tensor in groups["training"].items()}  # the file will be removed
        random = {name: training.pop(name) for name in list(training) if name.startswith("rng.")}
        optimizer = unflatten(self.optimizer, training, stored["optimizer"])
        self._take_weights(groups["weights"])
        try:
            self.optimizer.load_state_dict(optimizer)
            self.group.restore_generators(random)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{self.run.path}: its checkpoint does not fit: {str(error)[:200]}") from error
        if self.scheduler is not None:
            self.scheduler.load_state_dict(stored["scheduler"])
        self.run.go_on(stored["log"], stored["train"]["step"])
        for name, value in stored["train"].items():
            setattr(self.state, name, value)
        self.best, self._saved_at = stored["best"], self._position()

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """To be in while the loop runs: the clock counts, and a signal asks for a stop that `after_step` makes.

        Outside of it a signal ends the process at once: there is no step to be finished.
        """
        self._clock.start(self.state.rows if self.state.batch else 0)
        with self.stop or contextlib.nullcontext():
            yield

    def after_step(self) -> None:
        """Save if it is time to; if a stop was asked for, save and raise Stopped."""
        by_count = self.save_steps is not None and self.state.step % self.save_steps == 0
        by_clock = self.group.is_main and self._clock.due(self.save_minutes)  # each process has its own clock
        signal, due = self.group.highest(self._signal(), by_count or by_clock)
        if signal:
            self._stop(signal)
        if due:
            self.save()

    def end_epoch(self, metrics: dict[str, Any], score: float | None = None) -> None:
        """Log an epoch, keep its weights if its score is the best (the first of equals), save; Stopped if asked for."""
        self.run.log(metrics)
        written = {}
        if score is not None and (self.best is None or score > self.best["score"]):
            self.best = {"epoch": self.state.epoch, "step": self.state.step, "score": score}
            # Before `last`, which must never promise a best that is not there.
            state = {"identity": self.identity, "metrics": metrics, **self.best}
            written = self._write("best", state, {"weights": self._weights()})
        self.save(share=written)
        self.run.times({"epoch": self.state.epoch, "step": self.state.step, **self._clock.lap(self.state.rows)})
        self.stop_if_asked()

    def stop_if_asked(self) -> None:
        """If a stop was asked for: save, unless that was just done, and raise Stopped, which says how to go on."""
        (signal,) = self.group.highest(self._signal())
        if signal:
            self._stop(signal)

    def _signal(self) -> int:
        """The signal that asks this process to stop, or 0; of several processes it may have reached only one."""
        return 0 if self.stop is None else self.stop.requested or 0

    def _stop(self, signal: int) -> NoReturn:
        self.stop.requested = signal
        if self._saved_at != self._position():
            self.save()
        words = [word for word in sys.argv if word != "--resume"] + ["--resume"]
        raise self.stop.stopped(f"stopped after step {self.state.step}, saved in {self.run.path}\n"
                                f"go on with the same command and --resume: {shlex.join(words)}")

    def save(self, share: dict[str, checkpoint.Entry] | None = None) -> None:
        """Write checkpoint `last`. share: tensor files that hold some of it already."""
        started = time.monotonic()
        tensors, numbers = flatten(self.optimizer)
        groups = {"weights": self._weights(), "training": {**tensors, **self.group.generator_states()}}
        groups = {name: tensors for name, tensors in groups.items() if name not in (share or {})}
        state = {"identity": self.identity, "train": asdict(self.state), "optimizer": numbers,
                 "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
                 "best": self.best, "log": self.run.log_mark()}
        self._write("last", state, groups, share)
        self._saved_at = self._position()
        self._clock.saved(time.monotonic() - started)

    def load_best(self) -> None:
        """Put the best epoch's weights into the model."""
        self._take_weights(self.group.from_main(self._read_best))

    def _write(self, name: str, state: dict[str, Any], groups: dict[str, dict[str, Tensor]],
               share: dict[str, checkpoint.Entry] | None = None) -> dict[str, checkpoint.Entry]:
        """Save a checkpoint, if this is the process that does; returns its entries."""
        groups = {group: {name: whole_to_save(tensor) for name, tensor in tensors.items()}
                  for group, tensors in groups.items()}
        if not self.group.is_main:
            return {name: {} for name in groups}
        return checkpoint.save(self.run.path, name, state, groups, self.state.step, share)

    def _read_last(self) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
        """Checkpoint `last`, checked, with the best epoch brought up to date."""
        stored, groups = self._load("last", ("weights", "training"))
        self._check_state(stored)
        stored["best"] = self._find_best(stored["best"])
        return stored, groups

    def _read_best(self) -> dict[str, Tensor]:
        """The weights of the best epoch that this run knows of."""
        stored, groups = self._load("best", ("weights",))
        if self.best is None or {key: stored.get(key) for key in self.best} != self.best:
            raise CheckpointError(f"{self.run.path / 'best.json'} is not the best epoch that this run has seen")
        return groups["weights"]

    def _find_best(self, known: dict[str, Any] | None) -> dict[str, Any] | None:
        """The best epoch so far, `known` being the one that checkpoint `last` knows of.

        A process that died between the two saves of end_epoch leaves a `best` newer than `last`. It counts: its epoch
        is about to be done again, and what it replaced is gone.
        """
        if not checkpoint.exists(self.run.path, "best"):
            if known is not None:
                raise CheckpointError(f"{self.run.path}: the best epoch's checkpoint, best.json, is missing")
            return None
        stored, _ = self._load("best", ("weights",))
        require_like({"identity": self.identity, "metrics": stored.get("metrics"), **BEST}, stored, "best")
        if known is not None and stored["step"] < known["step"]:
            raise CheckpointError(f"{self.run.path / 'best.json'} is older than the best epoch that last.json knows of")
        return {key: stored[key] for key in BEST}

    def _position(self) -> tuple[int, int, int]:
        return self.state.epoch, self.state.batch, self.state.step

    def _load(self, name: str, groups: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
        """A checkpoint of this very run that has these groups; CheckpointError naming every value that differs."""
        stored, found = checkpoint.load(self.run.path, name)
        differing = differences(stored.get("identity"), self.identity)
        if differing:
            shown = "; ".join(differing[:6]) + (f"; and {len(differing) - 6} more" if len(differing) > 6 else "")
            raise CheckpointError(f"{self.run.path} holds another run, which cannot be gone on with: {shown}\n"
                                  "Give the settings it was started with, or leave out --resume to begin a new run")
        if set(found) != set(groups):
            raise CheckpointError(f"{self.run.path}: checkpoint {name} does not consist of {' and '.join(groups)}")
        return stored, found

    def _check_state(self, stored: dict[str, Any]) -> None:
        """Hold the JSON of checkpoint `last` to the types and shapes that this run's own would have."""
        pattern = {"identity": self.identity, "train": asdict(TrainState()), "optimizer": stored.get("optimizer"),
                   "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
                   "best": None if stored.get("best") is None else BEST,
                   "log": {"bytes": 0, "sha256": ""}}
        require_like(pattern, stored, "last")
        if min(*stored["train"].values(), stored["log"]["bytes"]) < 0:
            raise CheckpointError(f"{self.run.path}: its checkpoint counts below zero")

    def _weights(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers; of tied ones, the first name."""
        stored = self.model.state_dict()
        named = [*self.model.named_parameters(), *self.model.named_buffers()]
        return {name: tensor for name, tensor in named if name in stored}

    def _take_weights(self, weights: dict[str, Tensor]) -> None:
        """Copy stored weights into the model, every one of them; CheckpointError if they are another model's."""
        own = self._weights()
        for name in own.keys() | weights.keys():
            if name not in own or name not in weights or own[name].shape != weights[name].shape \
                    or own[name].dtype != weights[name].dtype:
                raise CheckpointError(f"{self.run.path}: the checkpoint's weight {name[:80]!r} does not fit the model")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(divided_like(weights[name], tensor))
