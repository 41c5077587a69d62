"""How a backbone is fine-tuned: training settings by task, mode and backbone. Each one is the default of a flag."""

from dataclasses import dataclass, replace
from typing import Literal

from data.tasks import Task

Mode = Literal["last-linear-layer", "full-model"]


@dataclass(frozen=True)
class Recipe:
    """Training settings that depend on task, mode and backbone."""

    lr: float
    epochs: int = 10
    batch_size: int = 8
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: float = 0.0
    "Share of all steps in which the learning rate rises to `lr`."
    dropout: float = 0.3
    "Before the linear head."
    backbone_dropout: float | None = None
    "Inside the backbone while it is trained; None is the checkpoint's own."
    word_dropout: float = 0.0
    "Share of a text's words that are blank in each training step of full-model mode."
    freeze_word_embedding: bool = False
    """Keep the words' vectors as pretrained in full-model mode. AdamW moves a rare word as far in a step as a common
    one, and leaves words where they are that are not in the training texts, however near they lie."""
    head_lr: float | None = None
    """Learning rate of the linear head in full-model mode; None is `lr`. The head starts from nothing: at the rate of
    the backbone it stays nearly random, and the backbone gives up what it knows to suit it."""


COURSE_DEFAULTS: dict[Mode, Recipe] = {
    "last-linear-layer": Recipe(lr=1e-3),
    "full-model": Recipe(lr=1e-5),
}
"""The course's settings, for every backbone but the bundled one."""

_HEAD = Recipe(lr=3e-3, epochs=30, batch_size=32, schedule="linear")
_WHOLE = Recipe(lr=1.5e-4, epochs=3, batch_size=32, schedule="linear", warmup=0.1, dropout=0.1)
_SAMPLE = replace(_WHOLE, lr=3e-4, epochs=8, batch_size=16)

TINY_DEFAULTS: dict[tuple[str, Mode], Recipe] = {
    **{(task, "last-linear-layer"): _HEAD for task in ("sst", "cfimdb", "sst-sample", "cfimdb-sample")},
    ("sst", "full-model"): _WHOLE,
    ("cfimdb", "full-model"): replace(_WHOLE, head_lr=1e-2, epochs=6, batch_size=8, word_dropout=0.15,
                                      freeze_word_embedding=True),
    ("sst-sample", "full-model"): _SAMPLE,
    ("cfimdb-sample", "full-model"): _SAMPLE,
}
"""The bundled gpt2-tiny's settings for the built-in tasks; it is 16 times smaller than GPT-2.

Those of a frozen backbone and of CFIMDB were chosen by cross-validation on the training files; the others on dev, for
earlier weights.
"""


def recipe(task: Task, mode: Mode, *, tiny: bool) -> Recipe:
    """The settings for a task, a mode and the bundled (`tiny`) or any other backbone.

    On gpt2-tiny your own files get SST's settings.
    """
    if not tiny:
        return COURSE_DEFAULTS[mode]
    return TINY_DEFAULTS.get((task.name, mode), TINY_DEFAULTS["sst", mode])
