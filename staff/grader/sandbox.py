"""Run a submission's code in a process of its own: arrays in, arrays out. NumPy only; never imports a submission."""

import contextlib
import fcntl
import json
import math
import os
import re
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from staff.grader import kernel
from staff.grader.case import Arrays, Request
from staff.grader.confine import LEVELS, Level
from staff.grader.leftovers import remove

HERE = Path(__file__).resolve().parent
REPLY_LIMIT = 16_000_000  # bytes
PRINT_LIMIT, FLOOD_LIMIT = 20_000, 256_000_000  # bytes of what a test prints: that are kept, that it may print
UIDS = 8  # users for each sandbox; a test takes the next one
CLOCK = 4  # times as many seconds by the clock as of processor time, for machines where much else runs
GRACE = 10.0  # seconds in which the zygote must answer once a test is over


class SandboxError(Exception):
    """The sandbox does not work, or not as well as it must. The submission is not to blame."""


@dataclass(frozen=True)
class Reply:
    """What came back from a test's process: arrays, or the reason why there are none."""

    arrays: Arrays | None = None
    error: str = ""  # "not implemented", one of FAILURES, or the type of an exception
    message: str = ""  # what the exception said: the submission's words, never to be trusted or rendered
    place: str = ""  # file:line in the submission
    printed: str = ""
    seconds: float = 0.0


FAILURES = {"time": "the test took too long", "memory": "the test took too much memory",
            "disk": "the test wrote too much", "output": "the test printed too much", "no reply": "", "bad reply": "",
            "not run": "the time for all tests was over"}


