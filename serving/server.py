"""Serve the live page with the student's model behind it, by the standard library's HTTP server.

    GET /           the page
    POST /predict   {"text": ...} -> what serving/answers.py says of it
    POST /explain   {"text": ...} -> {"shares": [...]}, one for each word

It is made for one person on one machine. Still, every web page in that person's browser can send it requests; so it
asks for a Host that is its own (a foreign name may resolve to 127.0.0.1), for JSON, and for its own Origin.
"""

import contextlib
import errno
import ipaddress
import json
import os
import socket
import socketserver
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn

from common import cli
from common.errors import UserError, one_line
from common.student_files import describe, explain_student_errors
from common.terminal import say
from models.fine_tuned import Description
from serving.answers import Answers
from serving.backbone import NoBackbone, pretrained_backbone
from serving.export import read
from serving.predictor import Predictor
from serving.serve_settings import Settings
from training.memory import OutOfMemory
from training.parallel.process_group import DeviceError

LARGEST, LONGEST = 64 << 10, 20_000  # bytes of a request's body; characters of a text
PATIENCE = 10.0  # seconds in which a request must have arrived
CONNECTIONS = 16  # at once; more are turned away

Page = Callable[[Description, dict[str, Any], Path, str], str]


def main(settings: Settings, page: Page) -> NoReturn:
    """Do what serve.py is asked to do; ends the process with its exit status, which is that of Ctrl-C."""
    cli.run(lambda: run(settings, page))


def run(settings: Settings, page: Page) -> None:
    """Load the model and serve until Ctrl-C.

    page: makes the HTML of (description, run.json, run folder, why there are no next words).
    """
    with explain_student_errors(), cli.adding_advice({DeviceError: lambda error: "Use --device auto or --device cpu"}):
        with server_at(settings.host, settings.port) as server:  # first: a port that is taken is told at once
            predictor = Predictor.load(settings.run, settings.device)
            record, backbone, why = read(settings.run / "run.json"), None, ""
            try:
                backbone = pretrained_backbone(predictor.model, record)
                backbone.to(predictor.machine.device)
            except NoBackbone as error:
                why = str(error)
            server.answers = Answers(predictor, backbone)
            server.page = page(predictor.description, record, settings.run, why).encode()
            if not is_loopback(settings.host):
                say(f"anybody who can reach {settings.host} in the network can use this model and read the page",
                    error=True)
            say(f"http://{settings.host}:{server.server_port}    Ctrl-C ends")
            server.serve_forever()


def server_at(host: str, port: int) -> "Server":
    """Open a server's port. UserError if it is taken, or the address is not this machine's."""
    try:
        return Server((host, port), Handler)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} is taken: choose another with --port, or 0 for a free one") from error
        raise UserError(f"cannot listen at {host}:{port}: {error.strerror or error}") from error


