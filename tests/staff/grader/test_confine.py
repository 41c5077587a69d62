"""The tables of system calls and of Landlock's rights against others' tables, and their effect in real processes."""

import ctypes
import errno
import os
import platform
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import landlockpy
import pytest

from staff.grader import confine, kernel, leftovers, namespaces

MACHINES = list(kernel.MACHINES)
ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
PID = 4321
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def in_child(function: Callable[[], object]) -> str:
    """Run a function in a forked process; return the text of what it returns or raises."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            text = str(function())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    os.waitpid(pid, 0)
    return text


# --- system calls -----------------------------------------------------------------------------------------------------

def verdict(machine: str, number: int, *arguments: int, arch: int | None = None, pid: int = PID) -> int:
    """Run the filter as the kernel would: an interpreter of its seven instructions."""
    words = {0: number, 4: kernel.MACHINES[machine][1] if arch is None else arch}
    words |= {16 + 8 * place: argument & 0xFFFFFFFF for place, argument in enumerate(arguments)}
    program, at, held = confine.filter_program(machine, pid), 0, 0
    while True:
        code, if_true, if_false, k = program[at]
        at += 1
        if code == 0x20:
            held = words[k]
        elif code == 0x54:
            held &= k
        elif code == 0x06:
            return k
        else:
            at += if_true if {0x15: held == k, 0x35: held >= k, 0x45: held & k != 0}[code] else if_false


@pytest.mark.parametrize("machine", MACHINES)
def test_numbers_are_those_of_the_kernels_headers(machine: str) -> None:
    folder = Path("/usr/include")
    files = {"x86_64": [folder / "x86_64-linux-gnu/asm/unistd_64.h", folder / "asm/unistd_64.h"],
             "aarch64": [folder / "asm-generic/unistd.h"]}[machine]
    text = "".join(file.read_text() for file in files if file.exists())
    if not text:
        pytest.skip(f"needs one of {files}: linux-libc-dev")
    known = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    column = kernel.MACHINES[machine][0]
    ours = {name: numbers[column] for name, numbers in kernel.CALLS.items() if name in known}
    assert len(ours) > 60
    assert ours == {name: known[name] for name in ours}


@pytest.mark.parametrize("machine", MACHINES)
def test_filter_refuses_its_table_and_nothing_else(machine: str) -> None:
    column = kernel.MACHINES[machine][0]
    refused = {numbers[column] for numbers in kernel.REFUSED.values()} - {None}
    partly = {numbers[column] for name, numbers in kernel.CALLS.items() if name not in kernel.REFUSED}
    assert {number for number in range(600) if verdict(machine, number, 0, 0) == EPERM} - partly == refused
    others = {number for number in range(600) if number not in refused | partly}
    assert {verdict(machine, number) for number in others} == {ALLOW}


@pytest.mark.parametrize("machine", MACHINES)
def test_filter_looks_at_arguments(machine: str) -> None:
    at = {name: numbers[kernel.MACHINES[machine][0]] for name, numbers in kernel.CALLS.items()}
    assert verdict(machine, at["clone3"]) == ENOSYS
    assert verdict(machine, at["clone"], 0x01200011) == ALLOW  # fork
    assert verdict(machine, at["clone"], 0x003D0F00) == ALLOW  # a thread
    for flag in (*kernel.NAMESPACES.values(), 0x2000000, 0x4000000):
        assert verdict(machine, at["clone"], 0x11 | flag) == EPERM
    assert verdict(machine, at["socketpair"], socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) == ALLOW
    assert verdict(machine, at["socketpair"], socket.AF_UNIX, socket.SOCK_DGRAM) == EPERM
    assert verdict(machine, at["socketpair"], socket.AF_INET, socket.SOCK_STREAM) == EPERM
    for name in ("kill", "tgkill"):
        assert verdict(machine, at[name], PID) == ALLOW
        assert {verdict(machine, at[name], other) for other in (1, PID + 1, -1, -PID)} == {EPERM}
    assert verdict(machine, at["kill"], 0) == ALLOW  # its own process group


def test_filter_kills_other_interfaces() -> None:
    """Calls by the numbers of 32-bit programs or of x32 would pass by the table."""
    for machine, other in (MACHINES, MACHINES[::-1]):
        assert verdict(machine, 0, arch=kernel.MACHINES[other][1]) == KILL
        assert verdict(machine, 0, arch=0x40000003) == KILL  # i386
    assert verdict("x86_64", 0x40000000 + 41) == KILL


def test_filter_is_missing_on_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(OSError, match="no table of system calls for riscv64"):
        confine.filter_calls()


@pytest.mark.skipif(platform.machine() not in MACHINES, reason="a machine without a table")
def test_kernel_refuses_what_the_table_says() -> None:
    """Each call is made with arguments that would do nothing anyway."""
    column = kernel.MACHINES[platform.machine()][0]

    def attempt() -> list[str]:
        confine.filter_calls()
        libc = ctypes.CDLL(None, use_errno=True)
        wrong = []
        for name, numbers in kernel.REFUSED.items():
            if numbers[column] is not None:
                ctypes.set_errno(0)
                libc.syscall(numbers[column], -1, -1, -1, -1, -1, -1)
                if ctypes.get_errno() != errno.EPERM:
                    wrong.append(f"{name}: {ctypes.get_errno()}")
        return wrong

    assert in_child(attempt) == "[]"


# --- Landlock ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("abi", range(1, landlockpy.flags.LATEST_ABI + 1))
def test_rights_are_those_of_landlockpy(abi: int) -> None:
    theirs = (landlockpy.fs_for_abi(abi), landlockpy.net_for_abi(abi), landlockpy.scope_for_abi(abi))
    assert kernel.landlock_rights(abi) == tuple(map(int, theirs))


def test_names_of_rights_are_those_of_landlockpy() -> None:
    names = [name for name in landlockpy.AccessFS.__members__ if hasattr(kernel, f"FS_{name}")]
    assert len(names) == 6
    assert [getattr(kernel, f"FS_{name}") for name in names] == [int(landlockpy.AccessFS[name]) for name in names]
    assert int(landlockpy.AccessFS.READ_FILE | landlockpy.AccessFS.READ_DIR) == kernel.FS_READ


def attempts(readable: Path, writable: Path, other: Path) -> dict[str, str]:
    """Try to read, write and run in three folders, and to reach the parent; return what was refused."""
    def unix() -> None:
        socket.socket(socket.AF_UNIX).connect(f"\0{other}")

    said = {}
    for folder in (readable, writable, other):
        ways = {"list": lambda at=folder: os.listdir(at), "read": lambda at=folder: (at / "file").read_text(),
                "write": lambda at=folder: (at / "file").write_text("new"),
                "truncate": lambda at=folder: os.truncate(at / "file", 1),
                "make": lambda at=folder: (at / "new").touch(), "folder": lambda at=folder: (at / "dir").mkdir(),
                "link": lambda at=folder: (at / "link").symlink_to("file"),
                "pipe": lambda at=folder: os.mkfifo(at / "pipe"),
                "remove": lambda at=folder: (at / "more").unlink(),
                "run": lambda at=folder: subprocess.run([str(at / "true")], check=True)}
        for name, way in ways.items():
            try:
                way()
                said[f"{folder.name} {name}"] = "done"
            except OSError as error:
                said[f"{folder.name} {name}"] = errno.errorcode[error.errno]
    for name, way in {"tcp": lambda: socket.socket().bind(("127.0.0.1", 0)), "unix": unix,
                      "signal": lambda: os.kill(os.getppid(), 0)}.items():
        try:
            way()
            said[name] = "done"
        except OSError as error:
            said[name] = errno.errorcode[error.errno]
    return said


@pytest.mark.skipif(not landlockpy.abi_version(), reason="the kernel has no Landlock")
def test_landlock_refuses_what_it_refuses_for_landlockpy(tmp_path: Path) -> None:
    """The same rules by our calls and by the library's, on the same files, have the same effect."""
    def folders(name: str) -> list[Path]:
        made = [tmp_path / name / folder for folder in ("readable", "writable", "other")]
        for folder in made:
            folder.mkdir(parents=True)
            for file in ("file", "more"):
                (folder / file).write_text("old")
            (folder / "true").write_bytes(Path("/bin/true").read_bytes())
            (folder / "true").chmod(0o755)
        return made

    def ours() -> dict[str, str]:
        confine.restrict_files(map(str, first[:1]), [str(first[1])])
        return attempts(*first)

    def theirs() -> dict[str, str]:
        rights = landlockpy.fs_for_abi(landlockpy.abi_version())
        never = landlockpy.AccessFS.EXECUTE | landlockpy.AccessFS.MAKE_CHAR | landlockpy.AccessFS.MAKE_BLOCK \
            | landlockpy.AccessFS.MAKE_SOCK | landlockpy.AccessFS.IOCTL_DEV | landlockpy.AccessFS.RESOLVE_UNIX
        ruleset = landlockpy.Ruleset(handled_fs=rights, handled_net=landlockpy.net_for_abi(landlockpy.abi_version()),
                                     scoped=landlockpy.scope_for_abi(landlockpy.abi_version()))
        ruleset.allow_path(second[0], landlockpy.AccessFS.READ_FILE | landlockpy.AccessFS.READ_DIR)
        ruleset.allow_path(second[1], rights & ~never)
        ruleset.restrict()
        return attempts(*second)

    first, second = folders("ours"), folders("theirs")
    said = in_child(ours)
    assert said == in_child(theirs)
    assert "'readable read': 'done'" in said and "'writable make': 'done'" in said
    assert "'readable write': 'EACCES'" in said and "'other read': 'EACCES'" in said and "run': 'done'" not in said


