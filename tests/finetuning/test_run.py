"""classifier.py end to end, on a tiny random backbone and tiny files: what it writes, says, repeats and refuses."""

import contextlib
import csv
import dataclasses
import io
import json
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from classifier import GPT2SentimentClassifier
from common import cli
from common.errors import Stopped, UserError
from data.tasks import TASKS
from data.tokenizer import Tokenizer
from finetuning import run as finetuning_run
from finetuning.advice import advice, advice_on_memory, less_memory
from finetuning.settings import Settings
from models.config import GPT2Config
from models.gpt2 import GPT2Model
from models.pretrained import backbone_given, save_pretrained
from pretraining.corpus import train_tokenizer
from tests.finetuning.kinds import Plain
from training.evaluate import Score
from training.loop import Diverged
from training.memory import OutOfMemory
from training.parallel.process_group import DeviceError
from training.runs.run_folder import RunFolder, RunFolderError
from training.runs.session import OtherRun

MODES = ("last-linear-layer", "full-model")
EPOCHS, TRAIN, DEV, TEST, BATCH = 3, 22, 9, 7, 4
STEPS = EPOCHS * 6
DEV_FILES = {"examples.jsonl", *(f"epoch-{epoch:04}.safetensors" for epoch in range(1, EPOCHS + 1))}
GOOD, BAD = ("fine", "good", "great", "lovely"), ("bad", "dull", "poor", "awful")


def text(number):
    """Positive for odd numbers, each with a word of its own."""
    words = GOOD if number % 2 else BAD
    return f"the {words[number % 4]} film is {words[number // 4 % 4]} {number}"


