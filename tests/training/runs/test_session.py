"""Sessions: a run that was interrupted, however and wherever, ends with the bits of one that was not."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from common.errors import Stopped, UserError
from tests.training.runs.test_checkpoint import JSON, reseal
from tests.training.toy import OPTIMIZERS, STEPS, Toy, snapshot, train
from training.loop import TrainState
from training.runs import checkpoint
from training.runs.checkpoint import CheckpointError
from training.runs.run_folder import RunFolder
from training.runs.session import OtherRun, Session
from training.runs.stop_signals import StopSignals


class Interrupted(Exception):
    """What ends a run in these tests, at a step of their choice."""


def until(step: int):
    def after_step(now: int) -> None:
        if now == step:
            raise Interrupted
    return after_step


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, dict[str, bytes]]:
    """The files of an uninterrupted run, for each optimizer."""
    folder = tmp_path_factory.mktemp("whole")
    for name in OPTIMIZERS:
        train(folder / name, optimizer=name)
    return {name: snapshot(folder / name) for name in OPTIMIZERS}


@pytest.fixture
def stopped(tmp_path) -> Path:
    """The folder of a run that was interrupted in its second epoch."""
    with pytest.raises(Interrupted):
        train(tmp_path / "run", after_step=until(5))
    return tmp_path / "run"


def resume(folder: Path, toy: Toy | None = None, **settings) -> Session:
    """The session of a resumed run, before its next step."""
    toy = toy or Toy()
    with RunFolder(folder) as run:
        session = toy.session(run, **settings)
        session.resume()
    return session


# ---- the same bits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("step", [1, 2, 3, 4, STEPS])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, whole, optimizer, step):
    """Catches: anything that resuming forgets: moments, learning rate, dropout, sums of the epoch, best epoch, log."""
    with pytest.raises(Interrupted):
        train(tmp_path, optimizer=optimizer, after_step=until(step))
    torch.manual_seed(999)
    train(tmp_path, resume=True, optimizer=optimizer)
    assert snapshot(tmp_path) == whole[optimizer]


def test_the_toy_run_is_hard_to_resume(whole):
    """Catches: a test of resuming that would pass without it: the toy must use what has to be restored."""
    log = [json.loads(line) for line in whole["ours"]["log.jsonl"].splitlines()]
    assert len({line["loss"] for line in log}) == 3
    best, last = json.loads(whole["ours"]["best.json"]), json.loads(whole["ours"]["last.json"])
    assert best["step"] < last["step"] == STEPS
    assert last["state"]["scheduler"]["last_epoch"] == STEPS
    assert last["state"]["optimizer"]["counts"]["0.step"] == STEPS


def test_resuming_a_finished_run_changes_nothing(tmp_path, whole):
    """Catches: --resume, given once too often, that trains on or rewrites the log."""
    train(tmp_path)
    train(tmp_path, resume=True)
    assert snapshot(tmp_path) == whole["ours"]


def test_saving_does_not_change_training(tmp_path, whole):
    """Catches: a save that draws random numbers or touches the weights."""
    train(tmp_path / "often", save_steps=1)
    train(tmp_path / "never", save_steps=None)
    for name in ("often", "never"):
        assert snapshot(tmp_path / name) == whole["ours"]


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_saves_the_very_step(tmp_path, whole, capfd, number, status):
    """Catches: Ctrl-C that loses steps, or does not say where they are saved."""
    with pytest.raises(Stopped) as caught:
        train(tmp_path, stop=StopSignals(), save_steps=None,
              after_step=lambda step: step == 4 and signal.raise_signal(number))
    assert caught.value.exit_status == status
    assert str(caught.value) == f"stopped after step 5, saved in {tmp_path}"
    assert json.loads((tmp_path / "last.json").read_text())["state"]["train"]["step"] == 5
    train(tmp_path, resume=True)
    assert snapshot(tmp_path) == whole["ours"]


def test_a_best_epoch_saved_just_before_the_end_counts(tmp_path, whole, monkeypatch):
    """Catches: weights of the best epoch that are lost because the process died between saving `best` and `last`."""
    save, best_epoch = checkpoint.save, json.loads(whole["ours"]["best.json"])["state"]["epoch"]

    def dying(folder, name, state, *rest):
        if name == "last" and state["train"]["epoch"] == best_epoch:
            raise Interrupted
        return save(folder, name, state, *rest)

    monkeypatch.setattr(checkpoint, "save", dying)
    with pytest.raises(Interrupted):
        train(tmp_path)
    monkeypatch.setattr(checkpoint, "save", save)
    session = resume(tmp_path)
    assert session.best_epoch == best_epoch > session.state.epoch
    session.load_best()
    train(tmp_path, resume=True)
    assert snapshot(tmp_path) == whole["ours"]


def kills(folder: Path, root: Path, trials: int) -> dict:
    """What tests/training/runs/killing.py found."""
    command = [sys.executable, "-m", "tests.training.runs.killing", str(folder), "1", str(trials)]
    done = subprocess.run(command, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks")
@pytest.mark.parametrize("trials", [
    20, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_killed_runs_end_with_the_same_bits(tmp_path, root, trials):
    """Catches: an instant at which SIGKILL leaves no valid checkpoint, litter, or one that resumes to other bits."""
    found = kills(tmp_path, root, trials)
    assert found["runs"] == {"trials": trials, "killed": trials, "wrong": []}
    for part in ("saves", "beginnings"):
        assert found[part] == {"trials": found[part]["trials"], "killed": found[part]["trials"], "wrong": []}
    assert found["saves"]["trials"] > 20 and found["beginnings"]["trials"] > 10


# ---- another run's checkpoint -------------------------------------------------------------------------------------


def test_what_differs_is_named(stopped):
    """Catches: a run resumed with other data or settings, or a refusal that does not say what it is about."""
    before, toy = snapshot(stopped), Toy()
    weights = [parameter.clone() for parameter in toy.model.parameters()]
    identity = {"seed": 0, "recipe": {"lr": 0.01, "epochs": 3}, "data": "ffff" * 16, "new": True}
    with pytest.raises(OtherRun) as caught:
        resume(stopped, toy, identity=identity)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{stopped} holds another run: ")
    assert line.endswith("recipe.lr was 0.05, is 0.01; data was '1f3a', is 'ffffffffffffffffffffffff...'; "
                         "new was None, is True")
    assert "seed" not in line and "epochs" not in line
    assert snapshot(stopped) == before
    assert all(torch.equal(a, b) for a, b in zip(weights, toy.model.parameters(), strict=True))


def test_another_model_is_refused(stopped):
    """Catches: weights copied into a model that they do not fit, where the identity does not tell."""
    with pytest.raises(CheckpointError, match="does not fit"):
        resume(stopped, Toy(hidden=7))
    with pytest.raises(CheckpointError, match="does not fit"):
        resume(stopped, Toy(optimizer="torch.AdamW"))


def into(*path):
    """A change of the JSON in last.json: the value at a path is replaced by the path's last element."""
    def change(document: dict) -> None:
        place = document["state"]
        for key in path[:-2]:
            place = place[key]
        place[path[-2]] = path[-1]
    return change


