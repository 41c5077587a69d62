"""Fetching and importing the course's files: verified, atomic, resumed. From a local server only."""

import functools
import hashlib
import http.server
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from common.errors import UserError
from data import download

CONTENT = {"ids-a.csv": b"a" * 5000, "ids-b.csv": b"b" * 70_000, "ids-c.csv": b"c"}


@pytest.fixture(autouse=True)
def pins(monkeypatch):
    """Small files in place of the course's."""
    pinned = {name: download.Pin(len(content), hashlib.sha256(content).hexdigest())
              for name, content in CONTENT.items()}
    monkeypatch.setattr(download, "FILES", pinned)


@pytest.fixture
def source(tmp_path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    return folder


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, records what was asked for, and misbehaves where told to."""

    asked: list[str]
    lie = ""
    slow = False

    def do_GET(self) -> None:
        self.asked.append(self.path)
        name = self.path.rpartition("/")[2]
        if self.lie and name == "ids-b.csv":
            body = {"cut": b"b" * 100, "endless": b"b" * 200_000, "other": b"x" * 70_000}[self.lie]
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT[name]) if self.lie == "cut" else len(body)))
            self.end_headers()
            self.wfile.write(body)
        elif self.slow and name == "ids-b.csv":
            self.send_response(200)
            self.send_header("Content-Length", "70000")
            self.end_headers()
            with suppress(OSError):  # a client that gives up
                for _ in range(200):
                    self.wfile.write(b"b")
                    time.sleep(0.05)
        else:
            super().do_GET()

    def log_message(self, *_) -> None:
        """Keep the tests' output quiet."""


@pytest.fixture
def server(source):
    """(URL, handler class) of a server for `source`."""
    handler = type("OneHandler", (Handler,), {"asked": []})
    serve = functools.partial(handler, directory=source)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}", handler
        served.shutdown()
        thread.join()


def run(monkeypatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["data.download", *map(str, words)])
    for proxy in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
    download.main()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def test_fetch(server, tmp_path, monkeypatch, capsys):
    """Catches wrong addresses, bytes that do not arrive unchanged, and leftovers."""
    url, handler = server
    run(monkeypatch, "--base-url", url + "/", "--to", tmp_path / "new" / "data")
    assert files(tmp_path / "new" / "data") == CONTENT
    assert handler.asked == ["/" + name for name in CONTENT]
    assert "3 files in" in capsys.readouterr().out


def test_a_second_run_fetches_only_what_is_missing_or_damaged(server, tmp_path, monkeypatch, capsys):
    """Catches starting over after an interruption, and trusting a file because it is there."""
    url, handler = server
    to = tmp_path / "data"
    run(monkeypatch, "--base_url", url, "--to", to)
    handler.asked.clear()
    (to / "ids-a.csv").unlink()
    (to / "ids-b.csv").write_bytes(CONTENT["ids-b.csv"][:-1] + b"x")
    run(monkeypatch, "--base_url", url, "--to", to)
    assert handler.asked == ["/ids-a.csv", "/ids-b.csv"] and files(to) == CONTENT
    out = capsys.readouterr().out
    assert "ids-c.csv: already here" in out and "ids-b.csv: replaced, it was damaged" in out


@pytest.mark.parametrize(("lie", "message"), [
    ("cut", r"cannot fetch .*ids-b\.csv"),
    ("endless", "the server sends more than the file's 70000 bytes"),
    ("other", r"ids-b\.csv is not the course's file"),
])
def test_a_wrong_answer_leaves_nothing_half_written(server, tmp_path, monkeypatch, lie, message):
    """Catches a short, overlong or altered file that is kept; what came before it stays, for the next run."""
    url, handler = server
    to = tmp_path / "data"
    to.mkdir()
    (to / "ids-b.csv").write_bytes(b"old")
    handler.lie = lie
    with pytest.raises(UserError, match=message):
        run(monkeypatch, "--base-url", url, "--to", to)
    assert files(to) == {"ids-a.csv": CONTENT["ids-a.csv"], "ids-b.csv": b"old"}
    handler.lie = ""
    run(monkeypatch, "--base-url", url, "--to", to)
    assert files(to) == CONTENT and handler.asked.count("/ids-a.csv") == 1


