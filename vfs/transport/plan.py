"""Which ranges of a wave to join: fewer requests against more bytes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

import numpy as np

KIB = 1 << 10
SMALL_WAVE_GAP = 16 * KIB
LARGEST_GAP = 64 * KIB
MOST_BANDWIDTH = 12e6
PIECE = 256 * KIB
ALIGNMENT = 4 * KIB

Range = tuple[int, int]


class Pace:
    """Latency and bandwidth of a server, as measured so far."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latencies: deque[float] = deque(maxlen=33)
        self._bandwidth = MOST_BANDWIDTH

    def answered(self, seconds: float) -> None:
        """Take note of the time from sending a request to its answer's headers."""
        with self._lock:
            self._latencies.append(seconds)

    def received(self, length: int, seconds: float, rounds: int) -> None:
        """Take note of a wave: bytes, duration, and requests that each connection sent."""
        transfer = seconds - rounds * self.latency
        if length >= PIECE and transfer > 0:
            with self._lock:
                measured = min(length / transfer, MOST_BANDWIDTH)
                self._bandwidth += (measured - self._bandwidth) / 2

    @property
    def latency(self) -> float:
        """Seconds from request to answer: the median of the last ones."""
        with self._lock:
            ordered = sorted(self._latencies)
        middle = len(ordered) // 2
        return (ordered[middle] + ordered[~middle]) / 2 if ordered else 0.1

    @property
    def bandwidth(self) -> float:
        """Bytes a second, taken as at most 12 MB/s."""
        return self._bandwidth


def plan_wave(
    missing: Sequence[Range], connections: int, latency: float, bandwidth: float
) -> list[Range]:
    """Join the missing ranges of a wave where that saves time, and split what is long.

    A wave with fewer ranges than connections joins gaps up to 16 KiB. A larger one joins as
    many of its smallest gaps, up to 64 KiB each, as minimise
    ``ceil(ranges / connections) * latency + bytes / bandwidth``.
    Long ranges are then split, at multiples of 4 KiB from their start, so that the connections
    share the bytes.

    Parameters
    ----------
    missing
        Disjoint (start, end) byte ranges in rising order, end exclusive.
    connections
        Requests that can be under way at once.
    latency, bandwidth
        Seconds a request, bytes a second.

    Returns
    -------
    list of (start, end)
        Covering all of `missing`, in rising order.
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
