"""Kills training with SIGKILL and resumes it: a process of its own, because it forks after importing PyTorch once.

    python -m tests.training.runs.killing FOLDER SEED TRIALS

- runs: TRIALS whole runs are killed at random instants and resumed, and compared bit for bit with one that was not;
- saves: a process dies before each file system call of one save;
- beginnings: a process dies before each file system call with which a new run begins in an old one's folder.

Prints one line of JSON: for each of these how many trials there were, how many were killed, and what went wrong.
"""

import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

import training.runs.checkpoint as checkpoint
from tests.training.toy import Toy, snapshot, train
from training.runs.run_folder import RunFolder

EVENTS = {"open", "os.rename", "os.remove", "os.truncate", "os.mkdir", "os.rmdir"}
HANGS = 100
"""Seconds after which a run that takes one has hung: SIGALRM ends it, and its trial counts as wrong."""


def die_before_call(number: int, folder: Path) -> Callable[[], int]:
    """From now on, kill this process before its `number`-th file system call in a folder; returns the calls' counter.

    The calls: whatever opens, renames, removes, cuts or makes, every flush to disk, and every piece of a tensor file
    (so that files are left half written). Number 0 kills never.
    """
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, arguments: tuple) -> None:
        if event in EVENTS and str(folder) in str(arguments[0]):
            tick()

    def before(function: Callable) -> Callable:
        def wrapped(*arguments):
            tick()
            return function(*arguments)
        return wrapped

    def pieces(tensors, whole=checkpoint.pieces):
        for piece in whole(tensors):
            tick()
            yield piece

    sys.addaudithook(audit)
    os.fsync, checkpoint.pieces = before(os.fsync), pieces
    return lambda: count


def in_child(job: Callable[[], int | None], kill_after: float | None = None) -> int:
    """Run a job in a fork of this process; its exit status, or minus the signal that killed it."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(HANGS)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        status = 1
        try:
            status = job() or 0
        finally:
            os._exit(status)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def counted(job: Callable[[], object], folder: Path) -> int:
    """How many file system calls a job makes in a folder."""
    def child() -> None:
        calls = die_before_call(0, folder)
        job()
        (folder.parent / "calls").write_text(str(calls()))

    assert in_child(child) == 0
    return int((folder.parent / "calls").read_text())


def kill_runs(folder: Path, seed: int, trials: int) -> dict:
    """Half of the trials die before a random file system call, half after a random time; then they are resumed."""
    chance = random.Random(seed)
    started = time.monotonic()
    calls = counted(lambda: train(folder / "whole"), folder / "whole")
    duration = time.monotonic() - started
    expected = snapshot(folder / "whole")
    killed, wrong = 0, []
    for trial in range(trials):
        path = folder / f"trial-{trial}"
        if trial % 2:
            number = chance.randint(1, calls)
            what = f"before call {number} of {calls}"
            status = in_child(lambda n=number, p=path: (die_before_call(n, p), train(p))[1])
        else:
            delay, status = duration, None
            while status != -signal.SIGKILL:  # the machine may have been quicker this time
                shutil.rmtree(path, ignore_errors=True)
                delay = chance.uniform(0, delay)
                what = f"after {delay:.3f} s"
                status = in_child(lambda p=path: train(p), kill_after=delay)
        killed += status == -signal.SIGKILL
        status = in_child(lambda p=path: train(p, resume=True))
        found = snapshot(path)
        if status or found != expected:
            names = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
            wrong.append(f"killed {what}: resumed with exit status {status}, different: {sorted(names)}")
    return {"trials": trials, "killed": killed, "wrong": wrong}


def kill_saves(folder: Path) -> dict:
    """One save over another, dying before each call: what is there then is the old checkpoint or the new, whole."""
    def save(step: int) -> None:
        groups = {"weights": {"w": torch.full((3, 5), float(step))}, "training": {"m": torch.full((2,), step)}}
        checkpoint.save(path, "last", {"step": step}, groups, step)

    def seen() -> int | None:
        state, groups = checkpoint.load(path, "last")
        whole = groups["weights"]["w"].eq(state["step"]).all() and groups["training"]["m"].eq(state["step"]).all()
        return state["step"] if whole else None

    path, killed, wrong, kept = folder / "save", 0, [], set()
    path.mkdir()
    save(1)
    calls = counted(lambda: save(2), path)
    for number in range(1, calls + 1):
        save(1)
        killed += in_child(lambda n=number: (die_before_call(n, path), save(2))[1]) == -signal.SIGKILL
        kept.add(seen())
        if seen() not in (1, 2):
            wrong.append(f"before call {number} of {calls}: neither the old checkpoint nor the new")
        with RunFolder(path) as run:
            run.resume(run.log_mark(), 1)  # the next process may have nothing left to save
        files = sorted(file.suffix for file in path.iterdir())
        if files != ["", ".json", ".jsonl", ".safetensors", ".safetensors"]:
            wrong.append(f"before call {number} of {calls}: litter is left: {files}")
    if kept != {1, 2}:
        wrong.append(f"the deaths left only {kept}")
    return {"trials": calls, "killed": killed, "wrong": wrong}


def kill_beginnings(folder: Path) -> dict:
    """A new run in an old one's folder, dying before each call: the old one is whole then, here or in previous/."""
    def old_run(path: Path, value: int = 7) -> None:
        with RunFolder(path) as run:
            run.begin({})
            run.log({"value": value})
            checkpoint.save(path, "last", {"value": value}, {"weights": {"w": torch.tensor([value])}}, 1)

    def begin(path: Path) -> None:
        with RunFolder(path) as run:
            run.begin({"new": True})

    killed, wrong = 0, []
    old_run(folder / "counted")
    calls = counted(lambda: begin(folder / "counted"), folder / "counted")
    for number in range(1, calls + 1):
        path = folder / f"begin-{number}"
        old_run(path, 6)
        old_run(path)
        expected = {name for name in snapshot(path) if not name.startswith("previous")}
        killed += in_child(lambda n=number, p=path: (die_before_call(n, p), begin(p))[1]) == -signal.SIGKILL
        with RunFolder(path):
            pass
        place = path if checkpoint.exists(path, "last") else path / "previous"
        state, _ = checkpoint.load(place, "last")
        names = {name for name in snapshot(place) if not name.startswith("previous")}
        if state != {"value": 7} or names != expected or b'"value": 7' not in (place / "log.jsonl").read_bytes():
            wrong.append(f"before call {number} of {calls}: {state}, {names}")
        before, _ = checkpoint.load(path / "previous", "last")
        litter = {".moving", ".discarded"} & set(os.listdir(path))
        if litter or (place == path and before != {"value": 6}):
            wrong.append(f"before call {number} of {calls}: the run before that is {before}")
    return {"trials": calls, "killed": killed, "wrong": wrong}


if __name__ == "__main__":
    torch.set_num_threads(1)  # threads do not survive a fork
    tqdm.set_lock(threading.RLock())  # tqdm's own is shared by forks: one that dies holding it would stop all others
    Toy()  # its first optimizer makes PyTorch import another second's worth: once, not in every child
    folder, seed, trials = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    print(json.dumps({"saves": kill_saves(folder), "beginnings": kill_beginnings(folder),
                      "runs": kill_runs(folder, seed, trials)}))
