"""What `-m report` is asked to do. Imports neither NumPy nor PyTorch, so that --help and mistakes answer at once."""

from common import interrupts  # noqa: F401, I001 (first: from here on Ctrl-C ends a script quietly)

from dataclasses import dataclass
from pathlib import Path

from common import cli
from common.errors import UserError, quoted

PAGE = "report.html"


@dataclass(frozen=True)
class Settings:
    """What `-m report` is asked to do. Validated on construction."""

    out: Path | None = None
    """Where the page goes. Default: report.html in the run's folder; for a comparison, in this folder."""
    explain: int = 10
    """Colour the words of so many of the most confident mistakes, 50 at most; a long review takes some seconds each."""
    brief: bool = False
    """A page for each run, or for each group of seeds, with as many coloured mistakes as five seconds allow: what
    classifier.py asks for when it ends."""
    live: bool = False
    """A page with the run's model in it instead, which reads what you type: live.html in the run's folder."""

    def __post_init__(self) -> None:
        cli.require_ranges(self, ("explain", 0, 50))
        if self.brief and (self.out or self.live):
            raise UserError("--brief writes a page into each run's folder: leave out --out and --live")


def read_settings(description: str) -> tuple[Settings, tuple[Path, ...]]:
    """Read the command line: the settings and the run folders. A mistake ends the process with exit status 2."""
    def parse() -> tuple[Settings, tuple[Path, ...]]:
        parser = cli.Parser(prog="report", description=description)
        parser.add_argument("runs", nargs="+", metavar="RUN", type=Path,
                            help="folder of a finished run, or of the runs of several seeds")
        cli.add_arguments(parser, Settings)
        arguments = parser.parse_intermixed_args()
        settings = cli.from_arguments(Settings, arguments)
        runs = tuple(path.expanduser() for path in arguments.runs)
        for run in runs:
            if not run.is_dir():
                raise UserError(f"no run folder {quoted(run, 200)}")
        if settings.live and len(runs) > 1:
            raise UserError("--live shows one run's model: give one run")
        cli.require_address_space()
        return settings, runs

    return cli.attempt(parse)
