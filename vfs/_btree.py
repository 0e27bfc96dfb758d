"""Many keys down a SQLite b-tree, level by level (file format, section 1.6).

Page numbers, pointers and lengths come from the file and are checked before use: a walk visits
no page twice and reads nothing outside of a page.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from vfs._pages import Pages
from vfs._record import (
    Bytes,
    Ints,
    Value,
    concatenate,
    decode_record,
    read_varint,
    read_varints,
    size_of,
)
from vfs._walk import Walk, read_chains
from vfs.errors import DatabaseError

INDEX_INTERIOR, TABLE_INTERIOR, INDEX_LEAF, TABLE_LEAF = 2, 5, 10, 13
MOST_PAYLOAD = 16 << 20
MOST_INTERIOR = 1 << 20
LEAST_CELL = 7  # bytes of the smallest leaf cell with a value in it, its pointer included

Node = TypeVar("Node", "TableNode", "IndexNode")


def nocase(key: bytes) -> bytes:
    """Fold a key as SQLite's NOCASE compares it: ASCII letters only, to a NUL, then by length."""
    begin, nul, _ = key.partition(b"\0")
    return begin.lower() + nul + len(key).to_bytes(8, "big") if nul else key.lower()


@dataclass(frozen=True)
class TableNode:
    """An interior page of a table: child i holds the row ids up to keys[i], the last one the rest.

    Attributes
    ----------
    keys
        int64, shape (n,).
    children
        Page numbers, int64, shape (n + 1,).
    """

    keys: Ints
    children: Ints


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


@dataclass
class Rows:
    """Records of a table, for vectorised decoding.

    Attributes
    ----------
    rowids
        The row ids that exist, rising, int64, shape (n,).
    data
        uint8 array that holds the records, with at least nine bytes behind each.
    starts, sizes
        Where each record begins and how long it is, int64, shape (n,).
    """

    rowids: Ints
    data: Bytes
    starts: Ints
    sizes: Ints


class _Tree(Generic[Node]):
    """What tables and indexes share: a root, and the interior pages seen so far.

    Parameters
    ----------
    pages
        The file; it names and measures, the walks themselves read nothing.
    root
        The root page.
    rows
        Number of entries, as far as known, which tells interior levels from leaves.
    """

    interior_type: int
    leaf_type: int

    def __init__(self, pages: Pages, root: int, rows: int = 0) -> None:
        self.root = root
        self.rows = rows
        self.interior: dict[int, Node] = {}
        self.depth: int | None = None
        self._pages = pages
        self._complete = False

    def learn(self, number: int, page: bytes) -> bool:
        """Remember a page if it is an interior one, and say so.

        Raises
        ------
        DatabaseError
            It is no page of such a tree.
        """
        kind = page[self._header_at(number)]
        if kind == self.leaf_type:
            return False
        if kind != self.interior_type:
            raise self._malformed(number, f"type {kind}")
        try:
            self.interior[number] = self._interior(number, page)
        except (IndexError, struct.error):
            raise self._malformed(number, "a cell outside of the page") from None
        return True

    def unknown(self) -> list[int]:
        """List the interior pages of the first level that is not all known.

        Empty if there are none, or if the level is larger than 1 MiB. A level is interior where
        the depth of the tree says so, or where it has too few pages to hold all entries.
        """
        if self._complete or self.root not in self.interior:
            return []
        layout = self._pages.layout
        level, height = [self.root], 0
        while not (missing := [number for number in level if number not in self.interior]):
            height += 1
            level = [int(child) for number in level for child in self.interior[number].children]
            most_in_leaf = layout.usable // LEAST_CELL
            if self.depth is None:
                interior = self.rows > len(level) * most_in_leaf
            else:
                interior = height < self.depth
            if not interior or len(level) * layout.page_size > MOST_INTERIOR:
                self._complete = self.depth is not None
                return []
        return missing

    def _interior(self, number: int, page: bytes) -> Node:
        raise NotImplementedError

    def _node_walk(self, wanted: Mapping[int, object], height: int) -> Walk[dict[int, bytes]]:
        """Get the pages of one level; those that are interior are learned, the leaves returned."""
        fetched = yield {number for number in wanted if number not in self.interior}
        leaves = {}
        for number in wanted:
            if number not in self.interior and not self.learn(number, fetched[number]):
                leaves[number] = fetched[number]
        if leaves:
            self.depth = height
        return leaves

    def _header_at(self, number: int) -> int:
        return 100 if number == 1 else 0

    def _cell_count(self, number: int, page: bytes) -> int:
        count: int = struct.unpack_from(">H", page, self._header_at(number) + 3)[0]
        if count * 2 > len(page):
            raise self._malformed(number, f"{count} cells")
        return count

    def _local_size(self, size: Ints, largest: int) -> Ints:
        """Give the bytes of records that are in the page itself."""
        usable = self._pages.layout.usable
        least = (usable - 12) * 32 // 255 - 23
        spilt = least + (size - least) % (usable - 4)
        inside: Ints = np.where(spilt <= largest, spilt, least)
        return np.where(size <= largest, size, inside).astype(np.int64)

    def _malformed(self, number: int, what: str) -> DatabaseError:
        return DatabaseError(f"{self._pages.name}: malformed: page {number} has {what}")


