"""Where a file is: its URL, or the address that the URL redirects to for a while."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urljoin, urlsplit

from vfs.errors import RedirectError
from vfs.identity import shown
from vfs.transport.pools import Attempt
from vfs.transport.wave import Wave

REDIRECT_STATUS = {301, 302, 303, 307, 308}
EXPIRED_STATUS = {400, 401, 403, 404, 410}
MOST_REDIRECTS = 10

Send = Callable[[str], Any]


class Target:
    """The address that answers requests for a file.

    An address that the URL redirects to is remembered until it fails. Then one request asks the URL
    again, while the others wait for its answer.

    Parameters
    ----------
    url
        URL of the file.
    name
        Name of the file, for error messages.
    """

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name
        self._lock = threading.Lock()
        self._number = 0  # of the present address
        self._address: str | None = url

    @property
    def address(self) -> str:
        """The address to which the next request goes."""
        return self._address or self._url

    def follow(self, send: Send, wave: Wave, attempt: Attempt) -> Any:
        """Send a request, and follow redirects.

        Parameters
        ----------
        send
            Function from a URL to a response.
        wave
            Wave of the request.
        attempt
            Attempt of the request.

        Returns
        -------
        Response
            The first response that is no redirect. If a remembered address refuses the request, the
            response of the address that the URL redirects to now.

        Raises
        ------
        RedirectError
            A redirect must not be followed.
        """
        attempt.resolution, address = self._number, self._address
        if address is not None:
            response, reached = self._chase(address, send)
            if address == self._url or response.status_code not in EXPIRED_STATUS:
                if attempt.resolution == self._number:
                    self._address = reached
                return response
            response.close()
        with self._held(wave):
            refused = address is not None and attempt.resolution == self._number
            if refused or self._address is None:
                self._number += 1
                attempt.resolution, self._address = self._number, None
                response, self._address = self._chase(self._url, send)
                return response
        attempt.resolution = self._number
        return self._chase(self.address, send)[0]

    def failed(self, attempt: Attempt) -> None:
        """Forget an address to which an attempt failed, unless it was replaced meanwhile."""
        if attempt.resolution == self._number and self._address != self._url:
            self._address = None

    @contextlib.contextmanager
    def _held(self, wave: Wave) -> Iterator[None]:
        if not self._lock.acquire(timeout=wave.deadline.left):
            raise wave.too_late()
        try:
            wave.check()
            yield
        finally:
            self._lock.release()

    def _chase(self, url: str, send: Send) -> tuple[Any, str]:
        for _ in range(MOST_REDIRECTS):
            response = send(url)
            if response.status_code not in REDIRECT_STATUS or "Location" not in response.headers:
                return response, url
            response.close()
            url = self._redirected(url, response.headers["Location"])
        raise RedirectError(f"{self._name}: more than {MOST_REDIRECTS} redirects; is it a loop?")

    def _redirected(self, url: str, location: str) -> str:
        before = urlsplit(url).scheme
        try:
            target = urljoin(url, location)
            scheme, _, _ = origin(target)
        except ValueError as failure:
            raise RedirectError(
                f"{self._name}: redirects to {location!r}, which is no URL ({failure})"
            ) from failure
        if scheme not in ("http", "https") or (before == "https" and scheme != "https"):
            raise RedirectError(
                f"{self._name}: redirects to {shown(target)}, which leaves {before} "
                f"for {scheme}; open the final address itself if you trust it"
            )
        return target


Origin = tuple[str, str | None, int | None]


def origin(url: str) -> Origin:
    """Return the scheme, the host and the port of a URL."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port
