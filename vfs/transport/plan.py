"""Planning of the ranges of a wave: fewer requests cost more bytes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

import numpy as np

KIB = 1 << 10
SMALL_WAVE_GAP = 16 * KIB
LARGEST_GAP = 64 * KIB
MOST_BANDWIDTH = 12e6
LEAST_PATIENCE = 0.25
PIECE = 256 * KIB
ALIGNMENT = 4 * KIB

Range = tuple[int, int]


class Pace:
    """Measured latency and bandwidth of a server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latencies: deque[float] = deque(maxlen=33)
        self._bandwidth = MOST_BANDWIDTH

    def answered(self, seconds: float) -> None:
        """Record the time from a request to the headers of its response."""
        with self._lock:
            self._latencies.append(seconds)

    def received(self, length: int, seconds: float, rounds: int) -> None:
        """Record a wave: its bytes, its duration in seconds, its requests per connection."""
        transfer = seconds - rounds * self.latency
        if length >= PIECE and transfer > 0:
            with self._lock:
                measured = min(length / transfer, MOST_BANDWIDTH)
                self._bandwidth += (measured - self._bandwidth) / 2

    @property
    def latency(self) -> float:
        """Seconds from a request to its response: the median of the last 33, initially 0.1."""
        with self._lock:
            ordered = sorted(self._latencies)
        middle = len(ordered) // 2
        return (ordered[middle] + ordered[~middle]) / 2 if ordered else 0.1

    @property
    def patience(self) -> float:
        """Seconds after which an answer is late: twice the longest of the last 33, 0.25 at least.

        1 before the first answer.
        """
        with self._lock:
            return max(LEAST_PATIENCE, 2 * max(self._latencies, default=0.5))

    @property
    def bandwidth(self) -> float:
        """Bytes per second, at most 12 MB/s; a moving average of large waves."""
        return self._bandwidth


def plan_wave(
    missing: Sequence[Range], connections: int, latency: float, bandwidth: float
) -> list[Range]:
    """Join the missing ranges of a wave if that saves time, and split long ranges.

    In a wave with fewer ranges than connections, ranges are joined across gaps of at most 16 KiB.
    In a larger wave, ranges are joined across the smallest gaps, of at most 64 KiB. The number of
    these gaps minimises ``ceil(ranges / connections) * latency + bytes / bandwidth``. Long ranges
    are then split at multiples of 4 KiB from their start, so that the connections share the bytes.

    Parameters
    ----------
    missing
        Disjoint (start, end) byte ranges in rising order, end exclusive.
    connections
        Number of requests that can run in parallel.
    latency, bandwidth
        Seconds per request, and bytes per second.

    Returns
    -------
    list of (start, end)
        Ranges that cover all of `missing`, in rising order.
    """
    if not missing:
        return []
    starts = np.array([start for start, _ in missing], np.int64)
    ends = np.array([end for _, end in missing], np.int64)
    gaps = starts[1:] - ends[:-1]
    apart = np.ones(len(gaps), bool)
    if len(missing) < connections:
        apart = gaps > SMALL_WAVE_GAP
    else:
        order = np.argsort(gaps, kind="stable")[: np.count_nonzero(gaps <= LARGEST_GAP)]
        candidates = gaps[order]
        joined = np.arange(len(candidates) + 1)
        rounds = -(-(len(missing) - joined) // connections)
        extra = np.concatenate(([0], np.cumsum(candidates)))
        best = int(np.argmin(rounds * latency + extra / bandwidth))
        apart[order[:best]] = False
    cut = np.flatnonzero(apart)
    first = starts[np.concatenate(([0], cut + 1))]
    last = ends[np.concatenate((cut, [len(ends) - 1]))]
    return _split([(int(a), int(b)) for a, b in zip(first, last, strict=True)], connections)


def _split(ranges: list[Range], connections: int) -> list[Range]:
    total = sum(end - start for start, end in ranges)
    piece = max(PIECE, -(-total // connections))
    pieces: list[Range] = []
    for start, end in ranges:
        count = max(1, (end - start) // piece)
        step = -(-(end - start) // (count * ALIGNMENT)) * ALIGNMENT
        pieces += [(at, min(at + step, end)) for at in range(start, end, step)]
    return pieces
