"""Read-ahead of long runs of pages for a reader that needs them in order."""

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

PIECE = 512 << 10  # most bytes of one request
STREAMS = 16  # parallel requests
WINDOW = (STREAMS + 4) * PIECE  # most bytes of pages requested and not yet passed by the reader

Span = tuple[int, int]


@dataclass
class _Request:
    """A request for the pages `first` to `last`."""

    first: int
    last: int
    body: Future[Page]


class Ahead:
    """Requests for pages, sent ahead of the reader, in the order of the expected need.

    The window of requested pages shrinks each time the reader jumps to an unexpected page. A
    fragmented file therefore costs few requests for pages that are not needed.

    Parameters
    ----------
    pages
        Pages of the file.
    spans
        Expected runs of consecutive pages, as (first, last) page numbers, in order of need.
    """

    def __init__(self, pages: FilePages, spans: Iterator[Span]) -> None:
        self._pages = pages
        self._size = pages.layout.page_size
        # A local file is mapped into memory and needs no threads.
        self._workers = Workers(STREAMS) if isinstance(pages, RemotePages) else None
        self._requests: deque[_Request] = deque()
        self._spans = spans
        self._next: Span | None = next(spans, None)
        self._limit = WINDOW
        self._run = 0

    def get(self, page: int) -> tuple[int, Bytes] | None:
        """Wait for the request that has a page, if it was sent or is the next one planned.

        Earlier requests are cancelled, and further ones are sent.

        Returns
        -------
        first, body
            Number of the first page of the request, and its pages, uint8, shape (pages, bytes per
            page); None if the page is not expected.
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
        """Replace the expected runs with others that begin with a page, and wait for that page."""
        self._jumped()
        self._spans, self._next = spans, next(spans, None)
        got = self.get(page)
        assert got is not None
        return got

    def learn(self, used: int, *, jumps: bool) -> None:
        """Adapt the window after the reader used consecutive pages.

        Parameters
        ----------
        used
            Number of consecutive pages that the reader used.
        jumps
            Whether the page after them is elsewhere.
        """
        self._run += used
        self._limit = min(WINDOW, 2 * self._limit)
        if jumps:
            self._jumped()

    def close(self) -> None:
        """Cancel the requests that have not begun, and stop the threads."""
        for request in self._requests:
            request.body.cancel()
        if self._workers is not None:
            self._workers.close()

    def _jumped(self) -> None:
        """Limit the window to twice the bytes that the reader used since the last jump."""
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
