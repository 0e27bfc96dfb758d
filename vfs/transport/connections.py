"""Sessions of `requests` with large connection pools, and connections opened ahead."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from urllib3.connectionpool import HTTPConnectionPool

from vfs.transport.pools import OPENING, Pool, SecurePool
from vfs.workers import Workers

log = logging.getLogger(__name__)

UNUSED = 1.5  # seconds after which connections that were opened ahead in vain are closed
FOREIGN_HEADERS = {"user-agent", "accept", "accept-encoding", "connection"}


class WideAdapter(HTTPAdapter):
    """An adapter with many connections, which its owner can see.

    Parameters
    ----------
    connections
        Number of connections.
    crowded
        See `vfs.transport.pools.Pool`.
    """

    def __init__(self, connections: int, crowded: Callable[[], bool]) -> None:
        self._crowded = crowded
        self._pools: weakref.WeakSet[Pool] = weakref.WeakSet()
        super().__init__(pool_maxsize=connections, pool_block=True)

    @property
    def pools(self) -> list[Pool]:
        """The pools of all hosts and proxies so far."""
        return list(self._pools)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Make the manager of pools, which makes pools of ours."""
        super().init_poolmanager(*arguments, **options)
        self._own(self.poolmanager)

    def proxy_manager_for(self, proxy: Any, **options: Any) -> Any:
        """Return the manager of pools for a proxy; one for SOCKS has pools of its own kind."""
        manager: Any = super().proxy_manager_for(proxy, **options)
        if manager.pool_classes_by_scheme.get("http") is HTTPConnectionPool:
            self._own(manager)
        return manager

    def close(self) -> None:
        """Close the pools now; `urllib3` would only forget them."""
        pools = self.pools
        super().close()
        for pool in pools:
            pool.close()

    def _own(self, manager: Any) -> None:
        manager.pool_classes_by_scheme = {
            "http": partial(self._pool, Pool),
            "https": partial(self._pool, SecurePool),
        }

    def _pool(self, kind: type[Pool], *arguments: Any, **options: Any) -> Pool:
        pool = kind(self._crowded, *arguments, **options)
        self._pools.add(pool)
        return pool


class _Session(requests.Session):
    """A session that finds no redirects; `requests` would read their bodies, however long."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None, as for a response without a redirect."""


def wide_session(session: Any, connections: int, crowded: Callable[[], bool]) -> Any:
    """Return a session whose pools have a given number of connections.

    Parameters
    ----------
    session
        Session of the caller, or None. A plain `requests.Session` is copied: the copy shares its
        headers, cookies and authentication, and has new adapters in place of plain adapters. Other
        adapters, and other session objects, are used unchanged.
    connections
        Number of connections in a pool.
    crowded
        See `vfs.transport.pools.Pool`.
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
            wide.mount(prefix, WideAdapter(connections, crowded))
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
    for pool in pools_of(session):
        pool.leave()
    adapters: list[Any] = list(getattr(session, "adapters", {}).values())
    for adapter in adapters:
        if isinstance(adapter, HTTPAdapter) and not isinstance(adapter, WideAdapter):
            _leave_others(adapter)


def _leave_others(adapter: Any) -> None:
    """Close the idle sockets of an adapter of the caller."""
    try:
        pools = list(adapter.poolmanager.pools._container.values())
        idle = [connection for pool in pools for connection in list(pool.pool.queue)]
    except AttributeError as failure:  # private names of urllib3, which may change at any release
        log.info("inherited connections stay open: this urllib3 is not as expected: %s", failure)
        return
    for connection in idle:
        if connection is not None:
            connection.close()


_left: list[Any] = []


def pools_of(session: Any) -> list[Pool]:
    """List the pools of a session from `wide_session`, without those of the caller's adapters."""
    adapters: list[Any] = list(getattr(session, "adapters", {}).values())
    return [
        pool for adapter in adapters if isinstance(adapter, WideAdapter) for pool in adapter.pools
    ]


def width(session: Any, url: str, connections: int) -> int:
    """Return the size of the session's pool for a URL, at most `connections`."""
    if isinstance(session, requests.Session):
        kept = getattr(session.get_adapter(url), "_pool_maxsize", connections)
        return max(1, min(connections, int(kept)))
    return connections


def open_ahead(
    session: Any, url: str, connections: int, timeout: float, closed: threading.Event
) -> None:
    """Open connections in the background, before a wave with many ranges needs them.

    Nothing is opened through a proxy, or through an adapter of the caller. If a connection cannot
    be opened, the request that needs it later reports the error. Connections that no request has
    used after a moment are closed, because some servers serve nobody else meanwhile.

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
    closed
        Event after which no connection is needed any more.
    """
    adapter: Any = session.get_adapter(url) if isinstance(session, requests.Session) else None
    if not isinstance(adapter, WideAdapter):
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

    def close_later() -> None:
        closed.wait(UNUSED)
        pool.close_ahead()

    workers = Workers(connections + 1)
    pool.open_ahead(connections, min(timeout, OPENING), workers.submit)
    workers.submit(close_later)
    workers.close()


def proxy_of(session: Any, url: str) -> str:
    """Tell which proxy a session uses for a URL, and who has set it; empty without a proxy."""
    if not isinstance(session, requests.Session):
        return ""
    settings = session.merge_environment_settings(url, {}, None, None, None)
    proxy = select_proxy(url, settings["proxies"])
    if not proxy:
        return ""
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    scheme = urlsplit(url).scheme
    variables = [
        name
        for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY")
        if os.environ.get(name) == proxy or f"http://{os.environ.get(name)}" == proxy
    ]
    source = "the option session"
    if select_proxy(url, session.proxies) != proxy:
        source = f"the environment variable {variables[0]}" if variables else "the system"
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.hostname}{port}, which {source} names"
