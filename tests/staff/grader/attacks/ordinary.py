"""Run a program as a user who may do nothing special, when the tests run as root."""

import ctypes
import os
import sys
from pathlib import Path

USER = 54321  # no user of the machine


def become_ordinary() -> None:
    """Give up root, between fork and exec; python stays readable even if it lies in root's home. Linux only."""
    libc = ctypes.CDLL(None, use_errno=True)
    python = Path(os.path.realpath(sys.executable)).parents[1]
    closed = [folder for folder in reversed(python.parents) if not folder.stat().st_mode & 1]
    if closed:  # in mounts of its own, an empty folder takes the place of the closed one, with python alone in it
        done = [libc.unshare(0x00020000), libc.mount(b"none", b"/", None, 0x44000, None)]
        handle = os.open(python, os.O_PATH)
        done.append(libc.mount(b"none", bytes(closed[0]), b"tmpfs", 0, b"mode=755"))
        python.mkdir(parents=True)
        done.append(libc.mount(f"/proc/self/fd/{handle}".encode(), bytes(python), None, 0x1000, None))
        if any(done):
            raise OSError(ctypes.get_errno(), "cannot make python readable for an ordinary user")
        os.close(handle)
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
