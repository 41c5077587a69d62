"""Bad input of every kind, as one table: clear lines on standard error, exit status 2, the disk as it was.

The rooms' own tests go further into detail: tests/data/test_reader.py (files), tests/models/test_pretrained.py (model
folders), tests/training/runs/test_checkpoint.py and test_session.py (checkpoints), tests/test_prepare_submit.py.
"""

import gzip
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

import prepare_submit
import sanity_check
from classifier import GPT2SentimentClassifier
from common import cli
from data import download
from finetuning import run as finetuning_run
from finetuning import settings as finetuning_settings
from pretraining import run as pretraining_run
from pretraining import settings as pretraining_settings
from tests.finetuning.test_run import folder  # noqa: F401 (a fixture)
from tests.test_prepare_submit import SST_DEV, Tree
from tests.training.runs.test_checkpoint import reseal
from tests.training.runs.test_session import into
from training.runs.run_folder import RunFolder

OWN = ["--train", "train.csv", "--dev", "dev.csv", "--test", "test.csv", "--num-labels", "2"]
FINE_TUNE = [*OWN, "--model", "model", "--fine-tune-mode", "full-model", "--epochs", "2", "--batch-size", "8",
             "--device", "cpu", "--no-report"]
PRETRAIN = ["--text", "text.txt", "--out", "pre", "--vocab-size", "280", "--tokenizer-every", "1",
            "--hidden-size", "32", "--num-hidden-layers", "1", "--num-attention-heads", "2",
            "--max-position-embeddings", "16", "--batch-tokens", "64", "--tokens", "256", "--eval-every", "2",
            "--device", "cpu"]
RUN = Path("runs/own-full-model")
HUGE = "x" * 100_000


class Bad(NamedTuple):
    """A command that must fail, in a folder of good input, after `spoil` was done to that."""

    words: list[str]
    said: str
    "Part of what standard error must say (of prepare_submit's problems: standard output)."
    spoil: Callable[[], object] = lambda: None
    script: str = "classifier.py"
    status: int = 2


# ---- what can be done to the good input; all paths from the working folder -------------------------------------------


def write(name: str, content: str | bytes) -> Callable[[], object]:
    return lambda: Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())


def edit(name: str, old: str | bytes, new: str | bytes, count: int = 1) -> Callable[[], object]:
    def change() -> None:
        old_bytes, new_bytes = (part.encode() if isinstance(part, str) else part for part in (old, new))
        content = Path(name).read_bytes()
        assert old_bytes in content
        Path(name).write_bytes(content.replace(old_bytes, new_bytes, count))
    return change


