"""How classifier.py's rooms are put together: every task asked for, one after another, then the closing table."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import fill
from typing import NoReturn

from torch import nn

from common import cli
from common.errors import UserError
from common.student_files import explain_student_errors
from common.terminal import say
from data.tasks import Task
from finetuning.advice import advice, advice_on_memory
from finetuning.epochs import Epochs, events, say_curve
from finetuning.features import Split
from finetuning.job import Job, prepare
from finetuning.model import Engine
from finetuning.page import make_page
from finetuning.preview import inspect, try_out
from finetuning.results import (
    Result,
    closing_table,
    copy_predictions,
    finished,
    labels_left_out,
    majority_class,
    no_better,
    tfidf_logistic_regression,
    write_epoch,
    write_examples,
    write_model,
    write_predictions,
    write_table,
)
from finetuning.settings import Settings, prediction_file, table_file
from finetuning.trial import LONG, Clock, duration
from models import pretrained
from models.heads import SCORE, heads
from models.hub import some
from training.evaluate import Score, score
from training.loop import TrainState, fit
from training.machine import Machine, deterministic, leave_compiler_out
from training.memory import explain_out_of_memory, keep_freed_memory
from training.parallel.process_group import process_group
from training.runs.run_folder import NoRunFolder, RunFolder
from training.runs.session import Session
from training.runs.stop_signals import StopSignals
from training.schedule import make_scheduler

MODEL, PREDICTIONS, DEV, EVENTS = "model", "predictions", "dev", "tensorboard"
"""Folders in a run's folder: what predict.py needs, a copy of the prediction files, dev's texts with the logits that
each epoch gave for them, which `report` reads, and events for TensorBoard."""
RESUME = "The last checkpoint is intact: start again with --resume, with as many processes as you like"


def main(settings: Settings, kind: type[nn.Module]) -> NoReturn:
    """Do what classifier.py is asked to do with the classifier `kind`; ends the process with its exit status."""
    def whole() -> None:
        folders = run(settings, kind)
        if settings.report:
            make_page(folders)

    cli.run(whole)


def run(settings: Settings, kind: type[nn.Module]) -> list[Path]:
    """Fine-tune on every task asked for, then print the closing table. Returns the folders of the finished runs.

    The list is empty where nothing was to be trained, and in every process but the first.
    """
    keep_freed_memory()
    leave_compiler_out()
    with advice(), explain_student_errors(), process_group(RESUME) as group:
        # Where it runs, and from which model.
        if settings.shard and group.size == 1:
            raise UserError("--shard divides a model among processes: start them with torchrun --nproc_per_node N")
        machine = Machine.choose("cuda" if settings.use_gpu else settings.device, settings.precision, group)
        deterministic(settings.deterministic)
        folder = pretrained.resolve(settings.backbone, settings.revision)
        if settings.inspect:
            inspect(settings, folder)
            return []
        engine = Engine.choose(settings, machine)
        say(settings.which_defaults)
        say_what_is_left(settings, folder)

        # Train.
        stop, tasks = StopSignals(speak=group.is_main), settings.tasks()
        results = []
        for task in tasks:
            with advice_on_memory(settings, task), explain_out_of_memory("loading", "for the model"):
                results.append(run_task(settings, kind, task, folder, engine, machine, stop))
        if not all(results):
            return []
        say("\n" + closing_table(results, settings.fine_tune_mode))
        return [settings.folder_of(task.name) for task in tasks] if group.is_main else []


def say_what_is_left(settings: Settings, folder: Path) -> None:
    """Say what of the model's folder is not used: the head of another class, or an output layer of its own."""
    left = [] if settings.random_backbone else [name for name in heads(folder)
                                                if not (settings.keep_head and name == SCORE)]
    if left:
        keep = "; --keep-head takes it" * (SCORE in left)
        say(f"{settings.backbone}: the backbone is taken, its head ({some(left)}) is left{keep}")


def run_task(settings: Settings, kind: type[nn.Module], task: Task, folder: Path, engine: Engine, machine: Machine,
             stop: StopSignals) -> list[Result]:
    """Train on one task, once for each seed. Returns no result if nothing was to be trained."""
    results: list[Result] = []
    loaded, recipe = settings.load(task), settings.recipe(task)
    for one in settings.each_seed():
        which = f"seed {one.seed}: " if settings.seeds else ""
        say("\n" + fill(f"{task.name}, {settings.fine_tune_mode}: {which}{recipe.epochs} epochs, batches of "
                        f"{recipe.batch_size}, learning rate {recipe.lr:g} ({recipe.schedule}), on {machine}",
                        79, subsequent_indent="  ", break_on_hyphens=False))
        for note in loaded.notes if not results else ():
            say(note)
        job = prepare(one, kind, loaded, folder, engine, machine)
        if settings.plan or settings.lr == "find":
            try_out(job)
            break
        results.append(complete(job, stop, first=not results))
    return results


