"""Small HTTP/1.1 server of byte ranges on loopback, for demonstrations and tests."""

from __future__ import annotations

import contextlib
import html
import logging
import os
import re
import socket
import socketserver
import sys
import threading
import time
from dataclasses import dataclass
from email.message import Message
from email.utils import formatdate, mktime_tz, parsedate_tz
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote, unquote_to_bytes

from vfs.options import expanded

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
CHUNK = 256 * 1024
"""Bytes of a file in memory at once, for each connection."""

_RANGE = re.compile(r"bytes=[ \t]*([0-9]{0,100})-([0-9]{0,100})[ \t]*", re.IGNORECASE)
_ETAG = re.compile(r'(W/)?("[^"]*")')


@dataclass(frozen=True)
class Served:
    """One finished GET or HEAD request; times are readings of `time.perf_counter`."""

    method: str
    path: str
    """Path as the client sent it: percent-encoded, with the query string."""
    headers: Message
    """Headers of the request; look up names in any case."""
    status: int
    sent: int
    """Number of bytes of the body that were written to the connection."""
    connected: float
    """Time when the connection was accepted."""
    arrived: float
    """Time when the request line was read."""
    ended: float
    """Time when the response was sent, or when sending failed."""
    first: bool
    """Whether this is the first request of its connection."""


class RangeServer(ThreadingHTTPServer):
    """HTTP server of the files of one directory, with byte ranges and conditional requests.

    As a context manager it serves from a background thread. At the end of the ``with`` block, all
    connections are closed and `observe` has been called for every request. Inside the block,
    `observe` can run a moment after the client has the last byte.

    Parameters
    ----------
    directory : str or path
        Directory to serve. Files outside it are not served, even if symbolic links lead to them.
    port : int
        Port to listen on, 0 for any free port.
    latency : float
        Seconds to wait before each response. The attribute may be changed while serving.

    Raises
    ------
    NotADirectoryError
        `directory` is not a directory.
    OSError
        The port is taken.
    """

    daemon_threads = True
    request_queue_size = 256
    allow_reuse_port = False  # True in some Python versions: two servers would share a port

    def __init__(
        self, directory: str | os.PathLike[str], *, port: int = 0, latency: float = 0.0
    ) -> None:
        self.directory = Path(expanded(directory)).resolve()
        if not self.directory.is_dir():
            raise NotADirectoryError(f"not a directory: {os.fspath(directory)}")
        self.latency = latency
        self._open: set[Any] = set()
        self._changed = threading.Condition()
        super().__init__((HOST, port), _Handler)

    @property
    def url(self) -> str:
        """URL of the served directory, with a slash at the end."""
        return f"http://{HOST}:{self.server_port}/"

    def observe(self, record: Served) -> None:
        """Do nothing; a subclass may override this hook, which is called after each request.

        Parameters
        ----------
        record : Served
            The finished request. Each connection calls the hook in its own thread, so that calls
            may be concurrent.
        """

    def on_connect(self) -> None:
        """Do nothing; a hook that a connection's thread calls before it reads the first request."""

    def __enter__(self) -> Self:
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def server_bind(self) -> None:
        """Bind the socket without a lookup of the host's name, which takes seconds without DNS."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.socket.getsockname()[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread that serves one connection."""
        with self._changed:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close one connection."""
        super().shutdown_request(request)
        with self._changed:
            self._open.discard(request)
            self._changed.notify_all()

    def server_close(self) -> None:
        """Close the listening socket and all connections, and wait up to 5 s for their threads."""
        super().server_close()
        with self._changed:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            # The wait is limited, because a subclass's hook may sleep.
            self._changed.wait_for(lambda: not self._open, timeout=5)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log the error that ended a connection; a closed connection is logged as debug only."""
        gone = isinstance(sys.exc_info()[1], ConnectionError)
        level = logging.DEBUG if gone else logging.ERROR
        logger.log(level, "connection from %s broke off", client_address, exc_info=not gone)


