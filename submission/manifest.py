"""The list of what a course submission holds: prepare_submit.py packs these files, a grader unpacks them."""

from dataclasses import dataclass

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

SUPPORT = ("config.py", "utils.py")
"Packed if they exist: modules of the course's starter that the author brings along."

OPTIONAL = ("NOTES.md", "report.pdf")
"Packed if they exist: the author's words to the reader."

PACKAGES = {"torch", "numpy", "transformers", "tokenizers", "sklearn", "scipy", "tqdm", "einops", "safetensors",
            "huggingface_hub"}
PROVIDED = {"config", "utils", "modules.attention", "modules.gpt2_layer", "models.gpt2", "models.base_gpt",
            "models.config", "models.pretrained", "optimizer", "classifier", "common", "data", "engine", "finetuning",
            "training"}
"What a source may import besides the standard library: packages, and modules that are packed or in every tree."

SOURCE_LIMIT, PREDICTIONS_LIMIT, OPTIONAL_LIMIT = 500_000, 2_000_000, 10_000_000
"Largest size of a file, in bytes. The largest prediction file of the course, SST's test, has 66 kB."

MODES = ("last-linear-layer", "full-model")
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


PARTS = {part.name: part for task in ("sst", "cfimdb") for part in (Part(mode, task) for mode in MODES)}


@dataclass(frozen=True)
class Finding:
    """A remark about a file: a problem that forbids the submission, or advice."""

    file: str
    message: str
    line: int | None = None
    fix: str | None = None
    "A command that mends it."
    unfinished: bool = False
    "Code that is still to be written; an author may hand it in all the same."

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.message}"
