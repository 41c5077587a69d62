"""The one door for what is printed: no control characters, and no error where nobody reads."""

import ast
import os
import subprocess
import sys

import pytest

from common.errors import one_line, printable
from common.terminal import say
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
