"""Source of a file on a web server: parallel requests, retries, redirects."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from requests import Session

from vfs.deadline import current
from vfs.errors import OptionError, ResponseError
from vfs.forks import renew_in_children
from vfs.identity import Identity, url_name
from vfs.options import Options
from vfs.transport.base import Source
from vfs.transport.connections import (
    FOREIGN_HEADERS,
    close_session,
    foreign_session,
    leave_session,
    open_ahead,
    proxy_of,
    wide_session,
    width,
)
from vfs.transport.failures import MayPassError, told
from vfs.transport.habits import Habits
from vfs.transport.plan import Pace, Range
from vfs.transport.pools import Attempt
from vfs.transport.redirects import Origin, Target, origin
from vfs.transport.response import pieces
from vfs.transport.retries import Pauses
from vfs.transport.versions import Versions
from vfs.transport.wave import Wave
from vfs.workers import Slots, Workers

log = logging.getLogger(__name__)


class HttpSource(Source):
    """Source of the file at one URL, over HTTP.

    Parameters
    ----------
    url
        An http or https URL.
    options
        Options: connections, timeouts, retries, headers, session, budgets.

    Raises
    ------
    OptionError
        The URL is no http or https URL with a host.
    """

    def __init__(self, url: str, options: Options) -> None:
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
        except ValueError:
            usable = None
        if not usable:
            raise OptionError(f"{url!r} is no URL of a file: expected http://… or https://…")
        super().__init__(url, options)
        self._options = options
        self._connect()
        self._versions = Versions(self.name, only_sizes=options.validators == "size")
        renew_in_children(self)

    def _connect(self) -> None:
        url, most = self.url, self._options.connections
        self._slots = slots = Slots(most)
        self._session = wide_session(self._options.session, most, lambda: slots.crowded)
        self._foreign = foreign_session(self._session)
        slots.bound(width(self._session, url, most))
        self._habits = Habits(origin(url), slots, self._session, self.pace)
        self._target = Target(url, self.name)
        self._pauses = Pauses()
        self._workers = Workers(most)
        self._closed = threading.Event()
        self._eager = False  # whether connections are to be opened when the server bears them
        self._opened_ahead: set[Origin] = set()
        # Sockets and idle threads would outlive a source that is garbage-collected without `close`.
        given = self._options.session
        ending = weakref.finalize(self, _end, self._workers, self._session, given, self._closed)
        ending.atexit = False

    @property
    def cache_name(self) -> str:
        """Name of the file by its URL, see `url_name`."""
        return url_name(self.url)

    @property
    def connections(self) -> int:
        """Number of requests that can run in parallel: at most the option, fewer after refusals."""
        return self._slots.width

    @property
    def habits(self) -> bytes:
        """Record of what the server bears, see `Source.habits`."""
        return self._habits.pack()

    @habits.setter
    def habits(self, record: bytes) -> None:
        self._habits.unpack(record)

    @property
    def server(self) -> str:
        """Scheme, host and port of the URL."""
        return repr(origin(self.url))

    def open_ahead(self) -> None:
        """Open connections in the background, if the server is known to bear idle ones."""
        self._eager = True
        address = self._target.address
        place = origin(address)
        if self.connections == 1 or place in self._opened_ahead or not self._habits.bears(place):
            return
        self._opened_ahead.add(place)
        count = self.connections - (self.budget.stats.requests > 0)
        open_ahead(self._session, address, count, self._options.timeout, self._closed)

    def fetch(
        self, ranges: Sequence[Range], version: Identity | None
    ) -> tuple[list[bytes], list[Identity]]:
        """Fetch ranges in one parallel wave, see `Source.fetch`."""
        self.budget.check(self.name, ranges)
        self.budget.stats.add(waves=1)
        began = time.monotonic()
        wave = Wave(self.name, current())
        fetch_one = partial(self._fetch_one, wave, version)
        answers = wave.run(self._workers, fetch_one, ranges, self._habits.look)
        rounds = -(-len(ranges) // self.connections)
        length = sum(len(body) for body, _ in answers)
        self.pace.received(length, time.monotonic() - began, rounds)
        return [body for body, _ in answers], [found for _, found in answers]

    def renew(self) -> None:
        """Close the inherited sockets, which stay open in the parent, and make a new session."""
        leave_session(self._session)
        known = self.habits
        self.pace = Pace()
        self._connect()
        self.habits = known

    def close(self) -> None:
        """End the threads, and close the connections that are not in the caller's session."""
        _end(self._workers, self._session, self._options.session, self._closed)

    def __reduce__(self) -> tuple[Any, ...]:
        return HttpSource, (self.url, self._options)

    def _fetch_one(
        self, wave: Wave, version: Identity | None, wanted: Range
    ) -> tuple[bytes, Identity]:
        errors = attempts = 0
        while True:
            with self._slots as entered, wave.attempt() as attempt:
                sent = self._pauses.enter(wave)
                try:
                    answer = self._attempt(wave, attempt, wanted, version)
                except MayPassError as caught:
                    failure = caught
                else:
                    self._pauses.passed()
                    return answer
            if wave.over:
                raise failure.error
            # The first reset may concern an old idle connection; a second one is a refusal.
            if failure.refused or attempts:
                self._slots.shrink(entered)
            attempts += 1
            if not failure.throttled:
                self._target.failed(attempt)
                errors += 1
            pause = self._pauses.failed(sent, failure.wait, throttled=failure.throttled)
            if self._pauses.exhausted(self._options.retries, errors):
                raise failure.error from failure.__cause__
            wave.failed(failure.error)
            if pause > wave.deadline.left:
                self._pauses.given_up()
                raise wave.too_late("" if failure.wait is None else f", Retry-After {pause:,.0f} s")
            self.budget.stats.add(retries=1)
            log.warning("%s; attempt %d follows in %.1f s", failure.error, attempts + 1, pause)
            wave.pause(pause)

    def _attempt(
        self, wave: Wave, attempt: Attempt, wanted: Range, version: Identity | None
    ) -> tuple[bytes, Identity]:
        send = partial(self._send, wave, attempt)
        with told(self.name, self._proxy):
            return self._versions.ask(
                wanted,
                version,
                lambda headers: self._target.follow(partial(send, dict(headers)), wave, attempt),
                partial(self._read, wave),
            )

    def _send(self, wave: Wave, attempt: Attempt, headers: dict[str, str], url: str) -> Any:
        wave.check()
        timeout = min(self._options.timeout, wave.deadline.left)
        self.budget.spend_request(self.name)
        session, own = self._session, dict[str, Any]()
        if origin(url) == origin(self.url):
            own["headers"] = dict(self._options.headers or {}) | headers
            if self._authorized(url):
                own["auth"] = _no_auth  # else ~/.netrc would replace it
        else:
            # Another origin gets no header that may contain a secret.
            session = self._foreign
            secret = [
                name
                for name in getattr(session, "headers", {})
                if name.lower() not in FOREIGN_HEADERS
            ]
            own["headers"] = dict.fromkeys(secret) | headers
            own["auth"] = _no_auth
        if getattr(session, "verify", True) is not True:
            own["verify"] = session.verify  # else REQUESTS_CA_BUNDLE would override it
        began = time.monotonic()
        response = session.get(url, stream=True, allow_redirects=False, timeout=timeout, **own)
        self._habits.answered(origin(url), response, attempt, time.monotonic() - began)
        return response

    def _authorized(self, url: str) -> bool:
        """Tell whether the caller has given the header Authorization, and nothing stronger."""
        if not isinstance(self._session, Session) or self._session.auth or urlsplit(url).username:
            return False
        given = [*(self._options.headers or {}), *self._session.headers]
        return "authorization" in (str(name).lower() for name in given)

    def _proxy(self) -> str:
        address = self._target.address
        own = origin(address) == origin(self.url)
        return proxy_of(self._session if own else self._foreign, address)

    def _read(self, wave: Wave, response: Any, length: int) -> bytes:
        """Read a believed body, at most one piece beyond its declared length."""
        if self._eager:
            self.open_ahead()
        if not length:
            response.close()  # an empty file: its body, if any, describes the error
            return b""
        parts: list[bytes] = []
        received = 0
        try:
            for part in pieces(response):
                self._habits.heard()
                parts.append(part)
                received += len(part)
                if received > length:
                    break
                if received < length:
                    wave.check()
        finally:
            self.budget.stats.add(bytes=received)
        if received == length:
            return parts[0] if len(parts) == 1 else b"".join(parts)
        error = ResponseError(
            f"{self.name}: a body of {length:,} bytes was declared and "
            f"{'more' if received > length else f'only {received:,}'} came"
        )
        raise MayPassError(error)


def _no_auth(request: Any) -> Any:
    return request


def _end(workers: Workers, session: Any, given: Any, closed: threading.Event) -> None:
    closed.set()
    workers.close()
    close_session(session, given)
