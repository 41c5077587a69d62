"""Every setting of classifier.py, with its help text."""

from common import interrupts  # noqa: F401, I001 (first: from here on Ctrl-C ends a script quietly)

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from common import cli
from common.cli import require_ranges
from common.errors import UserError, one_line, quoted
from common.files import require_writable
from common.student_files import explain_import_errors
from data.columns import Options
from data.own import ManyLabels
from data.reader import ColumnError, IdError, LabelError
from data.rules import RULES
from data.tasks import TASKS, Loaded, NotDownloaded, Task, custom_task
from finetuning.recipes import Mode, Recipe, recipe
from models.hub import find_folder, fine_tune_like

REPOSITORY = Path(__file__).resolve().parent.parent
TINY = REPOSITORY / "models" / "gpt2-tiny"
YES_OR_NO = {"yes": True, "no": False}
OWN = ("train", "dev", "test", "dev_share", "num_labels", "label_names", "name", "separator", "text_column",
       "label_column", "id_column")  # flags that describe your own files


def read_settings(description: str) -> "Settings":
    """Read the command line. A mistake in it, or a file that is missing, ends the process with exit status 2.

    Imports no PyTorch: a script calls this before it does, so that --help and mistakes answer at once.
    """
    def parse() -> Settings:
        parser = cli.Parser(description=description)
        cli.add_arguments(parser, Settings)
        settings = cli.from_arguments(Settings, parser.parse_args())
        with advice_on_files():
            for task in settings.tasks():
                task.check_files()
            find_folder(settings.backbone, settings.revision)
        settings.check_predictions()  # now, not after hours of training
        cli.require_address_space()
        for task in settings.tasks():
            settings.read[task] = settings.load(task)
        return settings

    with cli.only_first_process_prints():
        settings = cli.attempt(parse)
    explain_import_errors()
    return settings


def advice_on_files() -> contextlib.AbstractContextManager[None]:
    """The reader says what is wrong; this adds the flag that mends it."""
    return cli.adding_advice({
        NotDownloaded: lambda error: "`./setup.sh classifier.py --quick` needs no download",
        ManyLabels: lambda error: "Name the column with --label-column, or say --num-labels N if they are",
        ColumnError: lambda error: f"--{error.role}-column NAME says which one it is",
        IdError: lambda error: "--id-column none numbers the rows instead",
        LabelError: lambda error: "Without --num-labels the labels are taken as the files have them; --label-names A B "
                                  "gives their order",
    })


def prediction_file(folder: Path, mode: str, task: str, split: str) -> Path:
    """Where the predictions of a run go: predictions/full-model-sst-dev-out.csv and so on."""
    return folder / f"{mode}-{task}-{split}-out.csv"


def table_file(folder: Path, mode: str, task: str, split: str) -> Path:
    """Where the same predictions go with names and probabilities, as a table: predictions/full-model-sst-dev.csv."""
    return folder / f"{mode}-{task}-{split}.csv"


