"""What export.py is asked to do. Imports no PyTorch, so that --help and mistakes answer at once."""

from common import interrupts  # noqa: F401, I001 (first: from here on Ctrl-C ends a script quietly)

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from common import cli
from common.errors import UserError, quoted
from common.files import require_writable
from common.student_files import explain_import_errors
from serving.find import find

WRITTEN = {"model.safetensors", "model.onnx", "config.json", "tokenizer.json", "tokenizer_config.json", "README.md"}
"""Names of the files that an export writes."""
SPACE = {"app.py", "requirements.txt"}
"""What it writes besides for a Space. Other people's folders hold such files, too: ours lie beside a config.json."""


@dataclass(frozen=True)
class Settings:
    """What export.py is asked to do. Validated on construction."""

    run: Path
    """Folder of a finished run, such as runs/own-full-model, or a copy of the folder model/ in it."""
    out: Path
    """Folder to write: a new one, an empty one, or one of an earlier export, which is replaced."""
    format: Literal["hugging-face", "onnx", "space"] = "hugging-face"
    """hugging-face: a GPT2ForSequenceClassification for transformers; onnx: model.onnx, which takes any head; space:
    the first with a page around it, as a Gradio Space at huggingface.co runs it."""
    license: str = "other"
    """Licence to state in the model card, as the hub abbreviates it: mit, apache-2.0, cc-by-4.0 ..."""
    push: str | None = None
    """Also put the folder on the Hugging Face hub, under this name: you/name."""
    public: bool = False
    """Let everybody see a repository that --push makes. Without it, you alone do."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.license):
            raise UserError(f"--license takes an abbreviation such as mit or apache-2.0, not {quoted(self.license)}")
        if self.public and not self.push:
            raise UserError("--public is for --push")
        if self.push and not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", self.push, re.ASCII):
            raise UserError(f"--push takes a name such as you/name, not {quoted(self.push)}")

    def check(self) -> None:
        """UserError if there is no such model, --out cannot be written, or a package is missing. Changes nothing."""
        find(self.run)
        require_writable(self.out / "config.json")
        ours = WRITTEN | SPACE if (self.out / "config.json").exists() else WRITTEN
        others = sorted(path.name for path in self.out.iterdir() if path.name not in ours) \
            if self.out.is_dir() else []
        if others:
            raise UserError(f"--out {self.out} holds files that are no export's ({quoted(others[0])}): "
                            "choose another folder")
        missing = [name for name in ("onnx", "onnxruntime") if self.format == "onnx" and not find_spec(name)]
        if missing:
            raise UserError(f"--format onnx needs {' and '.join(missing)}: pip install onnx onnxruntime")
        if self.push:
            from huggingface_hub import get_token

            if not get_token():
                raise UserError("--push needs a token of the Hugging Face hub: run `hf auth login`, or set HF_TOKEN")


def read_settings(description: str) -> Settings:
    """Read the command line. A mistake in it ends the process with exit status 2."""
    def parse() -> Settings:
        parser = cli.Parser(description=description)
        cli.add_arguments(parser, Settings)
        settings = cli.from_arguments(Settings, parser.parse_args())
        settings.check()
        cli.require_address_space()
        return settings

    settings = cli.attempt(parse)
    explain_import_errors()
    return settings
