"""Lookup of many row ids in a table b-tree, level by level (file format, section 1.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vfs.btree.record import Bytes, Ints, Page, Value, concatenate, read_varints
from vfs.btree.tree import INTERIOR_HEADER, LEAF_HEADER, LEAST_CELL, BTree, Visited, repeats
from vfs.btree.walk import Walk


@dataclass(frozen=True)
class TableNode:
    """An interior page of a table b-tree.

    Child i has the row ids up to keys[i]; the last child has the row ids above the last key.

    Attributes
    ----------
    keys
        Rising row ids, int64, shape (n,).
    children
        Page numbers of the children, int64, shape (n + 1,).
    """

    keys: Ints
    children: Ints


@dataclass
class Rows:
    """Records of a table, for vectorised decoding.

    Attributes
    ----------
    rowids
        Row ids of the records, rising, int64, shape (n,).
    data
        uint8 array that contains the records, with at least nine bytes behind each record.
    starts, sizes
        Offset of each record in `data`, and its length in bytes, int64, shape (n,).
    """

    rowids: Ints
    data: Bytes
    starts: Ints
    sizes: Ints

    @classmethod
    def of(cls, first: int, records: Sequence[bytes]) -> Rows:
        """Join records with consecutive row ids.

        Parameters
        ----------
        first
            Row id of the first record.
        records
            The records, in order.
        """
        data, starts = concatenate(records)
        sizes = np.fromiter(map(len, records), np.int64, len(records))
        return cls(np.arange(first, first + len(records)), data, starts, sizes)


class Table(BTree[TableNode]):
    """A table b-tree, which stores records by row id."""

    interior_type = 5
    leaf_type = 13

    @property
    def most_local(self) -> int:
        """Length in bytes of the longest record that needs no overflow page."""
        return self.layout.usable - 35

    def find(self, rowids: npt.ArrayLike) -> Walk[Rows]:
        """Look up rows by row id.

        Parameters
        ----------
        rowids
            Row ids in any order; a repeated one is looked up once.

        Returns
        -------
        Rows
            The rows that exist.
        """
        ids = np.unique(np.asarray(rowids, np.int64))
        pages = np.full(len(ids), self.root)  # for each row id, the next page of its descent
        found: list[Page] = []
        shares: list[int] = []
        sought = [ids[:0]]
        visited, height = Visited(self.name), 0
        while len(ids):
            cuts = np.flatnonzero(pages[1:] != pages[:-1]) + 1
            begins = [0, *cuts.tolist()]
            ends = [*begins[1:], len(ids)]
            numbers = pages[begins].tolist()
            if len(set(numbers)) < len(numbers):
                raise self.malformed(self.root, "a page twice below it")
            visited.add(numbers)
            leaves = yield from self.level(dict.fromkeys(numbers), height)
            found += leaves.values()
            above = np.ones(len(ids), bool)
            for number, begin, end in zip(numbers, begins, ends, strict=True):
                if number in leaves:
                    shares.append(end - begin)
                    above[begin:end] = False
                else:
                    node = self.interior[number]
                    following = np.searchsorted(node.keys, ids[begin:end])
                    pages[begin:end] = node.children[following]
            if leaves:
                sought.append(ids[~above])
                ids, pages = ids[above], pages[above]
            height += 1
        data, starts = concatenate(found)
        base = np.repeat(starts, shares)
        sought_ids = np.concatenate(sought)
        cells = self._search(data, base, sought_ids)
        exists = cells >= 0
        rows = yield from self._records(data, base[exists], cells[exists], visited)
        order = np.argsort(sought_ids[exists])
        return Rows(sought_ids[exists][order], rows.data, rows.starts[order], rows.sizes[order])

    def leaves(self, last: int) -> Walk[Ints]:
        """List leaf pages by reading the interior pages only, and at most one leaf.

        Parameters
        ----------
        last
            The greatest row id of interest.

        Returns
        -------
        ndarray
            Numbers of the leaf pages that have the rows up to `last`, in row order, int64, shape
            (n,).
        """
        if self.depth is None:
            yield from self.find([1])
        depth, level = self.depth or 0, np.array([self.root], np.int64)
        for height in range(depth):
            numbers = level.tolist()
            if (yield from self.level(dict.fromkeys(numbers), height)):
                raise self.malformed(self.root, "leaves at different depths below it")
            nodes = [self.interior[number] for number in numbers]
            below = [node.children[: np.searchsorted(node.keys, last) + 1] for node in nodes]
            level = np.concatenate(below)
            if repeats(level):
                raise self.malformed(self.root, "a page twice below it")
        return level

    def rows_of(self, leaves: Ints, data: Bytes, starts: Ints, visited: Visited) -> Walk[Rows]:
        """Read all rows of leaf pages.

        Parameters
        ----------
        leaves
            Page numbers in the order of `Table.leaves`, int64, shape (n,).
        data
            uint8 array that contains the pages, with at least 18 bytes behind the last page.
        starts
            Offset of each page in `data`, int64, shape (n,).
        visited
            The pages that the scan visited; one object for all calls of a scan.

        Returns
        -------
        Rows
            All rows of the pages.
        """
        visited.add(leaves.tolist())
        kinds = data[starts]
        if np.any(kinds != self.leaf_type) or np.any(leaves == 1):
            number = int(leaves[(kinds != self.leaf_type) | (leaves == 1)][0])
            raise self.malformed(number, "no leaf where the pages above it have one")
        counts = data[starts + 3].astype(np.int64) << 8 | data[starts + 4]
        if np.any(LEAF_HEADER + 2 * counts > self.layout.usable):
            raise self.malformed(self.root, "a leaf of too many cells below it")
        base = np.repeat(starts, counts)
        position = np.arange(len(base)) - np.repeat(np.cumsum(counts) - counts, counts)
        pointers = base + LEAF_HEADER + 2 * position
        offsets = data[pointers].astype(np.int64) << 8 | data[pointers + 1]
        if np.any(offsets + LEAST_CELL - 2 > self.layout.usable):
            raise self.malformed(self.root, "a cell outside of its leaf below it")
        rows = yield from self._records(data, base, base + offsets, visited)
        if np.any(rows.rowids[1:] <= rows.rowids[:-1]):
            raise self.malformed(self.root, "row ids out of order below it")
        return rows

    def scan(self, *, most_pages: int) -> Walk[list[tuple[int, list[Value]]]]:
        """Read a whole small table.

        Parameters
        ----------
        most_pages
            Greatest permitted number of leaf and interior pages.

        Returns
        -------
        list of (row id, values)
            The rows, in the order of row ids.

        Raises
        ------
        DatabaseError
            The table has more pages, or is malformed.
        """
        visited = Visited(self.name)
        data, base, cells = yield from self._all_cells(most_pages, visited)
        rows = yield from self._records(data, base, cells, visited)
        if np.any(rows.rowids[1:] <= rows.rowids[:-1]):
            raise self.malformed(self.root, "row ids out of order below it")
        payload = rows.data.tobytes()
        return [
            (rowid, self.decode(payload[start : start + size]))
            for rowid, start, size in zip(
                rows.rowids.tolist(), rows.starts.tolist(), rows.sizes.tolist(), strict=True
            )
        ]

    def _all_cells(self, most_pages: int, visited: Visited) -> Walk[tuple[Bytes, Ints, Ints]]:
        """Read all leaves.

        Returns
        -------
        data, base, cells
            uint8 array of the leaves, and for each cell the offset of its page and its own offset
            in the array.
        """
        found: list[tuple[Page, Ints]] = []
        level, height, count = [self.root], 0, 0
        while level:
            count += len(level)
            if count > most_pages:
                raise self.malformed(self.root, f"more than {most_pages} pages below it")
            visited.add(level)
            leaves = yield from self.level(dict.fromkeys(level), height)
            for number, page in leaves.items():
                found.append((page, self.cell_offsets(number, page, LEAF_HEADER)))
            parents = [number for number in level if number not in leaves]
            level = [int(child) for number in parents for child in self.interior[number].children]
            if len(set(level)) < len(level):
                raise self.malformed(self.root, "a page twice below it")
            height += 1
        data, starts = concatenate([page for page, _ in found])
        base = np.repeat(starts, [len(cells) for _, cells in found])
        cells = base + np.concatenate([cells for _, cells in found])
        return data, base, cells

    def _interior(self, number: int, page: Page) -> TableNode:
        cells = self.cell_offsets(number, page, INTERIOR_HEADER)
        data, _ = concatenate([page])
        children = sum(data[cells + i].astype(np.int64) << (24 - 8 * i) for i in range(4))
        keys, _ = read_varints(data, cells + 4)
        if np.any(keys[1:] <= keys[:-1]):
            raise self.malformed(number, "row ids out of order")
        last = self._last_child(number, page)
        return TableNode(keys, np.append(children, last).astype(np.int64))

    def _search(self, data: Bytes, base: Ints, rowids: Ints) -> Ints:
        """Find the cell of each row id in its leaf.

        Row ids usually have no gaps, so that a cell's position follows from the first row id of
        the leaf. If any row id is not there, a binary search looks up all of them.

        Parameters
        ----------
        data
            uint8 array that contains the leaves.
        base
            Offset in `data` of the leaf of each row id, int64, shape (n,).
        rowids
            int64, shape (n,).

        Returns
        -------
        ndarray
            Offset in `data` of each cell, -1 if the leaf does not have the row id, int64, shape
            (n,).
        """
        usable = self.layout.usable
        counts = data[base + 3].astype(np.int64) << 8 | data[base + 4]
        if np.any(LEAF_HEADER + 2 * counts > usable):
            raise self.malformed(self.root, "a leaf of too many cells below it")
        filled = counts > 0
        if not filled.all():
            cells = np.full_like(rowids, -1)
            cells[filled] = self._search(data, base[filled], rowids[filled])
            return cells

        def cell_at(position: Ints) -> Ints:
            pointer = base + LEAF_HEADER + 2 * position
            offsets = data[pointer].astype(np.int64) << 8 | data[pointer + 1]
            if np.any(offsets + LEAST_CELL - 2 > usable):
                raise self.malformed(self.root, "a cell outside of its leaf below it")
            cells: Ints = base + offsets
            return cells

        def rowid_at(cells: Ints) -> Ints:
            return read_varints(data, read_varints(data, cells)[1])[0]

        last = counts - 1
        first = rowid_at(cell_at(np.zeros_like(base)))
        cells = cell_at(np.clip(rowids - first, 0, last))
        missed = rowid_at(cells) != rowids
        if missed.any():
            low, high = np.zeros_like(last), last
            while np.any(low < high):
                middle = (low + high) // 2
                less = rowid_at(cell_at(middle)) < rowids
                low = np.where(less & (low < high), middle + 1, low)
                high = np.where(less, high, middle)
            cells = cell_at(low)
            missed = rowid_at(cells) != rowids
        cells[missed] = -1
        return cells

    def _records(self, data: Bytes, base: Ints, cells: Ints, visited: Visited) -> Walk[Rows]:
        """Read the records of leaf cells, overflow chains included."""
        rowids, at, sizes, local = self._locate(data, base, cells)
        spilt = local < sizes
        if spilt.any():
            which = np.flatnonzero(spilt)
            heads = [data[at[i] : at[i] + local[i] + 4].tobytes() for i in which]
            chains = [
                (int.from_bytes(head[-4:], "big"), int(sizes[i] - local[i]))
                for head, i in zip(heads, which, strict=True)
            ]
            tails = yield from self.chains(chains, visited)
            whole = [head[:-4] + tail for head, tail in zip(heads, tails, strict=True)]
            data, starts = concatenate([data.tobytes(), *whole])
            at[which] = starts[1:]
        return Rows(rowids, data, at, sizes)

    def _locate(self, data: Bytes, base: Ints, cells: Ints) -> tuple[Ints, Ints, Ints, Ints]:
        """Read row ids and record lengths of leaf cells.

        Returns
        -------
        rowids, starts, sizes, local
            The row id of each cell, and its record's offset, length in bytes, and number of bytes
            in the page; each int64, shape (n,).
        """
        sizes, at = read_varints(data, cells)
        rowids, at = read_varints(data, at)
        local = self.local_size(sizes)
        ends = at + local + np.where(local < sizes, 4, 0)
        if np.any(sizes < 0) or np.any(ends > base + self.layout.usable):
            raise self.malformed(self.root, "a record outside of its page below it")
        order = np.argsort(cells)
        if np.any(ends[order][:-1] > cells[order][1:]):
            raise self.malformed(self.root, "records that overlap below it")
        return rowids, at, sizes, local
