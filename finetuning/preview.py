"""What can be seen without training: what the files hold, the time of an epoch, the learning rate to take."""

import time
from pathlib import Path

from common.terminal import say
from data.inspect import report
from data.tokenizer import Tokenizer
from finetuning.job import Job
from finetuning.settings import Settings
from finetuning.trial import TIMED, WARM_UP, Clock, Trial, duration, find_rate
from models import pretrained


def inspect(settings: Settings, folder: Path) -> None:
    """Say what the files of every task hold, as the model in `folder` would read them."""
    tokenizer, config = Tokenizer.load(folder), pretrained.read_config(folder)
    for task in settings.tasks():
        say(f"\n{task.name}")
        for line in report(settings.load(task), tokenizer, min(task.max_length, config.max_position_embeddings)):
            say(line)


def try_out(job: Job) -> None:
    """Say how long an epoch takes, or which learning rate to take; the job's model is of no further use."""
    settings = job.settings
    if job.model.features_will_do:
        started = time.perf_counter()
        job.use_features("train")
        say(f"time: the backbone runs once over all texts, {duration(time.perf_counter() - started)} for train")
    trial = Trial(job.machine.group.wrap(job.model.classifier), job.optimizer(), job.feed, job.objective, job.machine,
                  settings.accumulate, settings.max_grad_norm)
    if settings.plan:
        clock = Clock(trial.feed.order, job.splits["train"].dataset.lengths)
        trial.run(WARM_UP + TIMED, clock.step)
        each = f", each of {settings.seeds} seeds" if settings.seeds else ""
        say(f"time: about {duration(clock.seconds)} an epoch of training, {job.recipe.epochs} epochs{each}")
        return
    rate = find_rate(trial, settings.out / f"{job.task.name}-{settings.fine_tune_mode}-lr.png")
    say(f"the rate to take: --lr {rate:.1g}")
