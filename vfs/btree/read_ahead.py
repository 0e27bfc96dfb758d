"""Long runs of pages, asked for ahead of whoever reads them in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

import numpy as np

from vfs.btree.pages import FilePages, RemotePages
from vfs.btree.record import Bytes, Page
from vfs.workers import Workers

PIECE = 512 << 10  # bytes asked for at once
STREAMS = 16  # requests under way at once
WINDOW = (STREAMS + 4) * PIECE  # bytes that are held

Span = tuple[int, int]


@dataclass
class _Request:
    """Pages under way."""

    first: int
    last: int
    body: Future[Page]


class Ahead:
    """Requests under way, in the order in which their pages are expected to be needed.

    What is held shrinks where the reader jumps, so that a file cannot make it fetch much in vain.

    Parameters
    ----------
    pages
        Of the file.
    spans
        The (first, last) pages that are expected, as far as can be told.
    """

    def __init__(self, pages: FilePages, spans: Iterator[Span]) -> None:
        self._pages = pages
        self._size = pages.layout.page_size
        # The pages of a local file are there at once.
        self._workers = Workers(STREAMS) if isinstance(pages, RemotePages) else None
        self._requests: deque[_Request] = deque()
        self._spans = spans
        self._next: Span | None = next(spans, None)
        self._limit = WINDOW
        self._run = 0

    def get(self, page: int) -> tuple[int, Bytes] | None:
        """Wait for pages around one, if they are under way or planned next.

        Returns
        -------
        first, body
            The first of the pages, and the bytes of all, of shape (pages, bytes).
        """
        while self._requests and not self._requests[0].first <= page <= self._requests[0].last:
            self._requests.popleft().body.cancel()
        if not self._requests:
            if self._next is None or not self._next[0] <= page <= self._next[1]:
                return None
            self._next = page, self._next[1]
        self._fill()
        request = self._requests[0]
        body = np.frombuffer(request.body.result(), np.uint8)
        return request.first, body.reshape(-1, self._size)

    def restart(self, page: int, spans: Iterator[Span]) -> tuple[int, Bytes]:
        """Plan anew, from a page on that was not expected."""
        self._jumped()
        self._spans, self._next = spans, next(spans, None)
        got = self.get(page)
        assert got is not None
        return got

    def learn(self, used: int, *, jumps: bool) -> None:
        """Take note of a run of consecutive pages, and of whether the chain then goes elsewhere."""
        self._run += used
        self._limit = min(WINDOW, 2 * self._limit)
        if jumps:
            self._jumped()

    def close(self) -> None:
        """Begin nothing more."""
        for request in self._requests:
            request.body.cancel()
        if self._workers is not None:
            self._workers.close()

    def _jumped(self) -> None:
        """Hold no more than twice as much as was of use since the last jump."""
        if self._run:
            self._limit = max(self._size, min(WINDOW, 2 * self._run * self._size))
            self._run = 0

    def _fill(self) -> None:
        held = sum(request.last - request.first + 1 for request in self._requests)
        while self._next is not None and held * self._size < self._limit:
            first, end = self._next
            last = min(end, first + max(1, min(PIECE, self._limit) // self._size) - 1)
            self._requests.append(_Request(first, last, self._begin(first, last)))
            held += last - first + 1
            self._next = (last + 1, end) if last < end else next(self._spans, None)

    def _begin(self, first: int, last: int) -> Future[Page]:
        if self._workers is not None:
            return self._workers.submit(partial(self._pages.read_run, first, last))
        body: Future[Page] = Future()
        body.set_result(self._pages.read_run(first, last))
        return body
