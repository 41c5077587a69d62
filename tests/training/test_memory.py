"""Running out of memory ends with what to turn down, on the real errors of PyTorch's and Python's allocators."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import UserError
from data.batching import FeatureDataset
from optimizer import AdamW
from tests.training.toy import N, Toy
from training.evaluate import predict
from training.loop import Feed, TrainState, classification, fit
from training.memory import OutOfMemory, doubled, enough_memory, halved
from training.run_folder import RunFolder

TOO_MUCH = 1 << 60


class Greedy(nn.Linear):
    """Asks for an exabyte from its third call on."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls > 2:
            torch.empty(TOO_MUCH)
        return super().forward(x)


def data() -> FeatureDataset:
    return FeatureDataset(torch.randn(N, 4), torch.zeros(N, dtype=torch.int64))


def train(model: nn.Module, accumulate: int = 1, lighter: tuple = ()) -> TrainState:
    state, features = TrainState(), data()
    feed = Feed(lambda epoch: [list(range(8)), list(range(8, 16)), list(range(16, 22))], features.collate,
                lighter=lighter)
    fit(model, AdamW(model.parameters(), lr=0.01), feed, classification, state, epochs=1, accumulate=accumulate)
    return state


ERRORS = {
    "the CPU's": lambda: torch.empty(TOO_MUCH),
    "Python's": lambda: bytearray(TOO_MUCH),
    "NumPy's": lambda: np.empty(TOO_MUCH, np.uint8),
    "CUDA's": lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("Allocation on device 0 would exceed it")),
    "MPS's": lambda: (_ for _ in ()).throw(RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)")),
    "cuBLAS's": lambda: (_ for _ in ()).throw(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling")),
}


@pytest.mark.parametrize("whose", ERRORS)
def test_every_allocator_is_understood(whose):
    """Catches an error that means too little memory and reaches the user as a traceback."""
    with pytest.raises(OutOfMemory) as caught, enough_memory("in step 3", "--a 2 (now 1)", None, "--b"):
        ERRORS[whose]()
    memory = "GPU memory" if whose == "CUDA's" else "memory"
    assert str(caught.value) == f"out of {memory} in step 3.\nTurn down: --a 2 (now 1); or --b"
    assert isinstance(caught.value, UserError)


def test_other_errors_stay_what_they_are():
    """Catches bugs that are told as too little memory; and advice from further in replaced by worse."""
    with pytest.raises(RuntimeError, match="shapes"), enough_memory("in step 3", "--a"):
        torch.ones(2, 3) @ torch.ones(2, 3)
    with pytest.raises(OutOfMemory, match="inner"), enough_memory("outer", "--a"), enough_memory("inner", "--b"):
        torch.empty(TOO_MUCH)


def test_advice_says_by_how_much():
    """Catches advice that cannot be followed: half of one, more parts than rows."""
    assert halved("--batch_size", 9) == "--batch_size 4 (now 9)" and halved("--batch_size", 1) is None
    assert doubled("--accumulate", 4, most=8).startswith("--accumulate 8 (now 4)")
    assert doubled("--accumulate", 4, most=6).startswith("--accumulate 6 (now 4)")
    assert doubled("--accumulate", 8, most=8) is None


def test_training_names_the_step_and_the_flags():
    """Catches a step that needs too much and ends in a traceback, or in advice with other numbers than the run's."""
    model = Greedy(4, 2)
    with pytest.raises(OutOfMemory) as caught:
        train(model, lighter=("--gradient_checkpointing", halved("--batch_size", 8)))
    assert str(caught.value) == ("out of memory in step 3.\nTurn down: --accumulate 2 (now 1): the same step in "
                                 "smaller parts; or --gradient_checkpointing; or --batch_size 4 (now 8)")
    with pytest.raises(OutOfMemory, match=r"in step 1\.\nTurn down: --accumulate 8 \(now 4\)"):
        train(Greedy(4, 2), accumulate=4)


def test_what_was_saved_before_stays(tmp_path):
    """Catches a checkpoint lost, or unfit to go on from, because a later step had too little memory."""
    toy = Toy()
    with RunFolder(tmp_path) as run:
        run.begin({})
        session = toy.session(run)
        with pytest.raises(OutOfMemory, match="in step 5"):
            toy.model.register_forward_pre_hook(lambda *_: torch.empty(TOO_MUCH) if toy.state.step == 4 else None)
            toy.fit(session)
    again = Toy()
    with RunFolder(tmp_path) as run:
        session = again.session(run)
        session.resume()
        assert again.state.step == 4
        again.fit(session)
    assert again.state.epoch == 3


def test_prediction_names_the_flags():
    """Catches a long text that ends evaluation in a traceback."""
    features = data()
    with pytest.raises(OutOfMemory, match=r"while evaluating, 8 texts of up to 4 tokens at once.\n.*--max_length 2"):
        predict(Greedy(4, 2), [list(range(8)), list(range(8, 16)), list(range(16, 22))][:2] * 2, features.collate,
                describe="evaluating")


LIMITED = """
import resource, torch
from pathlib import Path
from common import cli
from tests.training.test_memory import train
def main():
    model = torch.nn.Linear(4, 2)
    model.register_forward_pre_hook(lambda module, inputs: [torch.ones(1 << 20) for _ in range(1 << 10)])
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20),) * 2)
    train(model)
cli.run(main)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
def test_a_process_with_little_memory(root):
    """Catches a real shortage, a little at a time, that ends otherwise than one request for an exabyte."""
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, cwd=root,
                          env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: out of memory in step 1.\nTurn down: --accumulate 2 (now 1)")
    assert len(done.stderr.splitlines()) == 2
