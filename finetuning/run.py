"""How classifier.py's rooms are put together: every task asked for, one after another, then the closing table."""

import contextlib
import math
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from common import cli
from common.errors import Stopped, UserError
from common.student_files import explain_student_errors
from common.terminal import say
from data.batching import epoch_order
from data.inspect import report, unknown_script
from data.tasks import Loaded, Task
from data.tokenizer import Tokenizer
from finetuning.features import Split, read_splits, with_features
from finetuning.model import Engine, Model, make_model
from finetuning.recipes import Recipe
from finetuning.results import (
    Result,
    closing_table,
    labels_left_out,
    majority_class,
    no_better,
    tfidf_logistic_regression,
    write_model,
    write_predictions,
    write_table,
)
from finetuning.settings import Settings, prediction_file, table_file
from finetuning.trial import LONG, TIMED, WARM_UP, Clock, Trial, duration, find_rate, memory
from models import pretrained
from models.config import GPT2Config
from models.heads import SCORE, heads, read_score
from models.hub import HubUnreachable, some
from training.evaluate import Score, score
from training.loop import (
    Diverged,
    Feed,
    Objective,
    TrainState,
    balanced_weights,
    classification,
    fit,
    weighted_classification,
)
from training.machine import CPU, Machine, deterministic
from training.memory import OutOfMemory, explain_out_of_memory, keep_freed_memory
from training.parallel.process_group import DeviceError, process_group
from training.parallel.sharding import shard
from training.runs.run_folder import NoRunFolder, RunFolder, RunFolderError
from training.runs.session import OtherRun, Session
from training.runs.stop_signals import StopSignals
from training.runs.tensor_file import hash_tensors
from training.same_as_cpu import WrongDevice, logits, require_same
from training.schedule import make_scheduler

MODEL, PREDICTIONS = "model", "predictions"
"""Folders in a run's folder: what predict.py needs, and a copy of the prediction files."""
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
        if settings.inspect:
            return inspect(settings, folder)
        engine = Engine.choose(settings, machine)
        say(settings.which_defaults)
        say_what_is_left(settings, folder)
        stop = StopSignals(speak=group.is_main)
        results = []
        for task in settings.tasks():
            with advice_on_memory(settings, task), explain_out_of_memory("loading", "for the model"):
                result = run_task(settings, kind, task, folder, engine, machine, stop)
                results += [result] if result else []
        if results:
            say("\n" + closing_table(results, settings.fine_tune_mode))


def inspect(settings: Settings, folder: Path) -> None:
    """Say what the files of every task hold, as the model in `folder` would read them."""
    tokenizer, config = Tokenizer.load(folder), pretrained.read_config(folder)
    for task in settings.tasks():
        say(f"\n{task.name}")
        for line in report(settings.load(task), tokenizer, min(task.max_length, config.max_position_embeddings)):
            say(line)


