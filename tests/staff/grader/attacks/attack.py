"""What an attack is: a student's file with a few lines more, and the promises that it must not break.

The attacks are in reading.py, faking.py, replying.py, lasting.py, exhausting.py and reaching.py. Most stand on a wrong
modules/attention.py, so that a point won is a point too many. Each is run three times: in naive.py, a grader without
defences, where it must work (or it proves nothing); in the sandbox with every level; and in the sandbox of an ordinary
user with L0 alone, where `degraded` says which promises do not hold, and why.
"""

from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]
TARGET = "modules/attention.py"

PROMISES = {
    "score": "no more points than the same code without the attack",
    "report": "a verdict on this test, from a grader that goes on",
    "hidden": "no secret, and no expected value, in what the code said or sent",
    "left": "no process, file or shared memory left behind",
    "bounded": "time and memory of the grader within limits",
    "next": "full marks for the next test of right code",
}


@dataclass(frozen=True)
class Attack:
    """A submission that attacks the grader. `code` is put before the student's file, `after` behind it."""

    name: str
    threat: str  # numbers of docs/attacks.md: "T6", "T15"
    code: str = ""
    after: str = ""
    files: dict[str, bytes] = field(default_factory=dict)  # more files in the submission
    breaks: str = ""  # the promise that it breaks in naive.py; "" where naive.py has nothing that it aims at
    stops: str = "L0"  # the lowest level that stops it
    degraded: dict[str, str] = field(default_factory=dict)  # promise -> why it does not hold with L0 alone
    staged: bool = True  # False: the attack is in `files`, and the sandbox never sees those
    twice: bool = False  # run again on public inputs, whose feedback students see: what has it kept of the hidden ones?
    deadly: bool = False  # ends all processes of its user: only for a user who has no others


ATTACKS: dict[str, Attack] = {}


def attack(name: str, threat: str, code: str = "", after: str = "", **more: object) -> None:
    """Put an attack on the list."""
    if name in ATTACKS:
        raise ValueError(f"two attacks are called {name}")
    ATTACKS[name] = Attack(name, threat, code, after, **more)


def right_code() -> str:
    """Return the solution's attention."""
    return (ROOT / TARGET).read_text()


def wrong_code() -> str:
    """Return the solution's attention without its scale."""
    code = right_code()
    if code.count(" / math.sqrt(hs)") != 1:
        raise ValueError(f"{TARGET} has no ' / math.sqrt(hs)' to take out")
    return code.replace(" / math.sqrt(hs)", "")


HEAD = '''
import ctypes, os, sys, time
import torch
GRADER, PORT, SOCKET, LIMIT = {grader!r}, {port}, {socket!r}, {limit}
LIBC = ctypes.CDLL(None, use_errno=True)
SCRATCH = os.environ.get("TMPDIR") or os.getcwd()  # where code may write

def say(*words):
    try:
        os.write(1, (" ".join(map(str, words)) + "\\n").encode("utf-8", "replace"))
    except OSError:
        pass

def rename():
    """Give this process the name by which the harness finds what is left behind."""
    LIBC.prctl(15, b"attack", 0, 0, 0)

def attempt(work, *args):
    """Return what work(*args) returns; say what stopped it."""
    try:
        return work(*args)
    except Exception as error:
        say("stopped:", type(error).__name__, error)

def pids():
    """Return the numbers of all processes that can be seen."""
    return [int(name) for name in (attempt(os.listdir, "/proc") or []) if name.isdigit()]

def ancestors():
    """Return the parent, its parent and so on, without 0 and 1."""
    found, pid = [], os.getppid()
    while pid > 1:
        found.append(pid)
        with open(f"/proc/{{pid}}/stat") as file:
            pid = int(file.read().rpartition(")")[2].split()[1])
    return found

def open_files():
    """Return the descriptors of this process."""
    return sorted(int(name) for name in os.listdir("/proc/self/fd"))

say("attack:", {name!r})
'''


def submission(attack: Attack, grader: str, port: int = 0, socket: str = "", limit: float = 2.0) -> dict[str, bytes]:
    """Return the files of the submission that makes the attack on a grader in the folder `grader`."""
    head = HEAD.format(grader=grader, port=port, socket=socket, limit=limit, name=attack.name)
    if not attack.staged:
        head = ""
    return {TARGET: (head + attack.code + wrong_code() + attack.after).encode()} | attack.files
