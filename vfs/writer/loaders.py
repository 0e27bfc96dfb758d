"""Bulk loaders of table and index b-trees, from sorted records (file format, section 1.6)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np

from vfs.btree.index import Index
from vfs.btree.table import Rows, Table
from vfs.btree.tree import INTERIOR_HEADER, LEAF_HEADER
from vfs.writer.page_builder import POINTER, Cell, Divider, Loader
from vfs.writer.page_file import PageFile, Stream
from vfs.writer.record import encode_varint, encode_varints


class TableLoader(Loader):
    """A table that is being written, see `DatabaseWriter.table`."""

    leaf_type = Table.leaf_type
    interior_type = Table.interior_type

    def __init__(self, pages: PageFile, *, front: bool = False) -> None:
        super().__init__(pages, front=front)
        self._most_local = pages.page_size - 35
        self._cells: list[Cell] = []
        self._used = 0
        self._last: int | None = None

    def add(self, rows: Rows) -> None:
        """Add complete records.

        Parameters
        ----------
        rows
            The records, with rising row ids.

        Raises
        ------
        ValueError
            The row ids do not rise.
        """
        self._check_open()
        wrong = np.flatnonzero(rows.rowids[1:] <= rows.rowids[:-1])
        if len(wrong):
            self._check_order(*rows.rowids[wrong[0] : wrong[0] + 2].tolist())
        if not len(rows.rowids):
            return
        self._check_order(self._last, int(rows.rowids[0]))
        joined, ends = encode_varints(np.column_stack([rows.sizes, rows.rowids]).ravel())
        data = memoryview(rows.data.data)
        most, begin, last = self._most_local, 0, self._last
        for rowid, start, size, end in zip(
            rows.rowids.tolist(),
            rows.starts.tolist(),
            rows.sizes.tolist(),
            ends[1::2].tolist(),
            strict=True,
        ):
            head, record = joined[begin:end], data[start : start + size]
            begin = end
            if size <= most:
                cell: Cell = head + record
            else:
                cell = self._cell(head, size, Stream([bytes(record)]))
            self._used += len(cell) + POINTER
            if self._used > self._room:
                self._last = last
                self._close_leaf()
                self._used = len(cell) + POINTER
            self._cells.append(cell)
            last = rowid
        self._last = last

    def add_record(self, rowid: int, record: bytes) -> None:
        """Add one complete record.

        Raises
        ------
        ValueError
            The row id is not above the row ids of earlier records.
        """
        self._check_open()
        self._append(rowid, len(record), Stream([record]))

    def add_stream(self, rowid: int, size: int, pieces: Iterable[bytes]) -> None:
        """Add one large record that is never whole in memory.

        Parameters
        ----------
        rowid, size
            Row id of the record, and its length in bytes.
        pieces
            Pieces of the record, of any length.

        Raises
        ------
        ValueError
            The row id is not above the row ids of earlier records, or the pieces do not have
            `size` bytes in total.
        """
        self._check_open()
        self._append(rowid, size, Stream(pieces))
        self._close_leaf()

    def finish(self) -> int:
        """Write the interior pages behind the leaves, and return the root page's number."""
        self._check_open()
        self._finish_leaves()
        return self._write_levels()

    def finish_on(self, room: int) -> tuple[int, Sequence[bytes], bytes]:
        """Write all pages but the root, and return the content of the root.

        Parameters
        ----------
        room
            Bytes of the root page for its page header, cell pointers and cells.

        Returns
        -------
        kind, cells, right
            Arguments of `build_page` for the root page.
        """
        self.finished = True
        if not self._level and self._used <= room - LEAF_HEADER:
            placed, chains = self._place(self._cells)
            self._write_chains(chains)
            return self.leaf_type, placed, b""
        self._finish_leaves()
        while True:
            cells = list(islice(self._level, len(self._level) - 1))
            if sum(map(len, cells)) + POINTER * len(cells) <= room - INTERIOR_HEADER:
                return self.interior_type, cells, self._level.last()
            self._level = self._write_level(self._level)

    def _append(self, rowid: int, size: int, record: Stream) -> None:
        self._check_order(self._last, rowid)
        cell = self._cell(encode_varint(size) + encode_varint(rowid), size, record)
        self._used += len(cell) + POINTER
        if self._used > self._room:
            self._close_leaf()
            self._used = len(cell) + POINTER
        self._cells.append(cell)
        self._last = rowid

    def _close_leaf(self) -> None:
        self._write_leaf(self._cells, encode_varint(self._last or 0))
        self._cells, self._used = [], 0

    def _finish_leaves(self) -> None:
        if self._cells or not self._level:
            self._close_leaf()

    def _check_order(self, before: int | None, rowid: int) -> None:
        if before is not None and rowid <= before:
            raise ValueError(f"expected rising row ids, found {rowid} after {before}")


class IndexLoader(Loader):
    """An index that is being written, see `DatabaseWriter.index`."""

    leaf_type = Index.leaf_type
    interior_type = Index.interior_type

    def __init__(self, pages: PageFile, *, front: bool = False) -> None:
        super().__init__(pages, front=front)
        self._most_local = (pages.page_size - 12) * 64 // 255 - 23
        self._heads = [encode_varint(size) for size in range(self._most_local + 1)]
        self._divider = Divider[Cell](self._room, self._write_leaf)

    def add(self, records: Iterable[bytes]) -> None:
        """Add entries.

        Parameters
        ----------
        records
            Complete records, each of a key and its row id, in the order of the index. The order is
            not checked.
        """
        self._check_open()
        heads, most, add = self._heads, self._most_local, self._divider.add
        for record in records:
            size = len(record)
            if size <= most:
                add(heads[size] + record)
            else:
                add(self._cell(encode_varint(size), size, Stream([record])))

    def finish(self) -> int:
        """Write the interior pages behind the leaves, and return the root page's number."""
        self._check_open()
        self._write_leaf(self._divider.finish(), b"")
        return self._write_levels()