@pytest.mark.parametrize("change", [
    into("train", "step", "5"), into("train", "epoch", -1), into("train", "rows", True), into("train", {}),
    into("train", "extra", 1), into("optimizer", None), into("optimizer", "groups", []),
    into("optimizer", "groups", 0, "betas", [0.9]), into("optimizer", "groups", 0, "betas", [0.9, 2.0]),
    into("optimizer", "groups", 0, "lr", None), into("optimizer", "counts", "9.step", 1),
    into("optimizer", "counts", "x", 1), into("optimizer", "counts", "0.step", "1"), into("optimizer", "counts", {}),
    into("scheduler", None), into("scheduler", "base_lrs", []), into("best", {}), into("best", "score", "1"),
    into("best", "step", 99), into("log", None), into("log", "bytes", -1), into("log", "bytes", 10**9),
    into("identity", None), into("identity", "recipe", 5), lambda document: document["files"].pop("training"),
    lambda document: document["files"].pop("weights"),
])
def test_a_forged_state_is_refused(stopped, change):
    """Catches: a checkpoint, sealed as it should be, whose values end in a traceback later, or in nonsense."""
    reseal(stopped, change)
    with pytest.raises(CheckpointError) as caught:
        resume(stopped)
    assert len(str(caught.value).splitlines()) <= 2 and len(str(caught.value)) < 600


def places(value, path=()):
    """The paths to everything in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, part in inner for place in places(part, (*path, key))]


@settings(max_examples=150, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_state_is_resumed_or_refused(stopped, data):
    """Catches: JSON anywhere in a sealed checkpoint's state that raises anything but CheckpointError."""
    good = (stopped / "last.json").read_bytes()
    place = data.draw(st.sampled_from(places(json.loads(good)["state"])))
    log, times = (stopped / "log.jsonl").read_bytes(), (stopped / "times.jsonl").read_bytes()
    try:
        with contextlib.suppress(ValueError):  # NaN cannot be sealed
            reseal(stopped, into(*place, data.draw(JSON | st.integers() | st.floats(0, 1e308))))
        with contextlib.suppress(CheckpointError):
            resume(stopped)
    finally:
        for name, content in (("last.json", good), ("log.jsonl", log), ("times.jsonl", times)):
            (stopped / name).write_bytes(content)


