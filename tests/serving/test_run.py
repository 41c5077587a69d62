"""predict.py: its output in each form, its order, its memory, and what it says where it cannot predict."""

import csv
import io
import json
import os
import re
import subprocess
import sys

import pytest

from common.errors import UserError
from serving import load
from serving import run as module
from serving.settings import Settings, read_settings
from tests.serving.conftest import NAMES

TEXTS = ["the film is good", "dull\tand awful", "  lovely  ", "caf\u00e9 \u4e2d\u6587 \U0001f600", "x" * 300, "ok"]


@pytest.fixture
def predicted(model_folder, capsys):
    """predicted(texts, **settings): what predict.py prints, and what it says."""
    def run(texts=(), **settings):
        module.run(Settings(model_folder[0], **{"device": "cpu", **settings}), list(texts))
        return capsys.readouterr()
    return run


@pytest.fixture(scope="module")
def answers(model_folder):
    """The predictions for TEXTS."""
    return load(model_folder[0], "cpu").predict(TEXTS)


def command(root, run, *words, **options):
    """Start predict.py as a program."""
    return subprocess.run([sys.executable, root / "predict.py", "--run", run, "--device", "cpu", *words],
                          capture_output=True, **options)


def test_text(predicted, answers):
    """Catches probabilities under other names, and lines that are too wide or that repaint a terminal."""
    printed = predicted(["fine \x1b[2J film " * 20, *TEXTS]).out.splitlines()
    assert len(printed) == 2 * (1 + len(TEXTS)) and max(map(len, printed)) <= 79 and "\x1b" not in "".join(printed)
    for line, found in zip(printed[3::2], answers, strict=True):
        ranked = sorted(zip(found.probabilities, NAMES, strict=True), reverse=True)
        assert line == "  " + "   ".join(f"{name} {p:.3f}" for p, name in ranked)


def test_a_table(predicted, answers):
    """Catches rows in the order of their lengths, and a column more or less."""
    header, *rows = csv.reader(io.StringIO(predicted(TEXTS, output="tsv").out), delimiter="\t")
    assert header == ["id", "label", "name", *(f"p_{name}" for name in NAMES)]
    for number, (row, found) in enumerate(zip(rows, answers, strict=True), 1):
        assert row[:3] == [str(number), str(found.label), found.name]
        assert [float(p) for p in row[3:]] == pytest.approx(found.probabilities, abs=1e-6)


def test_json_lines(predicted, answers):
    """Catches texts that are changed, and numbers that are strings."""
    lines = predicted(TEXTS, output="jsonl").out.split("\n")
    assert lines.pop() == ""
    for number, (line, text, found) in enumerate(zip(lines, TEXTS, answers, strict=True), 1):
        record = json.loads(line)
        assert list(record.pop("probabilities").items()) == [
            (name, pytest.approx(p, abs=1e-6)) for name, p in zip(NAMES, found.probabilities, strict=True)]
        assert record == {"id": str(number), "text": text, "label": found.label, "name": found.name}


def test_explanations(predicted, model_folder):
    """Catches shares of another text or label, and an error that is not shown."""
    model = load(model_folder[0], "cpu")
    found = model.explain(TEXTS[0])
    lines = predicted(TEXTS[:1], explain=True).out.splitlines()
    assert lines[2] == "  " + "   ".join(f"{word} {share:+.3f}" for word, share in found.words)
    assert lines[3].startswith(f"  {NAMES[found.label]}: blank words {found.blank:.3f}, these words ")
    assert re.search(r"; error [+-]\de-\d\d$", lines[3]) and max(map(len, lines)) <= 79
    record = json.loads(predicted(TEXTS[:1], explain=True, output="jsonl").out)
    assert record["words"] == [[word, pytest.approx(share, abs=1e-6)] for word, share in found.words]
    assert record["probabilities"][record["name"]] == pytest.approx(
        record["blank"] + sum(share for _, share in record["words"]) + record["error"], abs=1e-5)


def test_order_and_bounded_memory(predicted, tmp_path, monkeypatch):
    """Catches rows in another order where they come in several parts, and a file that is read as a whole."""
    rows = [(f"id{number}", f"{TEXTS[number % 6]} {number}") for number in range(57)]
    path = tmp_path / "new.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "text"), *rows])
    read, longest, read_texts = [], [], module.read_texts

    def counted(*args):
        for row in read_texts(*args):
            read.append(row)
            yield row

    class Spy(module.Output):
        def write(self, *args):
            longest.append(len(read) - len(longest))
            super().write(*args)

    monkeypatch.setattr(module, "read_texts", counted)
    monkeypatch.setattr(module, "Output", Spy)
    monkeypatch.setattr(module, "ROWS", 10)
    monkeypatch.setattr(module, "CHARACTERS", 700)
    lines = predicted(file=path, output="jsonl").out.splitlines()
    assert [(record["id"], record["text"]) for record in map(json.loads, lines)] == rows
    assert len(read) == 57 and max(longest) <= 10  # read and not yet written
    alone = predicted([rows[4][1]], output="jsonl").out
    assert json.loads(lines[4])["probabilities"] == pytest.approx(json.loads(alone)["probabilities"], abs=2e-6)


