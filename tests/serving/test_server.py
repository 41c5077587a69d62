"""The server behind the live page: it answers what the model says, and only to its own page, in bounded time."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from modules.attention import CausalSelfAttention
from report.live import served
from serving import load, server
from serving import model_folder as module
from serving.answers import Answers
from tests.finetuning.kinds import Mean
from tests.serving.conftest import write_model

TEXTS = ["the film is good, but long", "", "  ", "GOOD<|endoftext|>", "bad \u4e2d\u6587 \U0001f600 x", "good " * 60]
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def answers(model_folder):
    """The answers of the shared model, with its own GPT-2 for the next words."""
    predictor = load(model_folder[0], "cpu")
    return Answers(predictor, predictor.model.gpt)


@pytest.fixture(scope="module")
def running(answers):
    """A server that runs; the page is the real one."""
    with server.server_at("127.0.0.1", 0) as running:
        running.answers = answers
        running.page = served(answers.predictor.description, {}, Path("run"), "").encode()
        threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
        yield running
        running.shutdown()


def ask(running, method="POST", path="/predict", body=b'{"text": "good"}', **headers):
    """Return (status, headers, content) of one request; a header that is None is left out."""
    connection = http.client.HTTPConnection("127.0.0.1", running.server_port, timeout=60)
    named = {"Host": f"127.0.0.1:{running.server_port}", **JSON, "Content-Length": str(len(body or b"")),
             **{name.replace("_", "-"): value for name, value in headers.items()}}
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in named.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(body)
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, reply.headers, content


# ---- what it says of a text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS)
def test_it_says_what_the_model_says(running, answers, text):
    """Catches another text, another label order, and probabilities of a beginning that are not the beginning's own."""
    status, _, content = ask(running, body=json.dumps({"text": text}).encode())
    said = json.loads(content)["answer"]
    words, read = said["words"], answers.predictor
    assert status == 200
    assert said["probabilities"] == pytest.approx(read.predict([text])[0].probabilities, abs=1e-6)
    assert len(said["steps"]) == len(words)
    beginnings = [" ".join(words[:end]) for end in range(1, min(len(words), 4) + 1)]  # words here are between spaces
    if "\u4e2d" not in text:
        assert torch.allclose(torch.tensor(said["steps"][:4]).view(-1, 3).double(), read.probabilities(beginnings),
                              atol=1e-5)
    shares = json.loads(ask(running, path="/explain", body=json.dumps({"text": text}).encode())[2])["shares"]
    assert shares == pytest.approx([share for _, share in read.explain(text).words], abs=1e-6)
    assert len(shares) == len(words)
    assert said["tokens"] == (len(read.model.encode_whole(text)) if words else 0) and said["read"] <= 24


def test_it_draws_the_attention_of_the_students_module(answers, monkeypatch):
    """Catches a transposed map, a head for another, and a map of GPT-2's attention where the student's is another."""
    said = answers.predict("the film is good")["answer"]["attention"]
    size, heads = said["size"], said["heads"]
    maps = torch.tensor(said["maps"]).view(said["layers"], heads, size, size)
    assert maps.sum(-1).allclose(torch.ones(said["layers"], heads, size), atol=1e-3) and maps.triu(1).max() == 0
    kept = []
    usual = torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda x, *a, **k: kept.append(usual(x, *a, **k)) or kept[-1])
    ids = torch.tensor(answers.model.encode(["the film is good"]))
    answers.forward(ids, torch.ones_like(ids))
    monkeypatch.undo()
    assert torch.allclose(torch.cat(kept), maps, atol=1e-4)

    monkeypatch.setattr(CausalSelfAttention, "forward", lambda self, x, mask: self.value(x) + 0 * (
        self.query(x) + self.key(x)))
    other = answers.predict("the film is good")["answer"]
    assert other["attention"] is None and "another attention than GPT-2's" in other["why"]
    monkeypatch.setattr(CausalSelfAttention, "forward", lambda self, x, mask: x)
    assert "does not call its query" in answers.predict("the film is good")["answer"]["why"]