class _Visited:
    """The pages of one walk, none of which a sound tree leads to twice."""

    def __init__(self, tree: _Tree[Node]) -> None:
        self._name = tree._pages.name
        self._seen: set[int] = set()

    def add(self, numbers: Mapping[int, object]) -> None:
        again = self._seen.intersection(numbers)
        if again:
            raise DatabaseError(f"{self._name}: malformed: two ways lead to page {min(again)}")
        self._seen.update(numbers)


class Table(_Tree[TableNode]):
    """A table b-tree: row ids lead to records."""

    interior_type = TABLE_INTERIOR
    leaf_type = TABLE_LEAF

    def touch(self) -> Walk[None]:
        """Learn the root."""
        yield from self._node_walk({self.root: None}, 0)

    def find(self, rowids: npt.ArrayLike) -> Walk[Rows]:
        """Look rows up.

        Parameters
        ----------
        rowids
            In any order; repeats are looked up once.

        Returns
        -------
        Rows
            Those that exist.
        """
        frontier = {self.root: np.unique(np.asarray(rowids, np.int64))}
        found: list[tuple[bytes, Ints]] = []
        visited, height = _Visited(self), 0
        while frontier:
            visited.add(frontier)
            leaves = yield from self._node_walk(frontier, height)
            found += [(leaves[number], frontier[number]) for number in leaves]
            below: dict[int, Ints] = {}
            for number, ids in frontier.items():
                if number in leaves:
                    continue
                node = self.interior[number]
                slots = np.searchsorted(node.keys, ids)
                cuts = np.flatnonzero(np.diff(slots)) + 1
                firsts = np.concatenate(([0], cuts))
                for child, group in zip(
                    node.children[slots[firsts]].tolist(), np.split(ids, cuts), strict=True
                ):
                    if child in below:
                        raise self._malformed(number, f"page {child} as a child twice")
                    below[child] = group
            frontier, height = below, height + 1
        return (yield from self._rows(found))

    def scan(self, *, most_pages: int) -> Walk[list[tuple[int, list[Value]]]]:
        """Read a whole small table.

        Parameters
        ----------
        most_pages
            Leaf and interior pages above which the table is refused.

        Returns
        -------
        list of (row id, values)
            In the order of row ids.
        """
        found: list[tuple[bytes, Ints]] = []
        level: dict[int, None] = {self.root: None}
        visited, height, count = _Visited(self), 0, 0
        while level:
            count += len(level)
            if count > most_pages:
                raise self._malformed(self.root, f"more than {most_pages} pages below it")
            visited.add(level)
            leaves = yield from self._node_walk(level, height)
            for number, page in leaves.items():
                at = self._header_at(number)
                cells = struct.unpack_from(f">{self._cell_count(number, page)}H", page, at + 8)
                try:
                    ids = [read_varint(page, read_varint(page, cell)[1])[0] for cell in cells]
                except IndexError:
                    raise self._malformed(number, "a cell outside of the page") from None
                behind = 8 + 2 * len(cells)
                page = page[at : at + behind] + page[behind:]  # page 1 has its header at byte 100
                found.append((page, np.array(ids, np.int64)))
            level = {
                int(child): None
                for number in level
                if number not in leaves
                for child in self.interior[number].children
            }
            height += 1
        rows = yield from self._rows([leaf for leaf in found if len(leaf[1])])
        data = rows.data.tobytes()
        return [
            (int(rowid), decode_record(data[start : start + size]))
            for rowid, start, size in zip(rows.rowids, rows.starts, rows.sizes, strict=True)
        ]

    def _interior(self, number: int, page: bytes) -> TableNode:
        at = self._header_at(number)
        count = self._cell_count(number, page)
        cells = np.frombuffer(page, ">u2", count, at + 12).astype(np.int64)
        data, _ = concatenate([page])
        if count and int(cells.max()) + 5 > len(page):
            raise IndexError
        children = sum(data[cells + i].astype(np.int64) << (24 - 8 * i) for i in range(4))
        last = struct.unpack_from(">I", page, at + 8)[0]
        keys, _ = read_varints(data, cells + 4)
        if np.any(np.diff(keys) <= 0):
            raise self._malformed(number, "row ids out of order")
        return TableNode(keys, np.append(children, last).astype(np.int64))

    def _rows(self, leaves: Sequence[tuple[bytes, Ints]]) -> Walk[Rows]:
        """Locate rows in leaf pages, all at once, and fetch what overflows them."""
        if not leaves:
            none = np.zeros(0, np.int64)
            return Rows(none, np.zeros(9, np.uint8), none, none)
        data, starts = concatenate([page for page, _ in leaves])
        rowids = np.concatenate([ids for _, ids in leaves])
        base = np.repeat(starts, [len(ids) for _, ids in leaves])
        cells = self._locate(data, base, rowids)
        exists = cells >= 0
        rowids, base, cells = rowids[exists], base[exists], cells[exists]
        sizes, at = read_varints(data, cells)
        _, at = read_varints(data, at)
        usable = self._pages.layout.usable
        local = self._local_size(sizes, usable - 35)
        spilt = local < sizes
        if np.any(sizes < 0) or np.any(at + local + np.where(spilt, 4, 0) > base + usable):
            raise DatabaseError(f"{self._pages.name}: malformed: a record outside of its leaf page")
        if spilt.any():
            data, at = yield from self._with_overflow(data, at, local, sizes, spilt)
        order = np.argsort(rowids)
        return Rows(rowids[order], data, at[order], sizes[order])

    def _locate(self, data: Bytes, base: Ints, rowids: Ints) -> Ints:
        """Find the cell of each row id in its leaf; -1 where there is none.

        Row ids usually have no gaps, so that the first cell tells where the others are; only
        where that fails is the page searched.
        """
        counts = data[base + 3].astype(np.int64) << 8 | data[base + 4]
        usable = self._pages.layout.usable
        if np.any(8 + 2 * counts > usable):
            raise DatabaseError(f"{self._pages.name}: malformed: too many cells in a leaf page")

        def cell_at(position: Ints) -> Ints:
            pointer = base + 8 + 2 * position
            cell = data[pointer].astype(np.int64) << 8 | data[pointer + 1]
            if np.any((cell + 2 > usable) & (counts > 0)):
                raise DatabaseError(f"{self._pages.name}: malformed: a cell outside of its page")
            return base + np.minimum(cell, usable - 2)

        def rowid_at(cells: Ints) -> Ints:
            _, at = read_varints(data, cells)
            return read_varints(data, np.minimum(at, len(data) - 9))[0]

        last = np.maximum(counts - 1, 0)
        first = rowid_at(cell_at(np.zeros_like(base)))
        position = np.clip(rowids - first, 0, last)
        cells = cell_at(position)
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
        cells[missed | (counts == 0)] = -1
        return cells

    def _with_overflow(
        self, data: Bytes, at: Ints, local: Ints, sizes: Ints, spilt: npt.NDArray[np.bool_]
    ) -> Walk[tuple[Bytes, Ints]]:
        """Put the records that overflow together behind the leaf pages."""
        which = np.flatnonzero(spilt)
        heads = [data[at[i] : at[i] + local[i]].tobytes() for i in which]
        chains = [
            (
                int.from_bytes(data[at[i] + local[i] : at[i] + local[i] + 4].tobytes(), "big"),
                int(sizes[i] - local[i]),
            )
            for i in which
        ]
        tails = yield from read_chains(
            self._pages.name, self._pages.layout, chains, most=MOST_PAYLOAD
        )
        joined, starts = concatenate(
            [data.tobytes(), *(head + tail for head, tail in zip(heads, tails, strict=True))]
        )
        moved = at.copy()
        moved[which] = starts[1:]
        return joined, moved