def run_task(settings: Settings, kind: type[nn.Module], task: Task, folder: Path, engine: Engine, machine: Machine,
             stop: StopSignals) -> Result | None:
    """Train on one task, predict with the best epoch's weights, and say how good they are; None if asked not to."""
    recipe, group = settings.recipe(task), machine.group
    say(f"\n{task.name}, {settings.fine_tune_mode}: {recipe.epochs} epochs, batches of {recipe.batch_size}, "
        f"learning rate {recipe.lr:g} ({recipe.schedule}), on {machine}")

    # What the files hold.
    loaded = settings.load(task)
    task = loaded.task
    for note in loaded.notes:
        say(note)

    # Model and texts.
    torch.manual_seed(settings.seed)
    config = pretrained.read_config(folder)
    tokenizer = Tokenizer.load(folder)
    if len(tokenizer) > config.vocab_size:
        raise UserError(f"{folder}: its tokenizer has {len(tokenizer)} tokens, its model only {config.vocab_size}")
    model = make_model(kind, settings, task, recipe, folder, engine)
    task = replace(task, max_length=min(task.max_length, config.max_position_embeddings))
    splits = read_splits(task, tokenizer, task.max_length, loaded.examples)
    if splits["train"].cut or splits["dev"].cut:
        say("the bag of words in the closing table reads these texts whole")
    if task.own and (line := unknown_script(splits["train"].texts, tokenizer, task.lowercase)):
        say(line)

    # What must be the same for a run to be the same run.
    identity = identity_of(settings, loaded, task, recipe, model, config, tokenizer, splits, engine, machine)
    if settings.keep_head:
        identity["head"] = hash_tensors({SCORE: read_score(folder)[0]})
    group.require_same(identity)
    group.separate_streams()

    # What training will need; and the device must compute what the CPU does.
    data, objective = splits["train"], objective_of(settings, splits["train"], task)
    feed = feed_of(settings, recipe, data)
    compare = machine.device.type != "cpu" and not settings.shard
    if not settings.shard:
        longest = data.dataset.collate([max(range(len(data.examples)), key=data.dataset.lengths.__getitem__)])
        rows = math.ceil(recipe.batch_size / settings.accumulate / group.size)
        say(memory(model, longest, rows, objective, machine))
    if compare:
        first = data.dataset.collate(feed.order(0)[0])
        expected = logits(model.classifier, first, Machine(CPU))

    # Onto the device.
    if settings.shard:
        shard(model.gpt if model.features_will_do else model.classifier, machine.device)
    model.classifier.to(machine.device)
    if compare:
        require_same(expected, logits(model.classifier, first, machine), machine)
    if settings.plan or settings.lr == "find":
        return try_out(settings, recipe, task, model, splits, engine, objective, machine)

    path = settings.out / f"{task.name}-{settings.fine_tune_mode}"
    with (RunFolder if group.is_main else NoRunFolder)(path, folders=(MODEL, PREDICTIONS)) as run:
        # A new run, or the rest of one.
        resume = group.broadcast_from_main(lambda: settings.resume and run.has_checkpoint())
        if settings.resume and not resume:
            say(f"{run.path} holds no checkpoint to resume from: starting anew", error=True)
        if not resume:
            run.begin({"settings": asdict(settings), "task": asdict(task), "identity": identity})

        # A frozen backbone has done its work once every text has its vector.
        if model.features_will_do:
            splits = with_features(splits, model.gpt, model.code, machine, settings.out / "features")
            model.use_features()

        # Train.
        classifier, train_split, dev = model.classifier, splits["train"], splits["dev"]
        optimizer = engine.optimizer(model.parameter_groups(recipe), lr=recipe.lr, weight_decay=settings.weight_decay)
        batches = math.ceil(len(train_split.examples) / recipe.batch_size)
        end = TrainState(epoch=recipe.epochs, batch=batches, step=recipe.epochs * batches)
        session = Session(run, classifier, optimizer,
                          make_scheduler(optimizer, recipe.schedule, recipe.warmup, end.step), TrainState(),
                          identity=identity, end=end, stop=stop, save_minutes=settings.save_minutes,
                          save_steps=settings.save_steps, group=group)
        if resume:
            session.resume()
        train(settings, recipe, classifier, splits, session, machine, objective)

        # Predict with the best epoch's weights.
        folders = (settings.predictions, run.path / PREDICTIONS)
        scores = {name: write_split(settings, task, name, splits[name], classifier, machine, folders)
                  for name in ("dev", "test") if name in splits}
        write_model(run.path / MODEL, settings, task, recipe, model, config, tokenizer, machine)
        result = Result(task.name, majority_class(train_split.labels, dev.labels),
                        tfidf_logistic_regression(train_split.texts, train_split.labels, dev.texts, dev.labels),
                        scores["dev"], session.best_epoch, scores.get("test"))
        run.finish(asdict(result))
    if line := no_better(result.run, result.majority):
        say(line)
    return result


def objective_of(settings: Settings, split: Split, task: Task) -> Objective:
    """The loss that the settings ask for."""
    if settings.class_weights == "none":
        return classification
    return weighted_classification(balanced_weights(split.labels, task.num_labels))


def feed_of(settings: Settings, recipe: Recipe, split: Split) -> Feed:
    """The batches of a split for training."""
    return Feed(lambda epoch: epoch_order(split.dataset.lengths, recipe.batch_size, settings.seed, epoch),
                split.dataset.collate, split.names)


def try_out(settings: Settings, recipe: Recipe, task: Task, model: Model, splits: dict[str, Split], engine: Engine,
            objective: Objective, machine: Machine) -> None:
    """Say how long an epoch takes, or which learning rate to take; the model is of no further use."""
    split = splits["train"]
    if model.features_will_do:
        started = time.perf_counter()
        split = with_features({"train": split}, model.gpt, model.code, machine, settings.out / "features")["train"]
        say(f"time: the backbone runs once over all texts, {duration(time.perf_counter() - started)} for train")
        model.use_features()
    trial = Trial(machine.group.wrap(model.classifier),
                  engine.optimizer(model.parameter_groups(recipe), lr=recipe.lr, weight_decay=settings.weight_decay),
                  feed_of(settings, recipe, split), objective, machine, settings.accumulate, settings.max_grad_norm)
    if settings.plan:
        clock = Clock(trial.feed.order, split.dataset.lengths)
        trial.run(WARM_UP + TIMED, clock.step)
        say(f"time: about {duration(clock.seconds)} an epoch of training, {recipe.epochs} epochs")
        return
    rate = find_rate(trial, settings.out / f"{task.name}-{settings.fine_tune_mode}-lr.png")
    say(f"the rate to take: --lr {rate:.1g}")


