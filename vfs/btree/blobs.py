"""Blobs of any length as a stream, out of their overflow chains (file format, section 1.6)."""

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
    """Where one row has its blob.

    Attributes
    ----------
    local
        The first bytes.
    size
        Bytes in all.
    overflow
        Page of the next ones, 0 if there are none.
    """

    local: bytes
    size: int
    overflow: int


class Place(NamedTuple):
    """Where to go on in the blobs of some rows.

    Attributes
    ----------
    row
        Position of the row.
    page
        The overflow page, 0 for the row's beginning.
    at
        Bytes of the row's blob before that page.
    """

    row: int
    page: int
    at: int


BEGINNING = Place(0, 0, 0)


class BlobPiece(NamedTuple):
    """Consecutive bytes of a blob, and where they begin."""

    data: Page
    place: Place


class BlobTable(Table):
    """A table of a few rows, each with a blob too large for a record in memory."""

    def blobs(self, column: int) -> Walk[list[Blob]]:
        """Find the blobs of all rows, without their overflow pages.

        Parameters
        ----------
        column
            Position of the blob among the columns, from 0. What is before it must not overflow.

        Returns
        -------
        list of Blob
            In the order of row ids.

        Raises
        ------
        DatabaseError
            Another value in the column, or more than 256 pages.
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
        """Find all records, without their overflow pages, each as if it were a blob.

        Returns
        -------
        list of (row id, Blob)
            In the order of row ids.

        Raises
        ------
        DatabaseError
            More than 256 pages.
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
    """Read blobs one after another, each page only when the one before points to it.

    The pages of a chain are taken to follow each other in the file, but for the page of the lock
    byte, so that many requests are under way at once. Where they do not, reading goes on at the
    page pointed to, first with short requests, then with longer ones again.

    Parameters
    ----------
    pages
        Of the file.
    blobs
        As `BlobTable.blobs` found them.
    start
        Where to begin: the place of a piece that came from the same file.

    Yields
    ------
    BlobPiece
        In order, without gaps, of at most 512 KiB or a page.

    Raises
    ------
    DatabaseError
        A chain that ends early, leads out of the file or back to a page that was read.
    VFSError
        What a request failed with, see `vfs.errors`.
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
    """Tell the (start, end) byte ranges that `read_blobs` asks for if the chains are consecutive.

    Raises
    ------
    DatabaseError
        The file cannot hold so much.
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
    """Give the offset and length of a blob in a record; -1 as offset if it is none."""
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
    """Guess where the overflow pages are: (first, last), none of them the lock byte's."""
    room = layout.usable - 4
    for row in range(start.row, len(blobs)):
        blob = blobs[row]
        page, at = _chain_begin(blob, row, start)
        count = -((at - blob.size) // room)
        if not count or not 1 <= page <= layout.page_count:
            continue  # the reader will come to the same place, and say what is wrong
        last = page + count - 1
        if page < layout.lock_page <= last:
            yield page, layout.lock_page - 1
            page, last = layout.lock_page + 1, last + 1
        if page <= layout.page_count:
            yield page, min(last, layout.page_count)


def _chain_begin(blob: Blob, row: int, start: Place) -> tuple[int, int]:
    """Give the page of the chain to read first, and how much of the blob is before it."""
    if row == start.row and start.page:
        return start.page, start.at
    return blob.overflow, len(blob.local)