class Index(_Tree[IndexNode]):
    """An index b-tree on one text column: keys lead to row ids.

    Parameters
    ----------
    pages, root, rows
        See `Table`.
    fold
        The column's collation as a function: two keys sort as their folded forms do.
    """

    interior_type = INDEX_INTERIOR
    leaf_type = INDEX_LEAF

    def __init__(
        self, pages: Pages, root: int, rows: int = 0, *, fold: Callable[[bytes], bytes]
    ) -> None:
        super().__init__(pages, root, rows)
        self._fold = fold

    def touch(self) -> Walk[None]:
        """Learn the root."""
        yield from self._node_walk({self.root: None}, 0)

    def find(self, keys: Sequence[bytes]) -> Walk[list[list[tuple[bytes, int]]]]:
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
        matches: dict[bytes, list[tuple[bytes, int]]] = {target: [] for target in folded}
        frontier: dict[int, list[bytes]] = {self.root: list(matches)} if matches else {}
        visited, height = _Visited(self), 0
        tails: dict[int, bytes] = {}
        while frontier:
            visited.add(frontier)
            leaves = yield from self._node_walk(frontier, height)
            below: dict[int, list[bytes]] = {}
            for number, targets in frontier.items():
                page = leaves.get(number)
                node = self.interior[number] if page is None else self._leaf(number, page)
                for target in targets:
                    low, high = yield from self._bounds(node, target, tails)
                    for position in range(low, high):
                        entry = yield from self._entry(node.cells[position], tails)
                        matches[target].append(entry)
                    for child in node.children[low : high + 1].tolist():
                        below.setdefault(child, []).append(target)
            frontier, height = below, height + 1
        for entries in matches.values():
            entries.sort(key=lambda entry: entry[1])
        return [matches[target] for target in folded]

    def _bounds(
        self, node: IndexNode, target: bytes, tails: dict[int, bytes]
    ) -> Walk[tuple[int, int]]:
        """Find where the cells equal to a key begin and end."""
        bounds: list[int] = []
        for behind_equal in (False, True):
            low, high = (bounds[0] if bounds else 0), len(node.cells)
            while low < high:
                middle = (low + high) // 2
                order = yield from self._compare(node.cells[middle], target, tails)
                if order < 0 or (behind_equal and order == 0):
                    low = middle + 1
                else:
                    high = middle
            bounds.append(low)
        return bounds[0], bounds[1]

    def _compare(self, cell: Cell, target: bytes, tails: dict[int, bytes]) -> Walk[int]:
        """Compare a cell's key with a folded key; read its overflow only if it takes that."""
        kind, at = _key_type(cell.local)
        if kind < 13 or kind % 2 == 0:
            return 1 if kind >= 12 else -1  # NULL and numbers sort before text, blobs after
        key = cell.local[at : at + size_of(kind)]
        if len(key) < size_of(kind):
            begin = self._fold(key)
            if b"\0" not in begin and not target.startswith(begin):
                return -1 if begin < target else 1
            key = (yield from self._record(cell, tails))[at : at + size_of(kind)]
        folded = self._fold(key)
        return (folded > target) - (folded < target)

    def _entry(self, cell: Cell, tails: dict[int, bytes]) -> Walk[tuple[bytes, int]]:
        record = yield from self._record(cell, tails)
        values = decode_record(record)
        if len(values) != 2 or not isinstance(values[0], bytes) or not isinstance(values[1], int):
            raise DatabaseError(
                f"{self._pages.name}: malformed: an index entry that is not a key and a row id"
            )
        return values[0], values[1]

    def _record(self, cell: Cell, tails: dict[int, bytes]) -> Walk[bytes]:
        if not cell.overflow:
            return cell.local
        if cell.overflow not in tails:
            chain = (cell.overflow, cell.size - len(cell.local))
            (tails[cell.overflow],) = yield from read_chains(
                self._pages.name, self._pages.layout, [chain], most=MOST_PAYLOAD
            )
        return cell.local + tails[cell.overflow]

    def _interior(self, number: int, page: bytes) -> IndexNode:
        cells = _Cells(self, number, page, child=4)
        at = self._header_at(number)
        children = [int.from_bytes(page[cell : cell + 4], "big") for cell in cells.offsets]
        last = struct.unpack_from(">I", page, at + 8)[0]
        return IndexNode(
            [cells[i] for i in range(len(cells))], np.array([*children, last], np.int64)
        )

    def _leaf(self, number: int, page: bytes) -> IndexNode:
        return IndexNode(_Cells(self, number, page, child=0), np.zeros(0, np.int64))


