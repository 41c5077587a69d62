"""Several processes against one: the same weights, the same predictions, one voice, and one end for all."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data.batching import FeatureDataset
from tests.training.parallel.together import DEV, TEST, write_files
from training.evaluate import predict
from training.machine import Machine
from training.parallel.process_group import ALONE, Group, extract_tensors, insert_tensors
from training.parallel.sharding import full_tensor, full_tensor_on_main, is_sharded, shard_like

pytestmark = pytest.mark.timeout(900)  # for all cases, which run in one go
CASES = ("full", "head", "shard_full", "no_sync", "stop", "dropout", "streams", "killed", "silent", "terminated",
         "user_error", "diverged", "unlike")
SLOW_CASES = ("full_many", "shard_head", "stop_shard", "first_killed", "bug")
KEPT = "The last checkpoint is intact: start again with --resume, with as many processes as you like\n"
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
ROUNDING = 1e-5
"""Allowed between runs of different numbers of processes, which add up in another order; about 1e-7 was measured."""


def run_cases(root: Path, folder: Path, cases: tuple[str, ...]) -> dict:
    done = subprocess.run([sys.executable, "-m", "tests.training.parallel.together", str(folder), *cases], cwd=root,
                          env=ONE_THREAD, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def found(root, tmp_path_factory) -> dict:
    """What each of CASES found; see together.py."""
    return run_cases(root, tmp_path_factory.mktemp("together"), CASES)


@pytest.fixture(scope="module")
def slowly_found(root, tmp_path_factory) -> dict:
    """What each of SLOW_CASES found."""
    return run_cases(root, tmp_path_factory.mktemp("slowly"), SLOW_CASES)


def assert_same_run(case: dict, size: int) -> None:
    """Nobody failed or complained, one process printed, and the outcome is that of the run it was compared with."""
    assert case["statuses"] == [0] * size and case["err"] == "" and case.get("lines", 1) == 1
    assert case["weights"] < ROUNDING and case["log"] < ROUNDING
    assert case["same names"] and case["predictions"]


def test_two_processes_train_the_model_of_one(found):
    """Catches: gradients averaged as if shares were equal, a row counted twice or not at all (a batch of one example
    included), sums of one process taken for the run's, predictions in another order than the file's.
    """
    assert_same_run(found["full"]["2"], 2)


def test_features_are_shared_out_and_found_again(found):
    """Catches: features in another order than the texts; a cache that only the first machine has (the others would
    compute alone, and hang); anything written on the other machines.
    """
    assert_same_run(found["head"]["2"], 2)
    assert_same_run(found["head"]["again"], 2)
    assert found["head"]["again"]["same bits"] and not found["head"]["written elsewhere"]


def test_a_sharded_model_trains_like_a_whole_one(found):
    """Catches: an optimizer, a clipping or a checkpoint that takes a process's part of a weight for the weight."""
    assert_same_run(found["shard_full"]["2"], 2)


def test_a_sharded_model_is_divided(found):
    """Catches: a --shard that leaves every process the whole model, or a part without a process."""
    case = found["shard_full"]
    assert sum(case["held"]) == 3 * case["parameters"]
    assert max(case["held"]) < 0.6 * 3 * case["parameters"]


def test_gradients_are_averaged_once_a_step(found):
    """Catches: an all-reduce of all gradients for every part of an accumulated batch. Four batches have two parts."""
    assert found["no_sync"] == {"statuses": [0, 0], "counts": [4, 4], "took": found["no_sync"]["took"]}


def test_a_signal_to_one_process_stops_all_and_any_number_resumes(found):
    """Catches: processes that stop at different steps (they would hang), a second message, and a checkpoint that only
    fits the number or the kind of processes that wrote it.
    """
    case = found["stop"]
    assert case["statuses"] == [143, 143]
    assert case["err"].count("stopped after step 4") == 1 and case["err"].count("\n") == 2
    assert case["then"].keys() == {"1", "3", "2 sharded"}
    for name, resumed in case["then"].items():
        assert_same_run(resumed, int(name[0]))


def test_with_dropout_the_same_number_of_processes_resumes_to_the_same_bits(found):
    """Catches: the random generators of all but the first process forgotten, or required to be as many as before."""
    case = found["dropout"]
    assert case["stopped"] == [130, 130] and case["resumed"] == [[0, 0], [0, 0, 0]]
    assert case["same bits"] and case["log"] == 0 and case["predictions"]


def test_each_process_has_dropout_of_its_own(found):
    """Catches: the same mask in all processes; a first process that draws otherwise than one alone; states lost."""
    case = found["streams"]
    first, then = case["alone"]
    assert case["statuses"] == [0, 0, 0]
    assert [draws[0] for draws in case["draws"]] == [first] * 3
    assert case["draws"][0][1] == then
    assert len({draws[1] for draws in case["draws"]}) == 3
    for draws in case["draws"]:
        assert draws[1] == draws[2] == draws[3]


