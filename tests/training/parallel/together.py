"""Runs classifier.py's task in several processes: a script of its own, because it forks after importing PyTorch once.

    python -m tests.training.parallel.together FOLDER CASE [CASE ...]

Prints one line of JSON: what each case (a function below) found. Models, files and learning are tiny.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Some of these only to be there already when a child needs them: an optimizer imports the compiler.
import sklearn.linear_model  # noqa: F401
import torch
import torch._dynamo
import torch.distributed.fsdp
from tokenizers import ByteLevelBPETokenizer
from torch.distributed import TCPStore
from torch.nn.parallel import DistributedDataParallel

import finetuning.job
import finetuning.run
from classifier import GPT2SentimentClassifier
from common import cli
from common.errors import UserError
from data.tokenizer import END_OF_TEXT
from finetuning.settings import Settings
from models.config import GPT2Config
from models.gpt2 import GPT2Model
from models.pretrained import save_pretrained
from training.loop import classification
from training.parallel import watchdog
from training.parallel.process_group import Group, process_group
from training.runs import checkpoint
from training.runs.checkpoint import flatten_optimizer
from training.runs.session import Session

TRAIN, DEV, TEST = 21, 13, 9
"""Examples. Batches of 5: each epoch has one of a single example, for which most processes have nothing to do."""
FULL = {"fine_tune_mode": "full-model", "max_grad_norm": 0.5, "accumulate": 2}
SHARDED = {"engine": "off", "shard": True}
"""Sharded runs never use the engine. What they are compared with, or resumed from, must not use it either."""
PATIENCE = 180
"""Seconds after which a process that still runs is ended by an alarm."""


@dataclass
class Ended:
    """How a run in several processes went."""

    statuses: list[int]
    "Exit status of each process, or minus the signal that killed it."
    out: str
    err: str
    seconds: float


def start(size: int, job: Callable[[], object], folder: Path) -> Ended:
    """Run a job in `size` forks of this process, which find each other as torchrun's would; wait for them all."""
    started, pids = time.monotonic(), []
    keeper, port = keep_store()
    out, err = folder / "stdout", folder / "stderr"
    for path in (out, err):
        path.write_text("")
    for rank in range(size):
        pid = os.fork()
        if pid == 0:
            for number, path in ((1, out), (2, err)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size),
                           "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                           "TORCHELASTIC_USE_AGENT_STORE": "True"}
            signal.alarm(PATIENCE)
            status = 1
            try:
                cli.attempt(job)
                status = 0
            except SystemExit as exit:
                status = exit.code
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        pids.append(pid)
    statuses = wait(pids)
    os.kill(keeper, signal.SIGKILL)
    os.waitpid(keeper, 0)
    return Ended([statuses[pid] for pid in pids], out.read_text(), err.read_text(), time.monotonic() - started)


def keep_store() -> tuple[int, int]:
    """(process, port) of a store in a process of its own, as torchrun keeps it: it outlives the run's processes.

    Not in this one, because it has threads, and a fork copies the locks that these hold at that moment.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        os.write(write, store.port.to_bytes(4, "little"))
        while True:
            signal.pause()
    port = int.from_bytes(os.read(read, 4), "little")
    os.close(read)
    os.close(write)
    return pid, port


def wait(pids: list[int]) -> dict[int, int]:
    """The exit status of each child; those that are suspended are killed when all others have ended."""
    statuses, suspended = {}, set()
    while len(statuses) < len(pids):
        pid, status = os.waitpid(-1, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            suspended.add(pid)
        else:
            statuses[pid] = os.waitstatus_to_exitcode(status)
        if statuses.keys() | suspended == set(pids):
            for pid in suspended - statuses.keys():
                os.kill(pid, signal.SIGKILL)
    return statuses


def write_files(folder: Path) -> None:
    """A task's files, another training file, and a random model."""
    chance, words = random.Random(0), ("good", "bad", "fine", "awful", "movie", "film", "plot", "is", "not", "very")
    for name, count in (("train", TRAIN), ("dev", DEV), ("test", TEST), ("other", TRAIN)):
        labels = name != "test"
        rows = ["\tid\tsentence" + "\tsentiment" * labels]
        for row in range(count):
            text = " ".join(chance.choices(words, k=chance.randint(1, 12)))
            rows.append(f"{row}\t{name}{row}\t{text}" + f"\t{chance.randint(0, 1)}" * labels)
        (folder / f"{name}.csv").write_text("\n".join(rows) + "\n")
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([" ".join(words)] * 3, vocab_size=300, show_progress=False,
                                  special_tokens=[END_OF_TEXT])
    tokenizer._tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    model = GPT2Model(GPT2Config(vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=32, hidden_size=32,
                                 num_hidden_layers=2, num_attention_heads=2, hidden_dropout_prob=0.0,
                                 attention_probs_dropout_prob=0.0))
    save_pretrained(model, folder / "model", tokenizer_file=folder / "tokenizer.json")


