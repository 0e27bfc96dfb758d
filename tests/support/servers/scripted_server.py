"""A web server of one file that misbehaves as a script says.

Each entry of the script answers one request, in the order in which the requests arrive, on
whichever connection. After the last entry it answers rightly or, if strict, with 500.
"""

import re
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from email.utils import formatdate
from http import HTTPStatus
from typing import BinaryIO

FIRST_MODIFIED = 1_500_000_000
LONGEST_HEAD = 1 << 16
CHUNK = 1 << 16
PHRASES = {status.value: status.phrase for status in HTTPStatus}


@dataclass
class Request:
    """A request as it came; a range is (first, last) as sent, None where a side is open."""

    method: str
    path: str
    headers: dict[str, str]
    range: tuple[int | None, int | None] | None
    connection: int
    body_bytes_sent: int = 0  # what was handed to the socket, the rest is the client's doing


@dataclass
class Reply:
    """An answer to be sent."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    delay: float = 0
    until: threading.Event | None = None  # wait for it before anything is sent
    cut: int | None = None  # end the connection after so many bytes of the body

    def __post_init__(self):
        named = {name.lower(): value for name, value in self.headers.items()}
        self.headers = {"content-length": str(len(self.body))} | named


Answer = Callable[["ScriptedServer", Request], Reply | None]


def Ok() -> Answer:
    """Give the right answer."""
    return lambda server, request: server.right_reply(request)


def Status(status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Answer:
    """Give another status."""
    return lambda server, request: Reply(status, dict(headers or {}), body)


def Redirect(to: str, status: int = 302) -> Answer:
    """Say that the file is at another URL."""
    return Status(status, {"Location": to})


def ShortBody(n: int) -> Answer:
    """Give the right headers, n bytes of the body, and the end of the connection."""
    return lambda server, request: replace(server.right_reply(request), cut=n)


def Disconnect() -> Answer:
    """End the connection before any byte."""
    return lambda server, request: None


def Stall(seconds: float) -> Answer:
    """Give the right answer, late."""
    return lambda server, request: replace(server.right_reply(request), delay=seconds)


def Held(until: threading.Event) -> Answer:
    """Give the right answer once an event is set."""
    return lambda server, request: replace(server.right_reply(request), until=until)


def WrongRange(shift: int = 1) -> Answer:
    """Give another range than the one asked for, and say so: it begins ``shift`` bytes later."""
    return lambda server, request: server.part(*(side + shift for side in server.span(request)))


def Whole() -> Answer:
    """Give the whole file with status 200, whatever was asked for."""
    return lambda server, request: server.whole()


def Headers(**overrides: str | None) -> Answer:
    """Give the right answer with other headers; None leaves one out.

    Underscores stand for hyphens: ``Headers(ETag=None, Content_Encoding="gzip")``. Without a
    Content-Length the body ends with the connection.
    """
    changed = {name.replace("_", "-").lower(): value for name, value in overrides.items()}

    def answer(server: "ScriptedServer", request: Request) -> Reply:
        reply = server.right_reply(request)
        headers = reply.headers | changed
        reply.headers = {name: value for name, value in headers.items() if value is not None}
        return reply

    return answer


def Changed(content: bytes, etag: str | None) -> Answer:
    """Have another file from now on, modified later."""

    def answer(server: "ScriptedServer", request: Request) -> Reply:
        server.content, server.etag, server.modified = content, etag, server.modified + 3600
        return server.right_reply(request)

    return answer


class ScriptedServer:
    """The server, which runs as long as the ``with`` block.

    ``then`` answers whatever comes after the script; with ``strict`` that gets 500 instead, and is
    kept in ``unexpected``. ``script`` holds the entries not used yet, ``requests`` all requests.
    """

    def __init__(
        self,
        content: bytes,
        script: Iterable[Answer] = (),
        *,
        strict: bool = False,
        etag: str | None = '"v1"',
        then: Answer | None = None,
    ):
        self.content, self.etag, self.modified = content, etag, FIRST_MODIFIED
        self.script = deque(script)
        self.then = Status(500) if strict else then or Ok()
        self.strict = strict
        self.requests: list[Request] = []
        self.unexpected: list[Request] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._connections: list[tuple[socket.socket, threading.Thread]] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/file.magnitude"

    def __enter__(self) -> "ScriptedServer":
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        socket.create_connection(self._listener.getsockname()).close()  # wakes the acceptor
        self._acceptor.join()
        self._listener.close()
        for connection, thread in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            thread.join()

    def right_reply(self, request: Request) -> Reply:
        """Answer as a good server does."""
        wanted = request.headers.get("if-match")
        if wanted is not None and not self._matches(wanted):
            return Reply(412, self._validators())
        if request.range is None:
            return self.whole()
        start, end = self.span(request)
        if start > end:
            return Reply(416, {"Content-Range": f"bytes */{len(self.content)}"})
        return self.part(start, end)

    def whole(self) -> Reply:
        """Answer with the whole file."""
        return Reply(200, self._file_headers(), self.content)

    def part(self, start: int, end: int) -> Reply:
        """Answer with the bytes from start to end, both included, as far as there are."""
        start, end = max(start, 0), min(end, len(self.content) - 1)
        place = {"Content-Range": f"bytes {start}-{end}/{len(self.content)}"}
        return Reply(206, self._file_headers() | place, self.content[start : end + 1])

    def span(self, request: Request) -> tuple[int, int]:
        """Give the first and the last byte asked for that the file can have."""
        size = len(self.content)
        start, end = request.range or (0, None)
        if start is None:
            return max(size - (end or 0), 0), size - 1
        return start, size - 1 if end is None else min(end, size - 1)

    def _matches(self, wanted: str) -> bool:
        """Compare an If-Match strongly."""
        tags = [tag.strip() for tag in wanted.split(",")]
        return "*" in tags or (self.etag in tags and not str(self.etag).startswith("W/"))

    def _validators(self) -> dict[str, str]:
        modified = {"Last-Modified": formatdate(self.modified, usegmt=True)}
        return modified if self.etag is None else modified | {"ETag": self.etag}

    def _file_headers(self) -> dict[str, str]:
        kind = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        return kind | self._validators()

    def _accept(self) -> None:
        """Serve each connection in a thread of its own."""
        while True:
            connection, _ = self._listener.accept()
            if self._closing.is_set():
                connection.close()
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            number = len(self._connections) + 1
            thread = threading.Thread(target=self._serve, args=(connection, number), daemon=True)
            self._connections.append((connection, thread))
            thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        """Answer the requests of one connection."""
        with connection, suppress(OSError), connection.makefile("rb") as stream:
            while (request := _read_request(stream, number)) is not None:
                reply = self._next_reply(request)
                if reply is None or not self._send(connection, request, reply):
                    return

    def _next_reply(self, request: Request) -> Reply | None:
        """Take the next entry; one at a time, so that a change of the file has its place too."""
        with self._lock:
            self.requests.append(request)
            if self.script:
                return self.script.popleft()(self, request)
            if self.strict:
                self.unexpected.append(request)
            return self.then(self, request)

    def _send(self, connection: socket.socket, request: Request, reply: Reply) -> bool:
        """Send an answer; say whether the connection stays open."""
        if self._closing.wait(reply.delay):
            return False
        while reply.until is not None and not reply.until.wait(0.01):
            if self._closing.is_set():
                return False
        last = "content-length" not in reply.headers or reply.cut is not None
        last = last or request.headers.get("connection", "").lower() == "close"
        headers = reply.headers | ({"Connection": "close"} if last and reply.cut is None else {})
        lines = [f"HTTP/1.1 {reply.status} {PHRASES.get(reply.status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        connection.sendall("\r\n".join([*lines, "\r\n"]).encode("latin-1"))
        body = memoryview(b"" if request.method == "HEAD" else reply.body)[: reply.cut]
        for start in range(0, len(body), CHUNK):
            connection.sendall(body[start : start + CHUNK])
            request.body_bytes_sent = min(start + CHUNK, len(body))
        return not last


def _read_request(stream: BinaryIO, number: int) -> Request | None:
    """Read the head of a request; None at the end of the connection."""
    method, _, rest = stream.readline(LONGEST_HEAD).decode("latin-1").partition(" ")
    if not rest:
        return None
    headers = {}
    while line := stream.readline(LONGEST_HEAD).decode("latin-1").strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    one_range = re.fullmatch(r"bytes=(\d*)-(\d*)", headers.get("range", ""))
    sides = one_range and tuple(int(side) if side else None for side in one_range.groups())
    return Request(method, rest.split(" ")[0], headers, sides, number)