@dataclass
class Sandbox:
    """A zygote that forks one child for each request. Use as a context manager.

    Raises SandboxError where the level of confinement that holds (`level`) is below `minimum`.
    """

    seconds: float = 10.0  # of processor time: the most that one request may take; CLOCK times as many by the clock
    minimum: str = "L0"
    allow: tuple[str, ...] = LEVELS  # tests leave levels out
    deadline: float | None = None  # time.monotonic() after which nothing is run
    memory: int = 1 << 30  # bytes that the processes of one test may hold
    first_uid: int = 61000  # root gives each test a user of its own: this one or one of the 183 after it
    worker: int = 0  # where sandboxes that run at the same time start to look for free ones
    level: Level = field(default=Level(), init=False)
    process: subprocess.Popen | None = field(default=None, init=False)

    def __enter__(self) -> "Sandbox":
        self.claim, self.uids, self.count = None, [], 0
        if os.geteuid() == 0 and "L1" in self.allow:
            self._claim_users()
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # so that a test of the same user cannot read this process's memory
        try:
            self._start()
        except BaseException:
            if self.process:
                self.process.kill()
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        if self.claim:
            self.claim.close()
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)

    def _claim_users(self) -> None:
        """Take the first users, from this worker's on, that no other sandbox has taken."""
        for first in range(self.first_uid + UIDS * self.worker, self.first_uid + UIDS * 23, UIDS):
            claim = socket.socket(socket.AF_UNIX)
            try:
                claim.bind(f"\0grader-users-{first}")  # free again when this process ends
            except OSError:
                claim.close()
                continue
            self.claim, self.uids = claim, list(range(first, first + UIDS))
            return
        raise SandboxError(f"the users from {self.first_uid} on are all taken by other graders: give another first_uid")

    def _start(self) -> None:
        """Start a zygote, and learn which level holds."""
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        settings = {"levels": [*self.allow], "uids": self.uids}
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-B", str(HERE / "zygote.py"), str(theirs.fileno()), json.dumps(settings)],
                pass_fds=[theirs.fileno()], env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **threads},
                stdin=subprocess.DEVNULL, start_new_session=True)
        self.control.settimeout(120)
        try:
            held, missing, landlock = json.loads(self.control.recv(65536))
            self.level = Level(tuple(held), tuple(map(tuple, missing)), landlock)
            if not self.level.reaches(self.minimum):
                raise SandboxError(f"the sandbox must reach {self.minimum}, but this machine gives it {self.level}")
            if self.control.recv(64) != b"ready":
                raise ValueError
        except (ValueError, OSError):
            raise SandboxError("the sandbox's process does not start; what it printed says why") from None

    def _restart(self) -> None:
        """Put a new zygote in the place of one that died or does not answer."""
        self.process.kill()
        self._stop()
        self._start()

    def _stop(self) -> None:
        """End the zygote."""
        self.control.close()
        if self.process is None:  # it could not even be started
            return
        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def run(self, files: dict[str, bytes], request: Request) -> Reply:
        """Stage files (path -> content) in a new folder, run a probe on them, and return its reply."""
        left = math.inf if self.deadline is None else self.deadline - time.monotonic()
        if left <= 0:
            return Reply(error="not run", message=FAILURES["not run"])
        if self.process.poll() is not None:
            self._restart()
        uid = self.uids[self.count % UIDS] if "uid" in self.level.held else None
        self.count += 1
        folder = tempfile.mkdtemp(prefix="t")
        try:
            task = {"probe": request.probe, "seconds": self.seconds, "memory": self.memory, "uid": uid,
                    **stage(folder, files, uid)}
            reply = self._run(task, request, min(CLOCK * self.seconds, left))
        finally:
            if os.geteuid() != 0:
                os.chmod(f"{folder}/code", 0o700)
            shutil.rmtree(f"{folder}/code", ignore_errors=True)
            remove(f"{folder}/scratch")
            remove(folder)
        if reply.error == "time" and left <= reply.seconds:
            return Reply(error="not run", message=FAILURES["not run"], printed=reply.printed, seconds=reply.seconds)
        return reply

    def _run(self, task: dict, request: Request, patience: float) -> Reply:
        """Send one task to the zygote; read what its child says until the zygote has ended all of it.

        patience: the seconds by the clock after which the zygote is told to end it.
        """
        started = time.monotonic()
        with os.fdopen(os.memfd_create("request", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "wb") as file:
            np.savez(file, **request.arrays())
            file.flush()
            file.seek(0)
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, 0xF)  # nobody can change it any more
            (reply, reply_end), (printed, printed_end) = os.pipe(), os.pipe()
            with contextlib.suppress(OSError):  # the zygote has died: there is no answer below
                socket.send_fds(self.control, [json.dumps(task).encode()], [file.fileno(), reply_end, printed_end])
            os.close(reply_end)
            os.close(printed_end)
        try:
            data, text, stopped, answer = self._listen(reply, printed, started + patience)
        except BaseException:  # interrupted: the zygote would answer when the next task is sent
            self.process.kill()
            self.process.wait()
            raise
        finally:
            os.close(reply)
            os.close(printed)
        seconds = time.monotonic() - started
        text = plain(text[:PRINT_LIMIT].decode("utf-8", "replace"))

        # What went wrong, from the gravest on: the grader's fault, the zygote's end, the child's end, its reply.
        if answer is None:
            self._restart()
            return Reply(None, "no reply", "the sandbox's process was ended by the test", "", text, seconds)
        if answer["fault"]:
            raise SandboxError(answer["fault"])
        stopped = stopped or answer["why"]
        if stopped:
            return Reply(None, stopped, FAILURES[stopped], "", text, seconds)
        if not data:
            status = answer["status"]
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            return Reply(None, "no reply", f"the test's process ended with {how}, without a reply", "", text, seconds)
        return read_reply(data, text, seconds)

    def _listen(self, reply: int, printed: int, end: float) -> tuple[bytes, bytes, str, dict | None]:
        """Return the reply, what was printed, why the test was stopped, and the zygote's answer (None: it died)."""
        kept, read = {reply: bytearray(), printed: bytearray()}, {reply: 0, printed: 0}
        keep, limits = {reply: REPLY_LIMIT, printed: PRINT_LIMIT}, {reply: REPLY_LIMIT, printed: FLOOD_LIMIT}
        stopped, answer, ended = "", None, False
        with selectors.DefaultSelector() as selector:
            for source in (reply, printed, self.control):
                selector.register(source, selectors.EVENT_READ)
            while True:
                left = end - time.monotonic() + (GRACE if stopped else 0)
                ready = selector.select(0 if ended else max(left, 0))
                if ended and not ready:
                    return bytes(kept[reply]), bytes(kept[printed]), stopped, answer
                for key, _ in ready:
                    if key.fileobj is self.control:
                        said = self._receive()
                        answer, ended = json.loads(said) if said else None, True
                        selector.unregister(self.control)
                        continue
                    data = os.read(key.fd, 1 << 18)
                    if not data:
                        selector.unregister(key.fileobj)
                    read[key.fd] += len(data)
                    kept[key.fd] += data[:max(keep[key.fd] - len(kept[key.fd]), 0)]

                # Too long, or too much: the zygote is told to stop; if it does not answer in time, it is given up.
                why = next((name for name, source in (("bad reply", reply), ("output", printed))
                            if read[source] > limits[source]), "time" if time.monotonic() > end else "")
                if not ended and stopped and time.monotonic() > end + GRACE:
                    return bytes(kept[reply]), bytes(kept[printed]), stopped, None
                if not ended and why and not stopped:
                    stopped = why
                    end = min(end, time.monotonic())
                    self._send_stop()

    def _receive(self) -> bytes:
        try:
            return self.control.recv(65536)
        except OSError:
            return b""

    def _send_stop(self) -> None:
        with contextlib.suppress(OSError):  # it has died, and the next recv says so
            self.control.send(b"stop")


