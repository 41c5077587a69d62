"""Every setting of classifier.py, with its help text."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from common import cli
from common.cli import require_ranges
from common.errors import UserError
from common.student_files import explain_import_errors
from data.rules import RULES
from data.tasks import TASKS, NotDownloaded, Task, custom_task
from finetuning.recipes import Mode, Recipe, recipe

REPOSITORY = Path(__file__).resolve().parent.parent
TINY = REPOSITORY / "models" / "gpt2-tiny"
YES_OR_NO = {"yes": True, "no": False}


def read_settings(description: str) -> "Settings":
    """Read the command line. A mistake in it, or a file that is missing, ends the process with exit status 2.

    Imports no PyTorch: a script calls this before it does, so that --help and mistakes answer at once.
    """
    def parse() -> Settings:
        parser = cli.Parser(description=description)
        cli.add_arguments(parser, Settings)
        settings = cli.from_arguments(Settings, parser.parse_args())
        with cli.adding_advice({NotDownloaded: lambda error: "`./setup.sh classifier.py --quick` needs no download"}):
            for task in settings.tasks():
                task.check_files()
        check_folder(settings.predictions)  # now, not after hours of training
        return settings

    with cli.only_first_process_prints():
        settings = cli.attempt(parse)
    cli.hush_interrupts()
    explain_import_errors()
    return settings


def check_folder(folder: Path) -> None:
    """UserError if prediction files could not be put into a folder, which need not exist yet. Changes nothing."""
    there = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), folder)
    if not there.is_dir():
        raise UserError(f"--predictions {folder}: {there} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"--predictions {folder}: {there} may not be written to")


@dataclass(frozen=True)
class Settings:
    """What classifier.py is asked to do. Validated on construction."""

    quick: bool = False
    """Train the bundled gpt2-tiny on the bundled samples: no download, about a minute."""
    data: tuple[str, ...] = ()
    """Built-in tasks, one after another: sst, cfimdb, sst-sample, cfimdb-sample. Without this and without --train:
    sst cfimdb."""
    train: Path | None = None
    """Your own training file: tab separated, with columns id, sentence and sentiment."""
    dev: Path | None = None
    """Your own file to choose the best epoch on, with the same columns."""
    test: Path | None = None
    """Your own file to predict, with columns id and sentence."""
    name: str = "own"
    """What to call the task of --train: names its run folder and prediction files."""
    num_labels: int | None = None
    """Number of labels in your own files: 0 .. N-1."""
    label_names: tuple[str, ...] = ()
    """What to call the labels of your own files; the sentiment column may then hold these names."""
    fine_tune_mode: Mode = "last-linear-layer"
    """last-linear-layer: the backbone is frozen and runs once; full-model: everything is trained."""
    model: str | None = None
    """GPT-2 weights: gpt2, gpt2-medium, gpt2-large, gpt2-xl, any GPT-2 on the Hugging Face hub, or a local folder
    such as models/gpt2-tiny. Default: gpt2 (gpt2-tiny with --quick)."""
    revision: str | None = None
    """Commit or tag of the hub model."""
    random_backbone: bool = False
    """Start from random weights of the model's shape: what the pretraining is worth."""
    seed: int = 11711
    """Each task starts from this seed: the same seed gives the same predictions."""
    epochs: int | None = None
    """Passes over the training file. Default: 10 (gpt2-tiny: measured for each task)."""
    batch_size: int | None = None
    """Examples a step. Default: 8 (gpt2-tiny: measured for each task)."""
    lr: float | None = None
    """Learning rate. Default: 1e-3 for last-linear-layer, 1e-5 for full-model (gpt2-tiny: measured)."""
    head_lr: float | None = None
    """Learning rate of the linear head in full-model mode. Default: that of the rest (gpt2-tiny: measured)."""
    schedule: Literal["constant", "linear", "cosine"] | None = None
    """How the learning rate goes down to 0. Default: constant (gpt2-tiny: measured)."""
    warmup: float | None = None
    """Share of all steps in which the learning rate rises from 0. Default: 0 (gpt2-tiny: measured)."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    max_grad_norm: float | None = None
    """Clip the norm of the gradient to this value. Default: no clipping."""
    hidden_dropout_prob: float | None = None
    """Dropout before the linear head. Default: 0.3 (gpt2-tiny: measured)."""
    backbone_dropout: float | None = None
    """Dropout inside the backbone in full-model mode. Default: the checkpoint's own, 0.1 for gpt2."""
    word_dropout: float | None = None
    """Share of each text's words that are blanked in a training step, in full-model mode. Default: 0 (gpt2-tiny:
    measured)."""
    freeze_word_embedding: Literal["yes", "no"] | None = None
    """Keep the words' vectors as pretrained while the rest of the model is trained, in full-model mode. Default: no
    (gpt2-tiny: measured)."""
    max_length: int | None = None
    """Longest text in tokens; what is longer is cut. Default: the task's."""
    lowercase: Literal["yes", "no"] | None = None
    """Lower-case the texts. Default: as in the course, yes for SST and CFIMDB; no for your own files."""
    skip_rule: tuple[str, ...] = ()
    """Rules of the reader to switch off, by name (see data/rules.py)."""
    engine: Literal["auto", "off"] = "auto"
    """auto: run a faster version of your five files where it gives the same results; off: always run the files."""
    accumulate: int = 1
    """Run each batch in N parts, one after another: the same step in less memory."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    shard: bool = False
    """With torchrun: divide the weights among the processes (FSDP), for a backbone too large for one device."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes an accelerator if there is one."""
    use_gpu: bool = False
    """The course's flag: the same as --device cuda."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the matrix products; auto is bfloat16 on a CUDA device that has it, else float32."""
    deterministic: bool = False
    """Ask PyTorch for kernels that repeat bit for bit on CUDA too."""
    out: Path = Path("runs")
    """Folder of run folders."""
    predictions: Path = Path("predictions")
    """Folder of prediction files."""
    resume: bool = False
    """Resume an interrupted run of the same settings."""
    save_minutes: float = 10.0
    """Save a checkpoint this often within an epoch, besides at its end."""
    save_steps: int | None = None
    """Save a checkpoint every N steps as well."""

    def __post_init__(self) -> None:
        own = [flag for flag in ("train", "dev", "test", "num_labels", "label_names", "name")
               if getattr(self, flag) != getattr(Settings, flag)]
        if own and (self.train is None or self.dev is None):
            raise UserError(f"--{own[0].replace('_', '-')} describes your own data, which needs --train and --dev too")
        if own and (self.data or self.quick):
            raise UserError("give either built-in tasks (--data, --quick) or your own files (--train), not both")
        if own and self.num_labels is None and not self.label_names:
            raise UserError("your own data needs --num-labels N (or --label-names A B ...)")
        for flag, kind, given, known in (("--data", "task", self.data, TASKS),
                                         ("--skip-rule", "rule", self.skip_rule, RULES)):
            for name in given:
                if name not in known:
                    raise UserError(f"{flag}: there is no {kind} {name!r}; there are {', '.join(known)}")
        if len(set(self.data)) < len(self.data):
            raise UserError("--data: name each task once; a second run would take the place of the first")
        for flag, given, why in (("--head-lr", self.head_lr is not None, "with a frozen backbone --lr is the head's"),
                                 ("--word-dropout", self.word_dropout, "a frozen backbone reads each text once"),
                                 ("--freeze-word-embedding", self.freeze_word_embedding == "yes",
                                  "the other trains no embedding")):
            if given and self.fine_tune_mode != "full-model":
                raise UserError(f"{flag} is for --fine-tune-mode full-model; {why}")
        require_ranges(self, ("epochs", 1, None), ("batch_size", 1, None), ("accumulate", 1, None), ("lr", 0, None),
                       ("head_lr", 0, None), ("warmup", 0, 1), ("weight_decay", 0, None), ("hidden_dropout_prob", 0, 1),
                       ("backbone_dropout", 0, 1), ("word_dropout", 0, 1), ("max_length", 1, None),
                       ("save_minutes", 0, None), ("save_steps", 1, None), ("max_grad_norm", 0, None),
                       ("seed", 0, 2**63 - 1))
        if self.use_gpu and self.device not in ("auto", "cuda"):
            raise UserError(f"--use_gpu means --device cuda, but --device {self.device} is given too")

    @property
    def backbone(self) -> str:
        """The model to load: as given, or gpt2-tiny for --quick, or gpt2."""
        return self.model or (str(TINY) if self.quick else "gpt2")

    @property
    def is_tiny(self) -> bool:
        """Whether the backbone is the bundled one, by name or by folder: it has measured settings of its own."""
        return self.backbone == TINY.name or Path(self.backbone).resolve() == TINY

    def tasks(self) -> list[Task]:
        """The tasks asked for, with --max-length, --lowercase and --skip-rule applied. Reads no file."""
        if self.train is not None:
            tasks = [custom_task(self.train, self.dev, self.test, name=self.name, label_names=self.label_names,
                                 num_labels=self.num_labels or len(self.label_names))]
        else:
            samples = ("sst-sample", "cfimdb-sample")
            tasks = [TASKS[name] for name in self.data or (samples if self.quick else ("sst", "cfimdb"))]
        return [replace(task, max_length=self.max_length or task.max_length, rules=task.rules.without(*self.skip_rule),
                        lowercase=YES_OR_NO.get(self.lowercase, task.lowercase)) for task in tasks]

    def recipe(self, task: Task) -> Recipe:
        """The training settings for a task: the flags given, else the defaults for task, mode and backbone.

        A random backbone has no words' vectors to keep, so by default it trains them.
        """
        default = recipe(task, self.fine_tune_mode, tiny=self.is_tiny)
        if self.random_backbone:
            default = replace(default, freeze_word_embedding=False)
        given = {"lr": self.lr, "head_lr": self.head_lr, "epochs": self.epochs, "batch_size": self.batch_size,
                 "schedule": self.schedule, "warmup": self.warmup, "dropout": self.hidden_dropout_prob,
                 "backbone_dropout": self.backbone_dropout, "word_dropout": self.word_dropout,
                 "freeze_word_embedding": YES_OR_NO.get(self.freeze_word_embedding)}
        return replace(default, **{name: value for name, value in given.items() if value is not None})
