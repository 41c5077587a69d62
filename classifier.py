"""Fine-tune GPT-2 for sentence classification, and show how good the result is.

    ./setup.sh classifier.py --quick                       the bundled gpt2-tiny on the bundled samples; no download
    ./setup.sh classifier.py                               the course: GPT-2 124M, frozen, on SST and then CFIMDB
    ./setup.sh classifier.py --fine-tune-mode full-model   the same, with every weight trained
    ./setup.sh classifier.py --train a.csv --dev b.csv --num-labels 3 --model models/gpt2-tiny      your own texts

Writes runs/TASK-MODE/ (configuration, log, checkpoints), predictions/, and a closing table.
"""

from common import cli
from training.predictions import check_folder, prediction_file, write_predictions
from training.settings import Settings


def parse_settings() -> Settings:
    """The command line as Settings; UserError for what makes no sense or files that are not there."""
    parser = cli.Parser(description=__doc__)
    cli.add_arguments(parser, Settings)
    settings = cli.from_arguments(Settings, parser.parse_args())
    for task in settings.tasks():
        task.check_files()
    check_folder(settings.predictions)  # now, not after hours of training
    return settings


if __name__ == "__main__":
    # Before PyTorch is imported, so that --help, a wrong flag and a missing file answer at once.
    with cli.one_voice():
        SETTINGS = cli.attempt(parse_settings)
    cli.hush_interrupts()

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from common.errors import UserError
from data.batching import epoch_order
from data.tasks import Recipe, Task
from data.tokenizer import Tokenizer
from models import pretrained
from models.gpt2 import GPT2Model
from models.last_token import LastTokenGPT2
from modules.dropout import WordDropout
from optimizer import AdamW
from training.allocator import keep_freed_memory
from training.baselines import majority_class, tfidf_logistic_regression
from training.bystander import Bystander
from training.device import Machine
from training.distributed import joined
from training.evaluate import Score, score
from training.features import hash_tensors
from training.loop import Feed, TrainState, classification, fit
from training.memory import enough_memory, halved
from training.run_folder import RunFolder
from training.schedule import make_scheduler
from training.seeding import deterministic, seed_everything
from training.session import Session
from training.sharding import shard
from training.splits import Split, read_splits, with_features
from training.startup import leave_compiler_out
from training.stopping import StopSignals


class GPT2SentimentClassifier(nn.Module):
    """GPT-2 with a linear head on the vector of the last token.

    In last-linear-layer mode the backbone is frozen: no gradients, and always in eval mode, so that a text's vector
    never changes. In full-model mode everything is trained.
    """

    def __init__(self, config, gpt: GPT2Model | None = None):
        """config: num_labels, hidden_size, hidden_dropout_prob, fine_tune_mode. gpt: the backbone, else GPT-2 124M."""
        super().__init__()
        if config.fine_tune_mode not in ("last-linear-layer", "full-model"):
            raise ValueError(f"fine_tune_mode must be last-linear-layer or full-model, not {config.fine_tune_mode!r}")
        self.frozen = config.fine_tune_mode == "last-linear-layer"
        self.gpt = GPT2Model.from_pretrained("gpt2") if gpt is None else gpt
        self.gpt.requires_grad_(not self.frozen)
        self.head = nn.Sequential(nn.Dropout(config.hidden_dropout_prob),
                                  nn.Linear(config.hidden_size, config.num_labels))
        self.train()

    def train(self, mode: bool = True) -> "GPT2SentimentClassifier":
        """nn.Module.train, except that a frozen backbone stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.gpt.eval()
        return self

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids, attention_mask [B, T] -> logits [B, num_labels]"""
        return self.head(self.gpt(input_ids, attention_mask)["last_token"])


@dataclass(frozen=True)
class HeadConfig:
    """What GPT2SentimentClassifier asks of its config."""

    num_labels: int
    hidden_size: int
    hidden_dropout_prob: float
    fine_tune_mode: str


@dataclass(frozen=True)
class Result:
    """One task's line in the closing table."""

    task: str
    majority: Score
    tfidf: Score
    run: Score
    best_epoch: int