def stage(folder: str, files: dict[str, bytes], uid: int | None) -> dict[str, str]:
    """Write the files into folder/code, which nobody may change, beside an empty folder/scratch for the test's user."""
    code, scratch = f"{folder}/code", f"{folder}/scratch"
    os.mkdir(code)
    os.mkdir(scratch, 0o700)
    for name, content in files.items():
        path = Path(code, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o444)
    os.chmod(code, 0o555)
    os.chmod(folder, 0o711)
    if uid is not None:
        os.chown(scratch, uid, uid)
        os.chown(code, 0, uid)
        os.chmod(code, 0o550)  # other tests that run at the same time cannot look in
    return {"folder": code, "scratch": scratch}


def plain(text: str) -> str:
    """Return text with everything that a terminal or a page may not show as it is, but for newlines, escaped."""
    return "".join(letter if letter.isprintable() or letter == "\n" else
                   "    " if letter == "\t" else ascii(letter)[1:-1] for letter in text)


def read_reply(data: bytes, printed: str, seconds: float) -> Reply:
    """Make a Reply of the bytes that a child wrote; nothing in them is trusted.

    They are a line of JSON, {"error": null, "arrays": [[name, type, shape], ...]}, and then the numbers of these
    arrays; or {"error": type, "message": text, "place": file:line} and nothing.
    """
    try:
        head, _, body = data.partition(b"\n")
        said = json.loads(head[:100_000])
        kind = said["error"]
        if kind is None:
            return Reply(read_arrays(said["arrays"], body), printed=printed, seconds=seconds)
        if kind != "not implemented" and (not isinstance(kind, str) or not kind.isidentifier() or len(kind) > 100
                                          or kind in FAILURES):
            raise ValueError("an error of no known type")
        message, place = (plain(str(said[name])[:500]) for name in ("message", "place"))
        return Reply(None, kind, message, place, printed, seconds)
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError, MemoryError) as error:
        return Reply(None, "bad reply", plain(str(error)[:200]), "", printed, seconds)


def read_arrays(heads: list, body: bytes) -> Arrays:
    """Return the arrays whose names, types and shapes are given, from their bytes; raise ValueError if these differ."""
    arrays, at = {}, 0
    if len(heads) > 1000:
        raise ValueError("more than 1000 arrays")
    for name, kind, shape in heads:
        if not isinstance(name, str) or name in arrays or len(name) > 100 or not name.isprintable():
            raise ValueError("two arrays of one name, or a name that cannot be shown")
        if not isinstance(kind, str) or not re.fullmatch(r"[<>|][fiubcU]\d{1,4}", kind):
            raise ValueError("an array of a type that is not read")
        if not all(type(size) is int and 0 <= size <= REPLY_LIMIT for size in shape) or len(shape) > 32:
            raise ValueError("an array of an impossible shape")
        dtype, count = np.dtype(kind), math.prod(shape)
        if not dtype.itemsize or dtype.itemsize * count > len(body) - at:
            raise ValueError("the reply is shorter than it says")
        array = np.frombuffer(body[at:at + dtype.itemsize * count], dtype)
        if dtype.kind == "U":
            if count and array.view(np.dtype("u4").newbyteorder(dtype.byteorder)).max() > sys.maxunicode:
                raise ValueError("a text with letters that do not exist")
            array = np.array([plain(text) for text in array.tolist()], dtype=str)
        arrays[name] = array.reshape(shape).copy()
        at += dtype.itemsize * count
    if at != len(body):
        raise ValueError("the reply is longer than it says")
    return arrays
