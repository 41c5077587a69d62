"""What serve.py is asked to do. Imports no PyTorch, so that --help and mistakes answer at once."""

from common import interrupts  # noqa: F401, I001 (first: from here on Ctrl-C ends a script quietly)

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common import cli
from common.errors import UserError, quoted
from common.student_files import explain_import_errors
from serving.find import find


@dataclass(frozen=True)
class Settings:
    """What serve.py is asked to do. Validated on construction."""

    run: Path
    """Folder of a finished run, such as runs/own-full-model, or a copy of the folder model/ in it."""
    host: str = "127.0.0.1"
    """Address to listen at. Any other than this machine's own lets others in the network use the model."""
    port: int = 8000
    """Port to listen at; 0 takes a free one."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes an accelerator if there is one."""

    def __post_init__(self) -> None:
        cli.require_ranges(self, ("port", 0, 65535))
        if not re.fullmatch(r"[A-Za-z0-9.-]{1,253}", self.host):
            raise UserError(f"--host takes an IPv4 address or a name, not {quoted(self.host)}")


def read_settings(description: str) -> Settings:
    """Read the command line. A mistake in it ends the process with exit status 2."""
    def parse() -> Settings:
        parser = cli.Parser(description=description)
        cli.add_arguments(parser, Settings)
        settings = cli.from_arguments(Settings, parser.parse_args())
        find(settings.run)
        cli.require_address_space()
        return settings

    settings = cli.attempt(parse)
    explain_import_errors()
    return settings
