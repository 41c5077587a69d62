"""Devices and precisions by name; and no room of training/ names a flag, since it serves scripts with other flags."""

import dataclasses
import os
import subprocess
import sys

import pytest
import torch

import finetuning.settings
import pretraining.settings
from training.machine import Machine, choose_device, choose_precision, deterministic
from training.parallel.process_group import DeviceError, Group


class SeveralProcesses(Group):
    """A group that shares out the devices of a machine that has none."""

    def own_device(self, device):
        raise DeviceError(f"no {device} is left")


def test_a_device_that_is_not_there(monkeypatch):
    """Catches a traceback from PyTorch, and 'auto' that chooses what is not there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"^there is no cuda device here"):
        choose_device("cuda")
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(DeviceError, match="no cpu is left"):
        Machine.choose("cpu", "auto", SeveralProcesses(0, 2))


@pytest.mark.parametrize("there, name, precision", [
    ("cuda", "cuda", "bfloat16"), ("mps", "mps", "float32"), ("cuda mps", "cuda", "bfloat16")])
def test_auto_takes_the_best_there_is(monkeypatch, there, name, precision):
    """Catches a CPU chosen beside an accelerator, and bfloat16 where it gains nothing."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in there)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in there)
    assert choose_device("auto") == torch.device(name)
    assert choose_precision("auto", torch.device(name)) == precision
    assert choose_precision("float32", torch.device(name)) == "float32"


def test_autocast_computes_in_the_precision():
    """Catches a precision that is announced but not used."""
    layer, x = torch.nn.Linear(2, 2), torch.ones(1, 2)
    for precision in ("float32", "bfloat16"):
        machine = Machine(precision=precision)
        with machine.autocast():
            assert layer(x).dtype == getattr(torch, precision)
        assert str(machine) == f"cpu in {precision}"


def test_deterministic_can_be_switched_on_and_off(monkeypatch):
    """Catches a switch that stays on for the tests after it, or does nothing, or fails on CUDA with older PyTorch."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is as before, afterwards
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    try:
        deterministic(True)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()


def test_no_room_of_training_names_a_flag(root):
    """Catches a message or comment that tells users of one script about the flags of another."""
    flags = {"--" + field.name.replace("_", separator) for separator in "_-"
             for module in (finetuning.settings, pretraining.settings) for field in dataclasses.fields(module.Settings)}
    assert {"--resume", "--out", "--lr", "--device"} <= flags
    files = list((root / "training").rglob("*.py"))
    assert len(files) > 10
    for path in files:
        assert [flag for flag in flags if flag in path.read_text("utf-8")] == [], path


def test_the_compiler_is_left_out():
    """Catches: a second and a half of imports that no run needs, at the start of each; or an optimizer that computes
    something else without them.
    """
    code = """
import sys
import torch
from optimizer import AdamW
from training.machine import leave_compiler_out
leave_compiler_out()
weight = torch.nn.Parameter(torch.ones(2))
optimizer = AdamW([weight], lr=0.5)
weight.grad = torch.ones(2)
optimizer.step()
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
print([round(p, 4) for p in weight.tolist()], weight.grad, "torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[0.5, 0.5] None False\n"