def write(path, numbers, column="sentiment", label=lambda number: number % 2):
    header = "\tid\tsentence" + (f"\t{column}" if column else "")
    rows = [f"{row}\tid{number}\t{text(number)}" + (f"\t{label(number)}" if column else "")
            for row, number in enumerate(numbers)]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A backbone with its tokenizer, and the files of a task: everything a run needs."""
    folder = tmp_path_factory.mktemp("task")
    write(folder / "train.csv", range(TRAIN))
    write(folder / "dev.csv", range(100, 100 + DEV))
    write(folder / "test.csv", range(200, 200 + TEST), column=None)
    (folder / "text.txt").write_text("\n".join(text(number) for number in range(60)))
    train_tokenizer([folder / "text.txt"], 280, 1, folder / "tokenizer.json")
    make_backbone(folder / "model", folder / "tokenizer.json", 280)
    return folder


def make_backbone(path, tokenizer_file, vocab_size):
    torch.manual_seed(0)
    gpt = GPT2Model(GPT2Config(vocab_size=vocab_size, max_position_embeddings=32, hidden_size=32, num_hidden_layers=2,
                               num_attention_heads=2, initializer_range=0.2))
    save_pretrained(gpt, path, tokenizer_file=tokenizer_file)


def settings_for(folder, out, **changes):
    given = {"train": folder / "train.csv", "dev": folder / "dev.csv", "test": folder / "test.csv", "num_labels": 2,
             "model": str(folder / "model"), "epochs": EPOCHS, "batch_size": BATCH, "lr": 3e-3, "device": "cpu",
             "out": out / "runs", "predictions": out / "predictions"}
    return Settings(**{**given, **changes})


def run(settings, monkeypatch, kind=GPT2SentimentClassifier):
    """Run in this process, without the change of the memory allocator."""
    monkeypatch.setattr(finetuning_run, "keep_freed_memory", lambda: None)
    finetuning_run.run(settings, kind)


class Done:
    """A finished run, and what it printed."""

    def __init__(self, mode, out, printed):
        self.mode, self.out, self.printed = mode, out, printed
        self.run = out / "runs" / f"own-{mode}"

    def predictions(self, split):
        return (self.out / "predictions" / f"{self.mode}-own-{split}-out.csv").read_bytes()

    def labels(self, split):
        return [int(line.split(b",")[1]) for line in self.predictions(split).splitlines()[1:]]

    def log(self):
        return [json.loads(line) for line in (self.run / "log.jsonl").read_text().splitlines()]

    def json(self, name):
        return json.loads((self.run / name).read_text())

    def tensors(self, pattern):
        path, = self.run.glob(pattern)
        return load_file(path)


@pytest.fixture(scope="module", params=MODES)
def done(request, folder, tmp_path_factory):
    """A run that nothing interrupted, in each mode."""
    return finish(folder, tmp_path_factory.mktemp("whole"), request.param)


def finish(folder, out, mode, kind=GPT2SentimentClassifier, **changes):
    """A run; with the whole model trained, its head at a rate of its own."""
    rates = {"head_lr": 1e-2} if mode == "full-model" else {}
    settings = settings_for(folder, out, fine_tune_mode=mode, **{**rates, **changes})
    with pytest.MonkeyPatch.context() as monkeypatch, contextlib.redirect_stdout(io.StringIO()) as printed:
        run(settings, monkeypatch, kind)
    return Done(mode, out, printed.getvalue())


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_exactly_these_files(done):
    """Catches temporary files, checkpoints that pile up, predictions elsewhere than the course's graders look."""
    predictions = {f"{done.mode}-own-{split}{end}.csv" for split in ("dev", "test") for end in ("-out", "")}
    assert files(done.out / "predictions") == files(done.run / "predictions") == predictions
    assert files(done.run / "model") == {"model.safetensors", "config.json", "tokenizer.json",
                                         "tokenizer_config.json", "serving.json"}
    assert files(done.run / "dev") == DEV_FILES
    names = {name for name in files(done.out / "runs")
             if not any(f"/{folder}/" in name for folder in ("model", "predictions", "dev"))}
    tensor_files = {name for name in names if name.endswith(".safetensors")}
    features = {name for name in tensor_files if name.startswith("features/")}
    here = f"own-{done.mode}"
    assert names - tensor_files == {f"{here}/{name}" for name in (
        ".lock", "run.json", "log.jsonl", "times.jsonl", "last.json", "best.json", "result.json")}
    assert len(features) == (3 if done.mode == "last-linear-layer" else 0)  # one a split
    best, last = done.json("best.json")["state"], done.json("last.json")["state"]
    # Weights and training state of the last epoch, and the best epoch's weights unless it is the last.
    assert len(tensor_files - features) == 2 + (best["step"] != last["train"]["step"])


def test_exactly_this_many_steps(done):
    """Catches a step too many or too few for 22 examples in batches of 4, three times over."""
    state = done.json("last.json")["state"]["train"]
    assert (state["epoch"], state["step"]) == (EPOCHS, STEPS)
    assert [record["step"] for record in done.log()] == [6, 12, 18]
    assert [record["epoch"] for record in done.log()] == [1, 2, 3]


def test_predictions_are_those_of_the_best_epoch(done, folder):
    """Catches labels in another order, of padding or with dropout: the best epoch's weights are put into a fresh
    model, which reads each text alone.
    """
    scores = [record["dev_accuracy"] for record in done.log()]
    best = done.json("best.json")["state"]
    assert best["epoch"] == 1 + scores.index(max(scores)) and best["score"] == max(scores)
    assert done.json("result.json")["best_epoch"] == best["epoch"]
    config = SimpleNamespace(num_labels=2, hidden_size=32, hidden_dropout_prob=0.3, fine_tune_mode=done.mode)
    with backbone_given(GPT2Model, GPT2Model.from_pretrained(str(folder / "model"))):
        model = GPT2SentimentClassifier(config)
    stored = done.tensors(f"weights-{best['step']:08d}*")
    backbone = {} if done.mode == "full-model" else {f"gpt.{name}": x for name, x in model.gpt.state_dict().items()}
    assert not stored.keys() & backbone.keys()
    model.load_state_dict(stored | backbone)
    model.eval()
    tokenizer = Tokenizer.load(folder / "model")
    for split, numbers in (("dev", range(100, 100 + DEV)), ("test", range(200, 200 + TEST))):
        labels = []
        for ids in tokenizer.encode([text(number) for number in numbers], 32, lowercase=False).ids:
            with torch.no_grad():
                labels.append(int(model(torch.tensor([ids]), torch.ones(1, len(ids))).argmax()))
        assert done.predictions(split).decode() == "id \t Predicted_Sentiment \n" + "".join(
            f"id{number}, {label} \n" for number, label in zip(numbers, labels, strict=True))


