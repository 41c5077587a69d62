"""A run before its folder is opened: its texts, its model, and all that decides what comes of it."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.errors import UserError
from common.terminal import say
from data.batching import epoch_order
from data.inspect import unknown_script
from data.tasks import Loaded, Task
from data.tokenizer import Tokenizer
from finetuning.features import Split, read_splits, with_features
from finetuning.model import Engine, Model, make_model
from finetuning.recipes import Recipe
from finetuning.settings import Settings
from finetuning.trial import memory
from models import pretrained
from models.config import GPT2Config
from models.heads import SCORE, read_score
from training.loop import Feed, Objective, balanced_weights, classification, weighted_classification
from training.machine import CPU, Machine
from training.parallel.sharding import shard
from training.runs.tensor_file import hash_tensors
from training.same_as_cpu import logits, require_same


@dataclass
class Job:
    """One run of one task and seed, ready to be trained."""

    settings: Settings  # with the seed of this run
    task: Task
    recipe: Recipe
    tokenizer: Tokenizer
    config: GPT2Config
    model: Model
    splits: dict[str, Split]  # train, dev, perhaps test
    engine: Engine
    machine: Machine
    identity: dict[str, Any]  # everything that decides how training goes
    lengths: Sequence[int]  # of the texts of dev, in tokens

    @property
    def objective(self) -> Objective:
        """The loss that the settings ask for."""
        if self.settings.class_weights == "none":
            return classification
        return weighted_classification(balanced_weights(self.splits["train"].labels, self.task.num_labels))

    @property
    def feed(self) -> Feed:
        """The batches to train on."""
        train, seed = self.splits["train"], self.settings.seed
        return Feed(lambda epoch: epoch_order(train.dataset.lengths, self.recipe.batch_size, seed, epoch),
                    train.dataset.collate, train.names)

    def optimizer(self) -> torch.optim.Optimizer:
        """Make the AdamW that trains the model."""
        groups = self.model.parameter_groups(self.recipe)
        return self.engine.optimizer(groups, lr=self.recipe.lr, weight_decay=self.settings.weight_decay)

    def use_features(self, *names: str) -> None:
        """Run the frozen backbone once over some splits; from now on each text is its stored vector."""
        chosen = {name: self.splits[name] for name in names}
        self.splits |= with_features(chosen, self.model.gpt, self.model.code, self.machine,
                                     self.settings.out / "features")
        self.model.use_features()

    def fingerprint(self) -> str:
        """Return a hash of everything that the run's results come from: also its length and what it predicts."""
        asked = {name: [split.dataset.fingerprint, split.names(range(len(split.examples))), split.labels]
                 for name, split in self.splits.items() if name != "train"}
        content = json.dumps([self.identity, self.recipe.epochs, asked], sort_keys=True, default=str)
        return hashlib.sha256(content.encode()).hexdigest()


def prepare(settings: Settings, kind: type[nn.Module], loaded: Loaded, folder: Path, engine: Engine,
            machine: Machine) -> Job:
    """Build the model in `folder` with the head `kind`, and tokenise a task's texts. Says what will take memory."""
    # Model and texts.
    task, recipe = loaded.task, settings.recipe(loaded.task)
    torch.manual_seed(settings.seed)
    config, tokenizer = pretrained.read_config(folder), Tokenizer.load(folder)
    if len(tokenizer) > config.vocab_size:
        raise UserError(f"{folder}: its tokenizer has {len(tokenizer)} tokens, its model only {config.vocab_size}")
    model = make_model(kind, settings, task, recipe, folder, engine)
    task = replace(task, max_length=min(task.max_length, config.max_position_embeddings))
    splits = read_splits(task, tokenizer, task.max_length, loaded.examples)
    if splits["train"].cut or splits["dev"].cut:
        say("the bag of words in the closing table reads these texts whole")
    if task.own and (line := unknown_script(splits["train"].texts, tokenizer, task.lowercase)):
        say(line)

    # What must be the same for a run to be the same run, and in all processes.
    job = Job(settings, task, recipe, tokenizer, config, model, splits, engine, machine, {},
              splits["dev"].dataset.lengths)
    job.identity = identity_of(job, loaded)
    if settings.keep_head:
        job.identity["head"] = hash_tensors({SCORE: read_score(folder)[0]})
    machine.group.require_same(job.identity)
    machine.group.separate_streams()

    to_device(job)
    return job


def identity_of(job: Job, loaded: Loaded) -> dict[str, Any]:
    """Return everything that decides a run's results: a checkpoint of another identity is another run's."""
    settings = job.settings
    identity = {"task": job.task.name, "mode": settings.fine_tune_mode, "recipe": decides(job.recipe),
                "seed": settings.seed, "weight decay": settings.weight_decay, "max_grad_norm": settings.max_grad_norm,
                "precision": job.machine.precision, "engine": job.engine.identity, "shape": asdict(job.config),
                "backbone": hash_tensors(job.model.gpt.state_dict()), "tokenizer": job.tokenizer.fingerprint,
                "texts": {name: split.dataset.fingerprint for name, split in job.splits.items() if name != "test"}}
    if loaded.decisions:
        identity |= {"files": loaded.decisions}
    if settings.class_weights != Settings.class_weights or settings.select_by != Settings.select_by:
        identity |= {"class weights": settings.class_weights, "best by": settings.select_by}
    return identity


def decides(recipe: Recipe) -> dict[str, Any]:
    """Return what of a recipe decides how each step goes: a constant rate is the same for any number of epochs."""
    constant = recipe.schedule == "constant" and not recipe.warmup
    return {name: value for name, value in asdict(recipe).items() if name != "epochs" or not constant}


def to_device(job: Job) -> None:
    """Say how much memory training takes, and move the model to its device, which must compute what the CPU does."""
    settings, model, machine, data = job.settings, job.model, job.machine, job.splits["train"].dataset
    compare = machine.device.type != "cpu" and not settings.shard
    if not settings.shard:
        longest = data.collate([max(range(len(data.lengths)), key=data.lengths.__getitem__)])
        rows = math.ceil(job.recipe.batch_size / settings.accumulate / machine.group.size)
        say(memory(model, longest, rows, job.objective, machine))
    if compare:
        first = data.collate(job.feed.order(0)[0])
        expected = logits(model.classifier, first, Machine(CPU))
    if settings.shard:
        shard(model.gpt if model.features_will_do else model.classifier, machine.device)
    model.classifier.to(machine.device)
    if compare:
        require_same(expected, logits(model.classifier, first, machine), machine)