def train(out: Path, *, act: Callable[[Group, int], object] = lambda group, step: None, shard: bool = False,
          resume: bool = False, train: str = "train", **settings) -> None:
    """classifier.py's work on the files beside `out`; act(group, step) is called after each step, before any save."""
    after_step = Session.after_step

    def acting(session: Session) -> None:
        act(session.group, session.state.step)
        after_step(session)

    Session.after_step = acting
    files = {name: out.parent / f"{file}.csv" for name, file in (("train", train), ("dev", "dev"), ("test", "test"))}
    settings = {"num_labels": 2, "model": str(out.parent / "model"), "epochs": 2, "batch_size": 5, "lr": 1e-3,
                "hidden_dropout_prob": 0.0, "device": "cpu", "precision": "float32", "out": out / "runs",
                "predictions": out / "predictions", "shard": shard, "resume": resume, **files, **settings}
    finetuning.run.run(Settings(**settings), GPT2SentimentClassifier)
    Session.after_step = after_step


def run(size: int, out: Path, **options) -> Ended:
    """`train` in `size` processes."""
    out.mkdir(exist_ok=True)
    return start(size, lambda: train(out, **options), out)


def run_folder(out: Path) -> Path:
    return next((out / "runs").glob("own-*"))


def compare(one: Path, other: Path) -> dict:
    """How far two finished runs are apart."""
    def weights(out: Path, name: str) -> dict[str, torch.Tensor]:
        return checkpoint.load(run_folder(out), name)[1]["weights"]

    def log(out: Path) -> list[dict]:
        return [json.loads(line) for line in (run_folder(out) / "log.jsonl").read_text().splitlines()]

    pairs = [(weights(one, name), weights(other, name)) for name in ("last", "best")]
    numbers = [(a[key], b[key]) for a, b in zip(log(one), log(other), strict=True) for key in a]
    files = [{path.name: path.read_text() for path in (out / "predictions").glob("*-out.csv")} for out in (one, other)]
    return {"weights": max(float((a[name] - b[name]).abs().max()) for a, b in pairs for name in a),
            "same names": all(a.keys() == b.keys() for a, b in pairs),
            "same bits": all(torch.equal(a[name], b[name]) for a, b in pairs for name in a),
            "log": max(abs(a - b) for a, b in numbers),
            "predictions": len(files[0]) == 2 and files[0] == files[1]}


def same_as_one(folder: Path, sizes: tuple[int, ...], **options) -> dict:
    """Runs in several processes against one process."""
    alone = {key: value for key, value in options.items() if key != "shard"}
    assert run(1, folder / "1", **alone).statuses == [0]
    found = {}
    for size in sizes:
        ended = run(size, folder / str(size), **options)
        found[size] = {"statuses": ended.statuses, "err": ended.err, "lines": ended.out.count("epoch 2/2"),
                       **(compare(folder / "1", folder / str(size)) if not any(ended.statuses) else {})}
    return found


def full(folder: Path) -> dict:
    return same_as_one(folder, (2,), **FULL)


def full_many(folder: Path) -> dict:
    return same_as_one(folder, (3, 4, 7), **FULL)