class _Handler(BaseHTTPRequestHandler):
    """Handler of the requests of one connection."""

    server: RangeServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = CHUNK + 16 * 1024  # one write sends the headers and the first chunk

    def setup(self) -> None:
        self.connected = time.perf_counter()
        self.first = True
        self.server.on_connect()
        super().setup()

    def parse_request(self) -> bool:
        self.arrived = time.perf_counter()
        return super().parse_request()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        logger.debug(format, *args)

    def do_GET(self) -> None:
        if self.server.latency:
            time.sleep(self.server.latency)
        self.status = self.sent = 0
        try:
            self._answer()
            self.wfile.flush()
        finally:
            self.server.observe(
                Served(
                    method=self.command,
                    path=self.path,
                    headers=self.headers,
                    status=self.status,
                    sent=self.sent,
                    connected=self.connected,
                    arrived=self.arrived,
                    ended=time.perf_counter(),
                    first=self.first,
                )
            )
            self.first = False

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer(self) -> None:
        try:
            found = self._find()
        # ValueError: a NUL byte. RuntimeError: a loop of symbolic links, in Python before 3.13.
        except (OSError, ValueError, RuntimeError):
            self._head(HTTPStatus.NOT_FOUND, {"Content-Length": "0"})
            return
        if isinstance(found, bytes):
            fields = {"Content-Type": "text/html; charset=utf-8", "Content-Length": str(len(found))}
            self._head(HTTPStatus.OK, fields)
            self._body(found)
        else:
            with found:
                self._answer_file(found)

    def _find(self) -> BinaryIO | bytes:
        """Open the file that the path names, or list the directory."""
        path = re.split("[?#]", self.path)[0]
        name = os.fsdecode(unquote_to_bytes(path.encode("latin-1")))
        root = self.server.directory
        target = (root / name.lstrip("/")).resolve(strict=True)
        if not target.is_relative_to(root):
            raise FileNotFoundError(name)
        if target.is_dir():
            return _listing(target, root)
        # This test precedes `open`, because opening a pipe waits for a writer.
        if not target.is_file() or name.endswith("/"):
            raise FileNotFoundError(name)
        return target.open("rb")

    def _answer_file(self, file: BinaryIO) -> None:
        # `fstat` of the open file, not `stat` of the path, so that bytes and ETag agree.
        facts = os.fstat(file.fileno())
        size = facts.st_size
        etag = f'"{facts.st_mtime_ns:x}-{size:x}-{facts.st_ino:x}"'
        modified = facts.st_mtime_ns // 10**9
        fields = {"ETag": etag, "Last-Modified": formatdate(modified, usegmt=True)}

        refused = _failed_precondition(self.headers, etag, modified)
        if refused is not None:
            if refused != HTTPStatus.NOT_MODIFIED:
                fields["Content-Length"] = "0"
            self._head(refused, fields)
            return

        wanted = None
        if self.command == "GET" and _if_range(self.headers, fields):
            wanted = parse_range(_field(self.headers, "Range"), size)
        fields["Accept-Ranges"] = "bytes"
        if wanted is not None and not wanted:
            fields |= {"Content-Range": f"bytes */{size}", "Content-Length": "0"}
            self._head(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, fields)
            return
        status = HTTPStatus.OK
        if wanted is not None:
            status = HTTPStatus.PARTIAL_CONTENT
            fields["Content-Range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{size}"
        span = wanted if wanted is not None else range(size)
        fields |= {"Content-Type": "application/octet-stream", "Content-Length": str(len(span))}
        self._head(status, fields)
        if self.command == "HEAD":
            return
        file.seek(span.start)
        left = len(span)
        while left:
            chunk = file.read(min(left, CHUNK))
            if not chunk:  # the file was truncated: the response is shorter than Content-Length
                self.close_connection = True
                return
            self._body(chunk)
            left -= len(chunk)

    def _head(self, status: HTTPStatus, fields: dict[str, str]) -> None:
        self.status = int(status)
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()

    def _body(self, data: bytes) -> None:
        if self.command != "HEAD":
            self.wfile.write(data)
            self.wfile.flush()
            self.sent += len(data)


def parse_range(header: str, size: int) -> range | None:
    """Parse a Range header of one byte range (RFC 9110, section 14.1.2).

    Parameters
    ----------
    header : str
        Value of the field.
    size : int
        Length of the file in bytes.

    Returns
    -------
    range or None
        The requested bytes within the file; an empty range if it cannot be satisfied. None if the
        header is ignored: it is absent, malformed, or has several ranges.
    """
    match = _RANGE.fullmatch(header)
    if match is None or not (match[1] or match[2]):
        return None
    first, last = match[1], match[2]
    if not first:
        return range(max(size - int(last), 0), size)
    if not last:
        return range(int(first), size)
    if int(last) < int(first):
        return None
    return range(int(first), min(int(last) + 1, size))


def _failed_precondition(headers: Message, etag: str, modified: int) -> HTTPStatus | None:
    """Evaluate all preconditions but If-Range, in the order of RFC 9110, section 13.2.2.

    Returns
    -------
    HTTPStatus or None
        Status of the response, None if no precondition failed.
    """
    if "If-Match" in headers:
        if not _matches(_field(headers, "If-Match"), etag, weak=False):
            return HTTPStatus.PRECONDITION_FAILED
    else:
        date = _date(_field(headers, "If-Unmodified-Since"))
        if date is not None and modified > date:
            return HTTPStatus.PRECONDITION_FAILED
    if "If-None-Match" in headers:
        if _matches(_field(headers, "If-None-Match"), etag, weak=True):
            return HTTPStatus.NOT_MODIFIED
    else:
        date = _date(_field(headers, "If-Modified-Since"))
        if date is not None and modified <= date:
            return HTTPStatus.NOT_MODIFIED
    return None


def _if_range(headers: Message, fields: dict[str, str]) -> bool:
    """Tell whether If-Range permits a range; its date must be equal to Last-Modified."""
    validators = (fields["ETag"], fields["Last-Modified"])
    return "If-Range" not in headers or _field(headers, "If-Range") in validators


def _field(headers: Message, name: str) -> str:
    """Join the lines of one field; the result is empty if the field is absent."""
    return ", ".join(str(value) for value in headers.get_all(name, [])).strip()


def _matches(header: str, etag: str, *, weak: bool) -> bool:
    if header == "*":
        return True
    return any(tag == etag and (weak or not mark) for mark, tag in _ETAG.findall(header))


def _date(header: str) -> float | None:
    try:
        parsed = parsedate_tz(header)
        return mktime_tz(parsed) if parsed else None
    except (ValueError, OverflowError, IndexError, TypeError):
        return None


def _listing(directory: Path, root: Path) -> bytes:
    lines = []
    for entry in sorted(directory.iterdir()):
        slash = "/" if entry.is_dir() else ""
        link = quote(os.fsencode(entry.relative_to(root).as_posix()))
        name = html.escape(entry.name + slash)
        lines.append(f'<li><a href="/{link}{slash}">{name}</a></li>\n')
    page = f"<!doctype html>\n<title>Files</title>\n<ul>\n{''.join(lines)}</ul>\n"
    return page.encode("utf-8", "surrogateescape")