def test_empty_texts_are_predicted_and_named(predicted, tmp_path):
    """Catches a row that is lost, so that all later ones belong to other texts, and an answer without a warning."""
    path = tmp_path / "new.txt"
    path.write_text("good\n\nbad\n \n" + "\n" * 8)
    found = predicted(file=path, output="tsv")
    assert len(found.out.splitlines()) == 13
    assert found.err.startswith(f"empty texts ({path}:2, {path}:4, {path}:5, {path}:6, {path}:7 and more) have a label")
    assert predicted(["good"]).err == ""
    assert "(empty)" in predicted([""]).out


def test_a_wrong_row_ends_it(predicted, tmp_path):
    """Catches a wrong row that is left out in silence."""
    path = tmp_path / "new.jsonl"
    path.write_text('"good"\n{}\n')
    with pytest.raises(UserError, match=f"{path}:2: there is no text"):
        predicted(file=path)


def test_help_answers_at_once(help_of):
    """Catches PyTorch imported for a page of help, and flags without a word of help."""
    page = help_of("predict.py")
    assert all(flag in page for flag in ("--run", "--file", "--explain", "--output", "--text-column"))


def test_the_command(root, model_folder, tmp_path, answers):
    """Catches standard input that is not read, settings between texts, and an encoding other than UTF-8 for programs.

    It is started from another folder, where a module has the name of one of ours.
    """
    (tmp_path / "data.py").write_text("raise SystemExit('the wrong data')")
    plain = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = command(root, model_folder[0], "--output", "jsonl", input="\n".join(TEXTS).encode(), cwd=tmp_path, env=plain)
    assert (done.returncode, done.stderr) == (0, b"")
    records = [json.loads(line) for line in done.stdout.decode("utf-8").splitlines()]
    assert [(record["text"], record["label"]) for record in records] == [
        (text, found.label) for text, found in zip(TEXTS, answers, strict=True)]
    done = command(root, model_folder[0], TEXTS[3], "--explain", "--", "-x", cwd=tmp_path, env=plain)
    assert (done.returncode, done.stderr) == (0, b"") and done.stdout.startswith(b"caf\\xe9 \\u4e2d")
    assert done.stdout.count(b"\n") == 8


def test_a_reader_that_goes_away(root, model_folder):
    """Catches `predict.py ... | head -1` that predicts a million texts for nobody."""
    code = ("import sys, time\nfor number in range(10**9):\n    try: print('good', number, flush=number % 999 == 0)\n"
            "    except BrokenPipeError: break\n")
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    process = subprocess.Popen([sys.executable, root / "predict.py", "--run", model_folder[0], "--device", "cpu"],
                               stdin=writer.stdout, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    writer.stdout.close()
    try:
        assert process.stdout.readline() == b"good 0\n"
        process.stdout.close()
        assert process.wait(60) == 141 and process.stderr.read() == b""
    finally:
        process.kill()
        writer.kill()
        process.wait()
        writer.wait()


@pytest.mark.parametrize("words, said", [
    (["--run", "nothing", "a"], "no run folder 'nothing'; train one with classifier.py"),
    (["a"], "--run"),
    (["--run", "x", "--file", "nothing.csv"], "no such file: 'nothing.csv'"),
    (["--run", "x", "--file", "."], "'.' is a folder"),
    (["--run", "x", "a", "--file", "predict.py"], "give texts or --file, not both"),
    (["--run", "x", "a", "--explain", "--output", "tsv"], "--explain is for --output text or jsonl"),
    (["--run", "x", "--text-column", "review"], "needs --format csv, tsv or jsonl"),
    (["--run", "x", "--output", "xml", "a"], "invalid choice: 'xml'"),
    (["--run", "x", "--bogus", "a"], "--bogus"),
])
def test_mistakes(root, monkeypatch, capsys, words, said):
    """Catches a traceback, a status other than 2, and a mistake that is found only once PyTorch is loaded."""
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["predict.py", *words])
    with pytest.raises(SystemExit) as stop:
        read_settings("")
    error = capsys.readouterr().err
    assert stop.value.code == 2 and said in error and len(error.strip().splitlines()) <= 2
