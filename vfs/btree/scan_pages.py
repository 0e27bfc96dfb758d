"""Pages of a remote file for a scan, read in long ranges that bypass the cache."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from vfs.btree.pages import FilePages, Pages, RemotePages, check_pages
from vfs.btree.record import Bytes, Ints, Page, concatenate
from vfs.errors import FileChangedError

PIECE = 1 << 20  # most bytes of one request

Span = tuple[int, int]


class ScanPages:
    """Pages that are read once, for a scan, and not cached.

    The object holds the pages that it has read as long as it lives.

    Parameters
    ----------
    pages
        Pages of the file; the server must have confirmed the version.
    gap
        Greatest gap in bytes between two pages of one range; the range includes the gap.
    """

    def __init__(self, pages: RemotePages, gap: int) -> None:
        self.name = pages.name
        self.layout = pages.layout
        self._pages = pages
        self._gap = gap
        self._held: list[tuple[int, memoryview]] = []  # first page's number, bytes of the range

    def ranges(self, numbers: Iterable[int]) -> list[Span]:
        """Plan the (start, end) byte ranges that contain the pages, one request for each range."""
        wanted = np.unique(np.fromiter(numbers, np.int64))
        size = self.layout.page_size
        cuts = np.flatnonzero(np.diff(wanted) > 1 + self._gap // size)
        firsts = wanted[[0, *(cuts + 1)]] if len(wanted) else wanted
        lasts = wanted[[*cuts, -1]] if len(wanted) else wanted
        step = max(PIECE, size)  # a multiple of the page size: both are powers of two
        return [
            (start, min(start + step, last * size))
            for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True)
            for start in range((first - 1) * size, last * size, step)
        ]

    def read(
        self, numbers: Iterable[int], *, spare: Sequence[int] = (), opening: bool = False
    ) -> dict[int, Page]:
        """Read pages in one wave.

        Parameters
        ----------
        numbers
            Page numbers, from 1.
        spare, opening
            Ignored.

        Raises
        ------
        DatabaseError
            A page number is outside the file.
        FileChangedError
            The file is no longer the version whose header was read.
        """
        wanted = list(numbers)
        check_pages(self, wanted)
        self._fetch([number for number in wanted if self.cached(number) is None])
        return {number: self._page(number) for number in wanted}

    def cached(self, number: int) -> Page | None:
        """Return a page if this object has read it, else None."""
        size = self.layout.page_size
        for first, view in self._held:
            at = (number - first) * size
            if 0 <= at < len(view):
                return view[at : at + size]
        return None

    def block(self, numbers: Ints) -> tuple[Bytes, Ints]:
        """Read pages for vectorised decoding, see `Pages.block`."""
        check_pages(self, [int(numbers.min()), int(numbers.max())])
        firsts, bodies = zip(*self._fetch(numbers), strict=True)
        data, starts = concatenate(bodies)
        which = np.searchsorted(firsts, numbers, side="right") - 1
        places: Ints = starts[which] + (numbers - np.array(firsts)[which]) * self.layout.page_size
        return data, places

    def _fetch(self, numbers: Iterable[int]) -> list[tuple[int, memoryview]]:
        ranges = self.ranges(numbers)
        if not ranges:
            return []
        bodies = self._pages.file.read_past_cache(ranges)
        if self._pages.file.assumed != self._pages.version:
            raise FileChangedError(f"{self.name}: the file changed since its header was read")
        size = self.layout.page_size
        fresh = [
            (start // size + 1, memoryview(body))
            for (start, _), body in zip(ranges, bodies, strict=True)
        ]
        self._held += fresh
        return fresh

    def _page(self, number: int) -> Page:
        page = self.cached(number)
        assert page is not None
        return page


def pages_for_scan(pages: FilePages, gap: int) -> Pages:
    """Return the pages of a file for a scan; pages of a remote file bypass the cache.

    Parameters
    ----------
    pages
        Pages of the file.
    gap
        Greatest gap in bytes between two pages of one range, see `ScanPages`.
    """
    return ScanPages(pages, gap) if isinstance(pages, RemotePages) else pages
