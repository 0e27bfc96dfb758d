"""Sessions of `requests` with large connection pools, and connections opened ahead."""

from __future__ import annotations

import contextlib
import logging
import ssl
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import HTTPError as PoolError

log = logging.getLogger(__name__)

FOREIGN_HEADERS = {"user-agent", "accept", "accept-encoding", "connection"}


class _Session(requests.Session):
    """A session that finds no redirects; `requests` would read their bodies, however long."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None, as for a response without a redirect."""


def wide_session(session: Any, connections: int) -> Any:
    """Return a session whose pools have a given number of connections.

    Parameters
    ----------
    session
        Session of the caller, or None. A plain `requests.Session` is copied: the copy shares its
        headers, cookies and authentication, and has new adapters in place of plain adapters. Other
        adapters, and other session objects, are used unchanged.
    connections
        Number of connections in a pool.
    """
    if session is None:
        wide = _Session()
        mounts = dict(wide.adapters)
    elif type(session) is requests.Session:
        wide = _Session()
        vars(wide).update({name: getattr(session, name) for name in session.__attrs__})
        mounts = dict(session.adapters)
    else:
        return session
    wide.adapters = OrderedDict()
    for prefix, adapter in mounts.items():
        if type(adapter) is HTTPAdapter:
            wide.mount(prefix, HTTPAdapter(pool_maxsize=connections, pool_block=True))
        else:
            wide.mount(prefix, adapter)
    return wide


def foreign_session(session: Any) -> Any:
    """Return a session for other origins than the file's own: the same pools, no secrets.

    A session would send its query parameters, and its cookies without a domain, to any host.

    Parameters
    ----------
    session
        Session from `wide_session`. Other objects than a `requests.Session` are returned unchanged.
    """
    if not isinstance(session, requests.Session):
        return session
    foreign = _Session()
    foreign.adapters = session.adapters
    foreign.proxies = session.proxies
    foreign.verify = session.verify
    foreign.trust_env = session.trust_env
    known = {
        name: text for name, text in session.headers.items() if name.lower() in FOREIGN_HEADERS
    }
    foreign.headers.update(known)
    return foreign


def close_session(session: Any, given: Any) -> None:
    """Close the adapters that `wide_session` made, but not those of the caller's session.

    Parameters
    ----------
    session
        Session from `wide_session`.
    given
        Session of the caller, or None.
    """
    if session is given:
        return
    own = [] if given is None else list(given.adapters.values())
    for adapter in session.adapters.values():
        if adapter not in own:
            adapter.close()


def leave_session(session: Any) -> None:
    """Close the idle sockets of a session that a forked process has inherited.

    The parent process keeps its own ends of them. Pools are locked while they are closed, and a
    thread that the child does not have may hold such a lock; so a pool's connections are closed one
    by one, without locks, and the session is never deleted.

    Parameters
    ----------
    session
        Session from `wide_session`.
    """
    _left.append(session)
    adapters: list[Any] = list(getattr(session, "adapters", {}).values())
    for adapter in (each for each in adapters if isinstance(each, HTTPAdapter)):
        idle: list[Any] = []
        with _private_names("inherited connections stay open"):
            pools = list(adapter.poolmanager.pools._container.values())
            idle += (connection for pool in pools for connection in list(pool.pool.queue))
        for connection in idle:
            if connection is not None:
                connection.close()


_left: list[Any] = []


@contextlib.contextmanager
def _private_names(cost: str) -> Iterator[None]:
    """Guard a block that uses private names of urllib3, which may change at any release.

    Parameters
    ----------
    cost
        What happens if a name or an argument is not as expected, for the log.
    """
    try:
        yield
    except (AttributeError, TypeError) as failure:
        log.info("%s: this urllib3 is not as expected: %s", cost, failure)


def width(session: Any, url: str, connections: int) -> int:
    """Return the size of the session's pool for a URL, at most `connections`."""
    if isinstance(session, requests.Session):
        kept = getattr(session.get_adapter(url), "_pool_maxsize", connections)
        return max(1, min(connections, int(kept)))
    return connections


class _IdleConnection(HTTPSConnection):
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


def open_ahead(
    session: Any,
    url: str,
    connections: int,
    timeout: float,
    submit: Callable[[Callable[[], None]], object],
) -> None:
    """Open connections in the background, before a wave with many ranges needs them.

    Nothing is opened through a proxy, through an adapter that is not the plain one of `requests`,
    or if urllib3 has other private names than expected. If a connection cannot be opened, the
    request that needs it later reports the error.

    Parameters
    ----------
    session
        Session from `wide_session`.
    url
        URL on the server.
    connections
        Number of connections.
    timeout
        Seconds that the opening of one connection may take.
    submit
        Function that calls a function in another thread.
    """
    if not isinstance(session, requests.Session):
        return
    adapter: Any = session.get_adapter(url)
    if type(adapter) is not HTTPAdapter:
        return
    verify = None if session.verify is True else session.verify
    settings = session.merge_environment_settings(url, {}, None, verify, None)
    request = requests.Request("GET", url).prepare()
    pool: Any = adapter.get_connection_with_tls_context(
        request, settings["verify"], proxies=settings["proxies"], cert=settings["cert"]
    )
    if pool.proxy is not None:
        return
    adapter.cert_verify(pool, url, settings["verify"], settings["cert"])  # type: ignore[no-untyped-call]
    fresh: list[Any] = []
    with _private_names("no connections are opened ahead"):
        take, put_back = pool._get_conn, pool._put_conn
        if pool.ConnectionCls is HTTPSConnection:
            pool.ConnectionCls = _IdleConnection
        with contextlib.suppress(PoolError):  # the pool has no further connection
            fresh += (take(timeout=0) for _ in range(connections))
    for connection in fresh:
        submit(partial(_open, connection, put_back, timeout))


def _open(connection: Any, put_back: Callable[[Any], None], timeout: float) -> None:
    """Open a connection, and put it back into its pool."""
    try:
        if getattr(connection, "sock", None) is None:
            connection.timeout = timeout
            connection.connect()
    except (OSError, PoolError) as failure:
        log.debug("connection ahead to %s: %s", connection.host, failure)
        connection.close()
    finally:
        put_back(connection)
