"""The pages of a SQLite file, remote or local (https://sqlite.org/fileformat2.html, section 1)."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from vfs.btree.record import MARGIN, Bytes, Ints, Page, concatenate
from vfs.errors import DatabaseError, FileChangedError
from vfs.remote_file import RemoteFile

MAGIC = b"SQLite format 3\0"
LOCK_BYTE = 1 << 30


class Layout:
    """Page size, page count and usable size of a database file, read from its header.

    Parameters
    ----------
    name
        The file's name, for messages.
    header
        The first 100 bytes of the file, or more.
    size
        The file's length in bytes.

    Raises
    ------
    DatabaseError
        The file is no SQLite database, its text encoding is not UTF-8, its header is damaged, or
        the file is truncated.
    """

    def __init__(self, name: str, header: bytes, size: int) -> None:
        if len(header) < 100 or not header.startswith(MAGIC):
            raise DatabaseError(
                f"{name}: not a SQLite database: expected the first bytes {MAGIC!r}, "
                f"found {header[:16]!r}"
            )
        self.page_size: int = struct.unpack_from(">H", header, 16)[0]
        if self.page_size == 1:
            self.page_size = 65536
        self.usable = self.page_size - header[20]
        encoding = struct.unpack_from(">I", header, 56)[0]
        if self.page_size < 512 or self.page_size & (self.page_size - 1) or self.usable < 480:
            raise DatabaseError(
                f"{name}: the header is damaged: page size {self.page_size}, "
                f"{header[20]} bytes reserved"
            )
        if encoding not in (0, 1):
            raise DatabaseError(f"{name}: text encoding {encoding} is not supported, only UTF-8")
        self.page_count = size // self.page_size
        declared = struct.unpack_from(">I", header, 28)[0]
        if header[24:28] == header[92:96] and declared > self.page_count:
            raise DatabaseError(
                f"{name}: truncated: the header declares {declared:,} pages of {self.page_size} "
                f"bytes, the file has {size:,} bytes. Was the upload or download complete?"
            )
        self.lock_page = LOCK_BYTE // self.page_size + 1


class Pages(Protocol):
    """Interface through which a b-tree reads the pages of a file by number."""

    name: str
    layout: Layout

    def read(
        self, numbers: Iterable[int], *, spare: Sequence[int] = (), opening: bool = False
    ) -> dict[int, Page]:
        """Read pages in one wave, with the pages of `spare` that need no further wave."""

    def cached(self, number: int) -> Page | None:
        """Return a page if it needs no wave, else None."""

    def block(self, numbers: Ints) -> tuple[Bytes, Ints]:
        """Read pages for vectorised decoding.

        Parameters
        ----------
        numbers
            Page numbers, at least one, without repeats, int64, shape (n,).

        Returns
        -------
        data, starts
            A uint8 array with at least 18 bytes behind the last page, enough for two varints, and
            the offset of each page in the array, int64, shape (n,).
        """


class RemotePages:
    """Pages of a remote file.

    Parameters
    ----------
    file
        The file to read; other objects may read the same one.
    known
        Page bytes by number, from another source than the file. `cached` returns them.

    Attributes
    ----------
    version
        The version of the file when its header was read.

    Raises
    ------
    DatabaseError
        See `Layout`.
    """

    def __init__(self, file: RemoteFile, *, known: Mapping[int, bytes] | None = None) -> None:
        self.file = file
        self._known = known or {}
        self.name = file.name
        header = file.cached(0, 100)
        if header is None:
            header = file.read(0, 100)
        self.version = file.assumed
        self.layout = Layout(self.name, header, self.version.size)

    def read(
        self, numbers: Iterable[int], *, spare: Sequence[int] = (), opening: bool = False
    ) -> dict[int, Page]:
        """Read pages in one wave.

        Parameters
        ----------
        numbers
            Page numbers, from 1.
        spare
            Numbers of pages to fetch as well, on connections that the wave does not use.
        opening
            Whether the pages only serve to open the database. The cache keeps such pages longer
            than others. If it has all of `numbers`, they are returned without a request that
            validates the version of the file.

        Returns
        -------
        dict
            Page bytes by number: all of `numbers`, and the pages of `spare` that are cached after
            the wave.

        Raises
        ------
        DatabaseError
            A page number is outside the file.
        FileChangedError
            The file is no longer the version whose header was read.
        """
        wanted = list(numbers)
        check_pages(self, wanted)
        if opening:
            known = {number: self.cached(number) for number in wanted}
            if None not in known.values():
                return {number: page for number, page in known.items() if page is not None}
        size = self.layout.page_size
        ranges = [((number - 1) * size, size) for number in wanted]
        others = [((number - 1) * size, size) for number in spare]
        pages: dict[int, Page] = dict(
            zip(wanted, self.file.read_many(ranges, spare=others, keep=opening), strict=True)
        )
        for number in spare:
            page = self.cached(number)
            if page is not None:
                pages[number] = page
        if self.file.assumed != self.version:
            raise FileChangedError(f"{self.name}: the file changed since its header was read")
        return pages

    def cached(self, number: int) -> Page | None:
        """Return a page if it is in `known` or in the cache, else None."""
        size = self.layout.page_size
        if len(self._known.get(number, b"")) == size:
            return self._known[number]
        return self.file.cached((number - 1) * size, size)

    def block(self, numbers: Ints) -> tuple[Bytes, Ints]:
        """Read pages for vectorised decoding, see `Pages.block`."""
        return concatenate(list(self.read(numbers.tolist()).values()))

    def read_run(self, first: int, last: int) -> Page:
        """Read consecutive pages with one request, past the cache.

        Parameters
        ----------
        first, last
            Numbers of the first and the last page; both must be inside the file.

        Raises
        ------
        FileChangedError
            The file is no longer the version whose header was read.
        """
        size = self.layout.page_size
        (body,) = self.file.read_past_cache([((first - 1) * size, last * size)])
        if self.file.assumed != self.version:
            raise FileChangedError(f"{self.name}: the file changed since its header was read")
        return body


class LocalPages:
    """Pages of a local file, mapped into memory.

    Parameters
    ----------
    path
        Path of the file.

    Raises
    ------
    DatabaseError
        See `Layout`.
    OSError
        The file cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            self.layout = Layout(self.name, file.read(100), size)
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._view = memoryview(self._map)

    def read(
        self,
        numbers: Iterable[int],
        *,
        spare: Sequence[int] = (),
        opening: bool = False,
    ) -> dict[int, Page]:
        """Return pages as views of the file.

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
        """
        wanted = list(numbers)
        check_pages(self, wanted)
        size, file = self.layout.page_size, self._view
        return {number: file[(number - 1) * size : number * size] for number in wanted}

    def cached(self, number: int) -> Page | None:
        """Return a page."""
        return self.read([number])[number]

    def block(self, numbers: Ints) -> tuple[Bytes, Ints]:
        """Read pages for vectorised decoding, see `Pages.block`.

        The array is a view of the file if the pages are close together, else a copy.
        """
        first, last = int(numbers.min()), int(numbers.max())
        check_pages(self, [first, last])
        size = self.layout.page_size
        if last - first < 2 * len(numbers) and last * size + MARGIN <= len(self._view):
            view = self._view[(first - 1) * size : last * size + MARGIN]
            return np.frombuffer(view, np.uint8), (numbers - first) * size
        return concatenate(list(self.read(numbers.tolist()).values()))

    def release(self) -> None:
        """Release the memory of mapped pages; a later access reads a page from disk again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def read_run(self, first: int, last: int) -> Page:
        """Return consecutive pages as one view of the file, see `RemotePages.read_run`."""
        size = self.layout.page_size
        return self._view[(first - 1) * size : last * size]


FilePages = LocalPages | RemotePages


def check_pages(pages: Pages, numbers: Sequence[int]) -> None:
    """Raise an error if a page number is outside the file.

    Raises
    ------
    DatabaseError
        A page number is below 1 or above the page count; the message names the first such number.
    """
    count = pages.layout.page_count
    for number in numbers:
        if not 1 <= number <= count:
            raise DatabaseError(
                f"{pages.name}: malformed: a pointer to page {number} in a file of {count} pages"
            )
