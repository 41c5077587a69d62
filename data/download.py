"""Fetch the course's SST and CFIMDB files, or import them from a folder.

    ./setup.sh -m data.download                 fetch files that are missing or damaged
    ./setup.sh -m data.download --from FOLDER   the same, from files that you already have

The SHA-256 of each file is checked before the file is written. A file is written whole or not at all. After an
interruption, start again: right files are left alone.
"""

import hashlib
import io
import os
from pathlib import Path
from typing import NamedTuple

from common import cli
from common.errors import UserError, quoted
from common.files import make_folder, open_regular, sha256_file, write_atomic
from common.patience import while_it_moves

COMMIT = "7570cfa4385f3417298573c770df5ddfe2d97f89"
BASE_URL = f"https://raw.githubusercontent.com/cfifty/public_cs224n_gpt/{COMMIT}/data/"
DATA_FOLDER = Path(__file__).resolve().parent
PATIENCE = 60  # seconds for at least common.patience.LEAST bytes


class Pin(NamedTuple):
    """Size in bytes and checksum of a file."""

    size: int
    sha256: str


FILES: dict[str, Pin] = {  # the course's files at COMMIT
    "ids-sst-train.csv": Pin(1_175_139, "03b2b625c090f94a6afd59f114cde5282e2053aab0b101e87ed695d8a0c5b1df"),
    "ids-sst-dev.csv": Pin(151_384, "a186ce94577635fbe10beaaddd50f16cccf6c30973221cefdf90deed2a584bfe"),
    "ids-sst-test-student.csv": Pin(313_202, "bdd5a767faa0c26782117e37767ece154c30d5d04fb8727d09c71e3850a55c7b"),
    "ids-cfimdb-train.csv": Pin(1_693_182, "140fc513045a966109faed46a5c7a898767b96714d71bcb9c15f659129fadcea"),
    "ids-cfimdb-dev.csv": Pin(249_095, "3087f571b66860fe5d035b5a018d08202ad3fd3720e4821c04b2acf6c7ded559"),
    "ids-cfimdb-test-student.csv": Pin(495_595, "7ae611548c9eac879e9ebb406cc9f8ae68ff12f78090e4965af5cbdfa06240f4"),
}


def main() -> None:
    parser = cli.Parser(prog="data.download", description=__doc__)
    parser.add_argument("--from", dest="source", type=Path, metavar="FOLDER",
                        help="import the files from this folder; use no network")
    parser.add_argument("--to", type=Path, default=DATA_FOLDER, metavar="FOLDER",
                        help="folder to write them to (default: %(default)s)")
    parser.add_argument("--base-url", default=BASE_URL, metavar="URL",
                        help="fetch from a mirror of the course's data folder")
    arguments = parser.parse_args()

    wanted = [name for name, pin in FILES.items()
              if not os.path.exists(arguments.to / name) or sha256_file(arguments.to / name) != pin.sha256]
    for name in FILES:
        if name not in wanted:
            print(f"{name}: already here")
    if arguments.source is not None:
        # All files are read and checked before the first is written, so one bad file changes nothing.
        contents = {name: read(arguments.source / name) for name in wanted}
    elif not arguments.base_url.startswith(("https://", "http://")):
        raise UserError(f"--base-url must begin with https:// or http://, not {quoted(arguments.base_url)}")

    for name in wanted:
        content = contents[name] if arguments.source else fetch(f"{arguments.base_url.rstrip('/')}/{name}")
        make_folder(arguments.to)
        damaged = (arguments.to / name).exists()
        write_atomic(arguments.to / name, content)
        print(f"{name}: {'replaced, it was damaged or changed' if damaged else 'done'}")
    print(f"{len(FILES)} files in {arguments.to}, checksums verified")


def read(path: Path) -> bytes:
    """Return the bytes of a file. UserError if it is not the course's file of that name."""
    try:
        with open_regular(path) as file:
            content = file.read(FILES[path.name].size + 1)  # one more shows that it is too long
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    return checked(content, path)


def fetch(url: str) -> bytes:
    """Download a URL and return its bytes. UserError if they are not the course's file of that name."""
    import pooch  # late: `--help` must not wait for it

    name = Path(url).name
    buffer = _Bounded(FILES[name].size)
    try:
        with cli.progress(FILES[name].size, name, "B") as bar:
            get = pooch.HTTPDownloader(progressbar=bar)
            while_it_moves(lambda: get(url, buffer, None), buffer.tell, PATIENCE)
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; senseless URLs are ValueErrors
        cause = error.args[0] if error.args else error
        raise UserError(f"cannot fetch {url}: {quoted(getattr(cause, 'reason', cause), 200)}\n"
                        "Try again, or import the files with `--from FOLDER`; the bundled samples need no download"
                        ) from error
    return checked(buffer.getvalue(), url)


def checked(content: bytes, origin: Path | str) -> bytes:
    """Return `content` if it is the course's file with the name in `origin`; otherwise raise UserError."""
    pin = FILES[Path(origin).name]
    if hashlib.sha256(content).hexdigest() != pin.sha256:
        raise UserError(f"{origin} is not the course's file:\n"
                        f"expected {pin.size} bytes with the SHA-256 {pin.sha256}")
    return content


class _Bounded(io.BytesIO):
    """A buffer that refuses more bytes than a file's known size, whatever a server sends."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def write(self, piece: bytes) -> int:
        if self.tell() + len(piece) > self._size:
            raise ValueError(f"the server sends more than the file's {self._size} bytes")
        return super().write(piece)


if __name__ == "__main__":
    cli.run(main)
