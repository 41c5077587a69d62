"""How classifier.py's rooms are put together: every task asked for, one after another, then the closing table."""

import contextlib
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import torch
from torch import nn

from common import cli
from common.errors import Stopped, UserError
from common.student_files import explain_student_errors
from data.batching import epoch_order
from data.tasks import Task
from data.tokenizer import Tokenizer
from finetuning.features import Split, read_splits, with_features
from finetuning.model import Engine, make_model
from finetuning.recipes import Recipe
from finetuning.results import (
    Result,
    closing_table,
    majority_class,
    prediction_file,
    tfidf_logistic_regression,
    write_predictions,
)
from finetuning.settings import Settings
from models import pretrained
from models.hub import HubUnreachable
from training.evaluate import Score, score
from training.loop import Diverged, Feed, TrainState, classification, fit
from training.machine import Machine, deterministic
from training.memory import OutOfMemory, explain_out_of_memory, keep_freed_memory
from training.parallel.process_group import DeviceError, process_group
from training.parallel.sharding import shard
from training.runs.run_folder import NoRunFolder, RunFolder, RunFolderError
from training.runs.session import OtherRun, Session
from training.runs.stop_signals import StopSignals
from training.runs.tensor_file import hash_tensors
from training.schedule import make_scheduler

RESUME = "The last checkpoint is intact: start again with --resume, with as many processes as you like"


def main(settings: Settings, kind: type[nn.Module]) -> NoReturn:
    """Do what classifier.py is asked to do with the classifier `kind`; ends the process with its exit status."""
    cli.run(lambda: run(settings, kind))


def run(settings: Settings, kind: type[nn.Module]) -> None:
    """Fine-tune on every task asked for, one after another, then print the closing table."""
    keep_freed_memory()
    with advice(), explain_student_errors(), process_group(RESUME) as group:
        if settings.shard and group.size == 1:
            raise UserError("--shard divides a model among processes: start them with torchrun --nproc_per_node N")
        machine = Machine.choose("cuda" if settings.use_gpu else settings.device, settings.precision, group)
        deterministic(settings.deterministic)
        folder = pretrained.resolve(settings.backbone, settings.revision)
        engine = Engine.choose(settings, machine)
        stop = StopSignals(speak=group.is_main)
        results = []
        for task in settings.tasks():
            with advice_on_memory(settings, task), explain_out_of_memory("loading", "for the model"):
                results.append(run_task(settings, kind, task, folder, engine, machine, stop))
        print("\n" + closing_table(results, settings.fine_tune_mode))


def run_task(settings: Settings, kind: type[nn.Module], task: Task, folder: Path, engine: Engine, machine: Machine,
             stop: StopSignals) -> Result:
    """Train on one task, predict with the best epoch's weights, and say how good they are."""
    recipe, group = settings.recipe(task), machine.group
    print(f"\n{task.name}, {settings.fine_tune_mode}: {recipe.epochs} epochs, batches of {recipe.batch_size}, "
          f"learning rate {recipe.lr:g} ({recipe.schedule}), on {machine}", flush=True)

    # Model and texts.
    torch.manual_seed(settings.seed)
    config = pretrained.read_config(folder)
    tokenizer = Tokenizer.load(folder)
    if len(tokenizer) > config.vocab_size:
        raise UserError(f"{folder}: its tokenizer has {len(tokenizer)} tokens, its model only {config.vocab_size}")
    model = make_model(kind, settings, task, recipe, folder, engine)
    splits = read_splits(task, tokenizer, min(task.max_length, config.max_position_embeddings))

    # What must be the same for a run to be the same run.
    identity = {"task": task.name, "mode": settings.fine_tune_mode, "recipe": asdict(recipe), "seed": settings.seed,
                "weight decay": settings.weight_decay, "max_grad_norm": settings.max_grad_norm,
                "precision": machine.precision, "engine": engine.identity, "shape": asdict(config),
                "backbone": hash_tensors(model.gpt.state_dict()), "tokenizer": tokenizer.fingerprint,
                "texts": {name: split.dataset.fingerprint for name, split in splits.items()}}
    group.require_same(identity)
    group.separate_streams()

    # Onto the device.
    if settings.shard:
        shard(model.gpt if model.features_will_do else model.classifier, machine.device)
    model.classifier.to(machine.device)

    with (RunFolder if group.is_main else NoRunFolder)(settings.out / f"{task.name}-{settings.fine_tune_mode}") as run:
        # A new run, or the rest of one.
        resume = group.broadcast_from_main(lambda: settings.resume and run.has_checkpoint())
        if settings.resume and not resume:
            print(f"{run.path} holds no checkpoint to resume from: starting anew", file=sys.stderr)
        if not resume:
            run.begin({"settings": asdict(settings), "task": asdict(task), "identity": identity})

        # A frozen backbone has done its work once every text has its vector.
        if model.features_will_do:
            splits = with_features(splits, model.gpt, model.code, machine, settings.out / "features")
            model.use_features()

        # Train.
        classifier, train_split, dev = model.classifier, splits["train"], splits["dev"]
        optimizer = engine.optimizer(model.parameter_groups(recipe), lr=recipe.lr, weight_decay=settings.weight_decay)
        steps = recipe.epochs * math.ceil(len(train_split.examples) / recipe.batch_size)
        session = Session(run, classifier, optimizer,
                          make_scheduler(optimizer, recipe.schedule, recipe.warmup, steps), TrainState(),
                          identity=identity, stop=stop, save_minutes=settings.save_minutes,
                          save_steps=settings.save_steps, group=group)
        if resume:
            session.resume()
        train(settings, recipe, classifier, splits, session, machine)

        # Predict with the best epoch's weights.
        predicted = {name: write_split(settings, task, name, splits[name], classifier, machine)
                     for name in ("dev", "test") if name in splits}
        result = Result(task.name, majority_class(train_split.labels, dev.labels),
                        tfidf_logistic_regression(train_split.texts, train_split.labels, dev.texts, dev.labels),
                        score(dev.labels, predicted["dev"]), session.best_epoch)
        run.finish(asdict(result))
    return result


