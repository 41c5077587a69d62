"""The command-line habit: flags from dataclasses, both spellings, errors as one line with exit status 2."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from common import cli
from common.errors import UserError, quoted

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Base:
    run_name: str | None = None
    "Name of the run."


@dataclass(frozen=True)
class Settings(Base):
    fine_tune_mode: Literal["full-model", "last-linear-layer"] = "last-linear-layer"
    """Which weights move;
    50% of people ask."""
    batch_size: int = 8
    lr: float | None = None
    "Learning rate."
    use_gpu: bool = False
    "Use the GPU."
    bucket: bool = True
    "Batch by length."
    data: tuple[str, ...] = ("sst", "cfimdb")
    "Tasks."
    out: Path = Path("runs")

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError("--batch-size must be at least 1")


def parse(*words: str, settings: type = Settings):
    parser = cli.Parser(prog="script")
    cli.add_arguments(parser, settings)
    return cli.from_arguments(settings, parser.parse_args(words))


def test_defaults_are_the_dataclass_defaults():
    """Catches a flag whose default drifts from the field's (None, tuples, inherited fields included)."""
    assert parse() == Settings()


@pytest.mark.parametrize("mark", ["-", "_"])
def test_both_spellings_of_every_flag(mark):
    """Catches a flag reachable by only one of its two spellings, negations and `--flag=value` included."""
    words = ["--fine_tune_mode", "full-model", "--batch_size=3", "--run_name=a_b", "--use_gpu", "--no_bucket"]
    words = [word.replace("_", mark) if word.startswith("--") and "=" not in word else word for word in words]
    got = parse(*words)
    assert got == Settings(fine_tune_mode="full-model", batch_size=3, run_name="a_b", use_gpu=True,
                           bucket=False)


def test_values_are_never_respelt():
    """Catches normalising underscores in a value, which would open the wrong file."""
    assert parse("--run-name", "a_b", "--out", "x_y/--z_").out == Path("x_y/--z_")
    parser = cli.Parser()
    parser.add_argument("text", nargs="*")
    assert parser.parse_args(["--", "--a_b"]).text == ["--a_b"]


def test_types():
    """Catches values left as strings, and tuples that come back as (unhashable) lists."""
    got = parse("--lr", "1e-3", "--data", "sst", "--batch-size", "2", "--no-use-gpu", "--bucket")
    assert got.lr == 1e-3 and got.data == ("sst",) and got.batch_size == 2
    assert got.use_gpu is False and got.bucket is True
    hash(got)


@pytest.mark.parametrize("words", [["--batch", "3"], ["--lr", "fast"], ["--fine-tune-mode", "half"],
                                   ["--nope"], ["--data"]])
def test_wrong_flags_exit_2(words, capsys):
    """Catches accepted abbreviations and unknown or mistyped flags that are silently ignored."""
    with pytest.raises(SystemExit) as exit_info:
        parse(*words)
    assert exit_info.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--run-name", "a\nerror: disk erased"], ["--run-name=a\r\nb"], ["--no\npe"],
                                   ["--out", "a\u2028b"]])
def test_no_value_forges_a_line(words, capsys):
    """Catches a value with a line break, which would begin a line of its own in every message that names it."""
    with pytest.raises(SystemExit) as exit_info:
        parse(*words)
    said = capsys.readouterr().err.splitlines()
    assert exit_info.value.code == 2 and len(said) == 2 and said[0].startswith("error: a line break in '")


def test_validation_is_the_dataclasses():
    """Catches from_arguments bypassing __post_init__."""
    with pytest.raises(UserError, match="batch-size"):
        parse("--batch_size", "0")


def test_required_field():
    """Catches a field without a default becoming an optional flag with the value None."""
    @dataclass(frozen=True)
    class Needs:
        train: str

    assert parse("--train", "x", settings=Needs).train == "x"
    with pytest.raises(SystemExit):
        parse(settings=Needs)


def test_type_that_makes_no_flag():
    """Catches a silent `type=str` for a type the table does not know."""
    @dataclass(frozen=True)
    class Odd:
        table: dict = None

    with pytest.raises(TypeError, match="--table"):
        parse(settings=Odd)


def test_help_comes_from_the_class_body(capsys, monkeypatch):
    """Catches help that is lost, mangled by %, or given to a neighbouring field that has none."""
    monkeypatch.setenv("COLUMNS", "300")  # argparse wraps at hyphens
    with pytest.raises(SystemExit):
        parse("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "Name of the run." in text
    assert "Which weights move; 50% of people ask. (default: last-linear-layer)" in text
    assert "Turn off: Batch by length." in text
    assert "--no-use-gpu" not in text and "--fine_tune_mode" not in text
    assert set(cli.field_help(Settings)) == {"run_name", "fine_tune_mode", "lr", "use_gpu", "bucket", "data"}


def script(body: str, *, pipe_to: str = "") -> subprocess.CompletedProcess:
    """Run `body` as a script's main under cli.run, in a process of its own."""
    lines = "\n".join("    " + line for line in body.splitlines())
    imports = "from common import cli\nfrom common.errors import UserError\n"
    code = f"{imports}def main():\n{lines}\ncli.run(main)\n"
    if not pipe_to:
        return subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True,
                              timeout=240)
    shell = f'"$PYTHON" -c "$CODE" | {pipe_to}; echo "status ${{PIPESTATUS[0]}}"'
    return subprocess.run(["bash", "-c", shell], cwd=REPOSITORY, capture_output=True, text=True, timeout=240,
                          env={"PYTHON": sys.executable, "CODE": code, "PATH": "/usr/bin:/bin"})


def test_run_turns_a_user_error_into_a_line():
    """Catches tracebacks for users, and errors on standard output where a pipe would take them for data."""
    done = script("raise UserError('no such file: x\\nget it with y')")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: no such file: x\nget it with y\n")


def test_run_passes_the_status_on():
    """Catches a lost exit status of main."""
    assert script("return 1").returncode == 1
    assert script("print('fine')").returncode == 0


def test_run_keeps_the_traceback_of_a_bug():
    """Catches an over-broad except that would hide bugs from their authors."""
    done = script("raise ValueError('bug')")
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_run_ctrl_c():
    """Catches a KeyboardInterrupt traceback or a status that a shell loop would not stop at."""
    done = script("raise KeyboardInterrupt")
    assert done.returncode == 130 and "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGPIPE on Windows")
@pytest.mark.parametrize("lines", [1, 100_000])
def test_run_broken_pipe_is_quiet(lines):
    """Catches the BrokenPipeError noise of `script | head`, both in print and at the last flush."""
    done = script(f"import time\ntime.sleep(0.3)\nfor i in range({lines}): print(i)", pipe_to="true")
    assert done.stderr == "" and done.stdout == "status 141\n"


def test_cli_imports_nothing_heavy():
    """Catches an import that would make every `--help` wait."""
    done = script("import sys, common.files, common.cli\n"
                  "print({'torch', 'numpy', 'tqdm'} & set(sys.modules))")
    assert done.stdout.strip() == "set()"


def test_quoted_cuts_and_escapes():
    """Catches terminal escapes and megabytes of input in an error message."""
    assert quoted("a\x1b[31m\n") == r"'a\x1b[31m\n'"
    assert len(quoted("x" * 10**6)) < 100
