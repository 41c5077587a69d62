"""Several seeds of one task: each is the run that its seed gives alone, and what is finished is never made again."""

import contextlib
import io
import json
import statistics

import pytest

from classifier import GPT2SentimentClassifier
from common.errors import Stopped, UserError
from finetuning import run as finetuning_run
from finetuning.results import Result, closing_table, finished
from finetuning.settings import Settings
from serving.find import NoModel, find
from tests.finetuning.test_run import MODES, finish, folder, run, settings_for, write  # noqa: F401 (a fixture)
from training.evaluate import Score
from training.runs.session import OtherRun

KEPT = ("result.json", "log.jsonl", "model/model.safetensors", "dev/epoch-0002.safetensors")


def train(folder, out, mode=MODES[0], **changes):  # noqa: F811
    """Train two seeds, 7 and 8; what was printed, and the folders that `run` names."""
    settings = settings_for(folder, out, **{"fine_tune_mode": mode, "seed": 7, "seeds": 2, "epochs": 2, **changes})
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr(finetuning_run, "keep_freed_memory", lambda: None)
        folders = finetuning_run.run(settings, GPT2SentimentClassifier)
    return printed.getvalue(), folders


def content(out, mode=MODES[0]):
    """Everything in the folders of the seeds that a run decides, by name."""
    group = out / "runs" / f"own-{mode}-seeds"
    return {f"{seed.name}/{name}": (seed / name).read_bytes() for seed in sorted(group.glob("seed-*"))
            for name in KEPT if (seed / name).exists()}


@pytest.mark.parametrize("mode", MODES)
def test_each_seed_is_the_run_it_is_alone(folder, tmp_path, mode):  # noqa: F811
    """Catches a second seed that depends on the first one's random numbers, weights or stored features."""
    printed, folders = train(folder, tmp_path / "both", mode)
    group, = folders
    assert group == tmp_path / "both" / "runs" / f"own-{mode}-seeds"
    assert sorted(path.name for path in group.iterdir()) == ["seed-7", "seed-8"]
    alone = finish(folder, tmp_path / "alone", mode, seed=8, epochs=2, head_lr=None)
    for name in KEPT[1:]:
        assert (group / "seed-8" / name).read_bytes() == (alone.run / name).read_bytes()
    assert (group / "seed-7" / "log.jsonl").read_bytes() != (group / "seed-8" / "log.jsonl").read_bytes()
    assert json.loads((group / "seed-8" / "run.json").read_text())["settings"]["seed"] == 8
    assert f"{mode}, 2 seeds " in printed and "seed 7: " in printed and "seed 8: " in printed
    features = list((tmp_path / "both" / "runs" / "features").glob("*"))
    assert len(features) == (3 if mode == MODES[0] else 0)  # both seeds share them


def test_the_course_s_folder_has_the_first_seed_s_predictions(folder, tmp_path):  # noqa: F811
    """Catches files for the grader that are the last seed's, and a seed without its own copy."""
    train(folder, tmp_path)
    group = tmp_path / "runs" / f"own-{MODES[0]}-seeds"
    for path in (tmp_path / "predictions").iterdir():
        assert path.read_bytes() == (group / "seed-7" / "predictions" / path.name).read_bytes()
        assert (group / "seed-8" / "predictions" / path.name).exists()
    assert len(list((tmp_path / "predictions").iterdir())) == 4


def test_what_is_finished_is_taken_as_it_is(folder, tmp_path):  # noqa: F811
    """Catches a finished seed that is trained, predicted or written again; a missing one that is not made; predictions
    of another run left in the course's folder.
    """
    train(folder, tmp_path)
    before = content(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("seed-*/result.json")}
    predictions = {path: path.read_bytes() for path in (tmp_path / "predictions").iterdir()}
    for path in predictions:
        path.write_text("another run's")
    printed, _ = train(folder, tmp_path, seeds=3, resume=True)
    assert printed.count("taken as it is") == 2 and printed.count("epoch 1/2") == 1
    assert {name: value for name, value in content(tmp_path).items() if "seed-9" not in name} == before
    assert all(path.stat().st_mtime_ns == time for path, time in times.items()) and len(times) == 2
    assert {path: path.read_bytes() for path in predictions} == predictions
    assert f"{MODES[0]}, 3 seeds " in printed
    assert not list(tmp_path.rglob("previous*"))


def test_an_interrupted_seed_goes_on(folder, tmp_path, monkeypatch):  # noqa: F811
    """Catches a seed that begins anew after the interruption of another, and a first seed that is made again."""
    train(folder, tmp_path / "whole")
    calls, end_epoch = [], finetuning_run.Session.end_epoch

    def dies(*given, **named):
        end_epoch(*given, **named)
        calls.append(1)
        if len(calls) == 3:  # the first epoch of the second seed is saved
            raise Stopped("stopped", 130)

    monkeypatch.setattr(finetuning_run.Session, "end_epoch", dies)
    with pytest.raises(Stopped):
        train(folder, tmp_path / "cut")
    monkeypatch.setattr(finetuning_run.Session, "end_epoch", end_epoch)
    printed, _ = train(folder, tmp_path / "cut", resume=True)
    assert printed.count("taken as it is") == 1 and "epoch 1/2" not in printed and printed.count("epoch 2/2") == 1
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


@pytest.mark.parametrize("change, error", [({"lr": 0.5}, OtherRun), ({"test": "new.csv"}, None), ({"epochs": 3}, None)],
                         ids=str)
