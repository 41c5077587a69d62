"""The one door for what is printed: no control characters, and no error where nobody reads."""

import ast
import io
import os
import subprocess
import sys

import pytest

from common.cli import progress
from common.errors import one_line, printable
from common.terminal import can_show, say, spark_line
from tests.test_doors import python_files, room_of

DOOR = {"common", "finetuning", "pretraining", "training", "submission", "prepare_submit"}


@pytest.mark.parametrize("text, shown", [
    ("plain ä ±", "plain ä ±"), ("\x1b[2Jred", r"\x1b[2Jred"), ("a\rb\tc\x07", r"a\rb\tc\x07"),
    ("\u202eevil", r"\u202eevil"), ("\udcff.csv", r"\udcff.csv"), ("two\nlines", "two\nlines")])
def test_nothing_repaints_the_terminal(capsys, text, shown):
    """Catches escapes, carriage returns, text that runs backwards, and file names that no encoding can print."""
    say(text)
    say(text, error=True)
    printed = capsys.readouterr()
    assert printed.out == printed.err == shown + "\n" == printable(text) + "\n"
    assert "\n" not in one_line(text)


def test_rooms_print_through_the_door(root):
    """Catches a print beside the door, whose text may hold anything and whose failure ends the program."""
    found = [f"{path.relative_to(root)}:{node.lineno}" for path in python_files(root) if room_of(path, root) in DOOR
             for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Call)
             and getattr(node.func, "id", "") == "print" and (node.args or room_of(path, root) != "prepare_submit")]
    assert [place for place in found if not place.startswith("common/terminal.py")] == []


SCRIPT = """
from common import cli
from common.errors import Stopped, UserError
from common.terminal import say
def main():
    for line in range(20000):
        say(f"line {line}")
    open("done", "w").close()
    END
cli.run(main)
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("end, status", [
    ("return 0", 2), ("return 1", 2), ("raise Stopped('saved', 143)", 143), ("raise UserError('bad')", 2),
    ("raise KeyboardInterrupt", 130)])
@pytest.mark.parametrize("both", [False, True])
def test_a_full_disk_costs_only_the_output(root, tmp_path, end, status, both):
    """Catches a traceback at the first line without room, work that is left undone, another exit status."""
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", SCRIPT.replace("END", end)], stdout=full, cwd=tmp_path, text=True,
                              stderr=full if both else subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(root)})
    assert done.returncode == status and (tmp_path / "done").exists()
    if not both:
        assert len(done.stderr.splitlines()) == (2 if "return" in end else 1) and "Traceback" not in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_output_is_written_to_no_file(root, tmp_path, closed):
    """Catches a file that gets descriptor 1 or 2, and with it every message; a traceback for a closed stream."""
    code = SCRIPT.replace("END", "import os; file = open('f', 'w'); [os.write(n, b'message') for n in (1, 2)]")
    done = subprocess.run(["bash", "-c", f'"$0" -c "$1" {closed}', sys.executable, code], stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)})
    assert done.returncode == 0 and (tmp_path / "f").read_bytes() == b"" and b"Traceback" not in done.stderr


@pytest.mark.parametrize("encoding, shown", [("ascii", r"\xb1 \ud55c.csv"), ("cp1252", r"± \ud55c.csv"),
                                             ("utf-8", "± 한.csv"), ("ascii:strict", r"\xb1 \ud55c.csv")])
def test_no_encoding_ends_a_program(root, tmp_path, encoding, shown):
    """Catches a traceback at a sign that the terminal's encoding lacks, before a run has written its results."""
    code = SCRIPT.replace('f"line {line}"', '"± 한.csv", error=bool(line)').replace("20000", "2").replace("END", "pass")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True,
                          env={**os.environ, "PYTHONPATH": str(root), "PYTHONIOENCODING": encoding})
    decoded = [stream.decode(encoding.split(":")[0]).strip() for stream in (done.stdout, done.stderr)]
    assert done.returncode == 0 and (tmp_path / "done").exists() and decoded == [shown, shown]


# ---- colours, bars, little bars --------------------------------------------------------------------------------------


class Tty(io.StringIO):
    """A terminal."""

    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.mark.parametrize("environment, coloured", [({}, True), ({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False),
                                                   ({"TERM": "dumb"}, False)], ids=str)
def test_colours_are_for_terminals_that_want_them(monkeypatch, environment, coloured):
    """Catches escapes in a log, under NO_COLOR or on a dumb terminal, and a message that may bring its own."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    terminal, log = Tty(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", log)
    say("fine \x1b[31m", style="good")
    say("bad", error=True, style="error")
    plain = "fine \\x1b[31m"
    assert terminal.getvalue() == (f"\x1b[32m{plain}\x1b[0m\n" if coloured else f"{plain}\n")
    assert log.getvalue() == "bad\n"


def test_a_bar_makes_room(monkeypatch):
    """Catches a message that is printed into the middle of a progress bar."""
    screen = Tty()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    with progress(4, "epoch: ", unit=None) as bar:
        bar.update(1)
        screen.truncate(0)
        say("a line of its own")
    before, _, after = screen.getvalue().lstrip("\0").partition("a line of its own\n")
    assert before.strip("\r ") == "" and before.endswith("\r") and "25%" in after


@pytest.mark.parametrize("values, shown", [
    ([0.0, 1.0], "\u2581\u2588"),
    ([1.0, 0.0, 0.5], "\u2588\u2581\u2585"), ([0.3, 0.3], "\u2581\u2581"), ([2], "\u2581"),
    ([0, 1, 2, 3, 4, 5, 6, 7], "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588")])
def test_a_spark_line(monkeypatch, values, shown):
    """Catches a division by a span of nothing, and signs in another order."""
    monkeypatch.setattr(sys, "stdout", Tty())
    assert spark_line(values) == shown


def test_a_long_spark_line_fits(monkeypatch):
    """Catches a line as long as the run: 95 values in groups of 3, each its mean."""
    monkeypatch.setattr(sys, "stdout", Tty())
    line = spark_line(list(range(95)), width=40)
    assert len(line) == 32 and line[0] == "\u2581" and line[-1] == "\u2588" and sorted(line) == list(line)


def test_an_encoding_without_the_signs(monkeypatch):
    """Catches escapes in the place of each bar where the output is ASCII."""
    screen = Tty()
    screen.encoding = "ascii"
    monkeypatch.setattr(sys, "stdout", screen)
    assert spark_line([0.0, 0.5, 1.0]) == "_=#" and not can_show("\u00b1") and can_show("+-")