def head(folder: Path) -> dict:
    """Also once more, with the stored features, which are only on the first process's machine."""
    found = same_as_one(folder, (2,))
    shutil.copytree(folder / "2", folder / "again", ignore=shutil.ignore_patterns("own-*", "predictions"))
    again = start(2, lambda: train(folder / ("again" if os.environ["RANK"] == "0" else "elsewhere")), folder / "again")
    return {**found, "again": {"statuses": again.statuses, "err": again.err, "lines": again.out.count("epoch 2/2"),
                               **compare(folder / "2", folder / "again")},
            "written elsewhere": (folder / "elsewhere").exists()}


def shard_full(folder: Path) -> dict:
    """Also how many numbers each process holds, weights and moments, and how many weights there are."""
    after_step, out = Session.after_step, folder / "2"

    def counting(session: Session) -> None:
        weights = list(session.model.parameters())
        moments = flatten_optimizer(session.optimizer)[0].values()
        held = sum(getattr(tensor, "_local_tensor", tensor).numel() for tensor in (*weights, *moments))
        (out / f"held{session.group.rank}").write_text(f"{held} {sum(weight.numel() for weight in weights)}")
        after_step(session)

    out.mkdir()
    with patched(Session, "after_step", counting):
        found = same_as_one(folder, (2,), **SHARDED, **FULL)
    held, parameters = zip(*(map(int, (out / f"held{rank}").read_text().split()) for rank in range(2)), strict=True)
    return {**found, "held": held, "parameters": parameters[0]}


def shard_head(folder: Path) -> dict:
    return same_as_one(folder, (2,), **SHARDED)


def no_sync(folder: Path) -> dict:
    """How often gradients were left unaveraged in an epoch of four batches of two parts and one of a single part."""
    def job() -> None:
        original, counts = DistributedDataParallel.no_sync, []

        def counting(model):
            counts.append(1)
            return original(model)

        DistributedDataParallel.no_sync = counting
        train(folder / "out", epochs=1, **FULL)
        (folder / f"count{os.environ['RANK']}").write_text(str(len(counts)))

    (folder / "out").mkdir()
    ended = start(2, job, folder / "out")
    return {"statuses": ended.statuses, "counts": [int((folder / f"count{rank}").read_text()) for rank in range(2)]}


def at(step: int, rank: int, signal_number: int) -> Callable[[Group, int], None]:
    """Send a signal to one of the processes after a step."""
    def act(group: Group, now: int) -> None:
        if (now, group.rank) == (step, rank):
            os.kill(os.getpid(), signal_number)
    return act


def resume_elsewhere(folder: Path, first: dict, then: dict[str, dict]) -> dict:
    """Stop a run by a signal to its last process, and resume copies of it in other ways; compared with one process."""
    full = {**FULL, "engine": "off"}
    assert run(1, folder / "whole", **full).statuses == [0]
    stopped = run(out=folder / "first", act=at(4, first["size"] - 1, signal.SIGTERM), **first, **full)
    found = {"statuses": stopped.statuses, "err": stopped.err, "then": {}}
    for name, options in then.items():
        shutil.copytree(folder / "first", folder / name)
        ended = run(out=folder / name, resume=True, **options, **full)
        found["then"][name] = {"statuses": ended.statuses, "err": ended.err, **compare(folder / "whole", folder / name)}
    return found


def stop(folder: Path) -> dict:
    return resume_elsewhere(folder, {"size": 2}, {"1": {"size": 1}, "3": {"size": 3},
                                                  "2 sharded": {"size": 2, "shard": True}})


def stop_shard(folder: Path) -> dict:
    return resume_elsewhere(folder, {"size": 2, "shard": True}, {"1": {"size": 1},
                                                                 "2 sharded": {"size": 2, "shard": True}})


def dropout(folder: Path) -> dict:
    """Dropout: the same number of processes resumes to the same bits; another number of them resumes."""
    options = {**FULL, "backbone_dropout": 0.2, "hidden_dropout_prob": 0.3}
    assert run(2, folder / "whole", **options).statuses == [0, 0]
    stopped = run(2, folder / "2", act=at(4, 0, signal.SIGINT), **options)
    shutil.copytree(folder / "2", folder / "3")
    resumed = [run(size, folder / str(size), resume=True, **options).statuses for size in (2, 3)]
    return {"stopped": stopped.statuses, "resumed": resumed, **compare(folder / "whole", folder / "2")}


