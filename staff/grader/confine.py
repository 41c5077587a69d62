"""Confine a test's process: limits, a user of its own, system calls, files, namespaces. Standard library and ctypes.

probe() tries each measure in a throw-away process and looks whether it has an effect; confine() applies those that had,
in the process that then runs the submission's code. Linux on x86_64 and aarch64: on other machines the filter of system
calls counts as missing.
"""

import contextlib
import ctypes
import errno
import importlib.util
import os
import platform
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from staff.grader import kernel, namespaces

LEVELS = ("L0", "L1", "L2", "L3")
MEASURES = {"uid": "L1", "seccomp": "L2", "landlock": "L2", "net": "L3", "pid": "L3", "mount": "L3", "ipc": "L3"}
"Each measure that may be missing, and its level. Level 0 needs nothing: it holds on every Linux."
READABLE = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/etc/localtime",
            "/usr/share/zoneinfo", "/dev/urandom", "/dev/random", "/sys/devices/system/cpu", "/proc/cpuinfo",
            "/proc/meminfo", "/proc/self")
WRITABLE = ("/dev/null", "/dev/zero")
MEMORY, FILE = 4 << 30, 64 << 20  # bytes: of addresses of one process; of one file


@dataclass(frozen=True)
class Level:
    """The measures whose effect was seen, and why others are missing. str() is for staff."""

    held: tuple[str, ...] = ()
    missing: tuple[tuple[str, str], ...] = ()
    landlock: int = 0  # the version of Landlock in the kernel

    def reaches(self, level: str) -> bool:
        """Return whether every measure of this level, and of the levels below it, holds."""
        needed = LEVELS[:LEVELS.index(level) + 1]
        return all(name in self.held for name, at in MEASURES.items() if at in needed)

    def __str__(self) -> str:
        text = "L0"
        for level in LEVELS[1:]:
            names = [f"landlock ABI {self.landlock}" if name == "landlock" else name
                     for name in self.held if MEASURES[name] == level]
            if names:
                text += f" {level}" if names == ["uid"] else f" {level} ({', '.join(names)})"
        return text + "".join(f"; no {name}: {why}" for name, why in self.missing)


@dataclass(frozen=True)
class Plan:
    """How a test's process is to be confined."""

    held: tuple[str, ...]
    staged: str  # the folder of the submission's files
    scratch: str  # a folder that it may write in
    seconds: float
    uid: int | None = None  # a user of its own
    processes: int | None = None  # that its user may have


def confine(plan: Plan) -> None:
    """Apply a plan to this process; raise OSError where a measure fails, and then run nothing."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # the first to be killed when memory runs out; not allowed after the change of user
    namespaces.separate(plan.held, python_folders(), plan.staged, plan.scratch,
                        os.geteuid() if plan.uid is None else plan.uid)
    limit(plan.seconds, plan.processes)
    if plan.uid is not None:
        drop(plan.uid)
    elif os.geteuid() != 0:
        kernel.call("capset", struct.pack("Ii", 0x20080522, 0), bytes(24))  # none, also in its user namespace
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    os.chdir(plan.staged)
    if "landlock" in plan.held:
        restrict_files((*READABLE, *python_folders(), plan.staged), (*WRITABLE, plan.scratch))
    if "seccomp" in plan.held:
        filter_calls()


def python_folders() -> list[str]:
    """Return the folders that hold Python, its library and its packages."""
    folders = [*sys.path, os.path.join(sys.base_prefix, "lib"), os.path.dirname(os.path.realpath(os.__file__))]
    return [os.path.realpath(folder) for folder in dict.fromkeys(folders) if os.path.exists(folder)] + [
        folder for folder in sys.path if os.path.exists(folder) and os.path.realpath(folder) != folder]


def limit(seconds: float, processes: int | None) -> None:
    """Limit memory, processor time, files and, where it is a number, the processes of this process's user."""
    limits = {resource.RLIMIT_AS: MEMORY, resource.RLIMIT_CPU: int(seconds) + 2, resource.RLIMIT_FSIZE: FILE,
              resource.RLIMIT_NOFILE: 256, resource.RLIMIT_CORE: 0, resource.RLIMIT_MSGQUEUE: 0}
    if processes is not None:
        limits[resource.RLIMIT_NPROC] = processes
    for name, value in limits.items():
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))