def is_loopback(host: str) -> bool:
    """Tell whether an address is this machine's own, which no other machine can reach."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Server(ThreadingHTTPServer):
    """A thread for each connection, at most CONNECTIONS; one answers at a time."""

    allow_reuse_address = os.name == "posix"  # elsewhere it would let two servers share a port
    answers: Answers
    page = b""

    def __init__(self, *arguments: Any) -> None:
        self.model_lock, self.places = threading.Lock(), threading.BoundedSemaphore(CONNECTIONS)
        super().__init__(*arguments)

    def server_bind(self) -> None:
        """Bind without asking a name server who we are, which the base class does and which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own; turn the connection away if too many are open."""
        if not self.places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and give the place back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say in a line what went wrong with a connection; a client that went away is no news."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            say(f"error: {one_line(repr(error), 200)}", error=True)

    def known_host(self, host: str) -> bool:
        """Tell whether a Host header names this server: by address, or by a name of this machine."""
        name, _, port = host.rpartition(":") if ":" in host else (host, "", "80")
        if port != str(self.server_port):
            return False
        names = {"localhost", str(self.server_address[0])}
        if is_loopback(str(self.server_address[0])):
            return name in names
        try:
            return bool(ipaddress.ip_address(name))  # a page of elsewhere comes by a name, never by our address
        except ValueError:
            return name.lower() in names | {socket.gethostname().lower()}


class Refused(Exception):
    """A request that is not answered: (status, what to say)."""


class Handler(BaseHTTPRequestHandler):
    """One request, and then the connection ends."""

    server: Server
    server_version, sys_version = "serve.py", ""
    timeout = PATIENCE

    def setup(self) -> None:
        """Give the whole request PATIENCE: a client that sends a byte now and then would never meet a timeout."""
        self.alarm = threading.Timer(PATIENCE, self.give_up)
        self.alarm.daemon = True
        self.alarm.start()
        super().setup()

    def give_up(self) -> None:
        """Close the connection of a client that is too slow."""
        with contextlib.suppress(OSError, AttributeError):  # gone already
            self.connection.shutdown(socket.SHUT_RDWR)

    def finish(self) -> None:
        """End the connection."""
        self.alarm.cancel()
        super().finish()

    def do_GET(self) -> None:
        """Answer with the page."""
        self.answer({"/": lambda: ("text/html", self.server.page)})

    def do_POST(self) -> None:
        """Answer what is asked of a text."""
        answers = self.server.answers
        self.answer({f"/{what.__name__}": lambda what=what: ("application/json", self.ask(what))
                     for what in (answers.predict, answers.explain)})

    def answer(self, known: dict[str, Callable[[], tuple[str, bytes]]]) -> None:
        """Send what a path has to say, or why not. What goes wrong is told at the terminal, never to the client."""
        try:
            if not self.server.known_host(self.headers.get("Host", "")):
                raise Refused(HTTPStatus.FORBIDDEN, "this server is not known by that name")
            if self.path not in known:
                raise Refused(HTTPStatus.NOT_FOUND, "there is nothing here")
            self.reply(HTTPStatus.OK, *known[self.path]())
        except Refused as refused:
            status, why = refused.args
            self.reply(status, "application/json", json.dumps({"error": why}).encode())

    def ask(self, what: Callable[[str], dict[str, Any]]) -> bytes:
        """Return the model's answer as JSON. Refused for a request that is not the page's."""
        text = self.text()
        try:
            with self.server.model_lock, explain_student_errors():
                return json.dumps(what(text)).encode()
        except (UserError, OutOfMemory) as error:
            say(f"error: {error}", error=True)
            raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, str(error).partition("\n")[0]) from error
        except Exception as error:
            file, line, said = describe(error)
            say(f"error: {file}:{line}: {said}", error=True)
            raise Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "the model failed; the terminal of serve.py says how") \
                from error

    def text(self) -> str:
        """Read the text of a request."""
        origin, host = self.headers.get("Origin"), self.headers.get("Host", "")
        if origin is not None and origin != f"http://{host}":
            raise Refused(HTTPStatus.FORBIDDEN, "only this server's own page may ask")
        if self.headers.get_content_type() != "application/json":
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send JSON, with Content-Type: application/json")
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "Content-Length is needed")
        if len(length) > 9 or int(length) > LARGEST:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {LARGEST >> 10} kB are read")
        body = self.rfile.read(int(length))
        self.alarm.cancel()  # from here on the model takes its time
        try:
            value = json.loads(body.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise Refused(HTTPStatus.BAD_REQUEST, "this is not JSON in UTF-8") from error
        text = value.get("text") if isinstance(value, dict) else None
        if not isinstance(text, str):
            raise Refused(HTTPStatus.BAD_REQUEST, 'send {"text": "..."}')
        if len(text) > LONGEST:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a text may have {LONGEST:,} characters")
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # halves of characters become marks

    def reply(self, status: int, kind: str, content: bytes) -> None:
        """Send a whole answer."""
        self.send_response(status)
        for name, value in {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(content)),
                            "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
                            "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing of requests: what clients send is not for a terminal."""