@pytest.mark.parametrize("mode", MODES)
def test_the_best_epoch_is_the_first_of_equals_and_predicts(folder, tmp_path, monkeypatch, mode):
    """Catches predictions with the last epoch's weights: here the second epoch is the best, and the third equal."""
    scores, score = iter([Score(0.5, 0.5, DEV), Score(0.8, 0.8, DEV), Score(0.8, 0.8, DEV)]), finetuning_run.score
    monkeypatch.setattr(finetuning_run, "score", lambda *given: next(scores, None) or score(*given))
    write_split, used = finetuning_run.write_split, []

    def spy(settings, task, name, split, model, *more):
        used.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return write_split(settings, task, name, split, model, *more)

    monkeypatch.setattr(finetuning_run, "write_split", spy)
    done = finish(folder, tmp_path, mode)
    second, third = done.tensors("weights-00000012*"), done.tensors("weights-00000018*")
    assert done.json("best.json")["state"]["epoch"] == 2 and len(used) == 2
    for weights in used:
        assert all(torch.equal(tensor, second[name]) for name, tensor in weights.items())
        assert not all(torch.equal(tensor, third[name]) for name, tensor in weights.items())


def test_the_table_tells_what_the_files_hold(done):
    """Catches a score of another epoch or split, a baseline left out, and a number without its interval."""
    right = sum(label == number % 2 for label, number in zip(done.labels("dev"), range(100, 100 + DEV), strict=True))
    result = done.json("result.json")
    assert result["run"]["accuracy"] == pytest.approx(right / DEV)
    table = done.printed.split("\n\n")[-1]
    lines = {name: line for line in table.splitlines() for name in ("majority", "TF-IDF", done.mode) if name in line}
    assert f"own ({DEV})" in lines["majority"] and "0.556 (0.27-0.81)" in lines["majority"]
    assert f"{result['tfidf']['accuracy']:.3f} (" in lines["TF-IDF"]
    assert f"{right / DEV:.3f} (" in lines[done.mode]
    assert f"{result['run']['macro_f1']:.3f}" in lines[done.mode]
    assert f"{done.mode}, epoch {result['best_epoch']}" in lines[done.mode]
    for epoch, record in enumerate(done.log(), start=1):
        assert re.search(rf"epoch {epoch}/3: train loss {record['train_loss']:.3f}, .*"
                         rf"dev accuracy {record['dev_accuracy']:.3f}", done.printed)


def test_it_learned(done):
    """Catches training that changes nothing, or the wrong thing: only full-model moves the backbone."""
    losses = [record["train_loss"] for record in done.log()]
    assert losses[-1] < losses[0]
    stored = done.tensors(f"weights-{STEPS:08d}*")
    in_backbone = {name for name in stored if name.startswith("gpt.")}
    assert bool(in_backbone) == (done.mode == "full-model") and len(stored) - len(in_backbone) == 2


def test_a_frozen_word_embedding_stays_and_the_rest_is_trained(folder, tmp_path):
    """Catches a flag that freezes nothing, or so much that less than all the rest is trained."""
    done = finish(folder, tmp_path, "full-model", freeze_word_embedding="yes")
    start = GPT2Model.from_pretrained(str(folder / "model")).state_dict()
    trained = {name.removeprefix("gpt."): tensor for name, tensor in done.tensors(f"weights-{STEPS:08d}*").items()}
    assert {name for name, tensor in start.items() if torch.equal(tensor, trained[name])} == {"word_embedding.weight"}


