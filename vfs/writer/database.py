"""Writer of SQLite databases, page by page (https://sqlite.org/fileformat2.html, section 1)."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

from vfs.btree.pages import MAGIC
from vfs.options import expanded
from vfs.writer.loaders import IndexLoader, TableLoader
from vfs.writer.page_builder import Loader, build_page
from vfs.writer.page_file import PageFile
from vfs.writer.record import encode_record

PAGE_SIZES = [1 << bits for bits in range(9, 17)]
FILE_HEADER = 100
SQLITE_VERSION_NUMBER = 3_042_000  # the version that the header names as the last writer
SCHEMA_FORMAT = 4  # the first format with serial types 8 and 9, for the integers 0 and 1

SchemaRow = tuple[str, str, str, int, str | None]


class DatabaseWriter:
    """Writer of a whole database: tables and indexes one after another, from sorted records.

    SQL's limit on the number of columns does not apply. Memory holds about a megabyte of pages,
    the records of two leaves, and the interior cells of the b-tree that is being written.

    Parameters
    ----------
    path
        Path of the file, which is created or emptied.
    page_size
        Page size in bytes: 512, 1024 ... 65536.
    reserve
        Number of pages behind page 1 that are kept free for tables at the front of the file.
    schema
        Number of pages at the beginning of the reserve that only the schema may take.

    Raises
    ------
    ValueError
        SQLite does not have the page size, or the reserve is negative or smaller than `schema`.
    OSError
        The file cannot be written, for example because the disk is full. All methods raise this.
    """

    __module__ = "vfs"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        page_size: int = 4096,
        reserve: int = 0,
        schema: int = 0,
    ) -> None:
        if page_size not in PAGE_SIZES:
            raise ValueError(f"expected a page size of {PAGE_SIZES}, found {page_size}")
        if not 0 <= schema <= reserve:
            raise ValueError(
                f"expected a reserve of 0 pages or more, found {reserve}, {schema} for the schema"
            )
        self._pages = PageFile(expanded(path), page_size, reserve, schema)
        self._loader: Loader | None = None

    @property
    def page_count(self) -> int:
        """Number of pages of the file so far, the reserve included."""
        return self._pages.page_count

    def table(self, *, front: bool = False) -> TableLoader:
        """Begin a table, which must be finished before another b-tree begins.

        Parameters
        ----------
        front
            Whether to take pages of the reserve, as long as there are any, before pages at the end
            of the file.

        Raises
        ------
        ValueError
            Another b-tree is not finished.
        """
        self._check_idle()
        self._loader = loader = TableLoader(self._pages, front=front)
        return loader

    def index(self) -> IndexLoader:
        """Begin an index at the end of the file; see `table`."""
        self._check_idle()
        self._loader = loader = IndexLoader(self._pages)
        return loader

    def flush(self) -> None:
        """Write all pages so far and an empty schema, so that `vfs.LocalPages` can read them."""
        self._write_page_one(TableLoader.leaf_type, [], b"", [])
        self._pages.flush()

    def finish(self, schema: Sequence[SchemaRow]) -> None:
        """Write the schema and the freelist, which lists the unused reserve, and close the file.

        Parameters
        ----------
        schema
            Rows of sqlite_schema, tables first: (type, name, table name, root page, SQL).

        Raises
        ------
        ValueError
            A b-tree is not finished.
        """
        self._check_idle()
        self._pages.release()
        loader = TableLoader(self._pages, front=True)
        for rowid, row in enumerate(schema, 1):
            loader.add_record(rowid, encode_record(row))
        kind, cells, right = loader.finish_on(self._pages.page_size - FILE_HEADER)
        free = self._pages.unused()
        self._write_freelist(free)
        self._write_page_one(kind, cells, right, free)
        self._pages.flush(sync=True)
        self.close()

    def close(self) -> None:
        """Close the file; if `finish` was not called, the file is incomplete."""
        self._pages.close()

    def _check_idle(self) -> None:
        if self._loader is not None and not self._loader.finished:
            raise ValueError("a table or index is still being written: expected its `finish` first")

    def _write_page_one(
        self, kind: int, cells: Sequence[bytes], right: bytes, free: Sequence[int]
    ) -> None:
        page_size = self._pages.page_size
        header = file_header(page_size, self.page_count, free)
        page = build_page(kind, cells, page_size, right=right, before=header)
        self._pages.put(1, page)

    def _write_freelist(self, free: Sequence[int]) -> None:
        """Write the trunk pages of the freelist (section 1.5).

        A trunk page comes before the leaf pages that it lists.
        """
        page_size = self._pages.page_size
        trunk = page_size // 4 - 7  # a trunk page and its leaves: SQLite leaves six places empty
        for begin in range(0, len(free), trunk):
            number, *leaves = free[begin : begin + trunk]
            following = free[begin + trunk] if begin + trunk < len(free) else 0
            page = struct.pack(f">{2 + len(leaves)}I", following, len(leaves), *leaves)
            self._pages.put(number, page.ljust(page_size, b"\0"))


def file_header(page_size: int, page_count: int, free: Sequence[int]) -> bytes:
    """Make the header of a file, its first 100 bytes (section 1.3).

    Parameters
    ----------
    page_size, page_count
        Page size in bytes, and number of pages.
    free
        Page numbers of the freelist, in order.
    """
    # The file uses a rollback journal and reserves no bytes; the format fixes the fractions.
    versions, fractions = (1, 1, 0), (64, 32, 32)
    changes, encoding = 1, 1
    return struct.pack(
        ">16sH6B12I20x2I",
        MAGIC,
        page_size & 0xFFFF or 1,
        *versions,
        *fractions,
        changes,
        page_count,
        free[0] if free else 0,
        len(free),
        1,  # schema cookie
        SCHEMA_FORMAT,
        0,  # cache size: the default
        0,  # no autovacuum
        encoding,
        0,  # user version
        0,  # no incremental vacuum
        0,  # application id
        changes,
        SQLITE_VERSION_NUMBER,
    )
