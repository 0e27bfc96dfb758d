"""HTTP: one session, one retry path, and what an answer must look like to be believed."""

from __future__ import annotations

import contextlib
import logging
import random
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn
from urllib.parse import urljoin, urlsplit

import requests
from urllib3.exceptions import HTTPError as PoolError
from urllib3.exceptions import NewConnectionError

from vfs._identity import Identity, shown
from vfs._options import Options
from vfs._plan import Pace, Range
from vfs._session import open_ahead, wide_session, width
from vfs._stats import Budget
from vfs._workers import Slots, Workers
from vfs.errors import (
    AccessError,
    ConnectError,
    DeadlineError,
    FileChangedError,
    NotFoundError,
    OptionError,
    RangeError,
    RedirectError,
    ResponseError,
    StatusError,
    TransportError,
)

log = logging.getLogger(__name__)

RETRIED_STATUS = {408, 425, 429, 500, 502, 503, 504}
REFUSING_STATUS = {429, 503}
REDIRECT_STATUS = {301, 302, 303, 307, 308}
EXPIRED_STATUS = {401, 403, 404, 410}
MOST_REDIRECTS = 10
SHORTEST_BACKOFF = 0.1
LONGEST_BACKOFF = 10.0
FOREIGN_HEADERS = {"user-agent", "accept", "accept-encoding", "connection"}
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class _MayPassError(Exception):
    """A failure worth another attempt, with the error to raise when none is left."""

    def __init__(
        self, error: TransportError, wait: float | None = None, *, refused: bool = False
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait = wait
        self.refused = refused


class Transport:
    """Ranges of one URL over HTTP.

    Parameters
    ----------
    url
        An http or https address.
    options
        Connections, timeouts, headers, session.
    budget
        Limits, and the counters to keep.

    Raises
    ------
    OptionError
        The URL is not one that HTTP can answer.
    """

    def __init__(self, url: str, options: Options, budget: Budget) -> None:
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
        except ValueError:
            usable = None
        if not usable:
            raise OptionError(f"{url!r} is no URL of a file: expected http://… or https://…")
        self.url = url
        self.name = shown(url)
        self.pace = Pace()
        self._options = options
        self._budget = budget
        self._target = url
        self._ahead: tuple[str, str | None, int | None] | None = None
        self._session = wide_session(options.session, options.connections)
        self._slots = Slots(width(self._session, url, options.connections))
        self._workers = Workers(options.connections)
        self._closing = threading.Event()

    @property
    def connections(self) -> int:
        """Requests that can be under way at once: the option, or what the server bears."""
        return self._slots.width

    def open_ahead(self) -> None:
        """Open the pool's other connections in the background, once for each host."""
        if self._ahead == _origin(self._target):
            return
        self._ahead = _origin(self._target)
        timeout = self._options.timeout
        open_ahead(self._session, self._target, self.connections - 1, timeout, self._workers.start)

    def fetch(
        self, ranges: Sequence[Range], version: Identity | None
    ) -> tuple[list[bytes], Identity]:
        """Fetch ranges in one parallel wave.

        Parameters
        ----------
        ranges
            (start, end) pairs, end exclusive. The end may lie beyond the file's.
        version
            The version that every answer must belong to, None for whichever there is.

        Returns
        -------
        bodies, version
            One body a range, shorter than it only at the end of the file.

        Raises
        ------
        FileChangedError
            The server has another version.
        TransportError
            Anything else between here and the file.
        BudgetError
            The wave would pass a budget; nothing was sent.
        """
        self._budget.check(self.name, len(ranges), sum(end - start for start, end in ranges))
        self._budget.stats.add(waves=1)
        began = time.monotonic()
        deadline = began + self._options.deadline
        try:
            answers = self._workers.map(
                lambda item: self._fetch_one(item, version, deadline),
                ranges,
                timeout=self._options.deadline,
            )
        except TimeoutError as timeout:
            if isinstance(timeout, DeadlineError):
                raise
            raise self._too_late() from None
        rounds = -(-len(ranges) // self.connections)
        length = sum(len(body) for body, _ in answers)
        self.pace.received(length, time.monotonic() - began, rounds)
        return [body for body, _ in answers], answers[0][1]

    def after_fork(self) -> None:
        """Drop the sockets that are the parent process's, where the session is the caller's."""
        if self._session is self._options.session:
            self._session.close()

    def close(self) -> None:
        """Close the pool, if it is this transport's own."""
        self._closing.set()
        self._workers.close()
        if self._session is not self._options.session:
            self._session.close()

    def _fetch_one(
        self, wanted: Range, version: Identity | None, deadline: float
    ) -> tuple[bytes, Identity]:
        attempt = 0
        while True:
            try:
                with self._slots:
                    return self._attempt(wanted, version, deadline)
            except _MayPassError as failure:
                # One reset may be a connection that had grown old; a second is a refusal.
                if failure.refused or attempt:
                    self._slots.shrink()
                attempt += 1
                if attempt > self._options.retries:
                    raise failure.error from failure.__cause__
                backoff = min(LONGEST_BACKOFF, SHORTEST_BACKOFF * 2**attempt)
                pause = failure.wait if failure.wait is not None else random.uniform(0, backoff)
                if time.monotonic() + pause > deadline:
                    raise self._too_late() from failure.error
                self._budget.stats.add(retries=1)
                log.warning("%s; attempt %d follows in %.1f s", failure.error, attempt + 1, pause)
                self._closing.wait(pause)

    def _too_late(self) -> DeadlineError:
        return DeadlineError(
            f"{self.name}: no complete answer within the deadline of {self._options.deadline:g} s; "
            "the server may be slow or overloaded: try again, or raise the option deadline"
        )

    def _attempt(
        self, wanted: Range, version: Identity | None, deadline: float
    ) -> tuple[bytes, Identity]:
        headers = {"Range": f"bytes={wanted[0]}-{wanted[1] - 1}", "Accept-Encoding": "identity"}
        if version is not None:
            headers |= version.conditions()
        with self._failures():
            response = self._follow(headers, deadline)
            try:
                found, length = self._believe(response, wanted, version)
                body = self._read(response, length, deadline)
            except BaseException:
                response.close()
                raise
        return body, found

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn what `requests` and `urllib3` raise into our errors."""
        try:
            yield
        except requests.exceptions.SSLError as failure:
            raise ConnectError(
                f"{self.name}: the secure connection failed ({failure}); a private certificate "
                "authority can be set as `verify` of a requests.Session given as option session"
            ) from failure
        except (
            requests.exceptions.ConnectionError,
            requests.exceptions.Timeout,
            requests.exceptions.ChunkedEncodingError,
            PoolError,
            ConnectionError,
        ) as failure:
            error = ConnectError(
                f"{self.name}: no answer ({_reason(failure)}); check the address, the network "
                "and that the server runs"
            )
            if _unknown_host(failure):
                raise error from failure
            refused = any(isinstance(cause, NewConnectionError) for cause in _causes(failure))
            raise _MayPassError(error, refused=refused) from failure
        except requests.exceptions.RequestException as failure:
            raise ConnectError(f"{self.name}: the request cannot be sent ({failure})") from failure

    def _follow(self, headers: dict[str, str], deadline: float) -> Any:
        """Send, follow redirects, and go back to the original URL once if a target expired."""
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
        target = urljoin(url, location)
        scheme = urlsplit(target).scheme
        if scheme not in ("http", "https") or (url.startswith("https:") and scheme != "https"):
            raise RedirectError(
                f"{self.name}: redirects to {shown(target)}, which leaves {urlsplit(url).scheme} "
                f"for {scheme}; open the final address itself if you trust it"
            )
        return target

    def _send(self, url: str, headers: dict[str, str], deadline: float) -> Any:
        self._budget.check(self.name, 1, 0)
        self._budget.stats.add(requests=1)
        timeout = min(self._options.timeout, deadline - time.monotonic())
        if timeout <= 0:
            raise self._too_late()
        own: dict[str, Any] = {}
        if _origin(url) == _origin(self.url):
            own["headers"] = dict(self._options.headers or {}) | headers
        else:
            # Nothing that may be a secret goes to another host.
            secret = [
                name
                for name in getattr(self._session, "headers", {})
                if name.lower() not in FOREIGN_HEADERS
            ]
            own["headers"] = dict.fromkeys(secret) | headers
            own["auth"] = _no_auth
        began = time.monotonic()
        response = self._session.get(
            url, stream=True, allow_redirects=False, timeout=timeout, **own
        )
        self.pace.answered(time.monotonic() - began)
        return response

    def _believe(
        self, response: Any, wanted: Range, version: Identity | None
    ) -> tuple[Identity, int]:
        """Check an answer's status and headers: its version, and the length of its body."""
        headers = response.headers
        if response.status_code != 206:
            return self._no_range(response, wanted, version)
        match = CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        start, last, size = map(int, match.groups()) if match else (-1, -1, -1)
        length = last + 1 - start
        found = Identity.from_headers(size, headers)
        if match is not None and version is not None and not version.same_version(found):
            self._changed(version, str(found))
        asked = f"bytes {wanted[0]}-{wanted[1] - 1}"
        if match is None or (start, last) != (wanted[0], min(wanted[1], size) - 1):
            came = headers.get("Content-Range") or headers.get("Content-Type")
            raise ResponseError(f"{self.name}: asked for {asked}, got {came!r}")
        if headers.get("Content-Encoding", "identity").lower() != "identity":
            raise ResponseError(
                f"{self.name}: the range came compressed ({headers['Content-Encoding']}), though "
                "identity was asked for; turn off compression of this file on the server"
            )
        if headers.get("Content-Length", str(length)) != str(length):
            raise ResponseError(
                f"{self.name}: Content-Length {headers['Content-Length']} does not fit "
                f"{headers['Content-Range']!r}"
            )
        return found, length

    def _no_range(
        self, response: Any, wanted: Range, version: Identity | None
    ) -> tuple[Identity, int]:
        status, headers = response.status_code, response.headers
        where = self.name
        if status == 200:
            raise RangeError(
                f"{where}: the server ignores Range requests: it answered 200 with the whole file "
                f"({headers.get('Content-Length', 'an unknown number of')} bytes), which was "
                "refused. Serve the file from one that answers ranges (nginx, Apache, S3, most "
                "CDNs, `streamfile serve`), or download it and open the local path"
            )
        if status == 416 and version is None and headers.get("Content-Range") == "bytes */0":
            return Identity.from_headers(0, headers), 0
        if status == 412 and version is not None:
            self._changed(version, f"412 and {headers.get('ETag', 'no ETag')}")
        if status == 416 and version is not None:
            self._changed(version, f"416 and Content-Range {headers.get('Content-Range')!r}")
        if status in (404, 410):
            raise NotFoundError(f"{where}: not found ({status}); check the address", status)
        if status in (401, 403, 407):
            raise AccessError(
                f"{where}: access refused ({status}); give credentials by the option headers or "
                "session, or a fresh signed URL",
                status,
            )
        error = StatusError(
            f"{where}: asked for bytes {wanted[0]}-{wanted[1] - 1}, got status {status}", status
        )
        if status in RETRIED_STATUS:
            wait = _retry_after(headers.get("Retry-After"))
            raise _MayPassError(error, wait, refused=status in REFUSING_STATUS)
        raise error

    def _changed(self, version: Identity, came: str) -> NoReturn:
        raise FileChangedError(
            f"{self.name}: the file changed while it was open: expected version ({version}), "
            f"the server now has ({came}). Open it again to read the new version"
        )

    def _read(self, response: Any, length: int, deadline: float) -> bytes:
        """Read the body, never more than one piece beyond its declared length."""
        pieces: list[bytes] = []
        received = 0
        try:
            for piece in response.iter_content(1 << 20):
                pieces.append(piece)
                received += len(piece)
                if received > length:
                    break
                if time.monotonic() > deadline:
                    raise self._too_late()
        finally:
            self._budget.stats.add(bytes=received)
        if received == length:
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        error = ResponseError(
            f"{self.name}: a body of {length:,} bytes was declared and "
            f"{'more' if received > length else f'only {received:,}'} came"
        )
        raise _MayPassError(error)


def _no_auth(request: Any) -> Any:
    return request


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _causes(failure: BaseException) -> Iterator[BaseException]:
    """Walk an exception, what it wraps and what caused it."""
    pending: list[BaseException | None] = [failure]
    seen: set[int] = set()
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        pending += [current.__cause__, current.__context__, getattr(current, "reason", None)]
        pending += [inner for inner in current.args if isinstance(inner, BaseException)]


def _unknown_host(failure: BaseException) -> bool:
    return any(
        isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME
        for cause in _causes(failure)
    )


def _reason(failure: BaseException) -> str:
    """Find the plainest words in a chain of wrapped exceptions."""
    for cause in _causes(failure):
        if isinstance(cause, socket.gaierror):
            return f"the host name does not resolve: {cause.strerror}"
    for cause in _causes(failure):
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    return str(failure) or type(failure).__name__


def _retry_after(value: str | None) -> float | None:
    """Read Retry-After (RFC 9110, section 10.2.3): seconds or a date."""
    if value is None:
        return None
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