def test_the_run_says_how_it_was_made(done):
    """Catches a run that cannot be repeated from what it wrote down before its first step."""
    described = done.json("run.json")
    assert described["settings"]["fine_tune_mode"] == done.mode and described["settings"]["lr"] == 3e-3
    assert described["settings"]["epochs"] == EPOCHS and described["identity"]["seed"] == 11711
    assert set(described["identity"]["texts"]) == {"train", "dev"}  # with another test file it is the same run
    assert described["versions"]["torch"] == torch.__version__


def test_the_same_seed_gives_the_same_bytes(done, folder, tmp_path):
    """Catches an unseeded generator, and a result that depends on what ran before in the process. With another seed the
    weights must differ.
    """
    torch.manual_seed(123)
    torch.rand(7)
    again = finish(folder, tmp_path / "again", done.mode)
    for split in ("dev", "test"):
        assert again.predictions(split) == done.predictions(split)
    assert (again.run / "log.jsonl").read_bytes() == (done.run / "log.jsonl").read_bytes()
    pattern = f"weights-{STEPS:08d}*"
    assert all(torch.equal(tensor, done.tensors(pattern)[name]) for name, tensor in again.tensors(pattern).items())
    other = finish(folder, tmp_path / "other", done.mode, seed=1)
    assert not all(torch.equal(tensor, done.tensors(pattern)[name]) for name, tensor in other.tensors(pattern).items())


@pytest.mark.parametrize("epoch", [1, 3])
def test_interrupted_and_resumed_is_the_whole_run(done, folder, tmp_path, monkeypatch, epoch):
    """Catches a resumed run that starts anew, repeats an epoch, or forgets the best one. It dies while an epoch is
    evaluated, with checkpoints every 4 steps, so in the middle of an epoch.
    """
    calls, write_epoch = [], finetuning_run.write_epoch

    def dies(*given):
        write_epoch(*given)
        calls.append(1)
        if len(calls) == epoch:
            raise SystemError("killed")

    monkeypatch.setattr(finetuning_run, "write_epoch", dies)
    with pytest.raises(SystemError):
        finish(folder, tmp_path, done.mode, save_steps=4)
    last = json.loads((tmp_path / "runs" / f"own-{done.mode}" / "last.json").read_text())
    assert last["state"]["train"]["step"] == (4 if epoch == 1 else 16)
    monkeypatch.setattr(finetuning_run, "write_epoch", write_epoch)
    resumed = finish(folder, tmp_path, done.mode, save_steps=4, resume=True)
    assert (resumed.run / "log.jsonl").read_bytes() == (done.run / "log.jsonl").read_bytes()
    assert "epoch 1/3" in resumed.printed if epoch == 1 else "epoch 2/3" not in resumed.printed
    assert resumed.predictions("test") == done.predictions("test")
    assert resumed.json("result.json") == done.json("result.json")
    for name in DEV_FILES:
        assert (resumed.run / "dev" / name).read_bytes() == (done.run / "dev" / name).read_bytes()


def test_tasks_are_seeded_one_by_one(folder, tmp_path):
    """Catches the course's second result, which depends on how much randomness the first task used."""
    both = finish(folder, tmp_path / "both", "last-linear-layer", data=("sst-sample", "cfimdb-sample"),
                  train=None, dev=None, test=None, num_labels=None, epochs=1, max_length=12, batch_size=64)
    alone = finish(folder, tmp_path / "alone", "last-linear-layer", data=("cfimdb-sample",),
                   train=None, dev=None, test=None, num_labels=None, epochs=1, max_length=12, batch_size=64)
    name = "predictions/last-linear-layer-cfimdb-sample-test-out.csv"
    assert (both.out / name).read_bytes() == (alone.out / name).read_bytes()
    assert len(files(both.out / "predictions")) == 8 and len(files(alone.out / "predictions")) == 4
    assert both.printed.count("TF-IDF") == 2


