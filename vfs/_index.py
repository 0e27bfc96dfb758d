"""Many keys down an index b-tree, level by level (file format, section 1.6)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vfs._pages import Pages
from vfs._record import Ints, Page, read_varint, size_of
from vfs._tree import INTERIOR_HEADER, LEAF_HEADER, BTree, Visited
from vfs._walk import Walk, together

Entry = tuple[bytes, int]
LEAST_RECORD = 3  # a header that says NULL and row id 0


def nocase(key: bytes) -> bytes:
    """Fold a key as SQLite's NOCASE compares it: ASCII letters only, to a NUL, then by length."""
    begin, nul, _ = key.partition(b"\0")
    return begin.lower() + nul + len(key).to_bytes(8, "big") if nul else key.lower()


@dataclass(frozen=True)
class Cell:
    """An entry of an index page.

    Attributes
    ----------
    local
        The part of its record that is in the page.
    size
        Length of the whole record.
    overflow
        The page where the rest begins, 0 if there is none.
    """

    local: bytes
    size: int
    overflow: int


@dataclass(frozen=True)
class IndexNode:
    """A page of an index; cell i lies between child i and child i + 1. Leaves have no children."""

    cells: Sequence[Cell] | _Cells
    children: Ints


class Index(BTree[IndexNode]):
    """An index b-tree on one text column: keys lead to row ids.

    Parameters
    ----------
    pages, root, rows
        See `Table`.
    fold
        The column's collation as a function: two keys sort as their folded forms do.
    """

    interior_type = 2
    leaf_type = 10

    def __init__(
        self, pages: Pages, root: int, rows: int = 0, *, fold: Callable[[bytes], bytes]
    ) -> None:
        super().__init__(pages, root, rows)
        self._fold = fold

    @property
    def most_local(self) -> int:
        """Bytes above which a record overflows."""
        return (self.layout.usable - 12) * 64 // 255 - 23

    def find(self, keys: Sequence[bytes]) -> Walk[list[list[Entry]]]:
        """Look keys up.

        Parameters
        ----------
        keys
            UTF-8.

        Returns
        -------
        list of list of (key, row id)
            For each key the entries equal to it under the collation, in the index's order.
        """
        folded = [self._fold(key) for key in keys]
        matches: dict[bytes, list[Entry]] = {key: [] for key in sorted(set(folded))}
        frontier: dict[int, list[bytes]] = {self.root: list(matches)} if matches else {}
        visited, height = Visited(self.name), 0
        while frontier:
            visited.add(frontier)
            leaves = yield from self._node_walk(frontier, height)
            found = yield from together(
                [
                    self._search(number, leaves.get(number), targets, visited)
                    for number, targets in frontier.items()
                ]
            )
            below: dict[int, list[bytes]] = {}
            for number, (entries, mine) in zip(frontier, found, strict=True):
                for target, entry in entries:
                    matches[target].append(entry)
                if not below.keys().isdisjoint(mine):
                    raise self.malformed(number, "a child that another page has too")
                below |= mine
            frontier, height = below, height + 1
        for equal in matches.values():
            equal.sort(key=lambda entry: entry[1])
        return [matches[target] for target in folded]

    def _search(
        self, number: int, leaf: Page | None, targets: Sequence[bytes], visited: Visited
    ) -> Walk[tuple[list[tuple[bytes, Entry]], dict[int, list[bytes]]]]:
        """Look rising folded keys up in one page: entries equal to them, and where to go on."""
        node = self.interior[number] if leaf is None else self._leaf(number, leaf)
        entries = _Entries(self, number, node, visited)
        equal: list[tuple[bytes, Entry]] = []
        below: dict[int, list[bytes]] = {}
        high = 0
        for target in targets:
            low = yield from self._bound(entries, target, high, 0)
            high = yield from self._bound(entries, target, low, 1)
            equal += [(target, entry) for entry in (yield from entries.decode(low, high))]
            for child in node.children[low : high + 1].tolist():
                below.setdefault(child, []).append(target)
        return equal, below

    def _bound(self, entries: _Entries, target: bytes, low: int, least: int) -> Walk[int]:
        """Find the first cell whose order against a folded key is not below `least`."""
        high = len(entries)
        while low < high:
            middle = (low + high) // 2
            order = yield from self._compare(entries, middle, target)
            if order < least:
                low = middle + 1
            else:
                high = middle
        return low

    def _compare(self, entries: _Entries, position: int, target: bytes) -> Walk[int]:
        """Compare a cell's key with a folded key; read its overflow only if it takes that."""
        local = entries.cell(position).local
        try:
            header, at = read_varint(local, 0)
            kind, _ = read_varint(local, at)
        except IndexError:
            raise self.malformed(entries.number, "a record cut off in its header") from None
        if kind < 13 or kind % 2 == 0:
            return 1 if kind >= 12 else -1  # NULL and numbers sort before text, blobs after
        end = header + size_of(kind)
        key = local[header:end]
        if len(local) < end:
            begin = self._fold(key)
            if b"\0" not in begin and not target.startswith(begin):
                return -1 if begin < target else 1
            record = yield from entries.record(position)
            key = record[header:end]
        folded = self._fold(key)
        return (folded > target) - (folded < target)

    def check_room(self, number: int, cells: Iterable[Cell]) -> list[Cell]:
        """Give the cells of an interior page, as long as they fit into one.

        Raises
        ------
        DatabaseError
            They are larger than a page together.
        """
        checked: list[Cell] = []
        room = self.layout.usable
        for cell in cells:
            checked.append(cell)
            room -= len(cell.local)
            if room < 0:
                raise self.malformed(number, "cells that overlap")
        return checked

    def _interior(self, number: int, page: Page) -> IndexNode:
        offsets = self._cell_offsets(number, page, INTERIOR_HEADER)
        encoded = _Cells(self, number, page, offsets + 4)
        cells = self.check_room(number, (encoded[i] for i in range(len(encoded))))
        children = [int.from_bytes(page[at : at + 4], "big") for at in offsets.tolist()]
        last = self._last_child(number, page)
        return IndexNode(cells, np.array([*children, last], np.int64))

    def _leaf(self, number: int, page: Page) -> IndexNode:
        offsets = self._cell_offsets(number, page, LEAF_HEADER)
        return IndexNode(_Cells(self, number, page, offsets), np.zeros(0, np.int64))


