"""Namespaces: a view of the machine of this process's own, without a network, others' processes and common folders."""

import contextlib
import os
from collections.abc import Collection, Iterable

from staff.grader import kernel

COVERED = ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run")
"Folders in which every user may write, or where services listen: a child has empty ones of its own."


def unshare(*names: str) -> None:
    """Leave the namespaces that this process shares with its parent."""
    kernel.call("unshare", sum(kernel.NAMESPACES[name] for name in names))
    if "mount" in names:
        mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)


def own_user_namespace() -> None:
    """Become the first user of a new user namespace, under the same number; needs no privileges, and one thread."""
    uid, gid = os.geteuid(), os.getegid()
    unshare("user")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """Call mount(2)."""
    texts = [text and text.encode() for text in (source, target, kind, options)]
    kernel.call("mount", *texts[:3], flags, texts[3])


def cover(folder: str, keep: Iterable[str] = (), options: str = "mode=755") -> None:
    """Mount an empty folder in memory over this one (64 MB, 10,000 files); the folders to keep stay visible in it."""
    below = sorted(path for path in set(keep) if path.startswith(folder + "/") and os.path.isdir(path))
    below = [path for path in below if not any(path.startswith(other + "/") for other in below)]
    kept = [(path, os.open(path, os.O_PATH | os.O_CLOEXEC)) for path in below]
    mount("tmpfs", folder, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, f"size=64m,nr_inodes=10k,{options}")
    for path, at in kept:
        os.makedirs(path)
        mount(f"/proc/self/fd/{at}", path, None, kernel.MS_BIND | kernel.MS_REC)
        os.close(at)


def closed_folders(paths: Iterable[str]) -> list[str]:
    """Return the folders that keep other users from reaching these paths, as /root does; the outer ones first."""
    parents = {path[:place] for path in paths for place, letter in enumerate(path) if letter == "/" and place}
    return sorted(parent for parent in parents if os.path.isdir(parent) and not os.stat(parent).st_mode & 0o001)


def reveal(paths: Collection[str]) -> None:
    """Let other users reach these folders where one above them is closed; the rest of that one goes out of sight.

    This holds for this process and its children only.
    """
    while folders := closed_folders(paths):
        cover(folders[0], paths)


def separate(measures: Collection[str], keep: Collection[str], staged: str, scratch: str, uid: int) -> None:
    """Leave the namespaces in `measures`; with "mount", common folders are empty but for the staged one, read-only."""
    names = [name for name in ("net", "ipc", "mount") if name in measures]
    if names:
        unshare(*names)
    if "mount" not in measures:
        return
    for folder in COVERED:
        if os.path.isdir(folder) and not os.path.islink(folder):
            cover(folder, (*keep, staged))
    if "pid" in measures:
        with contextlib.suppress(PermissionError):  # where parts of /proc are hidden, the kernel refuses a new one
            mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    mount(staged, staged, None, kernel.MS_BIND)
    read_only = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
    mount(None, staged, None, kernel.MS_BIND | kernel.MS_REMOUNT | read_only)
    os.makedirs(scratch, exist_ok=True)
    cover(scratch, options=f"mode=700,uid={uid},gid={uid}")


def fork_in_new_pid_namespace() -> int:
    """Fork a child that is process 1 of a new namespace, and cannot see the others; this process stays in its own."""
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        unshare("pid")
        pid = os.fork()
        if pid:
            kernel.call("setns", own, kernel.NAMESPACES["pid"])
        return pid
    finally:
        os.close(own)