@dataclass(frozen=True)
class Settings:
    """What classifier.py is asked to do. Validated on construction."""

    quick: bool = False
    """Train the bundled gpt2-tiny on the bundled samples: no download, about a minute."""
    data: tuple[str, ...] = ()
    """Built-in tasks, one after another: sst, cfimdb, sst-sample, cfimdb-sample. Without this and without --train:
    sst cfimdb."""
    train: Path | None = None
    """Your own training file: text separated by tabs or commas, JSON lines or Parquet, each also gzipped, or a folder
    or name for the package `datasets`. Its columns are found by name: text, sentence, review or content; label,
    sentiment, class, target or category; id, if there is one."""
    dev: Path | None = None
    """Your own file to choose the best epoch on."""
    test: Path | None = None
    """Your own file to predict; it needs no labels. In a .txt file each line is a text."""
    dev_share: float | None = None
    """Where there is no --dev: choose the best epoch on this share of --train, taken from each label, with
    near-duplicates kept on one side; --seed decides which texts."""
    name: str = "own"
    """What to call the task of --train: names its run folder and prediction files."""
    separator: str | None = None
    """What separates the columns of your own files: a character, or tab. Default: found by the first row."""
    text_column: str | None = None
    """Name of the column of texts in your own files."""
    label_column: str | None = None
    """Name of the column of labels in your own files."""
    id_column: str | None = None
    """Name of the column of ids in your own files; none: number the rows."""
    num_labels: int | None = None
    """Number of labels in your own files. Default: as many as they hold."""
    label_names: tuple[str, ...] = ()
    """What to call the labels of your own files, in their order; or the order of the names that they hold."""
    inspect: bool = False
    """Show what the files hold: rows, columns, labels, lengths in tokens, duplicates. Trains nothing."""
    plan: bool = False
    """Show how much memory and time training would take. Trains nothing."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: every label weighs the same in the loss, however few texts it has."""
    select_by: Literal["accuracy", "macro-f1"] = "accuracy"
    """Which score on dev chooses the best epoch; macro-f1 counts every label the same."""
    fine_tune_mode: Mode = "last-linear-layer"
    """last-linear-layer: the backbone is frozen and runs once; full-model: everything is trained."""
    model: str | None = None
    """GPT-2 weights: gpt2, gpt2-medium, gpt2-large, gpt2-xl, any GPT-2 on the Hugging Face hub, or a local folder
    such as models/gpt2-tiny. Default: gpt2 (gpt2-tiny with --quick)."""
    revision: str | None = None
    """Commit or tag of the hub model."""
    keep_head: bool = False
    """Start from the classification head in --model's folder, too, as export.py and Hugging Face write it."""
    random_backbone: bool = False
    """Start from random weights of the model's shape: what the pretraining is worth."""
    seed: int = 11711
    """Each task starts from this seed: the same seed gives the same predictions."""
    seeds: int | None = None
    """Train N times, with --seed and the N - 1 numbers after it, each in a folder of its own; the closing table shows
    mean and standard deviation. With --resume, what is finished is kept."""
    epochs: int | None = None
    """Passes over the training file. Default: 10 (gpt2-tiny: measured for each task)."""
    batch_size: int | None = None
    """Examples a step. Default: 8 (gpt2-tiny: measured for each task)."""
    lr: float | Literal["find"] | None = None
    """Learning rate; find: try rates in 100 steps, plot the losses, and say which one to take. Default:
    1e-3 for last-linear-layer, 1e-5 for full-model (gpt2-tiny: measured)."""
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
    keep_end: bool = False
    """Of a text that is too long keep the end, not the beginning: for texts whose verdict comes last."""
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
    """Folder of prediction files; of several seeds, those of the first."""
    report: bool = True
    """Make a page about the run, report.html in its folder."""
    tensorboard: bool = False
    """Also write the scores of each epoch as events for TensorBoard, in the run's folder."""
    resume: bool = False
    """Resume an interrupted run of the same settings."""
    save_minutes: float = 10.0
    """Save a checkpoint this often within an epoch, besides at its end."""
    save_steps: int | None = None
    """Save a checkpoint every N steps as well."""

    def __post_init__(self) -> None:
        own = [flag for flag in OWN if getattr(self, flag) != getattr(Settings, flag)]
        if own and (self.train is None or (self.dev is None and self.dev_share is None)):
            raise UserError(f"--{own[0].replace('_', '-')} describes your own data, which needs --train and --dev too "
                            "(or --dev-share 0.1)")
        if own and (self.data or self.quick):
            raise UserError("give either built-in tasks (--data, --quick) or your own files (--train), not both")
        if self.dev is not None and self.dev_share is not None:
            raise UserError("give either --dev or --dev-share, not both")
        if self.dev_share is not None and not 0 < self.dev_share < 1:
            raise UserError(f"--dev-share must be between 0 and 1, not {self.dev_share}")
        if self.separator not in (None, "tab") and (len(self.separator) != 1 or self.separator in '"\r\n'):
            raise UserError(f"--separator must be a character or the word tab, not {quoted(self.separator)}")
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
        require_ranges(self, ("epochs", 1, None), ("batch_size", 1, None), ("accumulate", 1, None),
                       ("head_lr", 0, None), ("warmup", 0, 1), ("weight_decay", 0, None), ("hidden_dropout_prob", 0, 1),
                       ("backbone_dropout", 0, 1), ("word_dropout", 0, 1), ("max_length", 1, None),
                       ("save_minutes", 0, None), ("save_steps", 1, None), ("max_grad_norm", 0, None),
                       ("seed", 0, 2**63 - 1), ("seeds", 2, 1000))
        if self.seeds and self.seed + self.seeds > 2**63:
            raise UserError(f"--seeds {self.seeds}: the last seed would be larger than {2**63 - 1}")
        if self.tensorboard and not find_spec("tensorboard"):
            raise UserError("--tensorboard needs a package: .venv/bin/python -m pip install tensorboard")
        if self.keep_head and self.random_backbone:
            raise UserError("--keep-head keeps what was learned, --random-backbone forgets it: give one of them")
        if self.lr != "find":
            require_ranges(self, ("lr", 0, None))
        if self.use_gpu and self.device not in ("auto", "cuda"):
            raise UserError(f"--use_gpu means --device cuda, but --device {self.device} is given too")

    @property
    def backbone(self) -> str:
        """The model to load: as given, or gpt2-tiny for --quick, or gpt2."""
        return self.model or (str(TINY) if self.quick else "gpt2")

    def each_seed(self) -> Iterator["Settings"]:
        """Yield the settings of each run of a task: these, or with --seeds as many as that, each with its own seed."""
        for number in range(self.seeds or 1):
            yield replace(self, seed=self.seed + number)

    def folder_of(self, task: str) -> Path:
        """Return the folder of a task's run, or the one that holds the runs of all seeds."""
        return self.out / f"{task}-{self.fine_tune_mode}{'-seeds' if self.seeds else ''}"

    def run_folder(self, task: str) -> Path:
        """Return the folder of the run with this seed."""
        return self.folder_of(task) / f"seed-{self.seed}" if self.seeds else self.folder_of(task)

    @property
    def is_tiny(self) -> bool:
        """Whether the backbone is gpt2-tiny or was made from it, as its config.json says: it has measured settings."""
        return fine_tune_like(self.backbone, self.revision) == TINY.name

    @property
    def which_defaults(self) -> str:
        """A line on which defaults a run takes, and why."""
        if not self.is_tiny:
            return "settings: the course's, as none are measured for this backbone"
        why = "" if self.backbone == TINY.name else ", as the backbone's config.json says"
        return f"settings: those measured for {TINY.name}{why}"

    def tasks(self) -> list[Task]:
        """The tasks asked for, with --max-length, --lowercase and --skip-rule applied. Reads no file."""
        if self.train is not None:
            options = Options({"tab": "\t"}.get(self.separator, self.separator), self.text_column, self.label_column,
                              self.id_column, self.dev_share, self.seed if self.dev_share is not None else 0,
                              skip_empty=self.inspect)
            tasks = [custom_task(self.train, self.dev, self.test, name=self.name, label_names=self.label_names,
                                 num_labels=self.num_labels, options=options)]
        else:
            samples = ("sst-sample", "cfimdb-sample")
            tasks = [TASKS[name] for name in self.data or (samples if self.quick else ("sst", "cfimdb"))]
        return [replace(task, max_length=self.max_length or task.max_length, keep_end=self.keep_end,
                        rules=task.rules.without(*self.skip_rule),
                        lowercase=YES_OR_NO.get(self.lowercase, task.lowercase)) for task in tasks]

    @cached_property
    def read(self) -> dict[Task, Loaded]:
        """What the command line's check has read, for the run to take over."""
        return {}

    def load(self, task: Task) -> Loaded:
        """A task with its files read. What is wrong with them is said with the flag that mends it."""
        with advice_on_files():
            return self.read.pop(task, None) or task.load()

    def check_predictions(self) -> None:
        """UserError if a prediction file could not be written. Changes nothing."""
        try:
            for task in self.tasks():
                for split in ("dev", "test"):
                    require_writable(prediction_file(self.predictions, self.fine_tune_mode, task.name, split))
        except UserError as error:
            raise UserError(f"--predictions {one_line(str(self.predictions), 200)}: {error}") from error

    def recipe(self, task: Task) -> Recipe:
        """The training settings for a task: the flags given, else the defaults for task, mode and backbone.

        A random backbone has no words' vectors to keep, so by default it trains them.
        """
        default = recipe(task, self.fine_tune_mode, tiny=self.is_tiny)
        if self.random_backbone:
            default = replace(default, freeze_word_embedding=False)
        given = {"lr": None if self.lr == "find" else self.lr,
                 "head_lr": self.head_lr, "epochs": self.epochs, "batch_size": self.batch_size,
                 "schedule": self.schedule, "warmup": self.warmup, "dropout": self.hidden_dropout_prob,
                 "backbone_dropout": self.backbone_dropout, "word_dropout": self.word_dropout,
                 "freeze_word_embedding": YES_OR_NO.get(self.freeze_word_embedding)}
        return replace(default, **{name: value for name, value in given.items() if value is not None})
