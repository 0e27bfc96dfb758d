"""Connection pools of `urllib3` whose connections can be broken off, and opened ahead."""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from functools import partial
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError as PoolError

log = logging.getLogger(__name__)

OPENING = 2.0  # seconds that a request waits for a connection that is being opened ahead


class Attempt:
    """One attempt at a request, made by one thread, which another thread can break off.

    Attributes
    ----------
    began
        Time when the connection was opened or the request was sent, None before.
    answered
        Whether the headers of the answer are there.
    late
        Whether the answer was so late that other connections of ours were closed.
    resolution
        Number of the address that the request was sent to, see `vfs.transport.redirects`.
    """

    def __init__(self) -> None:
        self.began: float | None = None
        self.answered = False
        self.late = False
        self.resolution = 0
        self._over = False
        self._connection: Any = None

    @contextlib.contextmanager
    def made(self) -> Iterator[None]:
        """Make this the attempt of the thread during a ``with`` block."""
        _thread.attempt = self
        try:
            yield
        finally:
            _thread.attempt = None

    @property
    def proven(self) -> bool:
        """Whether the connection has answered an earlier request."""
        return getattr(self._connection, "proven", True)

    def take(self, connection: Any) -> None:
        """Record the connection that is in use, unless the attempt was broken off."""
        self._connection, self.began = connection, time.monotonic()
        connection.attempt = self
        if self._over:
            raise ConnectionAbortedError("the call that needed the answer has ended")

    def break_off(self) -> None:
        """Wake the thread, which waits for the server, by the end of its connection."""
        self._over = True
        connection = self._connection
        held = getattr(connection, "sock", None)
        if held is not None and connection.attempt is self:
            with contextlib.suppress(OSError):  # it has just ended
                socket.socket.shutdown(held, socket.SHUT_RDWR)  # under TLS, not by TLS


_thread = threading.local()


class _Connection(HTTPConnection):
    """A connection that tells its attempt what happens.

    Attributes
    ----------
    attempt
        The attempt that uses the connection.
    proven
        Whether the connection has answered a request.
    """

    attempt: Attempt | None = None
    proven = False

    def connect(self) -> None:
        self._tell()
        self.proven = False
        super().connect()

    def request(self, *arguments: Any, **options: Any) -> None:
        self._tell()
        super().request(*arguments, **options)

    def getresponse(self) -> Any:
        response = super().getresponse()
        self.proven = True
        return response

    def _tell(self) -> None:
        attempt: Attempt | None = getattr(_thread, "attempt", None)
        if attempt is not None:
            attempt.take(self)


class _SecureConnection(_Connection, HTTPSConnection):
    """A TLS connection that may be idle before its first request.

    TLS 1.3 servers send session tickets after the handshake (RFC 8446, section 4.6.1). The pool
    drops an idle connection with unread data, because the server might have closed the connection.
    """

    @property
    def is_connected(self) -> bool:
        """Whether the connection is open, with no unread data but session tickets."""
        if super().is_connected or self.sock is None:
            return self.sock is not None
        timeout = self.sock.gettimeout()
        self.sock.settimeout(0)
        try:
            self.sock.recv(1)  # processes tickets; it returns only for data or at the end
        except ssl.SSLWantReadError:
            self.sock.settimeout(timeout)
            return True
        except OSError as failure:
            log.debug("idle connection to %s: %s", self.host, failure)
        return False


class Pool(HTTPConnectionPool):
    """A pool that can be given connections before they are needed.

    Parameters
    ----------
    crowded
        Function that tells whether fewer connections are to be kept than are in use.
    """

    ConnectionCls = _Connection

    def __init__(self, crowded: Callable[[], bool], *arguments: Any, **options: Any) -> None:
        self._crowded = crowded
        self._ahead: deque[Future[Any]] = deque()
        self._unused: set[Any] = set()
        super().__init__(*arguments, **options)

    def open_ahead(
        self, count: int, timeout: float, submit: Callable[[Callable[[], Any]], Future[Any]]
    ) -> None:
        """Open connections in other threads, which wait for requests.

        Parameters
        ----------
        count
            Number of connections.
        timeout
            Seconds that the opening of one may take.
        submit
            Function that calls a function in another thread.
        """
        for _ in range(count):
            self._ahead.append(submit(partial(self._open, timeout)))

    def close_ahead(self) -> int:
        """Close the connections that were opened ahead and not used; return their number."""
        count = 0
        with contextlib.suppress(IndexError):  # another thread takes the last one
            while True:
                opening = self._ahead.popleft()
                count += not opening.cancel()
                opening.add_done_callback(self._drop)
        return count

    def close_idle(self) -> int:
        """Close the connections between two requests; return the number of those still open."""
        idle: list[Any] = []
        count = 0
        places = self.pool
        if places is not None:
            with contextlib.suppress(queue.Empty):
                while True:
                    idle.append(places.get(block=False))
            count = sum(each is not None and each.proven and each.is_connected for each in idle)
            for connection in idle:
                if connection is not None:
                    connection.close()
                places.put(None, block=False)
        return count

    def leave(self) -> None:
        """Close the idle sockets in a forked child, where other threads' locks stay locked."""
        for connection in [*getattr(self.pool, "queue", ()), *self._unused]:
            if connection is not None:
                connection.close()

    def close(self) -> None:
        """Close all connections that no request is using."""
        self.close_ahead()
        super().close()

    def _open(self, timeout: float) -> Any:
        connection: Any = super()._new_conn()
        connection.timeout = timeout
        self._unused.add(connection)
        try:
            connection.connect()
        except (OSError, PoolError) as failure:  # a request that needs one will tell
            log.debug("connection ahead to %s: %s", self.host, failure)
            connection.close()
        return connection

    def _new_conn(self) -> Any:
        with contextlib.suppress(IndexError):
            while True:
                opening = self._ahead.popleft()
                if opening.cancel():
                    continue
                try:
                    connection = opening.result(OPENING)
                except NotYet:
                    opening.add_done_callback(self._drop)
                    break
                self._unused.discard(connection)
                if connection.is_connected:
                    return connection
                connection.close()
        return super()._new_conn()

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.attempt = None
            if self._crowded():  # a server of few threads serves another one then
                conn.close()
        super()._put_conn(conn)

    def _drop(self, opening: Future[Any]) -> None:
        if not opening.cancelled():
            self._unused.discard(opening.result())
            opening.result().close()


class SecurePool(Pool, HTTPSConnectionPool):
    """The same, of TLS connections."""

    ConnectionCls = _SecureConnection
