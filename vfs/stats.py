"""Counters of requests, bytes and cache hits, and budgets that limit requests and bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

from vfs.errors import BudgetError
from vfs.forks import ForkLock


@dataclass
class Counters:
    """Counters of the network and the cache.

    Attributes
    ----------
    requests
        HTTP requests sent, redirects and repeated attempts included.
    bytes
        Body bytes received.
    waves
        Waves: batches of parallel requests that a caller had to wait for.
    retries
        Attempts beyond the first one of each request.
    cache_hits
        Blocks found in memory or on disk.
    """

    __module__ = "vfs"

    requests: int = 0
    bytes: int = 0
    waves: int = 0
    retries: int = 0
    cache_hits: int = 0


class Stats(Counters):
    """Counters of one open file, since it was opened."""

    __module__ = "vfs"

    def __init__(self) -> None:
        super().__init__()
        self.lock = ForkLock()

    def add(self, **counts: int) -> None:
        """Add numbers to the counters of these names."""
        with self.lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)

    @contextmanager
    def measure(self) -> Iterator[Counters]:
        """Count what happens during a ``with`` block.

        Yields
        ------
        Counters
            Zeros, which become the counts of the block when the block ends.
        """
        names = [field.name for field in fields(Counters)]
        before = [getattr(self, name) for name in names]
        measured = Counters()
        try:
            yield measured
        finally:
            for name, old in zip(names, before, strict=True):
                setattr(measured, name, getattr(self, name) - old)


class Budget:
    """Limits of a file's requests and bytes.

    Parameters
    ----------
    stats
        The counters that are compared with the limits.
    max_requests, max_bytes
        Greatest permitted numbers of requests and of body bytes, None for no limit.
    """

    __module__ = "vfs"

    def __init__(
        self, stats: Stats, max_requests: int | None = None, max_bytes: int | None = None
    ) -> None:
        self.stats = stats
        self.max_requests = max_requests
        self.max_bytes = max_bytes

    def allows(self, ranges: Sequence[tuple[int, int]]) -> bool:
        """Tell whether a wave of (start, end) ranges stays within the limits."""
        with self.stats.lock:
            return not self._passed(len(ranges), _length(ranges))

    def check(self, url: str, ranges: Sequence[tuple[int, int]]) -> None:
        """Raise an error if a wave of (start, end) ranges would exceed a limit.

        Raises
        ------
        BudgetError
            The wave would exceed a limit; no counter is changed.
        """
        with self.stats.lock:
            self._check(url, len(ranges), _length(ranges))

    def spend_request(self, url: str) -> None:
        """Count one request, before it is sent.

        Raises
        ------
        BudgetError
            The request would exceed a limit; it is not counted.
        """
        with self.stats.lock:
            self._check(url, 1, 0)
            self.stats.requests += 1

    def _check(self, url: str, requests: int, length: int) -> None:
        for name, limit, used, more in self._passed(requests, length):
            unit = name.removeprefix("max_")
            raise BudgetError(
                f"{url}: {name}={limit:,} would be passed: {used:,} {unit} used so far and "
                f"{more:,} more needed now, which were not asked for. Set budget.{name} of "
                "the open object higher (None removes the limit) and call again"
            )

    def _passed(self, requests: int, length: int) -> list[tuple[str, int, int, int]]:
        """List the limits that more requests or bytes would exceed: name, limit, used, more."""
        return [
            (name, limit, used, more)
            for name, limit, used, more in (
                ("max_requests", self.max_requests, self.stats.requests, requests),
                ("max_bytes", self.max_bytes, self.stats.bytes, length),
            )
            if limit is not None and used + more > limit
        ]


def _length(ranges: Sequence[tuple[int, int]]) -> int:
    return sum(end - start for start, end in ranges)
