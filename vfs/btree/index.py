"""Lookup of many keys in an index b-tree, level by level (file format, section 1.6)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from vfs.btree.index_cells import Cell, Cells, Entry, IndexNode
from vfs.btree.pages import Pages
from vfs.btree.record import Page, read_varint, size_of
from vfs.btree.tree import INTERIOR_HEADER, LEAF_HEADER, BTree, Visited
from vfs.btree.walk import Walk, together

Bounds = tuple[bytes | None, bytes | None]  # least and greatest folded key; None: no bound


def nocase(key: bytes) -> bytes:
    """Fold a key for SQLite's NOCASE collation.

    ASCII letters are folded to lower case, up to the first NUL; keys with a NUL that are equal up
    to it are compared by length.
    """
    begin, nul, _ = key.partition(b"\0")
    return begin.lower() + nul + len(key).to_bytes(8, "big") if nul else key.lower()


class Index(BTree[IndexNode]):
    """An index b-tree on one text column; its records are (key, row id).

    Parameters
    ----------
    pages, root, rows
        See `BTree`.
    fold
        The column's collation as a function: keys sort in the byte order of their folded forms.
    """

    interior_type = 2
    leaf_type = 10

    def __init__(
        self, pages: Pages, root: int, rows: int = 0, *, fold: Callable[[bytes], bytes]
    ) -> None:
        super().__init__(pages, root, rows)
        self.fold = fold

    @property
    def most_local(self) -> int:
        """Length in bytes of the longest record that needs no overflow page."""
        return (self.layout.usable - 12) * 64 // 255 - 23

    def find(self, keys: Sequence[bytes]) -> Walk[list[list[Entry]]]:
        """Look up keys.

        Parameters
        ----------
        keys
            Keys in UTF-8.

        Returns
        -------
        list of list of (key, row id)
            For each key, the entries whose keys are equal to it under the collation, by row id.
        """
        folded = [self.fold(key) for key in keys]
        matches: dict[bytes, list[Entry]] = {key: [] for key in sorted(set(folded))}
        frontier: dict[int, list[bytes]] = {self.root: list(matches)} if matches else {}
        visited, height = Visited(self.name), 0
        bounds: dict[int, Bounds] = {self.root: (None, None)}
        while frontier:
            visited.add(frontier)
            leaves = yield from self.level(frontier, height)
            found = yield from together(
                [
                    self._search(number, leaves.get(number), bounds[number], targets, visited)
                    for number, targets in frontier.items()
                ]
            )
            below: dict[int, list[bytes]] = {}
            bounds = {}
            for number, (entries, mine, within) in zip(frontier, found, strict=True):
                for target, entry in entries:
                    matches[target].append(entry)
                if not below.keys().isdisjoint(mine):
                    raise self.malformed(number, "a child that another page has too")
                below |= mine
                bounds |= within
            frontier, height = below, height + 1
        for equal in matches.values():
            equal.sort(key=lambda entry: entry[1])
        return [matches[target] for target in folded]

    def _search(
        self,
        number: int,
        leaf: Page | None,
        bounds: Bounds,
        targets: Sequence[bytes],
        visited: Visited,
    ) -> Walk[tuple[list[tuple[bytes, Entry]], dict[int, list[bytes]], dict[int, Bounds]]]:
        """Look up sorted folded keys in one page.

        Returns
        -------
        equal, below, within
            (folded key, entry) pairs of the page's entries that are equal to a key, the keys to
            look up in each child, and the bounds of each of these children.
        """
        node = self.interior[number] if leaf is None else self.leaf(number, leaf)
        entries = Entries(self, number, node, visited)
        equal: list[tuple[bytes, Entry]] = []
        below: dict[int, list[bytes]] = {}
        within: dict[int, Bounds] = {}
        high = 0
        if leaf is not None:
            self.check_bounds(number, node, bounds)
        for target in targets:
            low = yield from self._bound(entries, target, high, 0)
            high = yield from self._bound(entries, target, low, 1)
            equal += [(target, entry) for entry in (yield from entries.decode(low, high))]
            for place, child in enumerate(node.children[low : high + 1].tolist(), low):
                below.setdefault(child, []).append(target)
                if child not in within:
                    within[child] = self.bounds(node, place, bounds)
        return equal, below, within

    def bounds(self, node: IndexNode, place: int, bounds: Bounds) -> Bounds:
        """Return the bounds of the keys of a page's child.

        Parameters
        ----------
        node
            The page.
        place
            Position of the child among the page's children.
        bounds
            Bounds of the keys of the page.
        """
        least = self._folded(node, place - 1) if place else bounds[0]
        most = bounds[1] if place == len(node.cells) else self._folded(node, place)
        return least, most

    def beginning_with(self, node: IndexNode, prefix: bytes) -> tuple[int, int]:
        """Find the range of cells whose folded keys begin with a folded prefix.

        Returns
        -------
        first, end
            Positions of the first such cell, and of the first cell behind them.
        """

        def beginning(place: int) -> bytes:
            local = node.cells[place].local
            try:
                header, at = read_varint(local, 0)
                kind, _ = read_varint(local, at)
            except IndexError:
                return b""
            size = (kind - 13) // 2 if kind >= 13 and kind % 2 else 0
            return self.fold(local[header : header + size])[: len(prefix)]

        places = range(len(node.cells))
        return (
            bisect_left(places, prefix, key=beginning),
            bisect_right(places, prefix, key=beginning),
        )

    def check_bounds(self, number: int, leaf: IndexNode, bounds: Bounds) -> None:
        """Raise an error if the keys of a leaf are outside of the bounds from its parents.

        The parents may come from a router (see `unpack`) that was made of another file.

        Raises
        ------
        DatabaseError
            The first key is below the lower bound, or the last key is above the upper one.
        """
        if not len(leaf.cells):
            return
        first, last = self._folded(leaf, 0), self._folded(leaf, len(leaf.cells) - 1)
        least, most = bounds
        below = first is not None and least is not None and first < least
        if below or (last is not None and most is not None and last > most):
            raise self.malformed(number, "keys that do not belong there")

    def _folded(self, node: IndexNode, position: int) -> bytes | None:
        """Return a cell's folded key, None if it is no text or overflows its page."""
        local = node.cells[position].local
        try:
            header, at = read_varint(local, 0)
            kind, _ = read_varint(local, at)
        except IndexError:
            return None
        end = header + (kind - 13) // 2
        if kind < 13 or kind % 2 == 0 or end > len(local):
            return None
        return self.fold(local[header:end])

    def _bound(self, entries: Entries, target: bytes, low: int, least: int) -> Walk[int]:
        """Find the first cell from `low` on whose `_compare` result is at least `least`."""
        high = len(entries)
        while low < high:
            middle = (low + high) // 2
            order = yield from self._compare(entries, middle, target)
            if order < least:
                low = middle + 1
            else:
                high = middle
        return low

    def _compare(self, entries: Entries, position: int, target: bytes) -> Walk[int]:
        """Compare a cell's key with a folded key: -1, 0 or 1.

        The overflow chain is read only if the part of the key in the page does not decide.
        """
        local = entries.cell(position).local
        try:
            header, at = read_varint(local, 0)
            kind, _ = read_varint(local, at)
        except IndexError:
            raise self.malformed(entries.number, "a record cut off in its header") from None
        if kind < 13 or kind % 2 == 0:
            return 1 if kind >= 12 else -1  # NULL and numbers sort before text, blobs behind it
        end = header + size_of(kind)
        key = local[header:end]
        if len(local) < end:
            begin = self.fold(key)
            if b"\0" not in begin and not target.startswith(begin):
                return -1 if begin < target else 1
            record = yield from entries.record(position)
            key = record[header:end]
        folded = self.fold(key)
        return (folded > target) - (folded < target)

    def check_room(self, number: int, cells: Iterable[Cell]) -> list[Cell]:
        """Collect the cells of an interior page, and check that they fit into one page.

        Raises
        ------
        DatabaseError
            Their records are together longer than a page.
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
        offsets = self.cell_offsets(number, page, INTERIOR_HEADER)
        encoded = Cells(self, number, page, offsets + 4)
        cells = self.check_room(number, (encoded[i] for i in range(len(encoded))))
        children = [int.from_bytes(page[at : at + 4], "big") for at in offsets.tolist()]
        last = self._last_child(number, page)
        return IndexNode(cells, np.array([*children, last], np.int64))

    def leaf(self, number: int, page: Page) -> IndexNode:
        """Parse a leaf page whose bytes begin with the page header."""
        offsets = self.cell_offsets(number, page, LEAF_HEADER)
        return IndexNode(Cells(self, number, page, offsets), np.zeros(0, np.int64))


class Entries:
    """The entries of one page, read by one walk.

    Parameters
    ----------
    index, number, node
        The index, and the number and the node of the page.
    visited
        Pages that the walk visited, overflow pages included.
    """

    def __init__(self, index: Index, number: int, node: IndexNode, visited: Visited) -> None:
        self.number = number
        self._index, self._node, self._visited = index, node, visited
        self._records: dict[int, bytes] = {}
        self._room = index.layout.usable

    def __len__(self) -> int:
        return len(self._node.cells)

    def cell(self, position: int) -> Cell:
        """Return an entry's cell."""
        return self._node.cells[position]

    def record(self, position: int) -> Walk[bytes]:
        """Read an entry's whole record, its overflow chain included."""
        if position not in self._records:
            cell = self.cell(position)
            tail = b""
            if cell.overflow:
                chain = (cell.overflow, cell.size - len(cell.local))
                (tail,) = yield from self._index.chains([chain], self._visited)
            self._records[position] = cell.local + tail
        return self._records[position]

    def decode(self, low: int, high: int) -> Walk[list[Entry]]:
        """Decode the keys and row ids of entries; a walk decodes each entry at most once.

        Raises
        ------
        DatabaseError
            An entry is no key and row id, or the decoded entries are together longer than a page.
        """
        decoded: list[Entry] = []
        for position in range(low, high):
            self._room -= len(self.cell(position).local)
            values = self._index.decode((yield from self.record(position)))
            key, rowid = values if len(values) == 2 else (None, None)
            if self._room < 0 or not isinstance(key, bytes) or not isinstance(rowid, int):
                raise self._index.malformed(self.number, "an entry that is no key and row id")
            decoded.append((key, rowid))
        return decoded