def complete(job: Job, stop: StopSignals, first: bool) -> Result:
    """Train in the run's folder, or go on there, and say how good the best epoch's weights are.

    first: of several seeds; its predictions are also those in --predictions.
    """
    settings, group = job.settings, job.machine.group
    path, fingerprint = settings.run_folder(job.task.name), job.fingerprint()
    with (RunFolder if group.is_main else NoRunFolder)(path, folders=(MODEL, PREDICTIONS, DEV, EVENTS)) as run:
        # One of several seeds that is there already.
        resume = group.broadcast_from_main(lambda: settings.resume and run.has_checkpoint())
        result = resume and settings.seeds and group.broadcast_from_main(
            lambda: finished(path / "result.json", fingerprint))
        if result:
            say(f"finished before, in {path}: taken as it is")
            if group.is_main and first:
                copy_predictions(path / PREDICTIONS, settings.predictions)
            return Result.read(result)

        # A new run, or the rest of one.
        if settings.resume and not resume and not settings.seeds:
            say(f"{run.path} holds no checkpoint to resume from: starting anew", error=True)
        if not resume:
            run.begin({"settings": asdict(settings), "task": asdict(job.task), "identity": job.identity})

        # A frozen backbone has done its work once every text has its vector.
        if job.model.features_will_do:
            job.use_features(*job.splits)

        session = make_session(job, run, stop)
        if resume:
            session.resume()
        train(job, session)
        if group.is_main:
            say_curve(run.path / "log.jsonl")
        folders = (settings.predictions, path / PREDICTIONS) if first else (path / PREDICTIONS,)
        result = write_results(job, run, folders, session.best_epoch)
        run.finish(asdict(result) | {"fingerprint": fingerprint})
    if line := no_better(result.run, result.majority):
        say(line, style="warning")
    return result


def make_session(job: Job, run: RunFolder, stop: StopSignals) -> Session:
    """Make the optimizer and the schedule, and what saves and restores them together with the model."""
    recipe, settings = job.recipe, job.settings
    optimizer = job.optimizer()
    batches = math.ceil(len(job.splits["train"].examples) / recipe.batch_size)
    end = TrainState(epoch=recipe.epochs, batch=batches, step=recipe.epochs * batches)
    return Session(run, job.model.classifier, optimizer,
                   make_scheduler(optimizer, recipe.schedule, recipe.warmup, end.step), TrainState(),
                   identity=job.identity, end=end, stop=stop, save_minutes=settings.save_minutes,
                   save_steps=settings.save_steps, group=job.machine.group)


def train(job: Job, session: Session) -> None:
    """Train and leave the best epoch's weights in the model; every epoch is scored on dev and logged."""
    settings, machine, model, dev = job.settings, job.machine, job.model.classifier, job.splits["dev"]
    state, feed, epochs = session.state, job.feed, Epochs(job.recipe.epochs, settings.select_by)
    epochs.best = session.best and session.best["score"]
    clock = Clock(feed.order, job.splits["train"].dataset.lengths)

    def after_step() -> None:
        known = clock.seconds is not None
        clock.step(state)
        if not known and clock.seconds is not None and clock.seconds > LONG:
            say(f"time: about {duration(clock.seconds)} an epoch of training")
        session.after_step()

    def after_epoch() -> None:
        logits = dev.predict(model, machine, "evaluating")
        found = score(dev.labels, logits.argmax(dim=1).tolist())
        record = {"epoch": state.epoch, "step": state.step, "train_loss": state.loss, "train_accuracy": state.accuracy,
                  "dev_accuracy": found.accuracy, "dev_macro_f1": found.macro_f1}
        if machine.group.is_main:  # before the checkpoint: an epoch that is not trained again must have them
            write_epoch(session.run.path / DEV, state.epoch, logits)
            write_event(record)
        session.end_epoch(record, score=epochs.score(record))
        epochs.tell(record)

    place = session.run.path / EVENTS if settings.tensorboard and machine.group.is_main else None
    with events(place, state.epoch) as write_event, session.training():
        fit(machine.group.wrap(model), session.optimizer, feed, job.objective, state, machine,
            epochs=job.recipe.epochs, scheduler=session.scheduler, accumulate=settings.accumulate,
            max_grad_norm=settings.max_grad_norm, after_step=after_step, after_epoch=after_epoch,
            describe="epoch", beside_bar=epochs.beside_bar)
    session.load_best()


def write_results(job: Job, run: RunFolder, folders: Sequence[Path], best_epoch: int) -> Result:
    """Write what the model predicts, the model itself, and what dev's texts are like; return how good it is.

    folders: for the prediction files.
    """
    # What it predicts.
    settings, task, train, dev = job.settings, job.task, job.splits["train"], job.splits["dev"]
    scores = {name: write_split(settings, task, name, job.splits[name], job.model.classifier, job.machine, folders)
              for name in ("dev", "test") if name in job.splits}
    write_model(run.path / MODEL, job)

    # What it is compared with.
    majority = majority_class(train.labels, len(dev.texts))
    tfidf = tfidf_logistic_regression(train.texts, train.labels, dev.texts)
    if job.machine.group.is_main:
        write_examples(run.path / DEV, dev.examples, train.texts, job.lengths, majority, tfidf)
    return Result(task.name, score(dev.labels, majority), score(dev.labels, tfidf), scores["dev"], best_epoch,
                  scores.get("test"))


def write_split(settings: Settings, task: Task, name: str, split: Split, model: nn.Module, machine: Machine,
                folders: Sequence[Path]) -> Score | None:
    """Predict a split and write its prediction files into some folders; how good they are, if the split has labels."""
    logits = split.predict(model, machine, f"predicting {name}")
    labels, ids = logits.argmax(dim=1).tolist(), split.names(range(len(split.examples)))
    place = (settings.fine_tune_mode, task.name, name)
    for folder in folders if machine.group.is_main else ():
        write_predictions(prediction_file(folder, *place), ids, labels)
        write_table(table_file(folder, *place), ids, logits, task.names)
    say(f"{len(labels)} predictions in {prediction_file(folders[0], *place)}")
    if name == "dev" and (line := labels_left_out(labels, split.labels, task.names)):
        say(line, style="warning")
    return None if None in split.labels else score(split.labels, labels)
