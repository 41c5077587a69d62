"""Rooms say what is wrong; this adds which flag of classifier.py mends it."""

import contextlib
import re
from collections.abc import Iterator

from common import cli
from common.errors import Stopped
from data.tasks import Task
from finetuning.settings import Settings
from models.hub import HubUnreachable
from training.loop import Diverged
from training.memory import OutOfMemory
from training.parallel.process_group import DeviceError
from training.runs.run_folder import RunFolderError
from training.runs.session import OtherRun
from training.same_as_cpu import WrongDevice


def advice() -> contextlib.AbstractContextManager[None]:
    """Add the flag to every error that a run can end with, but for want of memory."""
    return cli.adding_advice({
        HubUnreachable: lambda error: "`classifier.py --quick` needs neither",
        WrongDevice: lambda error: "Use --device cpu, or another version of PyTorch",
        DeviceError: lambda error: "Use --device auto or --device cpu",
        Diverged: lambda error: "Usual causes: a learning rate that is too high (lower --lr, add --warmup or "
                                "--max_grad_norm 1), or damaged weights",
        OtherRun: other_run,
        RunFolderError: lambda error: "Choose another folder with --out",
        Stopped: lambda error: f"resume with the same command and --resume: {cli.same_command('--resume')}",
    })


def other_run(error: OtherRun) -> str:
    """Say what to do where a run folder holds a run of other settings."""
    if re.search(r"run: recipe\.epochs was [^;]*$", str(error)):
        return ("Only a run with a constant learning rate and no warmup can be trained longer: with another --schedule "
                "the number of epochs decides the rate of every step")
    return "Give the settings it was started with, or leave out --resume to begin a new run"


def advice_on_memory(settings: Settings, task: Task) -> contextlib.AbstractContextManager[None]:
    """Add what can be turned down to the error of a task that runs out of memory."""
    return cli.adding_advice({
        OutOfMemory: lambda error: f"Turn down: {'; or '.join(less_memory(settings, task, error))}"})


def less_memory(settings: Settings, task: Task, error: OutOfMemory) -> Iterator[str]:
    """Yield what makes a task need less memory in what it was doing, best first."""
    recipe, longest = settings.recipe(task), error.longest or 1
    if error.doing == "training":
        parts = min(2 * settings.accumulate, recipe.batch_size)
        if parts > settings.accumulate:
            yield f"--accumulate {parts} (now {settings.accumulate}): the same step in smaller parts"
        if not settings.gradient_checkpointing:
            yield "--gradient_checkpointing, which takes a third more time"
        if recipe.batch_size > 1:
            yield f"--batch_size {recipe.batch_size // 2} (now {recipe.batch_size})"
    if error.doing == "predicting" and longest > 1:
        yield f"--max_length {longest // 2} (now {longest})"
    yield "--model: a smaller one"
