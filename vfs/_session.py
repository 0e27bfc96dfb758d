"""The pool of connections: one wide `requests.Session`, opened ahead, remade after a fork."""

from __future__ import annotations

import copy
import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError as PoolError

log = logging.getLogger(__name__)


def wide_session(session: Any, connections: int) -> Any:
    """Make a session whose pools hold so many connections.

    Parameters
    ----------
    session
        None, or the caller's session. A plain `requests.Session` is copied (its headers,
        cookies and authentication stay shared) and its plain adapters are replaced by wide
        ones; any other object is used as it is.
    connections
        Connections a pool holds.
    """
    if session is None:
        wide = requests.Session()
        mounts = dict(wide.adapters)
    elif type(session) is requests.Session:
        wide = copy.copy(session)
        mounts = dict(session.adapters)
    else:
        return session
    wide.adapters = OrderedDict()
    for prefix, adapter in mounts.items():
        if type(adapter) is HTTPAdapter:
            wide.mount(prefix, HTTPAdapter(pool_maxsize=connections, pool_block=True))
        else:
            wide.mount(prefix, copy.copy(adapter))
    return wide


def width(session: Any, url: str, connections: int) -> int:
    """Tell how many connections a session's pool keeps for a URL, at most `connections`."""
    if isinstance(session, requests.Session):
        kept = getattr(session.get_adapter(url), "_pool_maxsize", connections)
        return max(1, min(connections, int(kept)))
    return connections


def open_ahead(
    session: Any,
    url: str,
    connections: int,
    timeout: float,
    start: Callable[[Callable[[], None]], None],
) -> None:
    """Open connections in the background, so that the first wide wave finds them ready.

    Does nothing through a proxy, or where the session's pool is not that of `requests`. A
    connection that cannot be opened is left to the request that will need it, which reports why.

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
    start
        Runs a task in another thread.
    """
    if not isinstance(session, requests.Session):
        return
    adapter: Any = session.get_adapter(url)
    if type(adapter) is not HTTPAdapter:
        return
    settings = session.merge_environment_settings(url, {}, None, None, None)
    request = requests.Request("GET", url).prepare()
    pool: Any = adapter.get_connection_with_tls_context(
        request, settings["verify"], proxies=settings["proxies"], cert=settings["cert"]
    )
    if pool.proxy is not None:
        return
    adapter.cert_verify(pool, url, settings["verify"], settings["cert"])  # type: ignore[no-untyped-call]

    def connect(connection: Any) -> None:
        try:
            if getattr(connection, "sock", None) is None:
                connection.timeout = timeout
                connection.connect()
        except (OSError, PoolError) as failure:
            log.debug("connection ahead to %s: %s", pool.host, failure)
            connection.close()
        finally:
            pool._put_conn(connection)

    for _ in range(connections):
        try:
            connection = pool._get_conn(timeout=0)
        except PoolError:
            return
        start(lambda connection=connection: connect(connection))  # type: ignore[misc]
