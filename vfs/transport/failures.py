"""Conversion of exceptions of `requests` and `urllib3` to errors of this package."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import requests
from urllib3.exceptions import HTTPError as PoolError
from urllib3.exceptions import NewConnectionError

from vfs.errors import ConnectError, StatusError, TransportError

NO_SUCH_HOST = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


class MayPassError(Exception):
    """A failure after which another attempt may succeed.

    Parameters
    ----------
    error
        Error to raise if no attempt is left.
    wait
        Seconds from the header Retry-After, None without such a header.
    refused
        Whether fewer parallel requests may help.
    """

    def __init__(
        self, error: TransportError, wait: float | None = None, *, refused: bool = False
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait = wait
        self.refused = refused

    @property
    def throttled(self) -> bool:
        """Whether the server works, and asks for fewer requests."""
        return self.refused and isinstance(self.error, StatusError)


@contextlib.contextmanager
def told(name: str, proxy: Callable[[], str]) -> Iterator[None]:
    """Convert exceptions of `requests` and `urllib3` in a ``with`` block to our own errors.

    Parameters
    ----------
    name
        Name of the file, for error messages.
    proxy
        Function that tells which proxy is used, and who has set it; empty without a proxy.

    Raises
    ------
    MayPassError
        Another attempt may succeed.
    ConnectError
        Another attempt would fail too.
    """
    try:
        yield
    except requests.exceptions.SSLError as failure:
        raise ConnectError(
            f"{name}: the secure connection failed ({failure}); a private certificate "
            "authority can be set as `verify` of a requests.Session given as option session"
        ) from failure
    except (
        requests.exceptions.ConnectionError,
        requests.exceptions.Timeout,
        requests.exceptions.ChunkedEncodingError,
        PoolError,
        ConnectionError,
    ) as failure:
        through = proxy()
        check = (
            f"; the request goes through the proxy {through}: check that it runs and may be used, "
            "or exempt the host by no_proxy"
            if through
            else "; check the address, the network and that the server runs"
        )
        error = ConnectError(f"{name}: no answer ({_reason(failure)}){check}")
        if _unknown_host(failure):
            raise error from failure
        refused = any(isinstance(cause, NewConnectionError) for cause in _causes(failure))
        raise MayPassError(error, refused=refused) from failure
    except requests.exceptions.RequestException as failure:
        raise ConnectError(f"{name}: the request cannot be sent ({failure})") from failure


def _causes(failure: BaseException) -> Iterator[BaseException]:
    """Yield an exception, the exceptions that it wraps, and those that caused it."""
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
        isinstance(cause, socket.gaierror) and cause.errno in NO_SUCH_HOST
        for cause in _causes(failure)
    )


def _reason(failure: BaseException) -> str:
    """Return the operating system's message from a chain of exceptions, else the first message."""
    for cause in _causes(failure):
        if isinstance(cause, socket.gaierror):
            return f"the host name does not resolve: {cause.strerror}"
    for cause in _causes(failure):
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    return str(failure) or type(failure).__name__
