"""Watch what an attack does to the machine: what it sends, what it leaves behind; and take that away again."""

import contextlib
import os
import selectors
import shutil
import signal
import socket
import subprocess
import threading
from pathlib import Path

PLACES = ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/lock", "/")
KEY = 0x0A77AC01  # of the attacks' System V objects


class Listener:
    """Servers on one port and one path; `heard` is all that was sent to them."""

    def __init__(self, folder: Path) -> None:
        self.heard = b""
        self.path = str(folder / "socket")
        self.selector = selectors.DefaultSelector()
        stream = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        self.port = stream.getsockname()[1]
        datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagram.bind(("127.0.0.1", self.port))
        servers = [stream, datagram]
        for address in (self.path, "\0" + self.path):
            servers.append(socket.socket(socket.AF_UNIX))
            servers[-1].bind(address)
            servers[-1].listen()
        os.chmod(self.path, 0o777)
        for server in servers:
            self.selector.register(server, selectors.EVENT_READ, server is not datagram)
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self) -> None:
        """Take in everything, for ever."""
        while True:
            for key, _ in self.selector.select():
                with contextlib.suppress(OSError):
                    if key.data:
                        with key.fileobj.accept()[0] as link:
                            link.settimeout(1)
                            self.heard += b"connected " + link.recv(1000)
                    else:
                        self.heard += key.fileobj.recv(1000)


def processes() -> list[int]:
    """Return the processes that attacks started: they all bear the name "attack"."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if (entry.name.isdigit() and (entry / "comm").read_text() == "attack\n"
                    and "State:\tZ" not in (entry / "status").read_text()):
                found.append(int(entry.name))
    return found


def objects() -> dict[str, list[str]]:
    """Return the numbers of the System V objects with the attacks' key: {"shm": ["3"], ...}."""
    found = {}
    for kind in ("shm", "sem", "msg"):
        with contextlib.suppress(OSError):
            rows = [line.split() for line in Path("/proc/sysvipc", kind).read_text().splitlines()[1:]]
            found[kind] = [row[1] for row in rows if int(row[0]) == KEY]
    return found


def files(*more: Path) -> list[Path]:
    """Return the files and folders called attack-*, where everybody may write and in `more`."""
    found = []
    for place in (*map(Path, PLACES), *more):
        with contextlib.suppress(OSError):
            found += [path for path in place.iterdir() if path.name.startswith("attack-")]
    return found


def left(*more: Path) -> list[str]:
    """Say what is left behind."""
    return ([f"process {pid}" for pid in processes()] + [f"file {path}" for path in files(*more)]
            + [f"{kind} {number}" for kind, numbers in objects().items() for number in numbers])


def clean(*more: Path) -> None:
    """Take away what is left behind, as far as this user may."""
    for _ in range(20):
        for pid in processes():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
    for path in files(*more):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
    for kind, numbers in objects().items():
        for number in numbers:
            subprocess.run(["ipcrm", {"shm": "-m", "sem": "-s", "msg": "-q"}[kind], number], capture_output=True)