def drop(uid: int) -> None:
    """Become the user and group `uid`, for good."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def filter_program(machine: str, pid: int) -> list[tuple[int, int, int, int]]:
    """Return the BPF program (code, jump if true, jump if false, k) that refuses the calls in the kernel's table.

    pid: the process, which may send signals to itself only. Raises KeyError for a machine that is not in the table.
    """
    load, equal, at_least, any_bit, mask, give = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
    number, arch, first, second = 0, 4, 16, 24  # offsets in struct seccomp_data; little-endian: the low half is first
    allow, kill = (give, 0, 0, 0x7FFF0000), (give, 0, 0, 0x80000000)
    refuse, absent = (give, 0, 0, 0x50000 | errno.EPERM), (give, 0, 0, 0x50000 | errno.ENOSYS)
    column, audit_arch = kernel.MACHINES[machine]
    at = {name: numbers[column] for name, numbers in kernel.CALLS.items() if numbers[column] is not None}

    program = [(load, 0, 0, arch), (equal, 1, 0, audit_arch), kill, (load, 0, 0, number)]
    if machine == "x86_64":
        program += [(at_least, 0, 1, 0x40000000), kill]  # the calls of the x32 interface
    for name in kernel.REFUSED:
        if name in at:
            program += [(equal, 0, 1, at[name]), refuse]

    # Some are refused for some arguments. The flags of clone3 are out of a filter's reach; without it, libc uses clone.
    bodies = {
        "clone3": [absent],
        "clone": [(load, 0, 0, first), (any_bit, 0, 1, kernel.NEW_NAMESPACES), refuse, allow],
        "socketpair": [(load, 0, 0, first), (equal, 1, 0, socket.AF_UNIX), refuse,
                       (load, 0, 0, second), (mask, 0, 0, 0xF), (equal, 1, 0, socket.SOCK_STREAM), refuse, allow],
        "kill": [(load, 0, 0, first), (equal, 1, 0, pid), (equal, 0, 1, 0), allow, refuse],
        "tgkill": [(load, 0, 0, first), (equal, 0, 1, pid), allow, refuse],
    }
    for name, body in bodies.items():
        program += [(equal, 0, len(body), at[name]), *body]
    return [*program, allow]


def filter_calls() -> None:
    """Install the filter of system calls, for this process and all that it starts."""
    machine = platform.machine()
    if machine not in kernel.MACHINES or struct.calcsize("P") != 8 or sys.byteorder != "little":
        raise OSError(errno.ENOSYS, f"no table of system calls for {machine}")
    program = filter_program(machine, os.getpid())
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    head = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code)))
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.prctl(kernel.PR_SET_SECCOMP, 2, ctypes.byref(head))


def landlock_abi() -> int:
    """Return the version of Landlock in the kernel; raise OSError where there is none."""
    return kernel.call("syscall", kernel.LANDLOCK_CREATE, None, 0, 1)


def restrict_files(readable: Iterable[str], writable: Iterable[str]) -> None:
    """Let this process read below some paths, write below others, run no program, use no TCP; for good."""
    abi = landlock_abi()
    rights = kernel.landlock_rights(abi)
    size = 8 if abi < 4 else 16 if abi < 6 else 24  # bytes of the structure that this version knows
    ruleset = kernel.call("syscall", kernel.LANDLOCK_CREATE, struct.pack("QQQ", *rights)[:size], size, 0)
    for paths, allowed in ((readable, kernel.FS_READ), (writable, rights[0] & ~kernel.FS_NEVER)):
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                at = os.open(path, os.O_PATH | os.O_CLOEXEC)
                possible = rights[0] if os.path.isdir(path) else kernel.FS_FILE
                rule = struct.pack("=Qi", allowed & possible & rights[0], at)
                kernel.call("syscall", kernel.LANDLOCK_ADD, ruleset, 1, rule, 0)
                os.close(at)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.call("syscall", kernel.LANDLOCK_RESTRICT, ruleset, 0)
    os.close(ruleset)


def prepare(levels: Collection[str], uid: int = 0) -> Level:
    """Make this process, which has one thread, fit to fork confined children; return the level that they reach.

    uid: a user that children may become.
    """
    if os.geteuid() != 0:
        if "L3" in levels and not observe(lambda _: namespaces.own_user_namespace(), uid):
            namespaces.own_user_namespace()
    elif namespaces.closed_folders(python_folders()):
        with contextlib.suppress(PermissionError):  # then other users cannot run Python, and the probe says so
            namespaces.unshare("mount")
            namespaces.reveal(python_folders())
    return probe(levels, uid)


def probe(levels: Collection[str], uid: int) -> Level:
    """Try each measure of these levels in a process of its own, and return those whose effect was seen."""
    held, missing = [], []
    for name, check in CHECKS.items():
        if MEASURES[name] in levels:
            why = observe(check, uid)
            if why:
                missing.append((name, why))
            else:
                held.append(name)
    return Level(tuple(held), tuple(missing), landlock_abi() if "landlock" in held else 0)


def observe(check: Callable[[int], None], uid: int) -> str:
    """Run a check in a child; return "" where it passes, else why it did not."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        text = b"?"
        try:
            signal.alarm(10)
            check(uid)
            text = b"passed"
        except BaseException as error:
            text = str(error).encode() or b"?"
        finally:
            os.write(writer, text)
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        said = file.read().decode()
    os.waitpid(pid, 0)
    return "" if said == "passed" else said or "the check did not end"