def load_backbone(settings: Settings, recipe: Recipe, folder: Path) -> GPT2Model:
    """The backbone in a folder, its dropout changed where asked for; random weights with --random-backbone."""
    p = recipe.backbone_dropout
    dropout = {} if p is None else {"hidden_dropout_prob": p, "attention_probs_dropout_prob": p}
    kind = GPT2Model if settings.shard else LastTokenGPT2  # sharding must see every block called
    if settings.random_backbone:
        backbone = kind(replace(pretrained.read_config(folder), **dropout))
    else:
        backbone = kind.from_pretrained(str(folder), **dropout)
    backbone.gradient_checkpointing = settings.gradient_checkpointing
    if recipe.word_dropout:
        backbone.word_embedding.register_forward_hook(WordDropout(recipe.word_dropout))
    return backbone


def train(settings: Settings, recipe: Recipe, model: nn.Module, splits: dict[str, Split], session: Session,
          machine: Machine) -> None:
    """Train and leave the best epoch's weights in the model; every epoch is scored on dev and logged."""
    data, state = splits["train"], session.state

    def order(epoch: int) -> list[list[int]]:
        return epoch_order(data.dataset.lengths, recipe.batch_size, settings.seed, epoch)

    def after_epoch() -> None:
        dev = score_split(splits["dev"], model, machine)
        session.end_epoch({"epoch": state.epoch, "step": state.step,
                           "train_loss": state.loss, "train_accuracy": state.accuracy,
                           "dev_accuracy": dev.accuracy, "dev_macro_f1": dev.macro_f1}, score=dev.accuracy)
        print(f"epoch {state.epoch}/{recipe.epochs}: "
              f"training loss {state.loss:.3f}, training accuracy {state.accuracy:.3f}, "
              f"dev accuracy {dev.accuracy:.3f}, dev macro-F1 {dev.macro_f1:.3f}", flush=True)

    feed = Feed(order, data.dataset.collate, data.names, [
        None if settings.gradient_checkpointing else "--gradient_checkpointing, which takes a third more time",
        halved("--batch_size", recipe.batch_size)])
    with session.training():
        fit(machine.group.wrap(model), session.optimizer, feed, classification, state,
            epochs=recipe.epochs, scheduler=session.scheduler, accumulate=settings.accumulate,
            max_grad_norm=settings.max_grad_norm, after_step=session.after_step, after_epoch=after_epoch,
            describe="epoch", **machine.keywords)
    session.load_best()


def parameter_groups(model: GPT2SentimentClassifier, recipe: Recipe) -> list[dict]:
    """What is trained, as AdamW takes it; of a whole model the head in a group of its own where its rate is another."""
    head = list(model.head.parameters())
    if model.frozen:
        return [{"params": head}]
    backbone = [param for param in model.gpt.parameters() if param.requires_grad]
    if recipe.head_lr is None:
        return [{"params": backbone + head}]
    return [{"params": backbone}, {"params": head, "lr": recipe.head_lr}]


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


