"""The pool of connections: one wide `requests.Session`, opened ahead, remade after a fork."""

from __future__ import annotations

import contextlib
import logging
import ssl
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import HTTPError as PoolError

log = logging.getLogger(__name__)

FOREIGN_HEADERS = {"user-agent", "accept", "accept-encoding", "connection"}


class _Session(requests.Session):
    """Leaves redirects alone: `requests` would read their bodies, of whatever length."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Find none."""


def wide_session(session: Any, connections: int) -> Any:
    """Make a session whose pools hold so many connections.

    Parameters
    ----------
    session
        None, or the caller's session. A plain `requests.Session` is copied (its headers,
        cookies and authentication stay shared) and its plain adapters are replaced by wide
        ones; other adapters, and any other object, are used as they are.
    connections
        Connections a pool holds.
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
    """Make a session for other origins than the file's own: the same connections, no secrets.

    Cookies without a domain and query parameters of a session go to every host that it asks.

    Parameters
    ----------
    session
        From `wide_session`. What is no `requests.Session` is returned as it is.
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
    """Close what `wide_session` made, and nothing that the caller gave.

    Parameters
    ----------
    session
        From `wide_session`.
    given
        What it was made from.
    """
    if session is given:
        return
    own = [] if given is None else list(given.adapters.values())
    for adapter in session.adapters.values():
        if adapter not in own:
            adapter.close()


def width(session: Any, url: str, connections: int) -> int:
    """Tell how many connections a session's pool keeps for a URL, at most `connections`."""
    if isinstance(session, requests.Session):
        kept = getattr(session.get_adapter(url), "_pool_maxsize", connections)
        return max(1, min(connections, int(kept)))
    return connections


class _IdleConnection(HTTPSConnection):
    """A TLS connection that may wait for its first request.

    TLS 1.3 servers send session tickets behind the handshake (RFC 8446, section 4.6.1), and the
    pool takes an idle connection with something to read for one that the server has closed.
    """

    @property
    def is_connected(self) -> bool:
        """Whether the server still holds the connection."""
        if super().is_connected or self.sock is None:
            return self.sock is not None
        timeout = self.sock.gettimeout()
        self.sock.settimeout(0)
        try:
            self.sock.recv(1)  # takes in the tickets; data, or none for an end, must not be there
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
    """Open connections in the background, so that the first wide wave finds them ready.

    Does nothing through a proxy, or where the session's pool is not that of `requests`, or where
    urllib3 has other private names than today. A connection that cannot be opened is left to the
    request that will need it, which reports why.

    Parameters
    ----------
    session
        From `wide_session`.
    url
        Where to.
    connections
        How many.
    timeout
        Seconds that opening one may take.
    submit
        Calls a function in another thread.
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
    try:  # urllib3 promises none of these names
        take, put_back = pool._get_conn, pool._put_conn
        if pool.ConnectionCls is HTTPSConnection:
            pool.ConnectionCls = _IdleConnection
        with contextlib.suppress(PoolError):  # as many as the pool has left
            fresh += (take(timeout=0) for _ in range(connections))
    except (AttributeError, TypeError) as failure:
        log.info("no connections are opened ahead: this urllib3 is not as expected: %s", failure)
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
