"""Find and end the processes that a test leaves behind, and remove its files."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable

from staff.grader import kernel

COMMON = ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/lock")


def processes() -> dict[int, dict[str, int]]:
    """Return of each running process: its parent, its user, its threads, and the bytes of memory that it has filled.

    Not counted are files that it has mapped, such as PyTorch's libraries.
    """
    found = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError, KeyError):
                with open(f"/proc/{name}/status", errors="replace") as file:
                    lines = dict(line.split(":", 1) for line in file if ":" in line)
                found[int(name)] = {"parent": int(lines["PPid"]), "uid": int(lines["Uid"].split()[0]),
                                    "threads": int(lines["Threads"]), "memory": sum(
                                        int(lines.get(kind, "0").split()[0]) << 10 for kind in ("RssAnon", "RssShmem"))}
    return found


def processor_seconds(pids: Iterable[int]) -> float:
    """Return the processor time that processes have taken, with that of their children who have ended."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", errors="replace") as file:
            ticks += sum(map(int, file.read().rpartition(")")[2].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def is_larger(folder: str, size: int, entries: int = 50_000) -> bool:
    """Whether a folder holds more than `size` bytes, or more files and folders than `entries`. Follows no links."""
    total, count, waiting = 0, 0, [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as found:
                for entry in found:
                    with contextlib.suppress(OSError):
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
                    count += 1
                    if total > size or count > entries:
                        return True
        except OSError:  # gone meanwhile, or closed to us
            continue
    return False


def descendants(root: int, table: dict[int, dict[str, int]]) -> set[int]:
    """Return the processes below `root`."""
    children: dict[int, list[int]] = {}
    for pid, row in table.items():
        children.setdefault(row["parent"], []).append(pid)
    found, waiting = set(), [root]
    while waiting:
        new = children.get(waiting.pop(), [])
        found.update(new)
        waiting += new
    return found


def kill_user(uid: int) -> None:
    """Kill every process of a user at once. Needs root."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os.setresuid(uid, uid, uid)
            os.kill(-1, signal.SIGKILL)
        os._exit(0)
    os.waitpid(pid, 0)


def end_all(uid: int | None, seconds: float = 5.0) -> None:
    """Kill every descendant of this process, and every process of the test's own user if it had one; wait for them.

    This process adopts orphans (PR_SET_CHILD_SUBREAPER): when it has no child, nothing that a test started is left.
    Raises TimeoutError where some are still there after so many seconds.
    """
    end = time.monotonic() + seconds
    while reap():
        if time.monotonic() > end:
            raise TimeoutError("processes of a test cannot be ended")
        for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first: what forks all the time cannot run away
            for pid in descendants(os.getpid(), processes()):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
        if uid is not None:
            kill_user(uid)
        time.sleep(0.002)


def reap() -> bool:
    """Collect the children that have ended; return whether there are others."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def remove(path: str) -> None:
    """Remove a file or a folder with everything in it, however deep; nothing may be writing there any more."""
    with contextlib.suppress(OSError):
        return os.unlink(path) if os.path.islink(path) or not os.path.isdir(path) else os.rmdir(path)
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if os.geteuid() != 0:
        subprocess.run(["chmod", "-R", "u+rwx", "--", path], **quiet)
    subprocess.run(["rm", "-rf", "--", path], **quiet)


def remove_of_user(uid: int) -> None:
    """Remove a user's files in the common folders, and its System V shared memory, semaphores and queues."""
    for folder in COMMON:
        with contextlib.suppress(OSError):
            for entry in os.scandir(folder):
                with contextlib.suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_uid == uid:
                        remove(entry.path)
    for kind, function, more in (("shm", "shmctl", (0, None)), ("sem", "semctl", (0, 0)), ("msg", "msgctl", (0, None))):
        with contextlib.suppress(OSError):
            with open(f"/proc/sysvipc/{kind}") as file:
                head = next(file).split()
                rows = [dict(zip(head, line.split(), strict=False)) for line in file]
            for row in rows:
                if str(uid) in (row["uid"], row["cuid"]):
                    kernel.call(function, int(row[f"{kind}id"]), *more)