def refused(function: Callable, *arguments: object) -> None:
    """Raise RuntimeError where a call is not refused."""
    try:
        function(*arguments)
    except PermissionError:
        return
    raise RuntimeError(f"{function.__name__}{arguments} is still allowed")


def _uid(uid: int) -> None:
    if os.geteuid() != 0:
        raise PermissionError("only root can give each test a user of its own")
    drop(uid)
    refused(os.setuid, 0)
    refused(open, f"/proc/{os.getppid()}/environ")
    for path in (os.__file__, importlib.util.find_spec("torch").origin):
        open(path).close()  # an interpreter below /root is out of reach for other users


def _seccomp(_: int) -> None:
    filter_calls()
    refused(socket.socket, socket.AF_INET)
    refused(os.kill, os.getppid(), 0)
    socket.socketpair()


def _landlock(_: int) -> None:
    restrict_files([os.path.dirname(os.__file__)], [])
    refused(os.listdir, "/")
    open(os.__file__).close()


def _net(_: int) -> None:
    namespaces.unshare("net")
    if {name for _, name in socket.if_nameindex()} - {"lo"}:
        raise RuntimeError("the machine's network is still there")


def _pid(_: int) -> None:
    pid = namespaces.fork_in_new_pid_namespace()
    if pid == 0:
        os._exit(0 if os.getpid() == 1 else 1)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("a child sees the machine's numbers of processes")


def _mount(_: int) -> None:
    namespaces.unshare("mount")
    namespaces.cover("/tmp")
    if os.listdir("/tmp"):
        raise RuntimeError("the machine's /tmp is still there")


def _ipc(_: int) -> None:
    before = os.readlink("/proc/self/ns/ipc")
    namespaces.unshare("ipc")
    if os.readlink("/proc/self/ns/ipc") == before:
        raise RuntimeError("shared memory is still common")


CHECKS = {"uid": _uid, "seccomp": _seccomp, "landlock": _landlock,
          "net": _net, "pid": _pid, "mount": _mount, "ipc": _ipc}
