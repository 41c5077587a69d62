"""What is told of each epoch, on a terminal and in a log; TensorBoard's events; what a run keeps of dev."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from common.errors import UserError
from data.reader import Example
from finetuning import epochs as finetuning_epochs
from finetuning import run as finetuning_run
from finetuning import settings as finetuning_settings
from finetuning.epochs import Epochs, say_curve
from finetuning.results import write_epoch, write_examples
from finetuning.settings import Settings
from tests.finetuning.test_run import DEV, DEV_FILES, EPOCHS, MODES, finish, folder, text  # noqa: F401 (a fixture)
from training.loop import TrainState

SCORES = [0.5, 0.4, 0.5, 0.7]


def record(epoch, accuracy, f1=0.3):
    return {"epoch": epoch, "step": 10 * epoch, "train_loss": 1.25, "train_accuracy": 0.75, "dev_accuracy": accuracy,
            "dev_macro_f1": f1}


@pytest.mark.parametrize("on_terminal, told", [(False, [1, 2, 3, 4]), (True, [1, 4])])
def test_which_epochs_get_a_line(monkeypatch, capsys, on_terminal, told):
    """Catches a terminal full of epochs that changed nothing, a log that lacks some, and equals taken for better."""
    monkeypatch.setattr(finetuning_epochs, "on_terminal", lambda: on_terminal)
    epochs = Epochs(4, "accuracy")
    for epoch, score in enumerate(SCORES, start=1):
        epochs.tell(record(epoch, score))
    lines = capsys.readouterr().out.splitlines()
    assert [int(re.match(r"epoch (\d+)/4: ", line)[1]) for line in lines] == told
    assert lines[-1] == "epoch 4/4: train loss 1.250, accuracy 0.750; dev accuracy 0.700, F1 0.300"


def test_a_resumed_run_knows_its_best(monkeypatch, capsys):
    """Catches the first epoch after an interruption told as the best one, and macro-F1 passed over."""
    monkeypatch.setattr(finetuning_epochs, "on_terminal", lambda: True)
    epochs = Epochs(9, "macro-f1")
    epochs.best = 0.6
    state = TrainState(rows=4, loss_sum=2.0)
    assert epochs.beside_bar(state) == "loss 0.500, dev F1 (best 0.600)"
    epochs.tell(record(5, 0.9, f1=0.55))
    assert capsys.readouterr().out == ""
    assert epochs.beside_bar(state) == "loss 0.500, dev F1 0.550 (best 0.600)"
    epochs.tell(record(6, 0.1, f1=0.65))
    assert "F1 0.650" in capsys.readouterr().out
    assert epochs.beside_bar(TrainState()) == "loss 0.000, dev F1 0.650 (best 0.650)"


def test_the_curve_at_the_end(tmp_path, capsys):
    """Catches a curve of one epoch, which is none, and one that leaves epochs out."""
    (tmp_path / "log.jsonl").write_text(json.dumps(record(1, 0.5)) + "\n")
    say_curve(tmp_path / "log.jsonl")
    assert capsys.readouterr().out == ""
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(record(n, score)) + "\n" for n, score in enumerate(SCORES)))
    say_curve(tmp_path / "log.jsonl")
    assert capsys.readouterr().out == "dev accuracy \u2583\u2581\u2583\u2588 0.400 to 0.700, 4 epochs\n"


def test_the_whole_curve_of_an_interrupted_run(folder, tmp_path, monkeypatch):  # noqa: F811
    """Catches a curve that begins where the run was resumed."""
    whole = finish(folder, tmp_path / "whole", MODES[0])
    curve, = [line for line in whole.printed.splitlines() if line.startswith("dev accuracy ")]
    assert curve.endswith(f"{EPOCHS} epochs")
    interrupted(folder, tmp_path / "cut", monkeypatch)
    assert curve in finish(folder, tmp_path / "cut", MODES[0], resume=True).printed.splitlines()


def interrupted(folder, out, monkeypatch, **changes):  # noqa: F811
    """A run that is killed in its second epoch, when its scores are known and nothing is saved."""
    with monkeypatch.context() as patch, pytest.raises(SystemError):
        calls, end_epoch = [], finetuning_run.Session.end_epoch

        def dies(*given, **named):
            calls.append(1)
            if len(calls) == 2:
                raise SystemError("killed")
            end_epoch(*given, **named)

        patch.setattr(finetuning_run.Session, "end_epoch", dies)
        finish(folder, out, MODES[0], **changes)


# ---- TensorBoard -----------------------------------------------------------------------------------------------------


def read_events(place):
    """(step, value) of each scalar, by name, as TensorBoard reads the folder."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(place))
    events.Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


@pytest.mark.parametrize("killed", [False, True])
def test_events_are_the_log(folder, tmp_path, monkeypatch, killed):  # noqa: F811
    """Catches a score under another name or step, and epochs that a resumed run has twice."""
    pytest.importorskip("tensorboard")
    if killed:
        interrupted(folder, tmp_path, monkeypatch, tensorboard=True)
    done = finish(folder, tmp_path, MODES[0], tensorboard=True, resume=killed)
    found = read_events(done.run / "tensorboard")
    assert set(found) == {"train_loss", "train_accuracy", "dev_accuracy", "dev_macro_f1"}
    for name, events in found.items():
        assert events == [(row["epoch"], pytest.approx(row[name])) for row in done.log()]