def run_task(settings: Settings, task: Task, folder: Path, machine: Machine, stop: StopSignals) -> Result:
    """Train on one task, predict with the best epoch's weights, and say how good they are."""
    recipe = settings.recipe(task)
    print(f"\n{task.name}, {settings.fine_tune_mode}: {recipe.epochs} epochs, batches of {recipe.batch_size}, "
          f"learning rate {recipe.lr:g} ({recipe.schedule}), on {machine}", flush=True)
    seed_everything(settings.seed)
    tokenizer = Tokenizer.load(folder)
    backbone = load_backbone(settings, recipe, folder)
    if len(tokenizer) > backbone.config.vocab_size:
        raise UserError(f"{folder}: its tokenizer has {len(tokenizer)} tokens, "
                        f"its model only {backbone.config.vocab_size}")
    splits = read_splits(task, tokenizer, min(task.max_length, backbone.config.max_position_embeddings))
    config = HeadConfig(task.num_labels, backbone.config.hidden_size, recipe.dropout, settings.fine_tune_mode)
    model = GPT2SentimentClassifier(config, backbone)
    if recipe.freeze_word_embedding:
        backbone.word_embedding.requires_grad_(False)
    identity = {"task": task.name, "mode": settings.fine_tune_mode, "recipe": asdict(recipe), "seed": settings.seed,
                "weight decay": settings.weight_decay, "max_grad_norm": settings.max_grad_norm,
                "precision": machine.precision, "shape": asdict(backbone.config),
                "backbone": hash_tensors(backbone.state_dict()), "tokenizer": tokenizer.fingerprint,
                "texts": {name: split.dataset.fingerprint for name, split in splits.items()}}
    machine.group.require_same(identity)
    machine.group.separate_streams()
    if settings.shard:
        shard(backbone if model.frozen else model, machine.device)
    model.to(machine.device)
    kind = RunFolder if machine.group.is_main else Bystander
    with kind(settings.out / f"{task.name}-{settings.fine_tune_mode}") as run:
        description = {"settings": asdict(settings), "task": asdict(task), "identity": identity}
        going_on = machine.group.from_main(lambda: run.begin(description, settings.resume))
        trained = model.head if model.frozen else model
        optimizer = AdamW(parameter_groups(model, recipe), lr=recipe.lr, weight_decay=settings.weight_decay)
        steps = recipe.epochs * math.ceil(len(splits["train"].examples) / recipe.batch_size)
        session = Session(run, trained, optimizer, make_scheduler(optimizer, recipe.schedule, recipe.warmup, steps),
                          TrainState(), identity=identity, stop=stop, save_minutes=settings.save_minutes,
                          save_steps=settings.save_steps, group=machine.group)
        if going_on:
            session.resume()
        if model.frozen:
            splits = with_features(splits, backbone, machine, settings.out / "features")
        train(settings, recipe, trained, splits, session, machine)
        predicted = {name: write_split(settings, task, name, splits[name], trained, machine)
                     for name in ("dev", "test") if name in splits}
        train_split, dev = splits["train"], splits["dev"]
        result = Result(task.name, majority_class(train_split.labels, dev.labels),
                        tfidf_logistic_regression(train_split.texts, train_split.labels, dev.texts, dev.labels),
                        score(dev.labels, predicted["dev"]), session.best_epoch)
        run.finish(asdict(result))
    return result


def closing_table(results: list[Result], mode: str) -> str:
    """For every task: the majority class, TF-IDF + logistic regression, and this run, on dev."""
    lines = [f"{'dev set':<16}{'':<32}{'accuracy':>18}{'macro-F1':>10}"]
    for result in results:
        rows = (("majority class", result.majority), ("TF-IDF + logistic regression", result.tfidf),
                (f"this run, {mode}, epoch {result.best_epoch}", result.run))
        for number, (name, dev) in enumerate(rows):
            task = f"{result.task} ({dev.examples})" if number == 0 else ""
            lines.append(f"{task:<22}{name:<38}{dev.accuracy:.3f} ± {dev.standard_error:.3f}{dev.macro_f1:>10.3f}")
    lines.append("± is the standard error that comes from the size of the dev set alone; "
                 "the best epoch was chosen on dev, too.")
    return "\n".join(lines)


def main() -> None:
    """Every task asked for, one after another, then the closing table."""
    settings = SETTINGS
    keep_freed_memory()
    leave_compiler_out()
    with joined() as group, enough_memory("for the model", "--model: a smaller one"):
        if settings.shard and group.size == 1:
            raise UserError("--shard divides a model among processes: start them with torchrun --nproc_per_node N")
        machine = Machine.choose("cuda" if settings.use_gpu else settings.device, settings.precision, group)
        deterministic(settings.deterministic)
        folder = pretrained.resolve(settings.backbone, settings.revision)
        stop = StopSignals(speak=group.is_main)
        results = [run_task(settings, task, folder, machine, stop) for task in settings.tasks()]
        print("\n" + closing_table(results, settings.fine_tune_mode))


if __name__ == "__main__":
    cli.run(main)