def test_the_next_words_are_the_backbones(answers):
    """Catches logits of another token, and probabilities that do not come from all words."""
    ids = torch.tensor(answers.model.encode(["the film"]))
    with torch.inference_mode():
        last = answers.forward(ids, torch.ones_like(ids))["last_token"]
        want = answers.model.gpt.hidden_state_to_token(last)[0].softmax(-1).topk(5)
    found = answers.predict("the film")["guesses"]
    assert [p for _, p in found] == pytest.approx(want.values.tolist(), abs=1e-6)
    assert found[0][0] == answers.name(int(want.indices[0]))
    assert "guesses" not in Answers(answers.predictor, None).predict("the film")


def test_a_head_that_reads_more_is_asked_word_by_word(folder, tmp_path, monkeypatch):
    """Catches a shortcut for heads that it is wrong for."""
    write_model(folder / "model", tmp_path / "model", Mean)
    monkeypatch.setattr(module, "GPT2SentimentClassifier", Mean)
    predictor = load(tmp_path, "cpu")
    said = Answers(predictor, None).predict("the film is good")["answer"]
    want = predictor.probabilities(["the", "the film", "the film is", "the film is good"])
    assert torch.allclose(torch.tensor(said["steps"]).double(), want, atol=1e-5)


# ---- who may ask, and how much ---------------------------------------------------------------------------------------


def test_the_page_is_served_whole(running):
    """Catches a page that asks elsewhere, or that another page may frame."""
    status, headers, content = ask(running, "GET", "/", None)
    assert status == 200 and content == running.page and b"connect-src &#39;self&#39;" in content
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert (headers["X-Content-Type-Options"], headers["X-Frame-Options"]) == ("nosniff", "DENY")
    assert "Access-Control-Allow-Origin" not in headers and "Python" not in headers["Server"]


@pytest.mark.parametrize("status, how", [
    (403, {"Host": "evil.example:8000"}), (403, {"Host": "127.0.0.1"}), (403, {"Host": ""}), (403, {"Host": None}),
    (403, {"Host": "127.0.0.1.evil.example:{port}"}), (403, {"Origin": "http://evil.example"}),
    (403, {"Origin": "null"}), (403, {"Origin": "https://127.0.0.1:{port}"}),
    (415, {"Content_Type": "text/plain"}), (415, {"Content_Type": None}),
    (411, {"Content_Length": None}), (411, {"Content_Length": "-1"}), (411, {"Content_Length": "1_0"}),
    (413, {"Content_Length": "65537"}), (413, {"Content_Length": "9" * 50}),
    (400, {"body": b"{"}), (400, {"body": b"\xff"}), (400, {"body": b"[]"}), (400, {"body": b'{"text": 1}'}),
    (400, {"body": b"[" * 60000}), (413, {"body": json.dumps({"text": "a" * 20001}).encode()}),
    (404, {"path": "/etc/passwd"}), (404, {"path": "/predict?x"}), (404, {"path": "//evil"}),
    (404, {"method": "GET", "path": "/predict"}), (501, {"method": "PUT"}), (501, {"method": "OPTIONS"}),
    (200, {"body": b'{"text": "\\ud800 <script>"}'}), (200, {"Origin": "http://127.0.0.1:{port}"}),
    (200, {"Host": "localhost:{port}", "Origin": "http://localhost:{port}"}),
    (200, {"body": json.dumps({"text": "a " * 10000}).encode()}),
], ids=str)
def test_only_its_own_page_may_ask(running, status, how, capsys):
    """Catches DNS rebinding, forms of other pages, bodies without an end, and a traceback sent to a client."""
    how = {name: value.replace("{port}", str(running.server_port)) if isinstance(value, str) else value
           for name, value in how.items()}
    found, _, content = ask(running, **how)
    assert found == status and b"Traceback" not in content
    if status in (400, 403, 404, 411, 413, 415):
        assert set(json.loads(content)) == {"error"}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error, status", [(UserError("a reason\nand advice"), 422), (ValueError("a secret"), 500)])