def test_a_killed_process_ends_the_run_with_one_message(found):
    """Catches: survivors that wait for ever, several messages or a traceback, and a checkpoint that is lost."""
    case = found["killed"]
    assert sorted(case["statuses"]) == [-9, 1, 2] and case["seconds"] < 60
    assert case["err"] == "error: another process of this run has died, or cannot be reached any more.\n" + KEPT
    assert case["step"] == 3 and case["resumed"] == [0, 0]
    assert case["weights"] < ROUNDING and case["predictions"]


def test_a_process_that_never_answers_ends_the_run(found):
    """Catches: waiting for a process that is there but stands still, as on a machine that has lost its network."""
    case = found["silent"]
    assert case["statuses"] == [1, -9] and case["seconds"] < 60 and case["step"] == 3
    assert case["err"] == "error: process 1 of 0 .. 1 has given no sign of life for 3 seconds.\n" + KEPT


def test_sigterm_outside_of_training_is_told_once(found):
    """Catches: torchrun's SIGTERM, sent because another process died, that ends a process before it could say so."""
    case = found["terminated"]
    assert case["statuses"] == [1, 143] and "another process has died.\n" + KEPT in case["err"]
    assert case["err"].startswith("ended by SIGTERM") and case["err"].count("\n") == 2


def test_an_error_in_one_process_is_told_once(found):
    """Catches: the error of a process other than the first swallowed, or followed by the others' broken connections."""
    case = found["user_error"]
    assert case["statuses"] == [1, 2, 1] and case["step"] == 3
    assert case["err"] == "error: the second machine's disk is on fire\n"


def test_a_loss_that_is_nan_in_one_process_stops_all(found):
    """Catches: a check of each process's own loss; the others would step into broken weights, or hang."""
    case = found["diverged"]
    assert sorted(case["statuses"]) == [1, 2] and case["step"] == 2
    assert case["err"].startswith("error: the loss became nan at step 3 (examples train")
    assert case["err"].count("\n") == 2


def test_processes_with_other_data_are_refused(found):
    """Catches: two machines that train on different files and silently mix them."""
    case = found["unlike"]
    assert sorted(case["statuses"]) == [1, 2] and case["left"] == []
    assert case["err"].startswith("error: process 1 was not started like process 0: texts.train was")


@pytest.mark.slow
@pytest.mark.parametrize("size", [3, 4, 7])
def test_many_processes_train_the_model_of_one(slowly_found, size):
    """Catches what two processes hide: more processes than examples in a batch (5), and shares of three sizes."""
    assert_same_run(slowly_found["full_many"][str(size)], size)


@pytest.mark.slow
def test_a_sharded_frozen_backbone_gives_the_same_features(slowly_found):
    """Catches: a forward pass that only some processes take part in."""
    assert_same_run(slowly_found["shard_head"]["2"], 2)


@pytest.mark.slow
def test_a_sharded_run_resumes_whole_or_sharded(slowly_found):
    """Catches: moments that are saved or read back as parts."""
    case = slowly_found["stop_shard"]
    assert case["statuses"] == [143, 143]
    for name, resumed in case["then"].items():
        assert_same_run(resumed, int(name[0]))


@pytest.mark.slow
def test_the_first_process_may_be_the_one_that_is_killed(slowly_found):
    """Catches: survivors that rely on the first process to speak."""
    case = slowly_found["first_killed"]
    assert case["statuses"] == [-9, 2] and case["seconds"] < 60 and case["step"] == 3
    assert case["err"] == "error: another process of this run has died, or cannot be reached any more.\n" + KEPT


@pytest.mark.slow
def test_a_bug_keeps_one_traceback(slowly_found):
    """Catches: a traceback from every process, or from none."""
    case = slowly_found["bug"]
    assert case["statuses"] == [1, 1]
    assert case["err"].count("Traceback") == 1 and case["err"].endswith("KeyError: 1\n")


