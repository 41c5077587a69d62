"""Too little memory is told in one line, for the real errors of PyTorch's and Python's allocators; peaks are right."""

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
from tests.training.toy import N, Toy, Unmasked
from training.evaluate import predict
from training.loop import Feed, TrainState, classification, fit
from training.machine import Machine
from training.memory import OutOfMemory, explain_out_of_memory, peak_memory, recompute_in_backward
from training.runs.run_folder import RunFolder

TOO_MUCH = 1 << 60


class Greedy(nn.Linear):
    """Asks for an exabyte from its third call on."""

    calls = 0

    def forward(self, x, mask=None):
        self.calls += 1
        if self.calls > 2:
            torch.empty(TOO_MUCH)
        return super().forward(x)


def data() -> FeatureDataset:
    return FeatureDataset(torch.randn(N, 4), torch.zeros(N, dtype=torch.int64))


def train(model: nn.Module, accumulate: int = 1) -> TrainState:
    state, features = TrainState(), data()
    feed = Feed(lambda epoch: [list(range(8)), list(range(8, 16)), list(range(16, 22))], features.collate)
    fit(model, AdamW(model.parameters(), lr=0.01), feed, classification, state, Machine(), epochs=1,
        accumulate=accumulate)
    return state


ERRORS = {
    "the CPU's": lambda: torch.empty(TOO_MUCH),
    "Python's": lambda: bytearray(TOO_MUCH),
    "NumPy's": lambda: np.empty(TOO_MUCH, np.uint8),
    "CUDA's": lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("Allocation on device 0 would exceed it")),
    "MPS's": lambda: (_ for _ in ()).throw(RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)")),
    "an import's": lambda: (_ for _ in ()).throw(ImportError("x.so: failed to map segment from shared object")),
    "the system's": lambda: (_ for _ in ()).throw(OSError(12, "Cannot allocate memory")),
    "cuBLAS's": lambda: (_ for _ in ()).throw(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling")),
}


@pytest.mark.parametrize("whose", ERRORS)
def test_every_allocator_is_understood(whose):
    """Catches an error that means too little memory and reaches the user as a traceback."""
    with pytest.raises(OutOfMemory) as caught, explain_out_of_memory("training", "in step 3"):
        ERRORS[whose]()
    memory = "GPU memory" if whose == "CUDA's" else "memory"
    assert str(caught.value) == f"out of {memory} in step 3" and caught.value.doing == "training"
    assert isinstance(caught.value, UserError)


def test_other_errors_stay_what_they_are():
    """Catches bugs that are told as too little memory; and an error from further in replaced by one that knows less."""
    with pytest.raises(RuntimeError, match="shapes"), explain_out_of_memory("training", "in step 3"):
        torch.ones(2, 3) @ torch.ones(2, 3)
    with pytest.raises(OutOfMemory, match="inner") as caught, explain_out_of_memory("loading", "outer"), \
            explain_out_of_memory("training", "inner"):
        torch.empty(TOO_MUCH)
    assert caught.value.doing == "training"


def test_training_names_the_step():
    """Catches a step that needs too much and ends in a traceback, or in another step's number."""
    with pytest.raises(OutOfMemory) as caught:
        train(Greedy(4, 2))
    assert (str(caught.value), caught.value.doing) == ("out of memory in step 3", "training")
    with pytest.raises(OutOfMemory, match=r"in step 1$"):
        train(Greedy(4, 2), accumulate=4)


def test_what_was_saved_before_stays(tmp_path):
    """Catches a checkpoint lost, or unfit to resume from, because a later step had too little memory."""
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


def test_prediction_names_the_batch():
    """Catches a long text that ends evaluation in a traceback."""
    features = data()
    with pytest.raises(OutOfMemory, match=r"while evaluating, 8 texts of up to 4 tokens at once$") as caught:
        predict(Greedy(4, 2), [list(range(8)), list(range(8, 16)), list(range(16, 22))][:2] * 2, features.collate,
                Machine(), describe="evaluating")
    assert caught.value.doing == "predicting"


LIMITED = """
import resource, torch
from pathlib import Path
from common import cli
from tests.training.test_memory import train
from tests.training.toy import Unmasked
def main():
    model = Unmasked(torch.nn.Linear(4, 2))
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
    assert done.stderr == "error: out of memory in step 1\n"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell")
def test_the_peak_stays_when_memory_is_freed():
    """Catches KB or bytes for MB, and the memory held now in place of the most that was held."""
    before = peak_memory()
    size = round(before + 100)  # MB; more than earlier tests held
    tensor = torch.ones(size * 10**6, dtype=torch.uint8)
    held = peak_memory()
    del tensor
    assert size < held < before + size + 200
    assert peak_memory() > held - 10  # Linux counts in batches of pages, which it may not have added up yet


def test_recomputing_changes_no_gradient():
    """Catches a module that computes once, or twice with other dropout, and one that computes twice to evaluate."""
    gradients, calls = [], []
    for recompute in (False, True):
        torch.manual_seed(3)
        block = Unmasked(nn.Linear(4, 4), nn.Dropout(0.5), nn.Tanh(), nn.Linear(4, 2))
        block[0].register_forward_hook(lambda *_: calls.append(1))
        if recompute:
            recompute_in_backward(block)
        with torch.no_grad():
            block(torch.ones(3, 4))
        assert len(calls) == 1
        block(torch.ones(3, 4), mask=None).sum().backward()
        assert len(calls) == 2 + recompute
        calls.clear()
        gradients.append([parameter.grad for parameter in block.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
