"""The list of what a course submission holds: prepare_submit.py packs these files, a grader unpacks them."""

from dataclasses import dataclass
from typing import Any

from data.tasks import TASKS, Task

PYTHON = (3, 10)
"The sources must parse under the grammar of this Python."

SOURCES: dict[str, dict[str, tuple[str, ...]]] = {
    "optimizer.py": {"AdamW": ("step",)},
    "modules/attention.py": {"CausalSelfAttention": ("forward",)},
    "modules/gpt2_layer.py": {"GPT2Layer": ("forward",)},
    "models/gpt2.py": {
        "GPT2Model": ("embed", "encode", "forward", "hidden_state_to_token", "from_pretrained"),
    },
    "classifier.py": {"GPT2SentimentClassifier": ("forward",)},
}
"Required source files: file -> class that it must define -> methods that the class must have."

OPTIONAL = ("NOTES.md", "report.pdf")
"Packed if they exist: the author's words to the reader."

KILOBYTE, MEGABYTE = 1000, 1000 ** 2
SOURCE_LIMIT = 500 * KILOBYTE
PREDICTIONS_LIMIT = 2 * MEGABYTE
OPTIONAL_LIMIT = 10 * MEGABYTE
"Largest size of a file, in bytes. The largest prediction file of the course, SST's test, has 66 kB."

MODES = ("last-linear-layer", "full-model")
COURSE_TASKS = ("sst", "cfimdb")
SPLITS = ("dev", "test")


@dataclass(frozen=True)
class Part:
    """One training run that a submission claims: a mode on a task, with predictions for dev and test."""

    mode: str
    task_name: str

    @property
    def name(self) -> str:
        return f"{self.mode}-{self.task_name}"

    @property
    def task(self) -> Task:
        return TASKS[self.task_name]

    def predictions(self, split: str) -> str:
        """Return the path of a prediction file in the repository."""
        return f"predictions/{self.name}-{split}-out.csv"

    def data(self, split: str) -> str:
        """Return the path, in the repository, of the data file that the predictions answer."""
        return f"data/{self.task.path(split).name}"


PARTS: dict[str, Part] = {
    part.name: part for part in (Part(mode, task) for task in COURSE_TASKS for mode in MODES)
}


@dataclass(frozen=True)
class Finding:
    """A remark about a file: a problem that forbids the submission, or advice."""

    file: str
    message: str
    line: int | None = None
    fix: str | None = None
    "A command that mends it."

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.message}"

    def as_json(self) -> dict[str, Any]:
        return {"file": self.file, "line": self.line, "message": self.message, "fix": self.fix}
