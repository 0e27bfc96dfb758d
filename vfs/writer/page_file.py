"""The pages of a SQLite file that is being written, given out and stored in order."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from itertools import chain

from vfs.btree.pages import LOCK_BYTE
from vfs.btree.record import Page

BUFFER = 1 << 20


class PageFile:
    """A new file, divided into pages.

    Parameters
    ----------
    path
        Created, or emptied.
    page_size
        In bytes.
    reserve
        Pages behind page 1 that are only given out for what goes to the front.
    held
        How many of these, the first ones, are not given out before `release`.

    Attributes
    ----------
    page_count
        Up to the last page given out.
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
        self._begin = self._end = 0  # pages before and up to the last one that waits
        self._most_waiting = max(1, BUFFER // page_size)
        self._file = io.FileIO(path, "w")

    def allocate(self, count: int, *, front: bool) -> list[range]:
        """Give out pages, consecutive ones as far as possible; never the one of the lock byte.

        Parameters
        ----------
        count
            At least 1.
        front
            Take those of the reserve first, while that lasts.

        Returns
        -------
        list of range
            Page numbers, rising, `count` in all.
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
        """List the pages of the reserve that were not given out."""
        runs = [run for free in self._front for run in self._usable(free, len(free))]
        return [number for run in runs for number in run]

    def release(self) -> None:
        """Give the pages that were held out before all others."""
        self._front.insert(0, self._held)

    def put(self, number: int, page: bytes) -> None:
        """Store a page, at the latest with `flush`."""
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
        """Write what waits; every page up to `page_count` is then there, zeros if never stored.

        Parameters
        ----------
        sync
            Wait until it is on the disk.
        """
        self._write()
        self._file.truncate(self.page_count * self.page_size)
        if sync:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file, without what was not written."""
        self._file.close()

    def _usable(self, among: range, count: int) -> list[range]:
        """Cut the first so many pages from a range, without the page of the lock byte."""
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
    """Bytes that come in pieces.

    Parameters
    ----------
    pieces
        Of any lengths.
    """

    def __init__(self, pieces: Iterable[Page]) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")

    def take(self, size: int) -> Page:
        """Give the next bytes.

        Raises
        ------
        ValueError
            There are fewer.
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
        """Make sure that nothing is left.

        Raises
        ------
        ValueError
            There is.
        """
        if self._rest or any(map(len, self._pieces)):
            raise ValueError("the pieces of a record are longer than its size")