@pytest.mark.parametrize("name, damage, says", [
    ("best.json", Path.unlink, "best.json, is missing"),
    ("best.json", lambda path: os.truncate(path, 50), "damaged"),
    ("best.json", lambda path: path.write_bytes((path.parent / "last.json").read_bytes()), "calls itself"),
])
def test_a_best_epoch_that_is_gone_is_noticed_at_once(stopped, name, damage, says):
    """Catches: hours of training that end with the news that the best epoch is not there."""
    damage(stopped / name)
    with pytest.raises(CheckpointError, match=says):
        resume(stopped)


def test_random_generators_of_another_kind_are_refused(stopped):
    """Catches: a forged generator state that reaches PyTorch's generator, or its traceback the user."""
    state, groups = checkpoint.load(stopped, "last")
    groups = {name: {key: value.clone() for key, value in group.items()} for name, group in groups.items()}
    rng = next(name for name in groups["training"] if name.startswith("rng."))
    for forged in (torch.zeros(3, dtype=torch.uint8), torch.zeros(5056, dtype=torch.uint8), torch.zeros(5056)):
        groups["training"][rng] = forged
        checkpoint.save(stopped, "last", state, groups, 5)
        with pytest.raises(CheckpointError, match="does not fit"):
            resume(stopped)


# ---- the best epoch, when to save, what is stored -----------------------------------------------------------------


def test_the_first_of_equally_good_epochs_is_kept(tmp_path):
    """Catches: a best epoch that depends on ties, and load_best that leaves the last epoch's weights."""
    toy = Toy()
    with RunFolder(tmp_path) as run:
        session = toy.session(run)
        weights = {}
        for epoch, score in enumerate((0.5, 0.75, 0.75, 0.25), start=1):
            with torch.no_grad():
                toy.model[0].weight.fill_(epoch)
            toy.state.epoch, toy.state.step = epoch, 10 * epoch
            session.end_epoch({"epoch": epoch}, score=score)
            weights[epoch] = toy.model[0].weight.clone()
        assert session.best == {"epoch": 2, "step": 20, "score": 0.75}
        session.load_best()
        assert torch.equal(toy.model[0].weight, weights[2])
        assert checkpoint.load(tmp_path, "best")[0]["metrics"] == {"epoch": 2}


def test_load_best_without_an_epoch(tmp_path):
    """Catches: predictions with weights of nobody knows what."""
    train(tmp_path / "other")
    with RunFolder(tmp_path / "other") as run:
        with pytest.raises(CheckpointError, match="not the best epoch that this run has seen"):
            Toy().session(run).load_best()
    with RunFolder(tmp_path / "new") as run, pytest.raises(CheckpointError, match=r"best\.json"):
        Toy().session(run).load_best()


def test_what_is_stored(tmp_path):
    """Catches: a tied weight or a buffer that is no part of the state_dict written to disk; one that is, forgotten."""
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.out, self.norm = nn.Embedding(3, 2), nn.Linear(2, 3), nn.BatchNorm1d(2)
            self.out.weight = self.embedding.weight
            self.register_buffer("mask", torch.ones(2), persistent=False)

    model = Tied()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with RunFolder(tmp_path) as run:
        Session(run, model, optimizer, None, TrainState(), identity={}).save()
    assert checkpoint.load(tmp_path, "last")[1]["weights"].keys() == {
        "embedding.weight", "out.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var",
        "norm.num_batches_tracked"}


def test_a_full_disk_ends_training_with_the_earlier_checkpoint(small_disk):
    """Catches: training whose checkpoint is lost, or that ends in a traceback, because the disk is full."""
    folder = small_disk / "run"

    def fill(step: int) -> None:
        if step == 3:
            disk = os.statvfs(small_disk)
            (small_disk / "filler").write_bytes(bytes(disk.f_bavail * disk.f_frsize - 2 * 4096))

    with pytest.raises(UserError, match="No space left on device"):
        train(folder, save_steps=1, after_step=fill)
    (small_disk / "filler").unlink()
    assert resume(folder).state.step == 3
    train(folder, resume=True)
