"""Attacks on the sandbox that runs this file, as a submission would try them. They report what they reached."""

import ctypes
import os
import time
from contextlib import suppress
from pathlib import Path


def read_files(inputs):
    """Read a file that is not for submissions, by its path, by a copy, and by walking its folder."""
    found = ""
    path, folder = str(inputs["path"]), str(inputs["folder"])
    with suppress(OSError):
        found += Path(path).read_text()
    with suppress(OSError):
        os.chmod(path, 0o644)
        found += Path(path).read_text()
    with suppress(OSError):
        os.link(path, Path(os.environ["TMPDIR"], "copy"))
        found += Path(os.environ["TMPDIR"], "copy").read_text()
    with suppress(OSError):
        found += "".join(other.read_text() for other in Path(folder).iterdir() if other.name.startswith(".canary-"))
    return {"found": found}


def read_memory(inputs):
    """Read the memory, the environment and the open files of the grader's processes."""
    found = []
    libc = ctypes.CDLL(None, use_errno=True)
    for pid in (int(inputs["pid"]), int(inputs["zygote"]), os.getppid()):
        with suppress(OSError):
            found.append("its environment " + Path(f"/proc/{pid}/environ").read_bytes()[:20].decode("ascii", "replace"))
        with suppress(OSError):
            found += [f"its open file {name}" for name in os.listdir(f"/proc/{pid}/fd")]
        with suppress(OSError), open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            memory.seek(int(inputs["address"]))
            found.append("its memory " + memory.read(32).decode("ascii", "replace"))
    buffer = ctypes.create_string_buffer(32)
    ours, theirs = ((ctypes.c_ulong * 2)(at, 32) for at in (ctypes.addressof(buffer), int(inputs["address"])))
    if libc.process_vm_readv(int(inputs["pid"]), ours, 1, theirs, 1, 0) > 0:
        found.append("its memory " + buffer.raw.decode("ascii", "replace"))
    return {"found": "; ".join(found)}


def forge_results(inputs):
    """Write over a file, put another in its place, and add one beside it."""
    path = Path(str(inputs["path"]))
    for place in (path, path.with_name("more.json")):
        with suppress(OSError):
            place.write_text("forged")
    with suppress(OSError):
        forged = Path(os.environ["TMPDIR"], "forged")
        forged.write_text("forged")
        os.replace(forged, path)
    with suppress(OSError):
        path.unlink()
    return {}


def outlive(inputs):
    """Start a daemon, with two forks and a session of its own, under a name; it sleeps longer than any test runs."""
    ready, started = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            ctypes.CDLL(None).prctl(15, str(inputs["name"]).encode())  # PR_SET_NAME
            os.write(started, b"1")
            time.sleep(600)
        os._exit(0)
    return {"started": os.read(ready, 1) == b"1"}