def test_labels_by_name_from_the_command_line(folder, root, tmp_path):
    """Catches the command line's own path, which the tests above go round: both spellings of flags, labels by name,
    no test file, another name.
    """
    for split, numbers in (("train", range(TRAIN)), ("dev", range(100, 100 + DEV))):
        write(tmp_path / f"{split}.csv", numbers, label=lambda number: ("pan", "rave", "shrug")[number % 3])
    done = subprocess.run(
        [sys.executable, "classifier.py", "--train", tmp_path / "train.csv", "--dev", tmp_path / "dev.csv",
         "--label_names", "pan", "rave", "shrug", "--name", "mine", "--model", folder / "model", "--epochs", "1",
         "--fine_tune_mode", "full-model", "--hidden-dropout-prob", "0.1", "--out", tmp_path / "runs",
         "--predictions", tmp_path / "predictions", "--no-report"], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "full-model, epoch 1" in done.stdout
    assert files(tmp_path / "predictions") == {"full-model-mine-dev-out.csv", "full-model-mine-dev.csv"}
    with open(tmp_path / "predictions" / "full-model-mine-dev.csv", encoding="utf-8", newline="") as file:
        header, *table = csv.reader(file)
    assert header == ["id", "label", "name", "p_pan", "p_rave", "p_shrug"]
    assert all(name == ("pan", "rave", "shrug")[int(label)] for _, label, name, *_ in table)
    rows = (tmp_path / "predictions" / "full-model-mine-dev-out.csv").read_text().splitlines()[1:]
    assert len(rows) == DEV and all(re.fullmatch(r"id10\d, [012] ", row) for row in rows)


@pytest.mark.parametrize("flags, said", [
    ([], ["no such file: ", "ids-sst-train.csv", "./setup.sh -m data.download", "--quick"]),
    (["--train", "a.csv", "--dev", "b.csv", "--num-labels", "2"], ["no such file: a.csv, b.csv"]),
    (["--batch-size", "0"], ["--batch-size must be at least 1, not 0"]),
    (["--fine-tune-mode", "finetune"], ["last-linear-layer", "full-model"]),
])
def test_what_cannot_run_says_why_at_once(root, flags, said):
    """Catches a traceback, a message that does not help, and PyTorch imported only to say no. The course's files are
    made to look missing, should they have been downloaded.
    """
    code = ("import os, runpy, sys; sys.argv = ['classifier.py', *sys.argv[1:]]\n"
            "exists = os.path.exists; os.path.exists = lambda path: 'ids-' not in str(path) and exists(path)\n"
            "try: runpy.run_path('classifier.py', run_name='__main__')\n"
            "finally: print([name for name in ('torch', 'numpy', 'sklearn') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code, *flags], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "[]\n")
    assert all(words in done.stderr for words in said) and "Traceback" not in done.stderr


def test_help_needs_no_pytorch(help_of):
    """Catches an import that makes --help wait for PyTorch."""
    text = help_of("classifier.py")
    assert "./setup.sh classifier.py --quick" in text and "--fine-tune-mode" in text
    assert text.count("\n  --") == len(dataclasses.fields(Settings)) == len(cli.field_help(Settings))


def test_help_of_the_room_needs_no_pytorch(help_of, root):
    """Catches `python -m finetuning` that has other flags than classifier.py, or that waits for PyTorch to say so."""
    text = help_of(str(root / "finetuning" / "__main__.py"))
    assert "./setup.sh -m finetuning --quick" in text
    flags = [line for line in text.splitlines() if line.startswith("  --")]
    assert flags == [line for line in help_of("classifier.py").splitlines() if line.startswith("  --")]
    done = subprocess.run([sys.executable, "-m", "finetuning", "--help"], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "./setup.sh -m finetuning --quick" in done.stdout


def test_a_model_that_is_not_there(folder, tmp_path, monkeypatch):
    """Catches a traceback, or a run folder left behind by a run that never was."""
    with pytest.raises(UserError, match="nowhere"):
        run(settings_for(folder, tmp_path, model=str(tmp_path / "nowhere")), monkeypatch)
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_larger_than_its_model(folder, tmp_path, monkeypatch):
    """Catches ids without an embedding, found only when such a word is read."""
    make_backbone(tmp_path / "model", folder / "tokenizer.json", 280)
    small = GPT2Model(GPT2Config(vocab_size=200, max_position_embeddings=32, hidden_size=32, num_hidden_layers=2,
                                 num_attention_heads=2))
    save_pretrained(small, tmp_path / "model")
    with pytest.raises(UserError, match="its tokenizer has 280 tokens, its model only 200"):
        run(settings_for(folder, tmp_path, model=str(tmp_path / "model")), monkeypatch)


def test_predictions_that_cannot_be_written(folder, tmp_path, monkeypatch):
    """Catches a traceback at the end of a long training."""
    (tmp_path / "predictions").write_text("in the way")
    with pytest.raises(UserError, match="predictions"):
        run(settings_for(folder, tmp_path, epochs=1), monkeypatch)


# ---- which flag mends it ---------------------------------------------------------------------------------------------


def told(folder, tmp_path, doing, longest=None, **changes):
    """What is said to a run with these settings that is out of memory."""
    settings = settings_for(folder, tmp_path, **changes)
    with pytest.raises(OutOfMemory) as caught, advice(), \
            advice_on_memory(settings, settings.tasks()[0]):
        raise OutOfMemory("out of memory somewhere", doing, longest)
    assert caught.value.doing == doing
    return str(caught.value)


def test_less_memory(folder, tmp_path):
    """Catches: advice that cannot be followed (half of one, more parts than rows, a flag that is given already), with
    other numbers than the run's, or for something else than what the run was doing.
    """
    parts, model = "the same step in smaller parts", "--model: a smaller one"
    again = "--gradient_checkpointing, which takes a third more time"
    said = "out of memory somewhere\nTurn down: "
    assert told(folder, tmp_path, "training", batch_size=9) == (
        f"{said}--accumulate 2 (now 1): {parts}; or {again}; or --batch_size 4 (now 9); or {model}")
    assert told(folder, tmp_path, "training", batch_size=6, accumulate=4, gradient_checkpointing=True) == (
        f"{said}--accumulate 6 (now 4): {parts}; or --batch_size 3 (now 6); or {model}")
    assert told(folder, tmp_path, "training", batch_size=8, accumulate=8) == (
        f"{said}{again}; or --batch_size 4 (now 8); or {model}")
    assert told(folder, tmp_path, "training", batch_size=1) == f"{said}{again}; or {model}"
    assert told(folder, tmp_path, "predicting", longest=60) == f"{said}--max_length 30 (now 60); or {model}"
    assert told(folder, tmp_path, "predicting", longest=1) == said + model
    assert told(folder, tmp_path, "loading") == said + model


def test_less_memory_for_the_task_that_runs():
    """Catches: the first task's numbers told for the second, where following them would change nothing."""
    settings = Settings(quick=True, data=("sst", "cfimdb"), fine_tune_mode="full-model")
    error = OutOfMemory("", "training")
    said = [list(less_memory(settings, TASKS[name], error)) for name in settings.data]
    assert "--batch_size 16 (now 32)" in said[0] and "--batch_size 4 (now 8)" in said[1]


class Greedy(Plain):
    """Asks for an exabyte in its sixth training step, or in evaluation."""

    where, steps = "training", 0

    def forward(self, input_ids, attention_mask):
        Greedy.steps += self.training
        if (Greedy.steps > 5) if Greedy.where == "training" else (Greedy.steps > 0 and not self.training):
            torch.empty(1 << 60)
        return super().forward(input_ids, attention_mask)


@pytest.mark.parametrize("where, said", [
    ("training", "out of memory in step 6\nTurn down: --accumulate 2 (now 1): the same step in smaller parts; or "
                 "--gradient_checkpointing, which takes a third more time; or --batch_size 2 (now 4); or --model"),
    ("evaluating", "out of memory while evaluating, 9 texts of up to 12 tokens at once\nTurn down: --max_length 6 "
                   "(now 12); or --model")])
def test_a_run_that_needs_too_much_memory(folder, tmp_path, monkeypatch, where, said):
    """Catches: a shortage that ends in a traceback, or whose advice is told twice or not at all."""
    monkeypatch.setattr(Greedy, "steps", 0)
    monkeypatch.setattr(Greedy, "where", where)
    with pytest.raises(OutOfMemory) as caught:
        finish(folder, tmp_path, "full-model", Greedy, max_length=12)
    assert str(caught.value).startswith(said) and str(caught.value).count("Turn down") == 1


@pytest.mark.parametrize("lr, save_steps, kept", [(1e30, None, "nothing was saved"),
                                                  (1e16, 1, r"the checkpoint of step [1-9]\d* is kept")])
def test_a_run_that_diverges(folder, tmp_path, lr, save_steps, kept):
    """Catches: a divergence that does not say which step and examples, what is saved, or what to change."""
    with pytest.raises(Diverged) as caught:
        finish(folder, tmp_path, "full-model", lr=lr, head_lr=lr, save_steps=save_steps)
    what, advice = str(caught.value).split("\n")
    assert re.fullmatch(r"the (loss|gradient's norm|weights' norm) became (nan|inf) at step \d+ "
                        rf"\(examples id\d+(, id\d+)+\); {kept}", what)
    assert advice == ("Usual causes: a learning rate that is too high (lower --lr, add --warmup or --max_grad_norm 1), "
                      "or damaged weights")


def test_a_device_that_is_not_there(folder, tmp_path, monkeypatch):
    """Catches: a missing GPU without a word about what to do."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for changes in ({"device": "cuda"}, {"device": "auto", "use_gpu": True}):
        with pytest.raises(DeviceError, match=r"there is no cuda device here .*\nUse --device auto or --device cpu$"):
            finish(folder, tmp_path, "full-model", **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_in_use(folder, tmp_path):
    """Catches: a folder that cannot be used, without a word about the flag that names another."""
    with RunFolder(tmp_path / "runs" / "own-full-model"):
        with pytest.raises(RunFolderError, match=r"in use by another run .*\nChoose another folder with --out$"):
            finish(folder, tmp_path, "full-model")


def test_another_run_in_the_folder(done, folder):
    """Catches: a run that is not resumed, without a word about what to do instead."""
    before = files(done.out)
    with pytest.raises(OtherRun) as caught:
        finish(folder, done.out, done.mode, lr=0.5, resume=True)
    assert re.fullmatch(r".* holds another run: recipe\.lr was '?0\.003'?, is '?0\.5'?\n"
                        "Give the settings it was started with, or leave out --resume to begin a new run",
                        str(caught.value))
    assert files(done.out) == before


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped(folder, tmp_path, monkeypatch, number, status):
    """Catches: a stop that does not say how to resume, or says --resume twice."""
    class Stops(Plain):
        def forward(self, input_ids, attention_mask):
            if self.training:
                signal.raise_signal(number)
            return super().forward(input_ids, attention_mask)

    for words in (["classifier.py", "--lr", "1"], ["classifier.py", "--resume", "--lr", "1"]):
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(Stopped) as caught:
            finish(folder, tmp_path, "full-model", Stops)
        assert caught.value.exit_status == status
        assert str(caught.value) == (f"stopped after step 1, saved in {tmp_path / 'runs' / 'own-full-model'}\n"
                                     "resume with the same command and --resume: classifier.py --lr 1 --resume")
