"""Make .venv on the first run, then run the arguments with it. For Windows.

    python run.py classifier.py --quick     a script of this repository
    python run.py -m pytest                 the tests
    python run.py                           set up, and nothing else

The packages are those of requirements.txt. This script does what setup.sh does
where there is bash, with the standard library alone; the two share one .venv.
The exit status is that of the command, or 2 if setting up fails.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
WINDOWS = os.name == "nt"
VENV, OLD = ROOT / ".venv", ROOT / ".venv.old"
STAMP = VENV / ".setup"  # if it exists, we made .venv; if it equals finished_stamp(), the installation is complete
UNFINISHED = "unfinished"
NEXT = """Ready: {python}. Next:
  python run.py classifier.py --quick    train on the bundled samples, offline
  python run.py sanity_check.py          check the five files"""


def python_in(venv: Path) -> Path:
    """Return the interpreter of an environment."""
    return venv / ("Scripts/python.exe" if WINDOWS else "bin/python")


def finished_stamp() -> str:
    """Return a text that changes if the checkout moves, or Python or the requirements change; as setup.sh does."""
    said = subprocess.run([python_in(VENV), "-V"], capture_output=True, text=True, check=False).stdout.strip()
    requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8").rstrip("\n")
    return f"{ROOT}\n{said.rpartition('.')[0]}\n{requirements}\n"


def without_comments(text: str) -> str:
    """Leave out comments and blank lines: they change nothing that is installed."""
    lines = (re.sub(r"(^|\s)#.*", "", line).rstrip() for line in text.splitlines())
    return "\n".join(line for line in lines if line)


def complete(venv: Path) -> bool:
    """Whether an environment was installed to its end, for whatever place and requirements."""
    stamp = venv / ".setup"
    return stamp.is_file() and stamp.read_text(encoding="utf-8").strip() != UNFINISHED and python_in(venv).exists()


def ready() -> bool:
    """Whether .venv is complete and fits this checkout."""
    return complete(VENV) and \
        without_comments(STAMP.read_text(encoding="utf-8")) == without_comments(finished_stamp())


def lock(file) -> None:
    """Wait until no other run.py or setup.sh installs here; the system frees the lock when this process ends."""
    if WINDOWS:
        import msvcrt
        import time

        while True:
            try:
                return msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            except OSError:
                time.sleep(1)
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        print(f"run.py: no locks on this file system ({error}): do not start a second run.py now", file=sys.stderr)


def put_back() -> None:
    """Restore the earlier environment, if a new one was begun and did not become complete."""
    if complete(OLD) and not complete(VENV) and (not VENV.exists() or STAMP.exists()):
        shutil.rmtree(VENV, ignore_errors=True)
        OLD.rename(VENV)


def install() -> None:
    """Make .venv in its final place; an earlier one waits beside it until that is done."""
    if sys.version_info < (3, 10):  # noqa: UP036 (this file runs before any version was chosen)
        raise SystemExit("error: Python 3.10 or newer is needed, this is " + sys.version.split()[0])
    with open(ROOT / ".venv.lock", "a") as file:
        lock(file)
        put_back()  # after a run that was killed
        if ready():
            return
        if VENV.exists() and any(VENV.iterdir()):
            if not STAMP.exists():
                raise SystemExit(f"error: {VENV} was not made by run.py: delete it or move it away, then start again")
            if complete(VENV):
                shutil.rmtree(OLD, ignore_errors=True)
                VENV.rename(OLD)
            else:
                shutil.rmtree(VENV)
        print("run.py: installing requirements.txt into .venv (once, a few minutes)", file=sys.stderr)
        VENV.mkdir(exist_ok=True)
        STAMP.write_text(UNFINISHED, encoding="utf-8")
        quiet = [] if sys.stderr.isatty() else ["--quiet"]
        pip = [python_in(VENV), "-m", "pip", "install", "--disable-pip-version-check", *quiet,
               "-r", ROOT / "requirements.txt"]
        for command in ([sys.executable, "-m", "venv", VENV], pip):
            if subprocess.run(command, stdout=sys.stderr, stdin=subprocess.DEVNULL, check=False,
                              env={**os.environ, "PIP_USER": "0"}).returncode:
                put_back()
                kept = "the earlier .venv is back" if complete(VENV) else "run.py starts afresh next time"
                print(f"error: {' '.join(map(str, command[1:4]))} failed (see above); {kept}", file=sys.stderr)
                raise SystemExit(2)
        STAMP.write_text(finished_stamp(), encoding="utf-8")
        shutil.rmtree(OLD, ignore_errors=True)


def main(words: list[str]) -> int:
    """Set up if need be, then run the words with .venv's Python, from the folder we were started in."""
    if words[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    if not ready():
        install()
    if not words:
        print(NEXT.format(python=python_in(VENV)))
        return 0
    if words[0] == "-m":
        if "\nPython 3.10\n" not in STAMP.read_text(encoding="utf-8"):
            words = ["-P", *words]  # no module of the current folder hides an installed one of its name
    elif not words[0].startswith(("-", "/", "./", "../", ".\\", "..\\")) and (ROOT / words[0]).is_file():
        words = [str(ROOT / words[0]), *words[1:]]

    # course/ has the modules that files written on the course's starter import. UTF-8 whatever the console's encoding.
    path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "course"), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUTF8": "1"}
    try:
        return subprocess.run([python_in(VENV), *words], env=environment, check=False).returncode
    except KeyboardInterrupt:  # the command has had it too, and has ended as it wants to
        return 130


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            raise SystemExit(2) from None
        raise
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
