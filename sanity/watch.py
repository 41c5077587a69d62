"""Run something each time one of several files is saved."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

WATCHING = "\nwatching {}; Ctrl-C ends it"


def watch(files: Mapping[str, Path], check: Callable[[str], object], command: list[str]) -> None:
    """Call check(name) at first and whenever the file of that name is saved; goes on until Ctrl-C.

    check runs in a fork of this process, which has imported what takes long and none of the files; so it sees a file
    as it is now. Where a system cannot fork, `command` and the name are run instead, which takes seconds longer.
    """
    seen: dict[str, tuple[int, int, int] | None] = {}
    while True:
        saved = [name for name, path in files.items() if name not in seen or version(path) != seen[name]]
        for name in saved:
            seen[name] = settled(files[name])  # before the check, which takes a while: the file may be saved meanwhile
            in_a_fork(lambda name=name: check(name), [*command, name])
        if saved:
            print(WATCHING.format(", ".join(files)), flush=True)
        time.sleep(0.2)


def settled(path: Path) -> tuple[int, int, int] | None:
    """Return the version of a file that an editor has finished writing: it stays for a twentieth of a second."""
    before = version(path)
    while True:
        time.sleep(0.05)
        if (now := version(path)) == before:
            return now
        before = now


def version(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is saved; None while an editor is replacing it."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def in_a_fork(function: Callable[[], object], command: list[str]) -> None:
    """Call a function in a fork and wait for its end; run the command where there is no fork."""
    sys.stdout.flush()
    if not hasattr(os, "fork"):
        subprocess.run(command, check=False)
        return
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except KeyboardInterrupt:
            pass
        finally:
            sys.stdout.flush()
            os._exit(status)
    os.waitpid(pid, 0)