class _Entries:
    """The entries of one page, as one walk reads them.

    Parameters
    ----------
    index, number, node
        The page.
    visited
        By the walk, overflow pages included.
    """

    def __init__(self, index: Index, number: int, node: IndexNode, visited: Visited) -> None:
        self.number = number
        self._index, self._node, self._visited = index, node, visited
        self._records: dict[int, bytes] = {}
        self._room = index.layout.usable

    def __len__(self) -> int:
        return len(self._node.cells)

    def cell(self, position: int) -> Cell:
        """Give an entry's cell."""
        return self._node.cells[position]

    def record(self, position: int) -> Walk[bytes]:
        """Get an entry's whole record."""
        if position not in self._records:
            cell = self.cell(position)
            tail = b""
            if cell.overflow:
                chain = (cell.overflow, cell.size - len(cell.local))
                (tail,) = yield from self._index._chains([chain], self._visited)
            self._records[position] = cell.local + tail
        return self._records[position]

    def decode(self, low: int, high: int) -> Walk[list[Entry]]:
        """Get the keys and row ids of entries, none of them twice in a page's life."""
        decoded: list[Entry] = []
        for position in range(low, high):
            self._room -= len(self.cell(position).local)
            values = self._index._decode((yield from self.record(position)))
            key, rowid = values if len(values) == 2 else (None, None)
            if self._room < 0 or not isinstance(key, bytes) or not isinstance(rowid, int):
                raise self._index.malformed(self.number, "an entry that is no key and row id")
            decoded.append((key, rowid))
        return decoded


class _Cells:
    """The cells of an index page, decoded when looked at."""

    def __init__(self, index: Index, number: int, page: Page, offsets: Ints) -> None:
        self._index, self._number, self._page = index, number, page
        self._offsets: list[int] = offsets.tolist()

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, position: int) -> Cell:
        offset = self._offsets[position]
        try:
            size, at = read_varint(self._page, offset)
        except IndexError:
            raise self._index.malformed(self._number, "a cell outside of the page") from None
        local = size
        if size > self._index.most_local:
            local = int(self._index.local_size(np.array([size]))[0])
        spilt = 4 if local < size else 0
        if size < LEAST_RECORD or at + local + spilt > self._index.layout.usable:
            raise self._index.malformed(self._number, "a cell outside of the page")
        overflow = int.from_bytes(self._page[at + local : at + local + spilt], "big")
        if spilt and not 1 <= overflow <= self._index.layout.page_count:
            raise self._index.malformed(self._number, f"a record that overflows to page {overflow}")
        return Cell(bytes(self._page[at : at + local]), size, overflow)