def identity_of(settings: Settings, loaded: Loaded, task: Task, recipe: Recipe, model: Model, config: GPT2Config,
                tokenizer: Tokenizer, splits: dict[str, Split], engine: Engine, machine: Machine) -> dict[str, Any]:
    """Everything that decides a run's results: a checkpoint of another identity is another run's."""
    identity = {"task": task.name, "mode": settings.fine_tune_mode, "recipe": decides(recipe), "seed": settings.seed,
                "weight decay": settings.weight_decay, "max_grad_norm": settings.max_grad_norm,
                "precision": machine.precision, "engine": engine.identity, "shape": asdict(config),
                "backbone": hash_tensors(model.gpt.state_dict()), "tokenizer": tokenizer.fingerprint,
                "texts": {name: split.dataset.fingerprint for name, split in splits.items() if name != "test"}}
    if loaded.decisions:
        identity |= {"files": loaded.decisions}
    if settings.class_weights != Settings.class_weights or settings.select_by != Settings.select_by:
        identity |= {"class weights": settings.class_weights, "best by": settings.select_by}
    return identity


def decides(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe decides how each step goes. A constant rate is the same however many epochs there will be."""
    constant = recipe.schedule == "constant" and not recipe.warmup
    return {name: value for name, value in asdict(recipe).items() if name != "epochs" or not constant}


def say_what_is_left(settings: Settings, folder: Path) -> None:
    """Say what of the model's folder is not used: the head of another class, or an output layer of its own."""
    left = [] if settings.random_backbone else [name for name in heads(folder)
                                                if not (settings.keep_head and name == SCORE)]
    if left:
        keep = "; --keep-head takes it" * (SCORE in left)
        say(f"{settings.backbone}: the backbone is taken, its head ({some(left)}) is left{keep}")


def train(settings: Settings, recipe: Recipe, model: nn.Module, splits: dict[str, Split], session: Session,
          machine: Machine, objective: Objective) -> None:
    """Train and leave the best epoch's weights in the model; every epoch is scored on dev and logged."""
    data, state = splits["train"], session.state

    def after_epoch() -> None:
        dev = score_split(splits["dev"], model, machine)
        session.end_epoch({"epoch": state.epoch, "step": state.step,
                           "train_loss": state.loss, "train_accuracy": state.accuracy,
                           "dev_accuracy": dev.accuracy, "dev_macro_f1": dev.macro_f1},
                          score=dev.accuracy if settings.select_by == "accuracy" else dev.macro_f1)
        say(f"epoch {state.epoch}/{recipe.epochs}: "
            f"training loss {state.loss:.3f}, training accuracy {state.accuracy:.3f}, "
            f"dev accuracy {dev.accuracy:.3f}, dev macro-F1 {dev.macro_f1:.3f}")

    feed = feed_of(settings, recipe, data)
    clock = Clock(feed.order, data.dataset.lengths)

    def after_step() -> None:
        known = clock.seconds is not None
        clock.step(state)
        if not known and clock.seconds is not None and clock.seconds > LONG:
            say(f"time: about {duration(clock.seconds)} an epoch of training")
        session.after_step()

    with session.training():
        fit(machine.group.wrap(model), session.optimizer, feed, objective, state, machine,
            epochs=recipe.epochs, scheduler=session.scheduler, accumulate=settings.accumulate,
            max_grad_norm=settings.max_grad_norm, after_step=after_step, after_epoch=after_epoch,
            describe="epoch")
    session.load_best()


def score_split(split: Split, model: nn.Module, machine: Machine) -> Score:
    """How good a model is on a labelled split."""
    return score(split.labels, split.predict(model, machine, "evaluating").argmax(dim=1).tolist())


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
        say(line)
    return None if None in split.labels else score(split.labels, labels)


def advice() -> contextlib.AbstractContextManager[None]:
    """Rooms say what is wrong; this adds the flag that mends it."""
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
    """What to do where a run folder holds a run of other settings."""
    if re.search(r"run: recipe\.epochs was [^;]*$", str(error)):
        return ("Only a run with a constant learning rate and no warmup can be trained longer: with another --schedule "
                "the number of epochs decides the rate of every step")
    return "Give the settings it was started with, or leave out --resume to begin a new run"


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
