"""Blobs of any length, streamed from their overflow chains (file format, section 1.6)."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from vfs.btree.pages import FilePages, Layout
from vfs.btree.read_ahead import PIECE, Ahead, Span
from vfs.btree.record import Page, read_varint, size_of
from vfs.btree.table import Table
from vfs.btree.tree import Visited, VisitedMany
from vfs.btree.walk import Walk
from vfs.errors import DatabaseError

MOST_PAGES = 256


class Blob(NamedTuple):
    """Location of the blob of one row.

    Attributes
    ----------
    local
        The first bytes of the blob, from the leaf page.
    size
        Length of the whole blob in bytes.
    overflow
        First page of the overflow chain, 0 if the blob does not overflow.
    """

    local: bytes
    size: int
    overflow: int


class Place(NamedTuple):
    """Position in the blobs of a list of rows, from which reading can go on.

    Attributes
    ----------
    row
        Position of the row in the list.
    page
        Number of the overflow page, 0 for the beginning of the row's blob.
    at
        Number of bytes of the row's blob before that page.
    """

    row: int
    page: int
    at: int


BEGINNING = Place(0, 0, 0)


class BlobPiece(NamedTuple):
    """Consecutive bytes of a blob, and the place where they begin."""

    data: Page
    place: Place


class BlobTable(Table):
    """A table of a few rows, each with a blob that is too large for memory."""

    def blobs(self, column: int) -> Walk[list[Blob]]:
        """Locate the blobs of all rows, without reading overflow pages.

        Parameters
        ----------
        column
            Position of the blob's column, from 0. The values of earlier columns must be in the
            leaf page.

        Returns
        -------
        list of Blob
            The blobs, in the order of row ids.

        Raises
        ------
        DatabaseError
            A row has no blob in the column, or the table has more than 256 pages.
        """
        found: list[Blob] = []
        for _, (head, size, overflow) in (yield from self.records()):
            try:
                begin, length = _find(head, column)
            except (IndexError, DatabaseError):
                raise self.malformed(self.root, "a damaged record below it") from None
            if begin < 0 or begin > len(head) or begin + length > size:
                raise self.malformed(self.root, f"a row without a blob in column {column} below it")
            spilt = begin + length > len(head)
            found.append(Blob(head[begin : begin + length], length, overflow if spilt else 0))
        return found

    def records(self) -> Walk[list[tuple[int, Blob]]]:
        """Locate whole records as blobs, without reading overflow pages.

        Returns
        -------
        list of (row id, Blob)
            The records, in the order of row ids.

        Raises
        ------
        DatabaseError
            The table has more than 256 pages.
        """
        data, base, cells = yield from self._all_cells(MOST_PAGES, Visited(self.name))
        rowids, at, sizes, local = self._locate(data, base, cells)
        if np.any(rowids[1:] <= rowids[:-1]):
            raise self.malformed(self.root, "row ids out of order below it")
        found: list[tuple[int, Blob]] = []
        for row, start, size, inside in np.stack([rowids, at, sizes, local], 1).tolist():
            cell = data[start : start + inside + 4].tobytes()
            overflow = int.from_bytes(cell[inside:], "big") if inside < size else 0
            found.append((row, Blob(cell[:inside], size, overflow)))
        return found


def read_blobs(
    pages: FilePages, blobs: Sequence[Blob], start: Place = BEGINNING
) -> Generator[BlobPiece, None, None]:
    """Yield the content of blobs, one blob after another.

    Many requests run at once, because a chain is expected on consecutive pages, except the page
    of the lock byte. Each page is used only if its predecessor points to it. If a chain goes on at
    another page, reading goes on there, with short requests first and longer ones later.

    Parameters
    ----------
    pages
        Pages of the file.
    blobs
        Blobs from `BlobTable.blobs`.
    start
        Place where reading begins: the place of an earlier piece of the same blobs.

    Yields
    ------
    BlobPiece
        The pieces in order, without gaps, each of at most 512 KiB or one page.

    Raises
    ------
    DatabaseError
        A chain ends early, leads out of the file, or leads back to a page that was read.
    VFSError
        A request failed, see `vfs.errors`.
    """
    _check_size(pages, blobs)
    layout, visited = pages.layout, VisitedMany(pages)
    room = layout.usable - 4
    ahead = Ahead(pages, _spans(layout, blobs, start))
    try:
        for row in range(start.row, len(blobs)):
            blob = blobs[row]
            page, at = _chain_begin(blob, row, start)
            if blob.local and (row > start.row or not start.page):
                yield BlobPiece(blob.local, Place(row, 0, 0))
            while at < blob.size:
                _check_page(pages, page, blob.size - at)
                first, body = ahead.get(page) or ahead.restart(
                    page, _spans(layout, blobs, Place(row, page, at))
                )
                run = body[page - first : page - first - (at - blob.size) // room]
                following = run[:, :4].copy().view(">u4").ravel()
                numbers = np.arange(page, page + len(run))
                breaks = np.flatnonzero(following[:-1] != numbers[1:])
                used = int(breaks[0]) + 1 if len(breaks) else len(run)
                visited.add(numbers[:used])
                content = run[:used, 4 : layout.usable].tobytes()[: blob.size - at]
                yield BlobPiece(content, Place(row, page, at))
                page, at = int(following[used - 1]), at + len(content)
                ahead.learn(used, jumps=len(breaks) > 0)
    finally:
        ahead.close()


def blob_ranges(
    pages: FilePages, blobs: Sequence[Blob], start: Place = BEGINNING
) -> list[tuple[int, int]]:
    """List the (start, end) byte ranges that `read_blobs` requests of consecutive chains.

    Raises
    ------
    DatabaseError
        The blobs are longer than the file.
    """
    _check_size(pages, blobs)
    size = pages.layout.page_size
    step = max(1, PIECE // size)
    return [
        ((at - 1) * size, min(at + step - 1, last) * size)
        for first, last in _spans(pages.layout, blobs, start)
        for at in range(first, last + 1, step)
    ]


def _check_size(pages: FilePages, blobs: Sequence[Blob]) -> None:
    layout = pages.layout
    room = layout.usable - 4
    needed = sum(-((len(blob.local) - blob.size) // room) for blob in blobs)
    if needed > layout.page_count:
        raise DatabaseError(
            f"{pages.name}: malformed: blobs of {sum(blob.size for blob in blobs):,} bytes in a "
            f"file of {layout.page_count:,} pages of {layout.page_size:,} bytes"
        )


def _check_page(pages: FilePages, page: int, left: int) -> None:
    count = pages.layout.page_count
    if not 1 <= page <= count or page == pages.layout.lock_page:
        raise DatabaseError(
            f"{pages.name}: malformed: an overflow chain goes on at page {page} of {count:,} "
            f"with {left:,} bytes missing"
        )


def _find(head: bytes, column: int) -> tuple[int, int]:
    """Find the offset and length of a blob in a record; the offset is -1 if it is no blob."""
    header, at = read_varint(head, 0)
    if not at <= header <= len(head):
        raise IndexError
    begin, kind = header, 0
    for position in range(column + 1):
        if at >= header:
            return -1, 0
        if position:
            begin += size_of(kind)
        kind, at = read_varint(head, at)
    return (begin, size_of(kind)) if kind >= 12 and kind % 2 == 0 else (-1, 0)


def _spans(layout: Layout, blobs: Sequence[Blob], start: Place) -> Iterator[Span]:
    """Yield the expected runs of overflow pages, (first, last), without the lock byte's page."""
    room = layout.usable - 4
    for row in range(start.row, len(blobs)):
        blob = blobs[row]
        page, at = _chain_begin(blob, row, start)
        count = -((at - blob.size) // room)
        if not count or not 1 <= page <= layout.page_count:
            continue  # `read_blobs` raises the error for a bad page
        last = page + count - 1
        if page < layout.lock_page <= last:
            yield page, layout.lock_page - 1
            page, last = layout.lock_page + 1, last + 1
        if page <= layout.page_count:
            yield page, min(last, layout.page_count)


def _chain_begin(blob: Blob, row: int, start: Place) -> tuple[int, int]:
    """Return the first overflow page to read, and the number of the blob's bytes before it."""
    if row == start.row and start.page:
        return start.page, start.at
    return blob.overflow, len(blob.local)
