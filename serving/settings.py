"""What predict.py is asked to do. Imports no PyTorch, so that --help and mistakes answer at once."""

from common import interrupts  # noqa: F401, I001 (first: from here on Ctrl-C ends a script quietly)

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common import cli
from common.errors import UserError, quoted
from common.student_files import explain_import_errors
from serving.find import find


@dataclass(frozen=True)
class Settings:
    """What predict.py is asked to do. Validated on construction."""

    run: Path
    """Folder of a finished run, such as runs/own-full-model, or a copy of the folder model/ in it."""
    file: Path | None = None
    """File with the texts. Without this and without texts: standard input."""
    format: Literal["txt", "csv", "tsv", "jsonl"] | None = None
    """What the file is: txt, a text a line; csv or tsv, with named columns; jsonl. Default: by its name, else txt."""
    text_column: str | None = None
    """Column (or key) that holds the texts. Default: text, sentence, review or content."""
    id_column: str | None = None
    """Column (or key) that names the rows. Default: id if there is one, else the rows are numbered."""
    output: Literal["text", "tsv", "jsonl"] = "text"
    """text: for people; tsv: id, label, name and a probability for each label; jsonl: the same with the text."""
    explain: bool = False
    """Also show each word's share in the probability, by integrated gradients."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes an accelerator if there is one."""

    def __post_init__(self) -> None:
        if self.explain and self.output == "tsv":
            raise UserError("--explain is for --output text or jsonl: a table has no place for words")

    def check_file(self) -> None:
        """UserError if the file with the texts is not there. Reads nothing."""
        if self.file is not None and not self.file.exists():
            raise UserError(f"no such file: {quoted(self.file, 200)}")
        if self.file is not None and self.file.is_dir():
            raise UserError(f"{quoted(self.file, 200)} is a folder; give one file")


def read_settings(description: str) -> tuple[Settings, list[str]]:
    """Read the command line: the settings, and the texts on it. A mistake ends the process with exit status 2."""
    def parse() -> tuple[Settings, list[str]]:
        parser = cli.Parser(description=description)
        parser.add_argument("texts", nargs="*", metavar="TEXT", help="a text to predict (after -- if it begins with -)")
        cli.add_arguments(parser, Settings)
        arguments = parser.parse_intermixed_args()
        settings = cli.from_arguments(Settings, arguments)
        if arguments.texts and settings.file:
            raise UserError("give texts or --file, not both")
        if not arguments.texts and settings.file is None and settings.format is None \
                and (settings.text_column or settings.id_column):
            raise UserError("standard input with columns needs --format csv, tsv or jsonl")
        settings.check_file()
        find(settings.run)
        cli.require_address_space()
        return settings, arguments.texts

    settings = cli.attempt(parse)
    explain_import_errors()
    return settings
