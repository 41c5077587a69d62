"""Pushing to a hub: what arrives is the folder; what fails says so and loses nothing."""

import base64
import http.server
import json
import threading

import pytest

from common.errors import UserError
from serving.export import push

NAME = "me/model"


class Hub(http.server.BaseHTTPRequestHandler):
    """The hub's questions when a repository is made and files are committed to it."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        if self.server.answer:
            return self.reply(*self.server.answer)
        if self.path == "/api/repos/create":
            self.server.made.append(json.loads(body))
            return self.reply(200, {"url": f"{self.server.url}/{NAME}", "name": NAME, "id": NAME})
        if self.path == "/api/validate-yaml":
            return self.reply(200, {"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            return self.reply(200, {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                                              for file in json.loads(body)["files"]]})
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.reply(200, {"success": True, "commitOid": "1" * 40,
                                    "commitUrl": f"{self.server.url}/{NAME}/commit/1"})
        return self.reply(404, {})

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        self.reply(200, {"id": NAME, "sha": "1" * 40, "siblings": []})

    def reply(self, status, content):
        content = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    """A hub on this machine; .files and .made are what arrived, .answer what it says to everything."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.made, server.asked, server.answer = {}, [], [], None
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", server.url, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def out(tmp_path):
    for name, content in (("README.md", b"---\nlicense: mit\n---\n"), ("config.json", b"{}"),
                          ("model.safetensors", bytes(range(256)))):
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize("private", [True, False])
def test_the_folder_arrives(hub, out, private, capsys):
    """Catches files that are left out, and a repository that everybody sees unasked."""
    push(out, NAME, private)
    assert hub.files == {path.name: path.read_bytes() for path in out.iterdir()}
    made, = hub.made
    assert (made["name"], made["organization"]) == ("model", "me")
    assert (made.get("visibility") == "private" or made.get("private", False)) is private  # by the library's version
    assert {token for _, token in hub.asked} == {"Bearer hf_secret"}
    printed = capsys.readouterr().out
    assert printed.startswith("pushed to ") and NAME in printed and "hf_secret" not in printed


@pytest.mark.parametrize("answer", [(401, {"error": "no"}), (403, {}), (500, {}), (200, [])], ids=str)
def test_what_fails_is_told(hub, out, answer):
    """Catches a traceback, a token in a message, and a failure that costs the folder."""
    hub.answer = answer
    with pytest.raises(UserError, match=rf"cannot put {out} on {hub.url} as {NAME} \(") as error:
        push(out, NAME, private=True)
    first, second = str(error.value).split("\n")
    assert second == f"The folder is complete; try again with `hf upload {NAME} {out}`" and "hf_secret" not in first
    assert len(list(out.iterdir())) == 3