def test_a_finished_seed_of_other_settings_is_not_taken(folder, tmp_path, change, error):  # noqa: F811
    """Catches a result that is passed off as that of other settings, texts or epochs."""
    constant = {"schedule": "constant", "warmup": 0.0}
    train(folder, tmp_path, **constant)
    if "test" in change:
        change = {"test": write(tmp_path / change["test"], range(300, 305), column=None)}
    with pytest.raises(error) if error else contextlib.nullcontext():
        printed, _ = train(folder, tmp_path, resume=True, **constant, **change)
        assert "taken as it is" not in printed and "epoch 1/" not in printed
        assert printed.count("epoch 3/3") == (2 if "epochs" in change else 0)


def test_without_resume_the_earlier_runs_are_kept(folder, tmp_path):  # noqa: F811
    """Catches a finished run of a seed that the next one removes."""
    train(folder, tmp_path)
    before = content(tmp_path)
    train(folder, tmp_path, lr=1e-2)
    group = tmp_path / "runs" / f"own-{MODES[0]}-seeds"
    for name, value in before.items():
        seed, _, rest = name.partition("/")
        assert (group / seed / "previous" / rest).read_bytes() == value


def test_the_same_dev_texts_for_every_seed(folder, tmp_path):  # noqa: F811
    """Catches a share for dev that is drawn anew for each seed: no two of them could be compared."""
    train(folder, tmp_path, dev=None, dev_share=0.3, epochs=1)
    texts = [(path / "dev" / "examples.jsonl").read_bytes() for path in tmp_path.rglob("seed-*")]
    assert len(texts) == 2 and texts[0] == texts[1]


@pytest.mark.parametrize("flags", [{"plan": True}, {"lr": "find"}], ids=str)
def test_a_look_is_taken_with_one_seed(folder, tmp_path, flags):  # noqa: F811
    """Catches the same question asked of every seed, and a table of nothing."""
    printed, folders = train(folder, tmp_path, MODES[1], **flags)
    assert printed.count("memory: about") == 1 and folders == [] and "TF-IDF" not in printed
    assert ("each of 2 seeds" in printed) == ("plan" in flags) and not list(tmp_path.rglob("seed-*"))


@pytest.mark.parametrize("changes, said", [
    ({"seeds": 1}, "--seeds must be at least 2"), ({"seeds": 1001}, "from 2 to 1000, not 1001"),
    ({"seeds": 3, "seed": 2**63 - 2}, "the last seed would be larger")])
def test_numbers_of_seeds(changes, said):
    """Catches a group of one, and a seed that PyTorch does not take, found after hours."""
    with pytest.raises(UserError, match=said.replace("at least 2", "from 2 to 1000")):
        Settings(quick=True, **changes)


def test_predicting_with_a_group_names_its_runs(folder, tmp_path):  # noqa: F811
    """Catches "not the folder of a run" where there are two."""
    train(folder, tmp_path, epochs=1)
    group = tmp_path / "runs" / f"own-{MODES[0]}-seeds"
    with pytest.raises(NoModel, match=f"name one of them: {group}/seed-7, {group}/seed-8$"):
        find(group)
    assert find(group / "seed-8") == group / "seed-8" / "model"


def test_the_table_of_several_seeds():
    """Catches a deviation of the wrong kind, a column of one score under another, and a line that is too wide."""
    none, scores = Score(0.2, 0.1, 100), [Score(0.41, 0.30, 100), Score(0.44, 0.35, 100), Score(0.50, 0.31, 100)]
    seeds = [Result("cfimdb-sample", none, none, score, 3, score) for score in scores]
    lines = closing_table([seeds, seeds[:1]], MODES[0]).splitlines()
    assert max(map(len, lines)) <= 79 and len({len(line) for line in lines[:5]}) == 1
    accuracy, f1 = statistics.stdev([0.41, 0.44, 0.50]), statistics.stdev([0.30, 0.35, 0.31])
    assert lines[3].split("seeds")[1].split() == ["0.450", "\u00b1", f"{accuracy:.3f}"[1:],
                                                  "0.320", "\u00b1", f"{f1:.3f}"[1:]]
    assert lines[3].startswith(" " * 22 + "last-linear-layer, 3 seeds ")
    assert lines[4].startswith("its test file (100)   last-linear-layer, 3 seeds ")
    assert lines[7].split("epoch 3")[1].split()[0] == "0.410" and "\u00b1" not in lines[7]
    assert "standard deviation of the seeds" in lines[-2]


@pytest.mark.parametrize("spoil", [
    lambda record: "", lambda record: "[" * 100_000, lambda record: json.dumps([record]),
    lambda record: json.dumps({**record, "run": None}), lambda record: json.dumps({**record, "majority": "high"}),
    lambda record: json.dumps({**record, "fingerprint": "another"}),
    lambda record: json.dumps({name: value for name, value in record.items() if name != "fingerprint"})])
def test_a_damaged_result_is_not_taken(tmp_path, spoil):
    """Catches a traceback, or a number made up from a file that was edited."""
    score = {"accuracy": 0.5, "macro_f1": 0.4, "examples": 10}
    record = {"task": "own", "majority": score, "tfidf": score, "run": score, "best_epoch": 2, "test": None,
              "fingerprint": "f" * 64}
    (tmp_path / "result.json").write_text(json.dumps(record))
    found = Result.read(finished(tmp_path / "result.json", "f" * 64))
    assert found == Result("own", *[Score(0.5, 0.4, 10)] * 3, 2)
    (tmp_path / "result.json").write_text(spoil(record))
    assert finished(tmp_path / "result.json", "f" * 64) is None
    assert finished(tmp_path / "nothing.json", "f" * 64) is None