# --- levels and namespaces --------------------------------------------------------------------------------------------

def test_level_in_words() -> None:
    full = confine.Level(tuple(confine.MEASURES), (), 7)
    assert str(full) == "L0 L1 L2 (seccomp, landlock ABI 7) L3 (net, pid, mount, ipc)"
    assert all(full.reaches(level) for level in confine.LEVELS)
    some = confine.Level(("seccomp", "net"), (("uid", "not root"),))
    assert str(some) == "L0 L2 (seccomp) L3 (net); no uid: not root"
    assert [level for level in confine.LEVELS if some.reaches(level)] == ["L0"]
    assert confine.Level(("uid", "seccomp")).reaches("L1") and not confine.Level(("uid", "seccomp")).reaches("L2")


@pytest.mark.parametrize("function, measure", [("filter_calls", "seccomp"), ("restrict_files", "landlock")])
def test_a_measure_without_effect_is_missing(monkeypatch: pytest.MonkeyPatch, function: str, measure: str) -> None:
    """A kernel that accepts a call and does nothing must not be believed."""
    monkeypatch.setattr(confine, function, lambda *_: None)
    level = confine.probe(["L2"], 0)
    assert measure not in level.held
    assert "is still allowed" in dict(level.missing)[measure]


@root_only
def test_a_change_of_user_leaves_no_group_behind() -> None:
    def look() -> object:
        os.setgroups([0, 4, 27])
        confine.drop(65533)
        return os.getresuid(), os.getresgid(), os.getgroups()

    assert in_child(look) == "((65533, 65533, 65533), (65533, 65533, 65533), [])"