def test_events_move_aside_with_their_run(folder, tmp_path):  # noqa: F811
    """Catches two runs drawn as one, and a folder of events where none were asked for."""
    pytest.importorskip("tensorboard")
    finish(folder, tmp_path, MODES[0], tensorboard=True, epochs=1)
    done = finish(folder, tmp_path, MODES[0], epochs=1)
    assert not (done.run / "tensorboard").exists()
    assert len(read_events(done.run / "previous" / "tensorboard")["dev_accuracy"]) == 1


def test_without_the_package_a_run_does_not_begin(monkeypatch):
    """Catches a traceback after the first epoch."""
    monkeypatch.setattr(finetuning_settings, "find_spec", lambda name: None)
    assert Settings(quick=True).tensorboard is False
    with pytest.raises(UserError, match=r"--tensorboard needs a package: .*pip install tensorboard"):
        Settings(quick=True, tensorboard=True)


def test_events_that_cannot_be_written(tmp_path):
    """Catches a traceback where the folder's name is taken."""
    pytest.importorskip("tensorboard")
    (tmp_path / "tensorboard").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write events into .*tensorboard"):
        with finetuning_epochs.events(tmp_path / "tensorboard", 0) as write:
            write(record(1, 0.5))


# ---- what is kept of dev ---------------------------------------------------------------------------------------------


def test_the_logits_of_each_epoch(folder, tmp_path):  # noqa: F811
    """Catches logits of another epoch, of other weights or in another order: their scores are the log's."""
    done = finish(folder, tmp_path, MODES[1])
    labels = torch.tensor([number % 2 for number in range(100, 100 + DEV)])
    for row in done.log():
        tensors = load_file(done.run / "dev" / f"epoch-{row['epoch']:04}.safetensors")
        assert set(tensors) == {"dev"} and tensors["dev"].shape == (DEV, 2)
        assert float((tensors["dev"].argmax(dim=1) == labels).float().mean()) == pytest.approx(row["dev_accuracy"])
    best = load_file(done.run / "dev" / f"epoch-{done.json('result.json')['best_epoch']:04}.safetensors")["dev"]
    assert best.argmax(dim=1).tolist() == done.labels("dev")


def test_what_is_kept_moves_aside_with_its_run(folder, tmp_path):  # noqa: F811
    """Catches a second run's page that draws from the first one's epochs."""
    first = finish(folder, tmp_path, MODES[0])
    before = {name: (first.run / "dev" / name).read_bytes() for name in DEV_FILES}
    finish(folder, tmp_path, MODES[0], epochs=1, seed=1)
    assert {path.name for path in (first.run / "dev").iterdir()} == {"examples.jsonl", "epoch-0001.safetensors"}
    assert {name: (first.run / "previous" / "dev" / name).read_bytes() for name in DEV_FILES} == before


def test_the_bytes_of_an_epoch(tmp_path):
    """Catches a file that differs from run to run, or that keeps a whole tensor for the sake of a view."""
    logits = torch.arange(12, dtype=torch.float32).reshape(3, 4).t()
    for place in ("a", "b"):
        write_epoch(tmp_path / place, 7, logits)
    one, other = ((tmp_path / place / "epoch-0007.safetensors").read_bytes() for place in ("a", "b"))
    assert one == other and len(one) < 12 * 4 + 200
    assert torch.equal(load_file(tmp_path / "a" / "epoch-0007.safetensors")["dev"], logits)


def test_what_is_kept_of_each_text(tmp_path):
    """Catches rarity counted in words in place of texts, in dev, or with capitals; texts that JSON or lines change."""
    dev = [Example("a", "The good FILM", 1), Example("b", "good unseen", 0), Example("c", "?!", 1),
           Example("d", "the\u2028line\n\x00\ud7a3", 0)]
    train = ["good good good film", "a good film", "The film", "the line \ud7a3"]
    write_examples(tmp_path, dev, train, [3, 2, 1, 4], [1, 1, 1, 1], [0, 1, 0, 1])
    rows = [json.loads(line) for line in (tmp_path / "examples.jsonl").read_bytes().splitlines()]
    assert [row["rarest"] for row in rows] == [2, 0, None, 1]  # "good" 2, "the" 2, "film" 3; none; "line" 1
    assert [(row["id"], row["text"], row["label"]) for row in rows] == [(row.id, row.text, row.label) for row in dev]
    assert [row["tokens"] for row in rows] == [3, 2, 1, 4] and [row["tfidf"] for row in rows] == [0, 1, 0, 1]
    assert {row["majority"] for row in rows} == {1}


def test_what_a_run_keeps_of_each_text(folder, tmp_path):  # noqa: F811
    """Catches lengths of texts, not of what the model reads, and baselines other than the table's."""
    done = finish(folder, tmp_path, MODES[0], max_length=5)
    rows = [json.loads(line) for line in (done.run / "dev" / "examples.jsonl").read_bytes().splitlines()]
    assert [row["text"] for row in rows] == [text(number) for number in range(100, 100 + DEV)]
    assert {row["tokens"] for row in rows} == {5} and {row["rarest"] for row in rows} == {0}  # its own number
    for name in ("majority", "tfidf"):
        right = sum(row[name] == row["label"] for row in rows) / DEV
        assert done.json("result.json")[name]["accuracy"] == pytest.approx(right)
