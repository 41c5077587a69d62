"""What a finished run keeps: its model, its predictions and their score, and the runs that were there before it."""

import csv
import shutil
from dataclasses import replace

import pytest
import torch

from models.fine_tuned import read_description
from serving import load
from serving import model_folder as serving_folder
from tests.finetuning.kinds import Forgetful, Mean, Plain
from tests.finetuning.test_run import DEV, MODES, TEST, files, finish, text, write


@pytest.fixture(scope="module", params=MODES)
def done(request, folder, tmp_path_factory):
    """A finished run in each mode, on a backbone that is not there any more; its test file has labels 0 and 1."""
    out = tmp_path_factory.mktemp("kept")
    shutil.copytree(folder / "model", out / "backbone")
    write(out / "test.csv", range(200, 200 + TEST))
    run = finish(folder, out, request.param, model=str(out / "backbone"), test=out / "test.csv", lowercase="yes")
    shutil.rmtree(out / "backbone")
    return run


def table(path):
    """A table's rows, as dicts."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_model_predicts_what_the_run_predicted(done, tmp_path):
    """Catches the last epoch's weights, a head without its backbone, and anything that is not in the folder."""
    shutil.copytree(done.run / "model", tmp_path / "elsewhere")
    model = load(tmp_path / "elsewhere", "cpu")
    for split, numbers in (("dev", range(100, 100 + DEV)), ("test", range(200, 200 + TEST))):
        found = model.predict([f" {text(number).upper()}\n" for number in numbers])  # read as the run reads
        assert [answer.label for answer in found] == done.labels(split)
        rows = table(done.run / "predictions" / f"{done.mode}-own-{split}.csv")
        kept = torch.tensor([[float(row["p_0"]), float(row["p_1"])] for row in rows], dtype=torch.float64)
        assert torch.allclose(kept, model.probabilities([text(number) for number in numbers]), atol=2e-6)
        assert len({tuple(row) for row in kept.tolist()}) > 2


def test_the_description(done):
    """Catches a run's own settings lost on the way: the next text would be read in another way than the last one."""
    found, _ = read_description(done.run / "model")
    assert replace(found, answers=()) == type(found)(
        "own", ("0", "1"), ("0", "1"), True, ("strip",), 32, False, done.mode, 0.3, "gpt", ())
    assert len(found.answers) == 3


@pytest.mark.parametrize("mode, kind", [(MODES[0], Forgetful), (MODES[0], Mean), (MODES[1], Plain)])
def test_classifiers_of_another_make(folder, tmp_path, monkeypatch, mode, kind):
    """Catches weights looked for under our own names, or where stored features took a backbone's place."""
    done = finish(folder, tmp_path, mode, kind, epochs=1)
    monkeypatch.setattr(serving_folder, "GPT2SentimentClassifier", kind)
    answers = load(done.run, "cpu").predict([text(number) for number in range(100, 100 + DEV)])
    assert [answer.label for answer in answers] == done.labels("dev")


def test_the_table_of_predictions(done):
    """Catches a first column without a name (pandas makes it the index), ids that change, and probabilities in another
    order than the labels.
    """
    name = f"{done.mode}-own-test.csv"
    assert (done.out / "predictions" / name).read_bytes() == (done.run / "predictions" / name).read_bytes()
    rows = table(done.out / "predictions" / name)
    assert list(rows[0]) == ["id", "label", "name", "p_0", "p_1"]
    assert [row["id"] for row in rows] == [f"id{number}" for number in range(200, 200 + TEST)]
    assert [int(row["label"]) for row in rows] == done.labels("test")
    for row in rows:
        assert row["name"] == row["label"] and float(row[f"p_{row['label']}"]) > 0.5
        assert float(row["p_0"]) + float(row["p_1"]) == pytest.approx(1, abs=2e-6)


def test_a_labelled_test_file_is_scored(done):
    """Catches labels that nobody compares, or that are compared with dev's."""
    right = sum(label == number % 2 for label, number in zip(done.labels("test"), range(200, 200 + TEST), strict=True))
    assert done.json("result.json")["test"]["accuracy"] == pytest.approx(right / TEST)
    line, = [line for line in done.printed.splitlines() if line.startswith(f"its test file ({TEST}) ")]
    assert f"{done.mode}, epoch {done.json('result.json')['best_epoch']} " in line
    assert f" {right / TEST:.3f} (" in line and max(map(len, done.printed.split("\n\n")[-1].splitlines())) < 80


def test_a_test_file_without_labels_is_not(folder, tmp_path):
    """Catches a score made of nothing."""
    done = finish(folder, tmp_path, MODES[0], epochs=1)
    assert done.json("result.json")["test"] is None and "its test file" not in done.printed.split("\n\n")[-1]


def test_three_seeds_in_a_loop_keep_three_runs(folder, tmp_path, capsys):
    """Catches a finished run that the next one removes: its model, its log or its predictions."""
    kept = []
    for seed in (1, 2, 3):
        done = finish(folder, tmp_path, MODES[1], seed=seed, epochs=1)
        kept.append({name: (done.run / name).read_bytes() for name in files(done.run)
                     if name.startswith(("model/", "predictions/", "result.json", "log.jsonl"))})
    places = [done.run / "previous", done.run / "previous-2", done.run]
    for place, content in zip(places, kept, strict=True):
        assert {name: (place / name).read_bytes() for name in content} == content
        assert load(place, "cpu").predict(["good"])
    assert len({content["model/model.safetensors"] for content in kept}) == 3
    assert capsys.readouterr().err.count("is kept in") == 2


def test_a_finished_run_predicts_another_test_file(folder, tmp_path):
    """Catches a refusal where there is nothing to train, and training that goes on all the same."""
    done = finish(folder, tmp_path, MODES[1], epochs=1)
    before = (done.run / "log.jsonl").read_bytes(), (done.run / "model" / "model.safetensors").read_bytes()
    write(tmp_path / "more.csv", range(300, 330), column=None)
    again = finish(folder, tmp_path, MODES[1], epochs=1, test=tmp_path / "more.csv", resume=True)
    assert len(again.labels("test")) == 30 and "epoch 1/1" not in again.printed
    assert ((done.run / "log.jsonl").read_bytes(), (done.run / "model" / "model.safetensors").read_bytes()) == before
