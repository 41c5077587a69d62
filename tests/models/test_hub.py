"""Finding a checkpoint: bundled, in a folder, in the cache, or on a hub imitated on this machine."""

import hashlib
import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from models import hub
from models.pretrained import PretrainedError, resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": b'{"model_type": "gpt2"}', "model.safetensors": b"weights" * 1000,
         "tokenizer.json": b"{ }", "vocab.json": b"{}", "merges.txt": b"", "README.md": b"read me",
         "pytorch_model.bin": b"pickled", "onnx/config.json": b"{}", "onnx/model.safetensors": b"other"}
SCRIPT = """
import sys, time
import huggingface_hub
from huggingface_hub import HfApi, hf_hub_download
from models import hub
hub.PATIENCE = float(sys.argv[3])
hub.SLOW = 6 * hub.PATIENCE
started = time.monotonic()
try:
    print(hub.resolve(sys.argv[1], sys.argv[2] or None))
except hub.PretrainedError as error:
    sys.exit(f"after {time.monotonic() - started} s: error: {error}")
"""


def git_hash(content):
    """The name that git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()


class ImitatedHub(http.server.BaseHTTPRequestHandler):
    """The hub's three questions: about a repository, for the list of its files, and for a file."""

    def do_GET(self):
        self.server.asked.append(self.path)
        path = unquote(urlsplit(self.path).path)
        if self.server.answer is not None:
            self.reply(*self.server.answer)
        elif match := re.fullmatch(r"/api/models/some/gpt/revision/(.*)|/api/models/some/gpt()", path):
            if match[1] in ("", None, "main", "v1", COMMIT):
                names = [{"rfilename": name} for name in self.server.files]
                self.reply(200, json.dumps({"id": "some/gpt", "sha": self.server.sha, "siblings": names}).encode())
            else:
                self.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith(f"/api/models/some/gpt/tree/{COMMIT}"):
            self.reply(200, json.dumps([
                {"type": "file", "path": name, "size": len(content), "oid": git_hash(content)}
                for name, content in self.server.files.items()]).encode())
        elif (name := path.removeprefix(f"/some/gpt/resolve/{COMMIT}/")) in self.server.files:
            content = self.server.files[name]
            etag = hashlib.sha256(content).hexdigest() if name == "model.safetensors" else git_hash(content)
            self.reply(200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"', **self.server.headers})
        else:
            self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def reply(self, status, content, headers=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "GET":
            return
        if self.path.endswith(self.server.damaged):
            content = bytes([content[0] ^ 1]) + content[1:]
        if not self.path.endswith(self.server.slow):
            self.wfile.write(content)
            return
        with suppress(OSError):  # a client that gives up
            for number in range(len(content)):
                self.wfile.write(content[number:number + 1])
                time.sleep(0.05)

    def log_message(self, *_):
        pass


@pytest.fixture
def imitation():
    """A hub with one repository, some/gpt; .files, .answer (for everything) and .asked may be changed and read.

    .slow: end of the paths answered byte by byte; .damaged: of those with a flipped bit; .sha, .headers: as stated.
    """
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), ImitatedHub)
    server.files, server.answer, server.asked = dict(FILES), None, []
    server.slow = server.damaged = "nothing"
    server.sha, server.headers = COMMIT, {}
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def ask(root, tmp_path):
    """ask(hub's address, model, revision) -> (folder or None, error, seconds until it), in a process of its own."""
    def ask(endpoint, model="some/gpt", revision="", patience=5, **environment):
        clean = {name: value for name, value in os.environ.items()
                 if not name.lower().endswith("_proxy") and not name.startswith("HF_")}
        done = subprocess.run([sys.executable, "-c", SCRIPT, model, revision, str(patience)], cwd=root,
                              capture_output=True, text=True, timeout=240, env={
                                  **clean, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"),
                                  "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment})
        if done.returncode == 0:
            return done.stdout.strip(), "", 0.0
        seconds, error = re.search(r"after ([\d.]+) s: (error: .*)", done.stderr, re.DOTALL).groups()
        return None, error.strip(), float(seconds)
    return ask


@contextmanager
def silent_server():
    """An address that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_download_then_cache(imitation, ask):
    """Catches: files fetched that nobody reads (pickles among them), and a cache that asks the network again."""
    folder, error, _ = ask(imitation.url)
    assert error == ""
    found = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    wanted = ("config.json", "model.safetensors", "tokenizer.json", "vocab.json", "merges.txt")
    assert found == {name: FILES[name] for name in wanted}
    imitation.asked.clear()
    assert ask(imitation.url)[0] == folder
    assert imitation.asked == []
    assert ask(closed_port())[0] == folder
    assert ask(closed_port(), HF_HUB_OFFLINE="1")[0] == folder


def test_revisions(imitation, ask):
    """Catches: a revision that is ignored."""
    folders = [ask(imitation.url, revision=revision)[0] for revision in ("v1", COMMIT)]
    assert folders[0] == folders[1] and folders[0].endswith(COMMIT)
    assert ask(imitation.url, revision="v2")[1] == "error: some/gpt on the Hugging Face hub has no revision 'v2'"


@pytest.mark.parametrize("revision", ["", "f" * 40], ids=["main", "a commit"])
def test_nothing_answers(ask, revision):
    """Catches: minutes of trying again, and an error without a remedy."""
    endpoint = closed_port()
    _, error, seconds = ask(endpoint, "gpt2", revision)
    assert seconds < 10
    first, second = error.split("\n")
    assert "gpt2 is not a folder here" in first and endpoint in first and "home/hub" in first
    assert "hf download gpt2 config.json model.safetensors tokenizer.json --local-dir gpt2" in second
    assert revision in second


def test_somebody_listens_and_says_nothing(ask):
    """Catches: waiting for ever."""
    with silent_server() as endpoint:
        _, error, seconds = ask(endpoint, patience=1)
    assert seconds < 10 and "cannot be had from" in error and "Timeout" in error


@pytest.mark.parametrize("slow", ["model.safetensors", "gpt"])
def test_a_hub_that_sends_a_byte_now_and_then(imitation, ask, slow):
    """Catches days of waiting: each byte comes in time, the file never."""
    imitation.slow = slow
    _, error, seconds = ask(imitation.url, patience=0.5)
    assert seconds < 20 and "cannot be had from" in error and "TimeoutError: only" in error


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_files_damaged_on_their_way(imitation, ask, name):
    """Catches flipped bits that are trained on, and a damaged file that stays in the cache for every later run."""
    imitation.damaged = f"/resolve/{COMMIT}/{name}"
    folder, error, _ = ask(imitation.url)
    assert folder is None and f"{name} was damaged on its way" in error and error.count("\n") == 0
    imitation.damaged = "nothing"
    folder, error, _ = ask(imitation.url)
    assert error == "" and Path(folder, name).read_bytes() == FILES[name]


@pytest.mark.parametrize("where, value", [("sha", "../../x"), ("sha", "/tmp/x"), ("ETag", "../../x"),
                                          ("X-Linked-ETag", "a\\b"), ("X-Repo-Commit", "..")])
def test_hashes_that_are_paths(imitation, ask, where, value, tmp_path):
    """Catches files written outside of the hub's cache: the library makes their names of what the hub answers."""
    if where == "sha":
        imitation.sha = value
    else:
        imitation.headers[where] = value
    folder, error, _ = ask(imitation.url)
    assert folder is None and error.startswith("error: the hub answers with a damaged hash, '")
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert "x" not in names and not names & {*FILES}


@pytest.mark.parametrize("answer", [(500, b"oops"), (503, b""), (200, b"<html>Please log in</html>"), (200, b"[]"),
                                    (403, b"{}"), (429, b"")], ids=str)
def test_strange_answers(imitation, ask, answer):
    """Catches: a traceback for a hub that is broken, overloaded, or somebody else's login page."""
    imitation.answer = answer
    _, error, seconds = ask(imitation.url)
    assert seconds < 10 and "cannot be had from" in error and "hf download" in error


def test_offline_on_purpose(ask):
    """Catches: HF_HUB_OFFLINE ignored, or not named as the reason."""
    assert "OfflineModeIsEnabled" in ask(closed_port(), HF_HUB_OFFLINE="1")[1]


def test_unknown_repository(imitation, ask):
    """Catches: a misspelt name that is reported as a network failure."""
    error = ask(imitation.url, "some/gtp")[1]
    assert error.startswith("error: no model 'some/gtp': it is neither a folder here nor a model on the Hugging")


@pytest.mark.parametrize("model", ["a/b/c", "nul\\x00", "x" * 300, "-gpt2", "gpt2 "])
def test_impossible_names(model):
    """Catches: a traceback from the hub's own checks of names, or a question that cannot have an answer."""
    with pytest.raises(PretrainedError, match="neither a folder here nor a possible name"):
        resolve(model.encode().decode("unicode_escape"))


def test_repositories_without_our_files(imitation, ask):
    """Catches: a download of gigabytes that ends in a file that cannot be read."""
    del imitation.files["model.safetensors"]
    assert "some/gpt on the Hugging Face hub has no model.safetensors" in ask(imitation.url)[1]
    assert not any("resolve" in path for path in imitation.asked)
    imitation.files["model.safetensors"] = b"weights"
    del imitation.files["config.json"]
    assert "is not a checkpoint: it has no config.json" in ask(imitation.url)[1]


def test_an_interrupted_download_is_not_taken_for_a_checkpoint(imitation, ask):
    """Catches: half a snapshot in the cache that is used as it is."""
    folder = ask(imitation.url)[0]
    os.unlink(os.path.join(folder, "model.safetensors"))
    assert "cannot be had from" in ask(closed_port())[1]
    assert ask(imitation.url)[0] == folder
    assert os.path.isfile(os.path.join(folder, "model.safetensors"))


def test_folders(tmp_path):
    """Catches: a wrong path taken for a name on the hub, and folders that are not checkpoints."""
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(PretrainedError, match=r"does not hold a checkpoint: model\.safetensors"):
        resolve(tmp_path)
    (tmp_path / "model.safetensors").write_text("")
    assert resolve(tmp_path) == resolve(str(tmp_path)) == tmp_path
    with pytest.raises(PretrainedError, match="has no revision 'main'"):
        resolve(tmp_path, "main")
    for missing in (tmp_path / "x", "./x", "../x", "~/no-such-folder", tmp_path / "config.json"):
        with pytest.raises(PretrainedError, match="no model folder"):
            resolve(missing)


def test_the_bundled_model_is_found_from_anywhere(tmp_path, monkeypatch):
    """Catches: a path that depends on the current folder, or a name that is looked up on the hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(hub.BUNDLED, "gpt2-tiny", tmp_path / "tiny")
    with pytest.raises(PretrainedError, match="no model folder"):
        resolve("gpt2-tiny")
    (tmp_path / "tiny").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "tiny" / name).write_text("")
    assert resolve("gpt2-tiny") == tmp_path / "tiny"
    monkeypatch.undo()
    assert hub.BUNDLED["gpt2-tiny"].is_absolute()