def cut(name: str) -> Callable[[], object]:
    return lambda: os.truncate(name, Path(name).stat().st_size // 2)


def remove(name: str) -> Callable[[], object]:
    return lambda: shutil.rmtree(name) if Path(name).is_dir() else Path(name).unlink()


def instead(name: str, make: Callable[[Path], object]) -> Callable[[], object]:
    """Something else in a file's place."""
    return lambda: (remove(name)(), make(Path(name)))


def config(**changes: object) -> Callable[[], object]:
    path = Path("model/config.json")
    return lambda: path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def weights(change: Callable[[dict], object]) -> Callable[[], object]:
    def spoil() -> None:
        tensors = load_file("model/model.safetensors")
        change(tensors)
        save_file(tensors, "model/model.safetensors")
    return spoil


def tensor_file(group: str) -> Path:
    return next(RUN.glob(f"{group}-*.safetensors"))


def hold(name: str) -> Callable[[], object]:
    """A run that is still going on; the test lets go of it."""
    def spoil() -> RunFolder:
        return RunFolder(name).__enter__()
    return spoil


def submission(change: Callable[[Tree], object] = lambda tree: None) -> Callable[[], object]:
    return lambda: change(Tree(Path("checkout")))


# ---- the table -------------------------------------------------------------------------------------------------------


def flag(said: str, *words: str) -> Bad:
    return Bad([*FINE_TUNE, *words], said)


def only(said: str, *words: str) -> Bad:
    return Bad(list(words), said)


def file(said: str, spoil: Callable[[], object]) -> Bad:
    return Bad(FINE_TUNE, said, spoil)


def resume(said: str, spoil: Callable[[], object] = lambda: None, *words: str) -> Bad:
    return Bad([*FINE_TUNE, "--resume", *words], said, spoil)


def state(said: str, *path: object) -> Bad:
    return resume(said, lambda: reseal(RUN, into(*path)))


def pre(said: str, *words: str, spoil: Callable[[], object] = lambda: None) -> Bad:
    return Bad([*PRETRAIN, *words], said, spoil, "pretrain.py")


def submit(said: str, spoil: Callable[[], object], *words: str, status: int = 1) -> Bad:
    return Bad(list(words), said, spoil, "prepare_submit.py", status)


def fetch(said: str, *words: str, spoil: Callable[[], object] = lambda: None) -> Bad:
    return Bad(["--to", "to", *words], said, spoil, "data/download.py")


ROW = "0\tid0\tthe bad film is bad 0\t0"
CASES = {
    # flags
    "flag: unknown": flag("unrecognized arguments: --learning-rate 1", "--learning_rate", "1"),
    "flag: terminal escapes": flag(r"\x1b[31mred", "--\x1b[31mred"),
    "flag: huge": flag("xxx...", f"--{HUGE}"),
    "flag: abbreviated": flag("unrecognized arguments", "--batch", "3"),
    "flag: without its value": flag("expected one argument", "--epochs"),
    "flag: no number": flag("invalid int value: 'many'", "--epochs", "many"),
    "flag: a huge value": flag("a number or find is wanted, not 'xxx", "--lr", HUGE),
    "flag: a switch with a value": flag("ignored explicit argument 'yes'", "--resume=yes"),
    "flag: a stray word": flag("unrecognized arguments: train.csv", "train.csv"),
    "flag: no such mode": flag("invalid choice: 'half'", "--fine-tune-mode", "half"),
    "flag: no such device": flag("invalid choice: 'tpu'", "--device", "tpu"),
    "flag: no such precision": flag("invalid choice: 'float16'", "--precision", "float16"),
    "flag: no such schedule": flag("invalid choice: 'step'", "--schedule", "step"),
    "flag: no such rule": flag("there is no rule 'tags'; there are", "--skip-rule", "tags"),
    "flag: a task twice": only("name each task once", "--data", "sst-sample", "sst-sample"),
    "flag: no such task": only("there is no task 'imdb'; there are sst", "--data", "imdb"),
    "flag: a huge task": only("there is no task 'xxx", "--data", HUGE),
    "flag: own files and a task": flag("not both", "--data", "sst"),
    "flag: own files and quick": flag("not both", "--quick"),
    "flag: a test file alone": only("--test describes your own data", "--test", "test.csv"),
    "flag: train without dev": only("needs --train and --dev", "--train", "train.csv", "--num-labels", "2"),
    "flag: one label": flag("at least 2 labels, not 1", "--num-labels", "1"),
    "flag: labels for a continent": flag("at most 1,000,000 labels, not 1000000000000", "--num-labels",
                                           "1000000000000"),
    "flag: names for other labels": flag("3 label names for 2 labels", "--label-names", "a", "b", "c"),
    "flag: names that are alike": flag("must differ", "--label-names", "a", "a"),
    "flag: a name that leaves the folder": flag("'../up' cannot name a task", "--name", "../up"),
    "flag: an empty name": flag("'' cannot name a task", "--name", ""),
    "flag: no epochs": flag("--epochs must be at least 1, not 0", "--epochs", "0"),
    "flag: a negative batch": flag("--batch-size must be at least 1, not -8", "--batch-size", "-8"),
    "flag: a rate that is no number": flag("--lr must be at least 0, not nan", "--lr", "nan"),
    "flag: warmup of more than all": flag("--warmup must be from 0 to 1, not 2", "--warmup", "2"),
    "flag: a negative seed": flag("--seed must be from 0", "--seed", "-1"),
    "flag: two devices": flag("--use_gpu means --device cuda, but --device cpu", "--use_gpu"),
    "flag: sharding among one": flag("start them with torchrun", "--shard"),
    **{f"flag: {name} of {value}": flag(f"--{name} must be ", f"--{name}", value)
       for value, names in (("-1", "epochs accumulate max-length save-steps lr head-lr warmup weight-decay "
                                   "max-grad-norm hidden-dropout-prob backbone-dropout word-dropout save-minutes"),
                            ("nan", "warmup weight-decay max-grad-norm word-dropout save-minutes"))
       for name in names.split()},
    # files of your own
    "file: not there": file("no such file: train.csv", remove("train.csv")),
    "file: not there, with escapes": flag(r"no such file: \x1b[2J.csv", "--dev", "\x1b[2J.csv"),
    "file: a folder": file("train.csv: not a regular file", instead("train.csv", Path.mkdir)),
    "file: a pipe": file("dev.csv: not a regular file", instead("dev.csv", os.mkfifo)),
    "file: empty": file("train.csv: the file is empty", write("train.csv", "")),
    "file: a header alone": file("dev.csv: the file holds column names but no rows",
                                 write("dev.csv", "id\tsentence\tsentiment\n")),
    "file: UTF-16": file("train.csv:1: this is UTF-16", write("train.csv", "id\tsentence\n".encode("utf-16"))),
    "file: Latin-1": file("train.csv:2: not UTF-8: byte 0xe4", edit("train.csv", "bad", b"b\xe4d")),
    "file: a NUL": file("train.csv:3: a NUL character", edit("train.csv", "good", "go\0d")),
    "file: a zip": file("train.csv:", write("train.csv", b"PK\x03\x04" + bytes(range(256)) * 9)),
    "file: no text column": file("no column is named 'text' (or", edit("dev.csv", "sentence", "words")),
    "file: no label column": file("no column is named 'label' (or sentiment, class, target, category)", edit(
        "dev.csv", "sentiment", "mood")),
    "file: plain text without labels": file("train.csv: this is plain text", write("train.csv", "a line\nand one\n")),
    "file: Excel": file("Excel workbook; in Excel, save the sheet as `CSV UTF-8", write(
        "train.csv", b"PK\x03\x04" + bytes(30) + b"xl/workbook.xml")),
    "file: gzip cut": file("this gzip file is damaged", write("train.csv", gzip.compress(HUGE.encode())[:50])),
    "file: Parquet cut": file("train.csv: this Parquet file is damaged", write("train.csv", b"PAR1" + bytes(99))),
    "file: JSON cut": file("train.csv:1: this line is not JSON", write("train.csv", '{"text": "a"')),
    "file: thousands of labels": Bad(
        ["--train", "train.csv", "--dev-share", "0.1", "--model", "model"], "2,000 different values in 2,000 rows",
        write("train.csv", "text,label\n" + "".join(f"a{number},b{number}\n" for number in range(2000)))),
    "file: one label": Bad(["--train", "train.csv", "--dev-share", "0.1", "--model", "model"],
                           "every row holds 'x'; at least two different labels are needed",
                           write("train.csv", "text,label\na,x\nb,x\n")),
    "file: a column twice": file("two columns are named 'id'", edit("dev.csv", "sentence\t", "id\tsentence\t")),
    "file: a field missing": file("train.csv:2: column 'sentiment': missing", edit("train.csv", ROW, ROW[:-2])),
    "file: a field too many": file("train.csv:2: 5 fields where", edit("train.csv", ROW, ROW + "\t7")),
    "file: a label out of range": file("train.csv:2: column 'sentiment': '2' is not a label", edit(
        "train.csv", ROW, ROW[:-1] + "2")),
    "file: a label in words": file("'positive' is not a label", edit("train.csv", ROW, ROW[:-1] + "positive")),
    "file: a label with escapes": file(r"'\x1b[31m' is not a label", edit("train.csv", ROW, ROW[:-1] + "\x1b[31m")),
    "file: a huge label": file("is not a label", edit("train.csv", ROW, ROW[:-1] + HUGE)),
    "file: an id twice": file("the id 'id0' was used before, on line 2", edit("train.csv", "id1\t", "id0\t")),
    "file: no id": file("the id is empty", edit("train.csv", "id0", " ")),
    "file: a comma in an id": file("holds a comma", edit("test.csv", "id200", "id,200")),
    "file: an empty sentence": file("the sentence is empty", edit("train.csv", "the bad film is bad 0", " ")),
    "file: an open quote": file("a quote opens here and never closes", edit("test.csv", "the", '"the')),
    # model folders
    "model: not there": flag("no model folder", "--model", "./nowhere"),
    "model: no possible name": flag("no model 'a/b/c'", "--model", "a/b/c"),
    "model: a huge name": flag("no model", "--model", f"./{HUGE[:3000]}"),
    "model: a file": flag("no model folder 'train.csv'", "--model", "train.csv"),
    "model: an empty folder": flag("empty does not hold a checkpoint: config.json is missing", "--model", "empty"),
    "model: a revision of a folder": flag("it has no revision 'main'", "--revision", "main"),
    "model: weights pickled": file("model.safetensors (or", instead(
        "model/model.safetensors", lambda path: path.with_name("pytorch_model.bin").write_bytes(pickle.dumps({})))),
    "model: weights cut": file("model.safetensors: it is damaged or incomplete", cut("model/model.safetensors")),
    "model: weights a web page": file("damaged or incomplete", write("model/model.safetensors", "<html>404</html>")),
    "model: a tensor missing": file("lack 'ln_f.bias'", weights(lambda t: t.pop("transformer.ln_f.bias"))),
    "model: a tensor of NaN": file("not finite", weights(lambda t: t["transformer.ln_f.bias"].fill_(float("nan")))),
    "model: another shape": file("makes it [64, 32]", config(n_positions=64)),
    "model: a llama": file("its model_type is 'llama'", config(model_type="llama")),
    "model: a billion layers": file("n_layer must be an integer from 1 to 1000", config(n_layer=10**9)),
    "model: config cut": file("config.json is damaged", cut("model/config.json")),
    "model: config nested deep": file("config.json is damaged", write("model/config.json", "[" * 100_000)),
    "model: no tokenizer": file("no tokenizer in model", remove("model/tokenizer.json")),
    "model: tokenizer cut": file("cannot read the tokenizer", cut("model/tokenizer.json")),
    "model: tokenizer settings cut": file("tokenizer_config.json", cut("model/tokenizer_config.json")),
    "model: no end of text": file("has no token '<|end|>'", edit(
        "model/tokenizer_config.json", '"eos_token": "<|endoftext|>"', '"eos_token": "<|end|>"')),
    # folders for results
    "out: a file": flag("as run folder: Not a directory", "--out", "train.csv"),
    "out: within a file": flag("as run folder: Not a directory", "--out", "train.csv/runs"),
    "out: a name too long": flag("File name too long", "--out", "x" * 300),
    "out: in use": file("is in use by another run", hold(str(RUN))),
    "predictions: a file": flag("--predictions train.csv: train.csv is not a folder", "--predictions", "train.csv"),
    "predictions: within a file": flag("train.csv is not a folder", "--predictions", "train.csv/a/b"),
    "predictions: a dangling link": Bad(FINE_TUNE, "--predictions predictions: predictions is not a folder",
                                        instead("predictions", lambda path: path.symlink_to("nowhere"))),
    "predictions: a name too long": flag("File name too long", "--predictions", "x" * 300),
    "predictions: a path too long": flag("File name too long", "--predictions", "x/" * 2040),
    "predictions: a folder in a file's place": file("-dev-out.csv is a folder", lambda: Path(
        "predictions/full-model-own-dev-out.csv").mkdir(parents=True) if not os.path.isfile(
        "predictions/full-model-own-dev-out.csv") else instead("predictions/full-model-own-dev-out.csv", Path.mkdir)()),
    "flag: a name too long": flag("File name too long", "--name", "x" * 240),
    "flag: a name too long for its run folder": flag("name", "--name", "x" * 250),
    "flag: a forged line": flag(r"a line break in 'own\nerror: your disk is erased'", "--name",
                                "own\nerror: your disk is erased"),
    "flag: a forged line in a file name": flag("a line break in", "--dev", "dev.csv\r\nerror: all is lost"),
    "out: very deep": flag("as run folder", "--out", "x/" * 1500 + "../" * 1500 + "train.csv"),
    "out: a path too long": flag("File name too long", "--out", "x/" * 2020),
    "out: a link in the lock's place": file("it is a link", instead(f"{RUN}/.lock", lambda path: path.symlink_to(
        "../../train.csv"))),
    # --resume
    "resume: last.json cut": resume("last.json is damaged", cut(f"{RUN}/last.json")),
    "resume: last.json no JSON": resume("last.json is damaged", write(f"{RUN}/last.json", b"\x80\x04.")),
    "resume: last.json nested deep": resume("last.json is damaged", write(f"{RUN}/last.json", "[" * 100_000)),
    "resume: last.json edited": resume("not match its checksum", edit(f"{RUN}/last.json", '"step": 6', '"step": 5')),
    "resume: last.json a folder": resume("last.json: not a regular file", instead(f"{RUN}/last.json", Path.mkdir)),
    "resume: last.json a pipe": resume("last.json: not a regular file", instead(f"{RUN}/last.json", os.mkfifo)),
    "resume: of a later layout": resume("is in checkpoint layout '99'", lambda: reseal(
        RUN, lambda document: document.update(layout=99))),
    "resume: best.json gone": resume("best.json, is missing", remove(f"{RUN}/best.json")),
    "resume: weights gone": resume("No such file", lambda: tensor_file("weights").unlink()),
    "resume: weights cut": resume("bytes long instead of", lambda: cut(str(tensor_file("weights")))()),
    "resume: weights flipped": resume("its checksum is not the one", lambda: edit(
        str(tensor_file("training")), b"\x00", b"\x01")()),
    "resume: weights swapped": resume("is damaged", lambda: shutil.copy(
        tensor_file("weights"), tensor_file("training"))),
    "resume: weights a link": resume("is a link", lambda: instead(
        str(tensor_file("training")), lambda path: path.symlink_to(tensor_file("weights").resolve()))()),
    "resume: weights pickled": resume("is damaged", lambda: tensor_file("weights").write_bytes(pickle.dumps({}))),
    "resume: log edited": resume("truncated or edited", edit(f"{RUN}/log.jsonl", "0.", "1.")),
    "resume: log gone": resume("log.jsonl: No such file", remove(f"{RUN}/log.jsonl")),
    "resume: another rate": resume("recipe.lr was 1e-05, is 0.1", lambda: None, "--lr", "0.1"),
    "resume: another seed": resume("seed was '11711', is '5'", lambda: None, "--seed", "5"),
    "resume: other data": resume("texts.train was", edit("train.csv", "fine", "good")),
    "resume: other weights": resume("backbone was", weights(lambda t: t["transformer.ln_f.bias"].add_(1))),
    "resume: another tokenizer": resume("tokenizer was", edit("model/tokenizer.json", '"version"', ' "version"')),
    "resume: a step in words": state("train.step is '5'", "train", "step", "5"),
    "resume: an epoch below zero": state("train.epoch cannot be '-1'", "train", "epoch", -1),
    **{f"resume: {'.'.join(map(str, path))} of {shown}": state(said, *path, value)
       for path, most in ((("train", "epoch"), 2), (("train", "batch"), 3), (("train", "step"), 6),
                          (("train", "rows"), 0), (("train", "correct"), 0), (("best", "epoch"), 0),
                          (("best", "step"), 0), (("log", "bytes"), 0), (("scheduler", "last_epoch"), 0))
       for shown, value, said in (("-5", -5, "cannot be '-5'"), ("10**400", 10**400, "cannot be '1000"),
                                  ("10**15", 10**15, "this run ends at" if most else
                                   "truncated or edited" if path[0] == "log" else ""))
       if said},
    "resume: a step beyond the end": state("is at step 7, this run ends at step 6", "train", "step", 7),
    "resume: a batch beyond the epoch's": state("is at batch 1000000000000", "train", "batch", 10**12),
    "resume: a step of 31 digits": state("train.step cannot be '1000", "train", "step", 10**30),
    "resume: a loss without end": state("train.loss_sum cannot be '1000", "train", "loss_sum", 10**400),
    "resume: the optimizer's count without end": resume("optimizer state of parameter", lambda: reseal(
        RUN, lambda document: document["state"]["optimizer"]["counts"].update(
            dict.fromkeys(document["state"]["optimizer"]["counts"], 10**400)))),
    "resume: a rate without end": state("cannot be '1000", "optimizer", "groups", 0, "lr", 10**400),
    "resume: no optimizer": state("optimizer is 'None'", "optimizer", None),
    "resume: escapes in the state": state(r"'\x1b[31m'", "train", "step", "\x1b[31m"),
    # pretraining
    "pretrain: no text": Bad([], "the following arguments are required: --text", script="pretrain.py"),
    "pretrain: text not there": pre("there is no file no.txt", "--text", "text.txt", "no.txt"),
    "pretrain: text a folder": pre("there is no file model", "--text", "model"),
    "pretrain: text empty": pre("the text gives only", spoil=write("text.txt", "")),
    "pretrain: text too short": pre("not enough for one block", "--tokenizer", "model",
                                    spoil=write("text.txt", "a\nb")),
    "pretrain: text not UTF-8": pre("text.txt, line 1, is not UTF-8", spoil=edit("text.txt", "bad", b"\xff")),
    "pretrain: gzip cut": pre("cannot read text.gz", "--text", "text.gz", spoil=lambda: write(
        "text.gz", gzip.compress(Path("text.txt").read_bytes())[:-20])()),
    "pretrain: no gzip": pre("cannot read text.gz", "--text", "text.gz", spoil=write("text.gz", "plain")),
    "pretrain: vocabulary too large": pre("the text gives only", "--vocab-size", "5000"),
    "pretrain: vocabulary too small": pre("--vocab-size must be from 257 to 65536, not 10", "--vocab-size", "10"),
    "pretrain: heads do not divide": pre("must be a multiple of --num-attention-heads 5", "--num-attention-heads", "5"),
    "pretrain: positions": pre("must be a multiple of 4, not 30", "--max-position-embeddings", "30"),
    "pretrain: endless": pre("--tokens must be at least 1, not inf", "--tokens", "inf"),
    "pretrain: a rate that is no number": pre("--lr must be at least 0, not nan", "--lr", "nan"),
    "pretrain: dropout of 2": pre("--dropout must be from 0 to 1, not 2", "--dropout", "2"),
    "pretrain: beta2 of 1": pre("--beta2 must be from 0", "--beta2", "1"),
    "pretrain: a negative seed": pre("--seed must be from 0", "--seed", "-1"),
    "pretrain: start not there": pre("there is no folder gpt2", "--start", "gpt2"),
    "pretrain: start empty": pre("empty/config.json is missing, or not a file", "--start", "empty"),
    "pretrain: start damaged": pre("damaged or incomplete", "--start", "model", spoil=cut("model/model.safetensors")),
    "pretrain: start, other tokenizer empty": pre("no tokenizer in empty", "--start", "model", "--tokenizer", "empty"),
    "pretrain: no tokenizer": pre("no tokenizer in empty", "--tokenizer", "empty"),
    "pretrain: out a file": pre("as run folder: File exists", "--out", "text.txt"),
    "pretrain: another run": pre("settings.lr was 0.002, is 0.1", "--out", "pretrained", "--resume", "--lr", "0.1"),
    **{f"pretrain: {name} of -1": pre(f"--{name} must be ", f"--{name}", "-1") for name in (
        "tokenizer-every", "hidden-size", "num-hidden-layers", "num-attention-heads", "long-share", "tokens", "lr",
        "batch-tokens", "accumulate", "final-lr", "warmup", "bag-weight", "rating-weight", "weight-decay",
        "max-grad-norm", "eval-every", "save-minutes")},
    # the course's files
    "download: from nowhere": fetch("cannot read nowhere/ids-sst-train.csv", "--from", "nowhere"),
    "download: other files": fetch("is not the course's file", "--from", "empty", spoil=write(
        "empty/ids-sst-train.csv", "id\tsentence\n")),
    "download: a folder in the way": fetch("not a regular file", spoil=lambda: Path("to/ids-sst-dev.csv").mkdir(
        parents=True)),
    "download: no address": fetch("must begin with https://", "--base-url", "ftp://x"),
    "download: nobody answers": fetch("cannot fetch http://127.0.0.1:9/", "--base-url", "http://127.0.0.1:9"),
    # submissions: a wrong command is status 2, a submission with problems status 1
    "submit: no such part": submit("invalid choice: 'essay'", submission(), "--parts", "essay", status=2),
    "submit: an id that is a path": submit("--id takes", submission(), "--id", "../me", status=2),
    "submit: out no zip": submit("ends in .zip", submission(), "--out", "x.tar", status=2),
    "submit: out nowhere": submit("there is no folder", submission(), "--out", "nowhere/x.zip", status=2),
    "submit: predictions missing": submit(f"{SST_DEV}: missing", submission(
        lambda tree: (tree.root / SST_DEV).unlink())),
    "submit: a row missing": submit("no prediction for 'a1'", submission(
        lambda tree: tree.edit(SST_DEV, "a1, 1 \n", ""))),
    "submit: a label out of range": submit("the label must be 0 to 4, is '9'", submission(
        lambda tree: tree.edit(SST_DEV, "a1, 1", "a1, 9"))),
    "submit: a label with escapes": submit(r"is '\x1b[31m'", submission(
        lambda tree: tree.edit(SST_DEV, "a1, 1", "a1, \x1b[31m"))),
    "submit: predictions not UTF-8": submit("not UTF-8", submission(lambda tree: tree.write(SST_DEV, b"\xff\xfe"))),
    "submit: predictions huge": submit("more than the", submission(lambda tree: tree.write(SST_DEV, HUGE * 30))),
    "submit: source with an error": submit("optimizer.py:", submission(
        lambda tree: tree.write("optimizer.py", "class AdamW(\n"))),
    "submit: source a link": submit("is a link", submission(lambda tree: (
        (tree.root / "optimizer.py").unlink(), (tree.root / "optimizer.py").symlink_to("/etc/passwd")))),
    "submit: data missing": submit("the ids cannot be checked", submission(
        lambda tree: (tree.root / "data/ids-sst-dev.csv").unlink())),
    # sanity_check
    "sanity: model not there": Bad(["--model", "./nowhere"], "no model folder './nowhere'", script="sanity_check.py"),
    "sanity: unknown flag": Bad(["--fast"], "unrecognized arguments: --fast", script="sanity_check.py"),
}
if not torch.cuda.is_available():
    CASES["flag: a device that is not here"] = flag("there is no cuda device here", "--device", "cuda")


# ---- the test --------------------------------------------------------------------------------------------------------


def fine_tune() -> None:
    finetuning_run.main(finetuning_settings.read_settings("What is said here."), GPT2SentimentClassifier)


def pre_train() -> None:
    pretraining_run.main(pretraining_settings.read_settings("What is said here."))


SCRIPTS = {"classifier.py": fine_tune, "pretrain.py": pre_train, "sanity_check.py": sanity_check.main,
           "data/download.py": download.main, "prepare_submit.py": lambda: prepare_submit.main(root=Path("checkout"))}


def run(script: str, words: list[str]) -> int:
    """A script in this process; its exit status, as a shell would see it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *words])
        with pytest.raises(SystemExit) as exit:
            cli.run(SCRIPTS[script])
    return exit.value.code


def snapshot() -> dict[str, object]:
    """All that is in the working folder; of a lock, which names its last holder, only that it is there."""
    return {str(path): os.readlink(path) if path.is_symlink() else
            path.read_bytes() if path.is_file() and path.name != ".lock" else path.stat().st_mode
            for path in Path().rglob("*")}


@pytest.fixture(scope="module")
def good(folder, tmp_path_factory) -> Path:  # noqa: F811
    """A folder with all that the scripts want, a finished run of each kind among it."""
    good = tmp_path_factory.mktemp("good")
    shutil.copytree(folder, good, dirs_exist_ok=True)
    (good / "empty").mkdir()
    (good / "text.txt").write_text((good / "text.txt").read_text().replace(" film is", " film " * 12 + "is") * 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(good)
        for module in (finetuning_run, pretraining_run):
            patch.setattr(module, "keep_freed_memory", lambda: None)
        assert run("classifier.py", FINE_TUNE) == 0
        assert run("pretrain.py", [*PRETRAIN, "--out", "pretrained"]) == 0
    return good


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name, good, tmp_path, monkeypatch, capsys):
    """Catches a traceback, a message that is no help or repaints the terminal, another exit status, and anything that
    is left on the disk, changed, or removed from it.
    """
    bad = CASES[name]
    shutil.copytree(good, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    for module in (finetuning_run, pretraining_run):
        monkeypatch.setattr(module, "keep_freed_memory", lambda: None)
    held = bad.spoil()
    before = snapshot()
    capsys.readouterr()
    status = run(bad.script, bad.words)
    said = capsys.readouterr()
    assert status == bad.status
    if status == 2:
        lines = said.err.splitlines()
        assert said.err.startswith("error: ") and 1 <= len(lines) <= 2
        assert bad.said in said.err
    else:
        assert said.err == "" and bad.said in said.out
    shown = said.err + said.out
    assert len(shown) < 10_000 and all(c.isprintable() or c == "\n" for c in shown)
    assert snapshot() == before
    if isinstance(held, RunFolder):
        held.__exit__(None, None, None)


def test_the_table_is_large_enough_and_the_input_good(good, tmp_path, monkeypatch):
    """Catches cases that fail for another reason than the one they are about."""
    assert len(CASES) >= 220
    shutil.copytree(good, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    for module in (finetuning_run, pretraining_run):
        monkeypatch.setattr(module, "keep_freed_memory", lambda: None)
    assert run("classifier.py", [*FINE_TUNE, "--resume"]) == 0
    assert run("pretrain.py", [*PRETRAIN, "--out", "pretrained", "--resume"]) == 0
    submission()()
    assert run("prepare_submit.py", []) == 0


@pytest.mark.parametrize("name", ["flag: unknown", "model: weights cut", "pretrain: text not UTF-8"])
def test_bad_input_as_a_command(name, good, root, tmp_path, monkeypatch):
    """Catches what the tests above go round: the scripts' own last lines, and warnings of the libraries."""
    bad = CASES[name]
    shutil.copytree(good, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    bad.spoil()
    before = snapshot()
    done = subprocess.run([sys.executable, root / bad.script, *bad.words], capture_output=True, text=True)
    assert done.returncode == 2 and bad.said in done.stderr and 1 <= len(done.stderr.splitlines()) <= 2
    assert snapshot() == before