class _Cells:
    """The cells of an index page, decoded when looked at."""

    def __init__(self, index: Index, number: int, page: bytes, *, child: int) -> None:
        self._index, self._number, self._page, self._child = index, number, page, child
        count = index._cell_count(number, page)
        at = index._header_at(number) + (12 if child else 8)
        self.offsets = struct.unpack_from(f">{count}H", page, at)

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, position: int) -> Cell:
        try:
            size, at = read_varint(self._page, self.offsets[position] + self._child)
        except IndexError:
            size, at = -1, 0
        usable = self._index._pages.layout.usable
        largest = (usable - 12) * 64 // 255 - 23
        local = size
        if size > largest:
            local = int(self._index._local_size(np.array([size]), largest)[0])
        spilt = 4 if local < size else 0
        if size < 3 or at + local + spilt > usable:
            raise self._index._malformed(self._number, "a cell outside of it")
        overflow = int.from_bytes(self._page[at + local : at + local + spilt], "big")
        return Cell(self._page[at : at + local], size, overflow)


def _key_type(record: bytes) -> tuple[int, int]:
    """Give the serial type of a record's first value, and where the value begins."""
    try:
        header, at = read_varint(record, 0)
        return read_varint(record, at)[0], header
    except IndexError:
        raise DatabaseError("malformed record: cut off in its header") from None