@root_only
def test_covered_folder_is_empty_but_for_what_is_kept(tmp_path: Path) -> None:
    for name in ("kept/inner", "gone"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "kept/file").write_text("here")

    def look() -> object:
        namespaces.unshare("mount")
        namespaces.cover(str(tmp_path), [str(tmp_path / "kept"), str(tmp_path / "kept/inner"), "/elsewhere"])
        return os.listdir(tmp_path), (tmp_path / "kept/file").read_text(), sorted(os.listdir(tmp_path / "kept"))

    assert in_child(look) == "(['kept'], 'here', ['file', 'inner'])"
    assert (tmp_path / "gone").exists()


@root_only
def test_closed_folder_is_opened_for_one_path_only(tmp_path: Path) -> None:
    (tmp_path / "closed/python/lib").mkdir(parents=True)
    (tmp_path / "closed/secret").write_text("secret")
    (tmp_path / "closed").chmod(0o700)

    def look() -> object:
        namespaces.unshare("mount")
        namespaces.reveal([str(tmp_path / "closed/python")])
        confine.drop(65533)
        return os.listdir(tmp_path / "closed"), os.listdir(tmp_path / "closed/python")

    assert in_child(look) == "(['python'], ['lib'])"


# --- what is left -----------------------------------------------------------------------------------------------------

def test_everything_below_a_process_is_found_and_ended() -> None:
    """A chain of daemons, each in a session of its own, one of them ignoring what can be ignored."""
    code = ("import os, signal, time\nfor _ in range(3): os.fork() or os.setsid()\n"
            "for number in (1, 2, 15): signal.signal(number, signal.SIG_IGN)\ntime.sleep(60)")

    def look() -> object:
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        subprocess.Popen([sys.executable, "-c", code])
        while len(leftovers.descendants(os.getpid(), leftovers.processes())) < 8:
            time.sleep(0.02)
        leftovers.end_all(None)
        return leftovers.descendants(os.getpid(), leftovers.processes())

    assert in_child(look) == "set()"


def test_anything_can_be_removed(tmp_path: Path) -> None:
    """Links are removed and not followed; folders may be closed, or deeper than Python can recurse."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    top = tmp_path / "top"
    (top / "closed").mkdir(parents=True)
    (top / "closed/file").touch()
    (top / "closed").chmod(0)
    (top / "link").symlink_to(tmp_path / "kept")
    before = os.getcwd()
    os.chdir(top)
    for _ in range(1200):
        os.mkdir("d")
        os.chdir("d")
    os.chdir(before)
    leftovers.remove(str(top))
    leftovers.remove(str(top))  # there is nothing to do
    assert os.listdir(tmp_path) == ["kept"] and os.listdir(tmp_path / "kept") == ["file"]
