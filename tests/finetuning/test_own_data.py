"""The ten files of docs/own-data.md: each command of its table runs as it stands, on a file of that shape."""

import csv
import gzip
import json
import re
import shlex

import pytest

from classifier import GPT2SentimentClassifier
from common import cli
from finetuning import run as finetuning_run
from finetuning import settings as finetuning_settings
from tests.conftest import ROOT
from tests.finetuning.test_run import text
from training.evaluate import Score

PAGE = ROOT / "docs" / "own-data.md"
TABLE = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.read_text(encoding="utf-8").splitlines()
         if line.startswith("|") and "`classifier.py " in line]
ROWS = 100


def write_csv(path, header, rows, **how):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, **how).writerows([header, *rows])


def make_files() -> None:
    """Write the files that the table names, as people have them."""
    numbers = range(ROWS)
    write_csv("quotes.csv", ["review", "label"], [
        (f'"{text(number)}", they\nsaid, {7 * number} times', ["no", "yes"][number % 2]) for number in numbers])
    with open("reviews.jsonl", "w") as file:
        file.writelines(json.dumps({"text": text(number), "label": number % 2 == 1, "stars": None}) + "\n"
                        for number in numbers)
    write_csv("words.tsv", ["id", "sentence", "sentiment"], [
        (f"t{number}", text(number), ["bad", "good", "mixed"][number % 3]) for number in numbers], delimiter="\t")
    write_csv("stars.csv", ["text", "label"], [(text(number), number % 5 + 1) for number in numbers])
    write_csv("rare.csv", ["text", "label"], [
        (text(number), "rare" if number % 50 == 0 else "some" if number % 100 in range(1, 9) else "common")
        for number in range(4 * ROWS)])
    write_csv("korean.csv", ["text", "label"], [
        (f"이 영화는 {verdict} {'😀' * (number % 3)} {number}", ["부정", "긍정"][number % 2])
        for number, verdict in zip(numbers, ["지루했어요", "재미있어요"] * ROWS, strict=False)])
    with gzip.open("many.csv.gz", "wt", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *((text(number), number % 2) for number in range(20_000))])
    write_csv("long.csv", ["text", "label"], [
        (text(number) * (20_000 if number == 1 else 1), number % 2) for number in numbers])
    write_csv("repeated.csv", ["id", "tweet", "mood"], [(number % 7, text(number), number % 2) for number in numbers])
    package = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(package.table(
        {"content": [text(number) for number in numbers], "category": [-1, 1] * (ROWS // 2)}), "reviews.parquet")
    with open("new.txt", "w") as file:
        file.write("a fine film, great\n\nthe film is poor\n")


@pytest.fixture(scope="module")
def here(folder, tmp_path_factory):
    """A folder with all the files."""
    here = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        make_files()
    return here


def run(words, monkeypatch, capsys):
    """A command of classifier.py in this process: what it said, unfolded, when it has ended well."""
    monkeypatch.setattr("sys.argv", ["classifier.py", *words, "--no-report"])
    monkeypatch.setattr(finetuning_run, "keep_freed_memory", lambda: None)
    with pytest.raises(SystemExit) as exit:
        cli.run(lambda: finetuning_run.main(finetuning_settings.read_settings(""), GPT2SentimentClassifier))
    said = capsys.readouterr()
    assert exit.value.code == 0, said.err
    wide = [line for line in said.out.splitlines() if len(line) > 79]
    assert [line for line in wide if "/" not in line and " on cpu in " not in line] == []
    return said.out.replace("\n  ", " ")


def test_the_table_has_ten_files():
    """Catches: a line of the table that the tests below overlook."""
    assert len(TABLE) == 10 and len({command for _, command, _ in TABLE}) == 10


@pytest.mark.parametrize("shape, command, said", TABLE, ids=[row[0] for row in TABLE])
def test_each_file_with_one_command(shape, command, said, here, folder, tmp_path, monkeypatch, capsys):
    """Catches: a file of a usual shape that must be converted by hand, and a table that says something else."""
    monkeypatch.chdir(here)
    words = shlex.split(command.strip("`"))[1:]
    words += ["--model", str(folder / "model"), "--epochs", "1", "--batch-size", "32", "--device", "cpu",
              "--out", str(tmp_path / "runs"), "--predictions", str(tmp_path / "predictions")]
    printed = run(words, monkeypatch, capsys)
    assert re.search(r"\s+".join(map(re.escape, said.strip("`").split())), printed)
    assert "majority class" in printed
    result = json.loads((tmp_path / "runs" / "own-last-linear-layer" / "result.json").read_text())
    rows = 20_000 if "many" in command else 4 * ROWS if "rare" in command else ROWS
    assert result["run"]["examples"] == pytest.approx(rows * (0.1 if "many" in command else 0.2), abs=2)
    predictions = (tmp_path / "predictions" / "last-linear-layer-own-dev-out.csv").read_text().splitlines()
    assert len(predictions) == result["run"]["examples"] + 1
    if "new.txt" in command:
        test = (tmp_path / "predictions" / "last-linear-layer-own-test-out.csv").read_text().splitlines()
        assert [line.split(",")[0] for line in test[1:]] == ["1", "2"]


def test_inspecting_plan_and_range_test_train_nothing(here, folder, tmp_path, monkeypatch, capsys):
    """Catches: a look that leaves a run folder or predictions behind, or says nothing of what it promises."""
    monkeypatch.chdir(here)
    usual = ["--train", "stars.csv", "--dev-share", "0.2", "--model", str(folder / "model"), "--device", "cpu",
             "--fine-tune-mode", "full-model", "--out", str(tmp_path / "runs"), "--predictions", str(tmp_path / "p")]
    printed = run([*usual, "--inspect"], monkeypatch, capsys)
    for wanted in ("train: 0 empty texts", "length in tokens", "near-duplicates:", "texts are also in train"):
        assert wanted in printed
    assert list(tmp_path.iterdir()) == []
    printed = run([*usual, "--plan"], monkeypatch, capsys)
    assert "memory: about" in printed and "time: about" in printed and list(tmp_path.iterdir()) == []
    printed = run([*usual, "--lr", "find", "--lowercase", "yes"], monkeypatch, capsys)
    assert re.search(r"the rate to take: --lr \d", printed)
    picture, = tmp_path.rglob("*.*")
    assert picture.name == "own-full-model-lr.png" and picture.read_bytes().startswith(b"\x89PNG")


def test_empty_texts_are_counted_by_an_inspection(here, folder, monkeypatch, capsys, tmp_path):
    """Catches: a look that ends at the first empty text in place of counting them."""
    monkeypatch.chdir(tmp_path)
    write_csv("x.csv", ["text", "label"], [("a", 0), ("", 1), ("b", 1), (" ", 0), ("c", 0)])
    usual = ["--train", "x.csv", "--dev-share", "0.3", "--model", str(folder / "model")]
    assert "train: 2 empty texts (on line 3, 5)" in run([*usual, "--inspect"], monkeypatch, capsys)
    monkeypatch.setattr("sys.argv", ["classifier.py", *usual])
    with pytest.raises(SystemExit):
        finetuning_settings.read_settings("")
    assert "x.csv:3: column 'text': the sentence is empty; also wrong: line 5" in capsys.readouterr().err


def test_a_run_on_other_labels_is_another_run(here, folder, tmp_path, monkeypatch, capsys):
    """Catches: a run that resumes although the file's labels are numbered in another way by now."""
    monkeypatch.chdir(here)
    usual = ["--train", "words.tsv", "--dev-share", "0.2", "--model", str(folder / "model"), "--device", "cpu",
             "--epochs", "1", "--out", str(tmp_path / "runs"), "--predictions", str(tmp_path / "p")]
    run(usual, monkeypatch, capsys)
    monkeypatch.setattr("sys.argv", ["classifier.py", *usual, "--resume", "--no-report", "--label-names", "mixed",
                                     "good", "bad"])
    with pytest.raises(SystemExit) as exit:
        cli.run(lambda: finetuning_run.main(finetuning_settings.read_settings(""), GPT2SentimentClassifier))
    assert exit.value.code == 2 and "holds another run: files.labels" in capsys.readouterr().err
    record = json.loads((tmp_path / "runs" / "own-last-linear-layer" / "run.json").read_text())
    assert record["identity"]["files"]["labels"] == ["bad", "good", "mixed"]


@pytest.mark.parametrize("by, best", [("accuracy", 2), ("macro-f1", 3)])
def test_the_score_that_chooses_the_best_epoch(by, best, here, folder, tmp_path, monkeypatch, capsys):
    """Catches: --select-by that is passed over, or that chooses by the wrong score."""
    monkeypatch.chdir(here)
    scores = iter([Score(0.5, 0.5, 20), Score(0.9, 0.6, 20), Score(0.7, 0.7, 20), Score(0.6, 0.1, 20)])
    score = finetuning_run.score
    monkeypatch.setattr(finetuning_run, "score", lambda *given: next(scores, None) or score(*given))
    run(["--train", "stars.csv", "--dev-share", "0.2", "--model", str(folder / "model"), "--device", "cpu",
         "--epochs", "4", "--select-by", by, "--out", str(tmp_path / "runs"), "--predictions", str(tmp_path / "p")],
        monkeypatch, capsys)
    assert json.loads((tmp_path / "runs" / "own-last-linear-layer" / "result.json").read_text())["best_epoch"] == best


def test_balanced_weights_reach_the_loss(here, folder, tmp_path, monkeypatch, capsys):
    """Catches: --class-weights that is passed over: a run on rare labels would give the same predictions."""
    monkeypatch.chdir(here)
    usual = ["--train", "rare.csv", "--dev-share", "0.2", "--model", str(folder / "model"), "--device", "cpu",
             "--epochs", "3", "--lr", "0.01"]
    written = []
    for weights in ("none", "balanced"):
        out = tmp_path / weights
        printed = run([*usual, "--class-weights", weights, "--out", str(out), "--predictions", str(out / "p")],
                      monkeypatch, capsys)
        lines = (out / "p" / "last-linear-layer-own-dev-out.csv").read_text().splitlines()[1:]
        written.append({line.split(",")[1].strip() for line in lines})
        assert ("warning: this run predicts" in printed) is (len(written[-1]) < 3)
    assert len(written[0]) < len(written[1])
