"""Habits of a server: idle connections, and requests on how many connections at once."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from vfs.transport.connections import pools_of
from vfs.transport.plan import Pace
from vfs.transport.pools import Attempt
from vfs.transport.redirects import Origin
from vfs.workers import Slots

log = logging.getLogger(__name__)


class Habits:
    """Habits of the servers of one file, as they were seen.

    Some servers have a thread for each connection, and few threads. A connection without a request
    keeps such a thread busy, and requests on further connections wait. If an answer is late, first
    the connections that were opened ahead are closed, then all that are idle. If the answer comes
    then, the limit of parallel requests falls to the number of connections that were answered.

    Parameters
    ----------
    own
        Origin of the file's URL.
    slots
        Limit of the parallel requests.
    session
        Session from `wide_session`.
    pace
        Measured latency.
    """

    def __init__(self, own: Origin, slots: Slots, session: Any, pace: Pace) -> None:
        self._own = own
        self._slots = slots
        self._session = session
        self._pace = pace
        self._bearing: dict[Origin, bool] = {}
        self._width: int | None = None
        self._heard = 0.0  # when any byte of an answer came last
        self._freed = 0.0  # when connections were closed because of a late answer
        self._answering: int | None = None  # connections that were answered then

    def bears(self, place: Origin) -> bool:
        """Tell whether an origin is known to bear idle connections."""
        return self._bearing.get(place, False)

    def heard(self) -> None:
        """Record that a piece of an answer came."""
        self._heard = time.monotonic()

    def answered(self, place: Origin, response: Any, attempt: Attempt, seconds: float) -> None:
        """Record the headers of an answer, and how long they took to come."""
        attempt.answered = True
        self.heard()
        raw, headers = getattr(response, "raw", None), response.headers
        kept = getattr(raw, "version", 10) >= 11
        kept = kept and "close" not in headers.get("Connection", "").lower()
        self._bearing.setdefault(place, kept)
        if not attempt.late:
            self._pace.answered(seconds)
        elif self._heard - self._freed < 2 * self._pace.latency + 0.05:
            self._learn(place)

    def look(self, attempts: list[Attempt]) -> None:
        """Close connections without requests if all answers are late.

        Parameters
        ----------
        attempts
            Attempts of one wave that are under way.
        """
        late = [(one, one.began) for one in attempts if one.began and not one.answered]
        now = time.monotonic()
        since = max([self._heard, self._freed, *(began for _, began in late)])
        if not late or now - since < self._pace.patience:
            return
        pools = pools_of(self._session)
        if sum(pool.close_ahead() for pool in pools):
            self._answering = None
        elif all(one.proven for one, _ in late):
            return
        else:
            answered = sum(one.answered for one in attempts)
            idle = sum(pool.close_idle() for pool in pools)
            if not idle:
                return
            self._answering = idle + answered
        self._freed = now
        for one, _ in late:
            one.late = True

    def pack(self) -> bytes:
        """Return what is known of the file's own origin, for `unpack`; empty if nothing is."""
        if self._own not in self._bearing:
            return b""
        return json.dumps([self._bearing[self._own], self._width]).encode()

    def unpack(self, record: bytes) -> None:
        """Restore what an earlier process has seen."""
        try:
            bears, width = json.loads(record)
        except ValueError:
            return
        self._bearing[self._own] = bears is True
        if isinstance(width, int):
            self._width = max(1, width)
            self._slots.limit(self._width)

    def _learn(self, place: Origin) -> None:
        if self._bearing.get(place):
            self._bearing[place] = False
            log.info("%s: idle connections are in the way there, and are not opened", place)
        if self._answering is not None and self._answering < self._slots.width:
            self._width = self._answering
            self._slots.limit(self._width)
            log.info("%s: %d connections are answered at a time", place, self._width)
