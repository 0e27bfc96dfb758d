"""Allocation and output of the pages of a SQLite file that is being written."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from itertools import chain

from vfs.btree.pages import LOCK_BYTE
from vfs.btree.record import Page

BUFFER = 1 << 20  # bytes of consecutive pages that one write joins


class PageFile:
    """A new file, divided into pages.

    Parameters
    ----------
    path
        Path of the file, which is created or emptied.
    page_size
        Page size in bytes.
    reserve
        Number of pages behind page 1 that only `allocate` with `front` gives out.
    held
        Number of pages at the beginning of the reserve that are not given out before `release`.

    Attributes
    ----------
    page_count
        Number of the last page given out, or of the reserve's last page if that is greater.
    """

    def __init__(
        self, path: str | os.PathLike[str], page_size: int, reserve: int, held: int = 0
    ) -> None:
        self.page_size = page_size
        self.page_count = 1 + reserve
        self._held = range(2, 2 + held)
        self._front = [range(2 + held, 2 + reserve)]
        self._lock_page = LOCK_BYTE // page_size + 1
        self._waiting: list[bytes] = []
        self._begin = self._end = 0  # pages before the first, and up to the last waiting page
        self._most_waiting = max(1, BUFFER // page_size)
        self._file = io.FileIO(path, "w")

    def allocate(self, count: int, *, front: bool) -> list[range]:
        """Allocate pages, as consecutive as possible, without the page of the lock byte.

        Parameters
        ----------
        count
            Number of pages, at least 1.
        front
            Whether to take pages of the reserve first.

        Returns
        -------
        list of range
            Rising page numbers, `count` in total.
        """
        runs: list[range] = []
        for at, free in enumerate(self._front if front else ()):
            taken = self._usable(free, count)
            if taken:
                self._front[at] = range(taken[-1].stop, free.stop)
                count -= sum(map(len, taken))
                runs += taken
        if count:
            begin = self.page_count + 1
            runs += self._usable(range(begin, begin + count + 1), count)
            self.page_count = runs[-1].stop - 1
        return runs

    def unused(self) -> list[int]:
        """List the pages of the reserve that were not allocated."""
        runs = [run for free in self._front for run in self._usable(free, len(free))]
        return [number for run in runs for number in run]

    def release(self) -> None:
        """Let `allocate` with `front` take the held pages, before all others."""
        self._front.insert(0, self._held)

    def put(self, number: int, page: bytes) -> None:
        """Store a page; the file has it after `flush` at the latest."""
        if number != self._end + 1 or len(self._waiting) >= self._most_waiting:
            self._write()
            self._begin = number - 1
        self._end = number
        self._waiting.append(page)

    def put_chain(self, runs: Sequence[range], size: int, content: Stream) -> None:
        """Store bytes in a chain of overflow pages (file format, section 1.6)."""
        room = self.page_size - 4
        numbers = chain.from_iterable(runs)
        following = next(numbers)
        while size > 0:
            number, following = following, next(numbers, 0)
            part = content.take(min(size, room))
            size -= len(part)
            page = b"".join((following.to_bytes(4, "big"), part, bytes(room - len(part))))
            self.put(number, page)

    def flush(self, *, sync: bool = False) -> None:
        """Write waiting pages; the file then has `page_count` pages, of zeros if never stored.

        Parameters
        ----------
        sync
            Whether to wait until the pages are on disk.
        """
        self._write()
        self._file.truncate(self.page_count * self.page_size)
        if sync:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file, without writing waiting pages."""
        self._file.close()

    def _usable(self, among: range, count: int) -> list[range]:
        """Take the first `count` pages of a range, without the page of the lock byte."""
        whole = among[: count + (self._lock_page in among[:count])]
        before = range(whole.start, min(whole.stop, self._lock_page))
        behind = range(max(whole.start, self._lock_page + 1), whole.stop)
        return [run for run in (before, behind) if run]

    def _write(self) -> None:
        data = memoryview(b"".join(self._waiting))
        self._waiting.clear()
        self._file.seek(self._begin * self.page_size)
        while data:
            data = data[self._file.write(data) :]
        self._begin = self._end


class Stream:
    """Reader of bytes that come in pieces.

    Parameters
    ----------
    pieces
        Pieces of any length.
    """

    def __init__(self, pieces: Iterable[Page]) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")

    def take(self, size: int) -> Page:
        """Return the next `size` bytes.

        Raises
        ------
        ValueError
            Fewer bytes are left.
        """
        parts: list[Page] = []
        missing = size
        while missing > len(self._rest):
            parts.append(self._rest)
            missing -= len(self._rest)
            try:
                self._rest = memoryview(next(self._pieces))
            except StopIteration:
                raise ValueError(
                    f"the pieces of a record end {missing:,} bytes before its size"
                ) from None
        part, self._rest = self._rest[:missing], self._rest[missing:]
        return b"".join((*parts, part)) if parts else part

    def end(self) -> None:
        """Check that no bytes are left.

        Raises
        ------
        ValueError
            Bytes are left.
        """
        if self._rest or any(map(len, self._pieces)):
            raise ValueError("the pieces of a record are longer than its size")