def torchrun(root: Path, folder: Path, *flags: str, processes: int = 2) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes),
               str(root / "classifier.py"), "--train", "train.csv", "--dev", "dev.csv", "--test", "test.csv",
               "--num_labels", "2", "--model", "model", "--device", "cpu", "--fine_tune_mode", "full-model",
               "--no-report", *flags]
    return subprocess.Popen(command, cwd=folder, env=ONE_THREAD, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_torchrun(root, tmp_path):
    """Catches what forked processes hide: torchrun's own variables and store, the script's way through its flags."""
    write_files(tmp_path)
    process = torchrun(root, tmp_path, "--epochs", "1")
    out, err = process.communicate()
    assert process.returncode == 0, err
    out = " ".join(out.split())  # lines are wrapped
    assert out.count("epoch 1/1") == 1 and "on cpu in float32, 2 processes" in out and "95% interval" in out
    for name, count in (("dev", DEV), ("test", TEST)):
        lines = (tmp_path / "predictions" / f"full-model-own-{name}-out.csv").read_text().splitlines()
        assert [line.split(",")[0].strip() for line in lines[1:]] == [f"{name}{row}" for row in range(count)]


LEAVE = """
import sys
from pathlib import Path

import torch

from training.parallel.process_group import process_group
from training.parallel.sharding import shard

def train(group):
    model = torch.nn.Linear(3, 3)
    if sys.argv[1] == "sharded":
        shard(model, torch.device("cpu"))
    group.wrap(model)(torch.ones(2, 3)).sum().backward()

with process_group("") as group:
    train(group)
print(*sorted(thread.read_text().strip() for thread in Path("/proc/self/task").glob("*/comm")))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted by Linux's /proc")
@pytest.mark.parametrize("kind", ["whole", "sharded"])
def test_the_threads_of_a_group_end_with_it(root, tmp_path, kind):
    """Catches: anything that holds the group (default arguments, caches, a model in a cycle). gloo's threads would live
    on, and abort the process (status -6, "terminate called") if Python ends while they still hold a tensor: seldom.
    """
    (tmp_path / "leave.py").write_text(LEAVE)
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
                           str(tmp_path / "leave.py"), kind], env={**ONE_THREAD, "PYTHONPATH": str(root)}, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("python") >= 2 and "gloo" not in done.stdout


@pytest.mark.slow
def test_torchrun_is_asked_to_stop(root, tmp_path):
    """Catches: a run that torchrun's own signals cut off before it has saved, or that they leave hanging."""
    write_files(tmp_path)
    process = torchrun(root, tmp_path, "--epochs", "100000")
    while "epoch 2/" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0 and err.count("stopped after step") == 1
    last = json.loads((tmp_path / "runs" / "own-full-model" / "last.json").read_text())
    assert f"stopped after step {last['step']}," in err


@pytest.mark.slow
def test_a_wrong_flag_is_told_once(root, tmp_path):
    """Catches: every process on a machine reporting the same mistake."""
    process = torchrun(root, tmp_path, "--epochs", "0")
    _, err = process.communicate()
    assert process.returncode != 0 and err.count("error: --epochs must be at least 1, not 0") == 1


@pytest.mark.slow
def test_shard_needs_several_processes(root, tmp_path):
    """Catches: --shard that does nothing, in one process, for whom needed it."""
    write_files(tmp_path)
    process = torchrun(root, tmp_path, "--shard", processes=1)
    _, err = process.communicate()
    assert "error: --shard divides a model among processes: start them with torchrun --nproc_per_node N\n" in err


@pytest.mark.parametrize("size", range(1, 6))
@pytest.mark.parametrize("count", range(1, 9))
def test_every_row_counts_in_one_process_and_none_is_idle(size, count):
    """Catches: a row without a process or with two, shares that differ by more than one row, an empty batch."""
    rows = list(range(10, 10 + count))
    shares = [Group(rank, size).share(rows) for rank in range(size)]
    assert sorted(row for mine, counted in shares for row in mine[:counted]) == rows
    assert all(mine and counted in (0, len(mine)) for mine, counted in shares)
    assert max(counted for _, counted in shares) - min(counted for _, counted in shares) <= 1


@pytest.mark.parametrize("size", [2, 3, 5])
def test_predictions_of_all_processes_add_up(size):
    """Catches: the output for a row that a process only ran to keep in step counted as well (batches of one row)."""
    class Twice(torch.nn.Module):
        def forward(self, features, mask):
            return features * 2

    data = FeatureDataset(torch.arange(1.0, 15.0).reshape(7, 2), None)
    order = [[4, 0, 2], [6], [5, 1, 3]]
    outputs = [predict(Twice(), order, data.collate, Machine(group=Group(rank, size))) for rank in range(size)]
    assert torch.equal(sum(outputs), data.features * 2)


def test_a_process_alone_does_nothing():
    """Catches: work or copies that several processes need, done in the only one."""
    tensor, model = torch.randn(3), torch.nn.Linear(2, 2)
    assert ALONE.is_main and ALONE.share([4, 5, 6]) == ([4, 5, 6], 3)
    assert ALONE.sum(tensor, tensor) == (tensor, tensor) and ALONE.sum(tensor)[0] is tensor
    assert ALONE.wrap(model) is model and ALONE.broadcast_from_main(lambda: model) is model
    assert ALONE.highest(3, 0) == (3, 0)
    assert full_tensor(tensor) is full_tensor_on_main(tensor) is shard_like(tensor, tensor) is tensor
    assert not is_sharded(model)
    states = ALONE.generator_states()
    drawn = torch.rand(2)
    ALONE.separate_streams()
    ALONE.restore_generators(states)
    assert torch.equal(torch.rand(2), drawn)


def test_values_travel_without_change():
    """Catches: a tensor put back in another's place, or with another type or shape."""
    value = {"a": [torch.arange(3), {"b": torch.ones(2, 0, dtype=torch.bfloat16)}], "c": None, "d": [1.5, "x", True],
             "e": torch.tensor(7, dtype=torch.uint8)}
    tensors = []
    sent = json.loads(json.dumps(extract_tensors(value, tensors)))
    waiting = iter(tensors)

    def fill(empty):
        tensor = next(waiting)
        assert (empty.dtype, empty.shape) == (tensor.dtype, tensor.shape)
        return tensor

    received = insert_tensors(sent, fill)
    assert received["a"][0] is value["a"][0] and received["a"][1]["b"] is value["a"][1]["b"]
    assert received["e"] is value["e"] and (received["c"], received["d"]) == (value["c"], value["d"])
    assert received.keys() == value.keys()