def test_a_server_that_sends_a_byte_now_and_then(server, tmp_path, monkeypatch):
    """Catches days of waiting: each byte comes in time, the file never."""
    url, handler = server
    handler.slow = True
    monkeypatch.setattr(download, "PATIENCE", 1)
    with pytest.raises(UserError, match=r"cannot fetch .*ids-b\.csv: .*only \d+ bytes in 1 seconds") as caught:
        run(monkeypatch, "--base-url", url, "--to", tmp_path / "data")
    assert "--from FOLDER" in str(caught.value) and files(tmp_path / "data") == {"ids-a.csv": CONTENT["ids-a.csv"]}


@pytest.mark.parametrize("kind", ["a pipe", "a device"])
def test_what_is_no_file_is_not_imported(source, tmp_path, monkeypatch, kind):
    """Catches waiting for a pipe for ever."""
    path = source / "ids-b.csv"
    path.unlink()
    os.mkfifo(path) if kind == "a pipe" else path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"cannot read .*ids-b\.csv: not a regular file"):
        run(monkeypatch, "--from", source, "--to", tmp_path / "data")


def test_unreachable(tmp_path, monkeypatch):
    """Catches a traceback or silence without a network; the message names the way round."""
    with pytest.raises(UserError, match="--from FOLDER") as caught:
        run(monkeypatch, "--base-url", "http://127.0.0.1:9", "--to", tmp_path / "data")
    assert "127.0.0.1:9/ids-a.csv" in str(caught.value) and "--from FOLDER" in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_not_found(server, tmp_path, monkeypatch, source):
    """Catches an error page saved as data."""
    (source / "ids-a.csv").unlink()
    with pytest.raises(UserError, match="404"):
        run(monkeypatch, "--base-url", server[0], "--to", tmp_path / "data")
    assert files(tmp_path / "data") == {}


@pytest.mark.parametrize("url", ["file:///etc", "ftp://x/", "", "http://", "http://[", "https://a b/"])
def test_senseless_addresses(tmp_path, monkeypatch, url):
    """Catches reading local files through a URL, and tracebacks of the URL parser."""
    with pytest.raises(UserError):
        run(monkeypatch, "--base-url", url, "--to", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_import(source, tmp_path, monkeypatch):
    """Catches an import that uses the network or changes bytes."""
    run(monkeypatch, "--from", source, "--to", tmp_path / "data", "--base-url", "http://127.0.0.1:9")
    assert files(tmp_path / "data") == CONTENT


@pytest.mark.parametrize("damage", ["missing", "changed", "longer", "a folder", "no source"])
def test_import_of_wrong_files_changes_nothing(source, tmp_path, monkeypatch, damage):
    """Catches half an import: one bad file and none is written."""
    path = source / "ids-c.csv"
    path.unlink()
    if damage in ("changed", "longer"):
        path.write_bytes(b"d" if damage == "changed" else b"cc")
    elif damage == "a folder":
        path.mkdir()
    elif damage == "no source":
        source = source / "nowhere"
    with pytest.raises(UserError, match="ids-"):
        run(monkeypatch, "--from", source, "--to", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_no_place_to_write(source, tmp_path, monkeypatch):
    """Catches an OSError traceback where --to is a file or lies behind one."""
    (tmp_path / "file").write_text("x")
    for to in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(UserError, match="cannot"):
            run(monkeypatch, "--from", source, "--to", to)


def test_pins_are_the_courses_files(shared, monkeypatch):
    """Catches a mistyped checksum or size."""
    monkeypatch.undo()
    names = {"sst": 0, "cfimdb": 0}
    for name, pin in download.FILES.items():
        content = (shared / "data" / name).read_bytes()
        assert pin == (len(content), hashlib.sha256(content).hexdigest())
        names[name.split("-")[1]] += 1
    assert names == {"sst": 3, "cfimdb": 3}


def test_as_a_command(root, tmp_path):
    """Catches a script that cannot be started, a slow --help, tracebacks, and a status other than 2."""
    def start(*words: object) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "data.download", *map(str, words)]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=240)

    begin = time.perf_counter()
    assert "--base-url" in start("--help").stdout
    assert time.perf_counter() - begin < 2  # it takes about 0.1 s on a machine that is not busy
    done = start("--from", tmp_path, "--to", tmp_path / "data")
    assert done.returncode == 2 and done.stderr.startswith("error: cannot read")
    assert done.stderr.count("\n") == 1