def train(settings: Settings, recipe: Recipe, model: nn.Module, splits: dict[str, Split], session: Session,
          machine: Machine) -> None:
    """Train and leave the best epoch's weights in the model; every epoch is scored on dev and logged."""
    data, state = splits["train"], session.state

    def after_epoch() -> None:
        dev = score_split(splits["dev"], model, machine)
        session.end_epoch({"epoch": state.epoch, "step": state.step,
                           "train_loss": state.loss, "train_accuracy": state.accuracy,
                           "dev_accuracy": dev.accuracy, "dev_macro_f1": dev.macro_f1}, score=dev.accuracy)
        print(f"epoch {state.epoch}/{recipe.epochs}: "
              f"training loss {state.loss:.3f}, training accuracy {state.accuracy:.3f}, "
              f"dev accuracy {dev.accuracy:.3f}, dev macro-F1 {dev.macro_f1:.3f}", flush=True)

    feed = Feed(lambda epoch: epoch_order(data.dataset.lengths, recipe.batch_size, settings.seed, epoch),
                data.dataset.collate, data.names)
    with session.training():
        fit(machine.group.wrap(model), session.optimizer, feed, classification, state, machine,
            epochs=recipe.epochs, scheduler=session.scheduler, accumulate=settings.accumulate,
            max_grad_norm=settings.max_grad_norm, after_step=session.after_step, after_epoch=after_epoch,
            describe="epoch")
    session.load_best()


def score_split(split: Split, model: nn.Module, machine: Machine) -> Score:
    """How good a model is on a labelled split."""
    return score(split.labels, split.predict(model, machine, "evaluating").argmax(dim=1).tolist())


def write_split(settings: Settings, task: Task, name: str, split: Split, model: nn.Module,
                machine: Machine) -> list[int]:
    """Predict a split and write the labels to its prediction file; returns them."""
    labels = split.predict(model, machine, f"predicting {name}").argmax(dim=1).tolist()
    path = prediction_file(settings.predictions, settings.fine_tune_mode, task.name, name)
    if machine.group.is_main:
        write_predictions(path, [example.id for example in split.examples], labels)
    print(f"{len(labels)} predictions in {path}")
    return labels


def advice() -> contextlib.AbstractContextManager[None]:
    """Rooms say what is wrong; this adds the flag that mends it."""
    return cli.adding_advice({
        HubUnreachable: lambda error: "`classifier.py --quick` needs neither",
        DeviceError: lambda error: "Use --device auto or --device cpu",
        Diverged: lambda error: "Usual causes: a learning rate that is too high (lower --lr, add --warmup or "
                                "--max_grad_norm 1), or damaged weights",
        OtherRun: lambda error: "Give the settings it was started with, or leave out --resume to begin a new run",
        RunFolderError: lambda error: "Choose another folder with --out",
        Stopped: lambda error: f"resume with the same command and --resume: {cli.same_command('--resume')}",
    })


def advice_on_memory(settings: Settings, task: Task) -> contextlib.AbstractContextManager[None]:
    """The same for a task that runs out of memory; its recipe says what can be turned down."""
    return cli.adding_advice({
        OutOfMemory: lambda error: f"Turn down: {'; or '.join(less_memory(settings, task, error))}"})


def less_memory(settings: Settings, task: Task, error: OutOfMemory) -> Iterator[str]:
    """What makes a task need less memory in what it was doing, best first."""
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
