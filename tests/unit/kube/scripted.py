"""A server that answers as an API server never would when asked to: half lines, silence, nonsense."""

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit


class Ending(Enum):
    """How a stream goes on after what was said."""

    CUT = "the connection breaks"
    SILENCE = "nothing more is said, with the connection open"


class Answer(NamedTuple):
    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = {}
    length: int | None = None
    """Content-Length, if not the body's."""


class Stream(NamedTuple):
    """Chunks, one after the other; ends in order unless an Ending comes last."""

    chunks: tuple["bytes | Ending", ...]


class Asked(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    connection: tuple[str, int]

    @property
    def is_watch(self) -> bool:
        return "watch" in self.query

    @property
    def is_look(self) -> bool:
        """Only asks for the newest version."""
        return self.query.get("limit") == "1"


Reply = Answer | Stream


class ScriptedServer(ThreadingHTTPServer):
    """Answers ``lists``, ``watches``, ``looks`` and others (``others``) in turn; the last of each is repeated.

    ``lists_of``: lists of certain paths.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lists: list[Reply] = [Answer(listed())]
        self.lists_of: dict[str, list[Reply]] = {}
        self.watches: list[Reply] = [Stream((Ending.SILENCE,))]
        self.looks: list[Reply] = [Answer(listed(version="1000000"))]
        self.others: list[Reply] = [Answer(b"{}")]
        self.refused: set[str] = set()
        """Who is nobody here, as the header ``Authorization`` has it."""
        self.asked: list[Asked] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def kubeconfig(self, directory: Path, user: Mapping[str, Any] | None = None) -> Path:
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": self.url}}],
            "users": [{"name": "u", "user": dict(user or {})}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path = directory / "kubeconfig"
        path.write_text(json.dumps(content))
        return path

    def reply(self, asked: Asked) -> Reply:
        with self._lock:
            self.asked.append(asked)
            if asked.headers.get("authorization") in self.refused:
                return Answer(refusal(401, "Unauthorized"), 401)
            replies = self.others
            if asked.is_watch:
                replies = self.watches
            elif asked.is_look:
                replies = self.looks
            elif "limit" in asked.query:
                replies = self.lists_of.get(asked.path, self.lists)
            return replies.pop(0) if len(replies) > 1 else replies[0]

    def listing(self) -> list[Asked]:
        return [each for each in self.asked if "limit" in each.query and not each.is_look]

    def watching(self) -> list[Asked]:
        return [each for each in self.asked if each.is_watch]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ScriptedServer

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = urlsplit(self.path)
        asked = Asked(
            self.command,
            parts.path,
            dict(parse_qsl(parts.query)),
            {name.lower(): value for name, value in self.headers.items()},
            self.client_address,
        )
        reply = self.server.reply(asked)
        if isinstance(reply, Answer):
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body) if reply.length is None else reply.length))
            self.end_headers()
            self.wfile.write(reply.body)
            if reply.length is not None:
                self.close_connection = True
        else:
            self._stream(reply)

    def _stream(self, stream: Stream) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for chunk in stream.chunks:
            if chunk is Ending.SILENCE:
                self.server.closing.wait(30)
            if isinstance(chunk, Ending):
                self.close_connection = True
                with suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        self.wfile.write(b"0\r\n\r\n")

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815  # names that http.server calls

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Not on the tests' output."""


@contextmanager
def scripted() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def thing(name: str, version: int, **other: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": "ns", "uid": f"uid-{name}", "resourceVersion": str(version)}
    return {"kind": "Pod", "apiVersion": "v1", "metadata": meta, **other}


def listed(*things: Mapping[str, Any], version: str = "10", more: str = "") -> bytes:
    meta = {"resourceVersion": version} | ({"continue": more} if more else {})
    return json.dumps({"kind": "PodList", "apiVersion": "v1", "metadata": meta, "items": list(things)}).encode()


def event(type_: str, thing_: Mapping[str, Any]) -> bytes:
    return json.dumps({"type": type_, "object": thing_}).encode() + b"\n"


def bookmark(version: int) -> bytes:
    """As Kubernetes 1.37 sends it: no name, nothing else that an object has."""
    meta = {"resourceVersion": str(version)}
    return event("BOOKMARK", {"kind": "Pod", "apiVersion": "v1", "metadata": meta, "spec": {"containers": None}})


def refusal(code: int, reason: str, message: str = "no", **details: Any) -> bytes:
    """``metav1.Status``."""
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return json.dumps(status | {"code": code, "reason": reason, "message": message, "details": details}).encode()


def error_event(code: int, reason: str) -> bytes:
    return event("ERROR", json.loads(refusal(code, reason)))