def test_what_the_model_fails_at_is_told_here(running, answers, error, status, monkeypatch, capsys):
    """Catches a traceback sent to the client, and an error that nobody sees."""
    def predict(text):
        raise error

    monkeypatch.setattr(answers, "predict", predict)
    found, _, content = ask(running)
    assert found == status and b"secret" not in content and b"Traceback" not in content
    told = capsys.readouterr().err
    assert str(error).partition("\n")[0] in told and "Traceback" not in told


def test_slow_clients_and_too_many_are_turned_away(running, monkeypatch):
    """Catches a client that holds a thread for ever, a byte at a time, and threads without number."""
    monkeypatch.setattr(server, "PATIENCE", 0.5)
    slow = socket.create_connection(("127.0.0.1", running.server_port))
    slow.sendall(b"POST /predict HTTP/1.0\r\n")
    start, closed = time.monotonic(), False
    while not closed and time.monotonic() - start < 30:
        time.sleep(0.1)
        try:
            slow.sendall(b"X")
            slow.settimeout(0.01)
            closed = slow.recv(1) == b""
        except TimeoutError:
            continue
        except OSError:
            closed = True
    assert closed
    monkeypatch.setattr(server, "PATIENCE", 30.0)
    waiting = [socket.create_connection(("127.0.0.1", running.server_port)) for _ in range(server.CONNECTIONS)]
    last = socket.create_connection(("127.0.0.1", running.server_port), timeout=30)
    assert last.recv(1) == b""
    for connection in [*waiting, last, slow]:
        connection.close()
    for _ in range(300):  # the places are given back
        try:
            assert ask(running)[0] == 200
            return
        except (http.client.HTTPException, OSError):
            time.sleep(0.1)
    pytest.fail("the places were not given back")


@pytest.mark.parametrize("address, host, known", [
    ("127.0.0.1", "127.0.0.1:{p}", True), ("127.0.0.1", "localhost:{p}", True), ("127.0.0.1", "192.168.0.9:{p}", False),
    ("0.0.0.0", "192.168.0.9:{p}", True), ("0.0.0.0", "evil.example:{p}", False), ("0.0.0.0", "localhost:{p}", True),
    ("0.0.0.0", "192.168.0.9:1", False), ("0.0.0.0", socket.gethostname() + ":{p}", True)])
def test_which_hosts_are_its_own(address, host, known):
    """Catches a name of elsewhere that resolves to us, also where others may ask."""
    with server.server_at(address, 0) as there:
        assert there.known_host(host.replace("{p}", str(there.server_port))) is known
    assert server.is_loopback(address) is (address != "0.0.0.0")


def test_a_port_that_is_taken_is_a_line(running):
    """Catches a traceback for what happens every day."""
    with pytest.raises(UserError, match=rf"^port {running.server_port} is taken: choose another with --port"):
        server.server_at("127.0.0.1", running.server_port)
    with pytest.raises(UserError, match=r"^cannot listen at 203.0.113.7:0: "):
        server.server_at("203.0.113.7", 0)


def test_the_script(root, model_folder, help_of):
    """Catches flags that do not arrive, a server on all addresses, and Ctrl-C that leaves a traceback."""
    assert "--host" in help_of("serve.py")
    with subprocess.Popen([sys.executable, "serve.py", "--run", model_folder[0], "--port", "0"], cwd=root, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        try:
            line = process.stdout.readline()
            port = int(line.split()[0].rpartition(":")[2])
            assert line == f"http://127.0.0.1:{port}    Ctrl-C ends\n"
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("POST", "/predict", '{"text": "good"}', JSON)
            assert "probabilities" in json.loads(connection.getresponse().read())["answer"]
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130 and process.stderr.read() == "interrupted\n"
        finally:
            process.kill()


@pytest.mark.parametrize("words, said", [
    (["--run", "nowhere"], "no run folder 'nowhere'"), (["--run", ".", "--port", "99999"], "--port must be from 0"),
    (["--run", ".", "--host", "a b"], "--host takes an IPv4 address or a name")])
def test_mistakes_end_in_a_line(root, words, said):
    """Catches a traceback, and a mistake that is found only after PyTorch is loaded."""
    done = subprocess.run([sys.executable, "serve.py", *words], cwd=root, text=True, capture_output=True, timeout=60)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
