"""Pauses after failures, which all requests of a file share."""

from __future__ import annotations

import random
import threading
import time

from vfs.transport.wave import Wave

SHORTEST_BACKOFF = 0.1
LONGEST_BACKOFF = 10.0
LEAST_SPACING = 0.05
MOST_SPACING = 2.0
EASING = 0.9
OWN = 3


class Pauses:
    """The state of a file's failures: when the next request may be sent.

    Failures that follow each other without a success lengthen the pause before the next request of
    whichever call. Failures of requests that were sent before the pause count once. A server that
    limits the rate of requests gets them at intervals, which become shorter with each success.
    """

    def __init__(self) -> None:
        self._errors = 0  # in a row, without those of a server that asks for fewer requests
        self._lock = threading.Lock()
        self._failures = 0  # in a row
        self._generation = 0
        self._until = 0.0
        self._next = 0.0
        self._spacing = 0.0

    def enter(self, wave: Wave) -> int:
        """Wait until a request may be sent, and return the argument for `failed`."""
        while True:
            with self._lock:
                now = time.monotonic()
                ready = max(self._until, self._next)
                if ready <= now:
                    self._next = now + self._spacing
                    return self._generation
            wave.pause(ready - now)

    def failed(self, entered: int, wait: float | None, *, throttled: bool) -> float:
        """Record a failure.

        Parameters
        ----------
        entered
            Result of `enter` for this request.
        wait
            Seconds that the server asks for, None if it does not.
        throttled
            Whether the server works, and asks for fewer requests.

        Returns
        -------
        float
            Seconds until the next request may be sent.
        """
        with self._lock:
            now = time.monotonic()
            if entered == self._generation:
                self._generation += 1
                self._failures += 1
                self._errors = 0 if throttled else self._errors + 1
                longest = min(LONGEST_BACKOFF, SHORTEST_BACKOFF * 2 ** min(self._failures - 1, 10))
                self._until = max(self._until, now + random.uniform(longest / 2, longest))
                if throttled:
                    self._spacing = min(MOST_SPACING, max(LEAST_SPACING, 2 * self._spacing))
            self._until = max(self._until, now + (wait or 0.0))
            return self._until - now

    def passed(self) -> None:
        """Record a success."""
        with self._lock:
            self._errors = self._failures = 0
            self._spacing *= EASING
            if self._spacing < LEAST_SPACING / 2:
                self._spacing = 0.0

    def exhausted(self, retries: int, own: int) -> bool:
        """Tell whether a request that failed is given up.

        Parameters
        ----------
        retries
            The option ``retries``: failures of the file in a row after which a request is sent
            again. A server that asks for fewer requests is asked until the deadline.
        own
            Failures of the request itself, which is given up after three times as many even if
            others succeed meanwhile.
        """
        return retries == 0 or self._errors > retries or own > OWN * retries

    def given_up(self) -> None:
        """Let the next call ask again, though the server wanted a longer pause."""
        with self._lock:
            self._until = 0.0
