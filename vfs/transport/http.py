"""Source of a file on a web server: parallel requests, retries, redirects."""

from __future__ import annotations

import logging
import random
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any
from urllib.parse import urljoin, urlsplit

from vfs.deadline import Deadline
from vfs.errors import DeadlineError, OptionError, RedirectError, ResponseError
from vfs.forks import renew_in_children
from vfs.identity import Identity, shown, url_name
from vfs.options import Options
from vfs.transport.base import Source
from vfs.transport.connections import (
    FOREIGN_HEADERS,
    close_session,
    foreign_session,
    leave_session,
    open_ahead,
    wide_session,
    width,
)
from vfs.transport.failures import MayPassError, told
from vfs.transport.plan import Pace, Range
from vfs.transport.response import pieces
from vfs.transport.versions import Versions
from vfs.workers import Slots, Workers

log = logging.getLogger(__name__)

REDIRECT_STATUS = {301, 302, 303, 307, 308}
EXPIRED_STATUS = {401, 403, 404, 410}
MOST_REDIRECTS = 10
SHORTEST_BACKOFF = 0.1
LONGEST_BACKOFF = 10.0


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
        url, connections = self.url, self._options.connections
        self._target = url
        self._ahead: tuple[str, str | None, int | None] | None = None
        self._session = wide_session(self._options.session, connections)
        self._foreign = foreign_session(self._session)
        self._slots = Slots(width(self._session, url, connections))
        self._workers = Workers(connections)
        # Idle threads would outlive a source that is garbage-collected without `close`.
        weakref.finalize(self, self._workers.close).atexit = False

    @property
    def cache_name(self) -> str:
        """Name of the file by its URL, see `url_name`."""
        return url_name(self.url)

    @property
    def connections(self) -> int:
        """Number of requests that can run in parallel: at most the option, fewer after refusals."""
        return self._slots.width

    def open_ahead(self) -> None:
        """Open connections in the background, unless that was done for the present origin."""
        if self.connections == 1 or self._ahead == _origin(self._target):
            return
        self._ahead = _origin(self._target)
        timeout = self._options.timeout
        open_ahead(self._session, self._target, self.connections, timeout, self._workers.submit)

    def fetch(
        self, ranges: Sequence[Range], version: Identity | None
    ) -> tuple[list[bytes], list[Identity]]:
        """Fetch ranges in one parallel wave, see `Source.fetch`."""
        self.budget.check(self.name, ranges)
        self.budget.stats.add(waves=1)
        began = time.monotonic()
        deadline = began + Deadline(self._options.deadline).seconds
        over = threading.Event()
        try:
            answers = self._workers.map(
                lambda item: self._fetch_one(item, version, deadline, over),
                ranges,
                timeout=deadline - began,
            )
        except TimeoutError as timeout:
            if isinstance(timeout, DeadlineError):
                raise
            raise self._too_late() from None
        finally:
            over.set()
        rounds = -(-len(ranges) // self.connections)
        length = sum(len(body) for body, _ in answers)
        self.pace.received(length, time.monotonic() - began, rounds)
        return [body for body, _ in answers], [found for _, found in answers]

    def renew(self) -> None:
        """Close the inherited sockets, which stay open in the parent, and make a new session."""
        leave_session(self._session)
        self.pace = Pace()
        self._connect()

    def close(self) -> None:
        """End the threads, and close the connections that are not in the caller's session."""
        self._workers.close()
        close_session(self._session, self._options.session)

    def __reduce__(self) -> tuple[Any, ...]:
        return HttpSource, (self.url, self._options)

    def _fetch_one(
        self, wanted: Range, version: Identity | None, deadline: float, over: threading.Event
    ) -> tuple[bytes, Identity]:
        attempt = 0
        while True:
            try:
                with self._slots as entered:
                    if over.is_set():
                        raise self._too_late()
                    return self._attempt(wanted, version, deadline)
            except MayPassError as failure:
                # The first reset may concern an old idle connection; a second one is a refusal.
                if failure.refused or attempt:
                    self._slots.shrink(entered)
                self._target = self.url  # the target of a redirect may have failed
                attempt += 1
                if attempt > self._options.retries:
                    raise failure.error from failure.__cause__
                backoff = min(LONGEST_BACKOFF, SHORTEST_BACKOFF * 2**attempt)
                pause = failure.wait if failure.wait is not None else random.uniform(0, backoff)
                if time.monotonic() + pause > deadline:
                    raise self._too_late() from failure.error
                self.budget.stats.add(retries=1)
                log.warning("%s; attempt %d follows in %.1f s", failure.error, attempt + 1, pause)
                if over.wait(pause):  # the wave has ended without this response
                    raise failure.error from failure.__cause__

    def _too_late(self) -> DeadlineError:
        return Deadline(self._options.deadline).error(self.name)

    def _attempt(
        self, wanted: Range, version: Identity | None, deadline: float
    ) -> tuple[bytes, Identity]:
        with told(self.name):
            return self._versions.ask(
                wanted,
                version,
                lambda headers: self._follow(dict(headers), deadline),
                lambda response, length: self._read(response, length, deadline),
            )

    def _follow(self, headers: dict[str, str], deadline: float) -> Any:
        """Send a request, follow redirects, and begin again once if a remembered target expired."""
        url = self._target
        fresh = url == self.url
        for _ in range(MOST_REDIRECTS):
            response = self._send(url, headers, deadline)
            if response.status_code in REDIRECT_STATUS and "Location" in response.headers:
                response.close()
                url = self._redirected(url, response.headers["Location"])
            elif response.status_code in EXPIRED_STATUS and not fresh:
                response.close()
                fresh, url = True, self.url
                self._target = self.url
            else:
                self._target = url
                return response
        raise RedirectError(f"{self.name}: more than {MOST_REDIRECTS} redirects; is it a loop?")

    def _redirected(self, url: str, location: str) -> str:
        before = urlsplit(url).scheme
        try:
            target = urljoin(url, location)
            scheme, _, _ = _origin(target)
        except ValueError as failure:
            raise RedirectError(
                f"{self.name}: redirects to {location!r}, which is no URL ({failure})"
            ) from failure
        if scheme not in ("http", "https") or (before == "https" and scheme != "https"):
            raise RedirectError(
                f"{self.name}: redirects to {shown(target)}, which leaves {before} "
                f"for {scheme}; open the final address itself if you trust it"
            )
        return target

    def _send(self, url: str, headers: dict[str, str], deadline: float) -> Any:
        timeout = min(self._options.timeout, deadline - time.monotonic())
        if timeout <= 0:
            raise self._too_late()
        self.budget.spend_request(self.name)
        session, own = self._session, dict[str, Any]()
        if _origin(url) == _origin(self.url):
            own["headers"] = dict(self._options.headers or {}) | headers
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
        self.pace.answered(time.monotonic() - began)
        return response

    def _read(self, response: Any, length: int, deadline: float) -> bytes:
        """Read a body, at most one piece beyond its declared length."""
        if not length:
            response.close()  # an empty file: its body, if any, describes the error
            return b""
        parts: list[bytes] = []
        received = 0
        try:
            for part in pieces(response):
                parts.append(part)
                received += len(part)
                if received > length:
                    break
                if time.monotonic() > deadline:
                    raise self._too_late()
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


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port