def streams(folder: Path) -> dict:
    """What each process draws: at first, after its streams are separated, and after these were restored."""
    def job() -> None:
        with process_group(finetuning.run.RESUME) as group:
            torch.manual_seed(3)
            draws = [torch.rand(1).item()]
            group.separate_streams()
            states = group.generator_states()
            draws.append(torch.rand(1).item())
            group.restore_generators(states)
            draws.append(torch.rand(1).item())
            group.restore_generators({"rng.cpu": states["rng.cpu"]})  # saved by a process alone
            draws.append(torch.rand(1).item())
            (folder / f"draws{group.rank}").write_text(json.dumps(draws))

    ended = start(3, job, folder)
    torch.manual_seed(3)
    return {"statuses": ended.statuses, "alone": torch.rand(2).tolist(),
            "draws": [json.loads((folder / f"draws{rank}").read_text()) for rank in range(3)]}


def fail(folder: Path, size: int, act: Callable[[Group, int], object]) -> dict:
    """A run in which something goes wrong, and the step of the last checkpoint."""
    ended = run(size, folder / "out", act=act, save_steps=1, **FULL)
    return {"statuses": ended.statuses, "err": ended.err, "seconds": ended.seconds, "step": last_step(folder / "out")}


def last_step(out: Path) -> int:
    if not checkpoint.exists(run_folder(out), "last"):
        return 0
    return checkpoint.load(run_folder(out), "last")[0]["train"]["step"]


def killed(folder: Path) -> dict:
    found = fail(folder, 3, at(4, 1, signal.SIGKILL))
    assert run(1, folder / "whole", **FULL).statuses == [0]
    resumed = run(2, folder / "out", resume=True, **FULL)
    return {**found, "resumed": resumed.statuses, **compare(folder / "whole", folder / "out")}


def first_killed(folder: Path) -> dict:
    return fail(folder, 2, at(4, 0, signal.SIGKILL))


def silent(folder: Path) -> dict:
    """A process that is suspended: for the others it is there, but never answers."""
    with patched(watchdog, "BEAT", 0.3):
        return fail(folder, 2, at(4, 1, signal.SIGSTOP))


def terminated(folder: Path) -> dict:
    """SIGTERM for one process, outside of training, while the other waits for it."""
    def job() -> None:
        with process_group(finetuning.run.RESUME) as group:
            group.highest(0)
            if group.rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            group.highest(0)

    ended = start(2, job, folder)
    return {"statuses": ended.statuses, "err": ended.err}


def user_error(folder: Path) -> dict:
    def act(group: Group, step: int) -> None:
        if (step, group.rank) == (4, 1):
            raise UserError("the second machine's disk is on fire")

    return fail(folder, 3, act)


def bug(folder: Path) -> dict:
    """The same bug in every process."""
    return fail(folder, 2, lambda group, step: {}[step])


def diverged(folder: Path) -> dict:
    """The second process's loss becomes NaN in the third step."""
    calls = []

    def objective(model, batch):
        calls.append(1)
        outcome = classification(model, batch)
        bad = len(calls) == 5 and os.environ["RANK"] == "1"
        return outcome._replace(loss=outcome.loss * torch.nan) if bad else outcome

    with patched(finetuning.job, "classification", objective):
        ended = run(2, folder / "out", save_steps=1, **FULL)
    return {"statuses": ended.statuses, "err": ended.err, "step": last_step(folder / "out")}


def unlike(folder: Path) -> dict:
    """The second machine has another training file."""
    (folder / "out").mkdir()
    ended = start(2, lambda: train(folder / "out", train="train" if os.environ["RANK"] == "0" else "other"),
                  folder / "out")
    return {"statuses": ended.statuses, "err": ended.err, "left": [p.name for p in (folder / "out").glob("runs/own*")]}


@contextlib.contextmanager
def patched(module: object, name: str, value: object):
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


if __name__ == "__main__":
    torch.set_num_threads(1)  # threads do not survive a fork
    place, *names = sys.argv[1:]
    reports = {}
    for name in names:
        folder = Path(place) / name
        folder.mkdir()
        write_files(folder)
        began = time.monotonic()
        reports[name] = {**globals()[name](folder), "took": round(time.monotonic() - began, 1)}
    print(json.dumps(reports))
