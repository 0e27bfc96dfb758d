"""Base class of table and index b-trees (https://sqlite.org/fileformat2.html, section 1.6).

Page numbers, pointers and lengths come from the file and are checked before use: a walk visits
no page twice, goes no deeper than SQLite does, and reads nothing outside of a page.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, MutableMapping, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np

from vfs.btree.pages import Pages
from vfs.btree.record import Ints, Page, Value, decode_record
from vfs.btree.walk import Walk, read_chains
from vfs.errors import DatabaseError

MOST_PAYLOAD = 16 << 20
MOST_INTERIOR = 1 << 20
MOST_LEVELS = 20  # as in SQLite itself
LEAST_CELL = 6  # bytes of the smallest leaf cell, its pointer included
LEAF_HEADER, INTERIOR_HEADER = 8, 12


class Parent(Protocol):
    """An interior page."""

    @property
    def children(self) -> Ints:
        """Page numbers of the children, in order."""


Node = TypeVar("Node", bound=Parent)


class BTree(Generic[Node]):
    """A b-tree: its root page, and the interior pages read so far.

    Parameters
    ----------
    pages
        Pages of the file. The tree takes only the name and the layout; `run` reads the pages.
    root
        Number of the root page.
    rows
        Number of entries in the tree, 0 if unknown. While the depth is unknown, `unknown` uses it
        to tell interior levels from leaves.
    """

    interior_type: int
    leaf_type: int

    def __init__(self, pages: Pages, root: int, rows: int = 0) -> None:
        self.root = root
        self.rows = rows
        self.interior: MutableMapping[int, Node] = {}
        self.depth: int | None = None
        self.name = pages.name
        self.layout = pages.layout
        self._complete = False

    @property
    def most_local(self) -> int:
        """Length in bytes of the longest record that needs no overflow page."""
        raise NotImplementedError

    def touch(self) -> Walk[None]:
        """Read the root page, and store it if it is an interior page."""
        yield from self.level({self.root: None}, 0)

    def learn(self, number: int, page: Page) -> bool:
        """Store a page if it is an interior page, and tell whether it is one.

        Raises
        ------
        DatabaseError
            The page is not of this type of b-tree, or is malformed.
        """
        kind = page[_header_at(number)]
        if kind == self.leaf_type:
            return False
        if kind != self.interior_type:
            raise self.malformed(number, f"type {kind}")
        try:
            node = self._interior(number, page)
        except (IndexError, struct.error):
            raise self.malformed(number, "a cell outside of the page") from None
        self.check_children(number, node.children)
        self.interior[number] = node
        return True

    def unknown(self) -> list[int]:
        """List the missing interior pages of the first level that is not completely stored.

        The list is empty if the root is not stored, if no interior page is missing, or if the
        level is larger than 1 MiB. The depth of the tree tells which levels are interior. While
        the depth is unknown, a level is interior if it has too few pages to hold all entries.
        """
        if self._complete or self.root not in self.interior:
            return []
        level = [self.root]
        for height in range(1, MOST_LEVELS):
            children = [self.interior[number].children for number in level]
            count = sum(map(len, children))
            if self.depth is None:
                interior = self.rows > count * (self.layout.usable // LEAST_CELL)
            else:
                interior = height < self.depth
            if not interior or count * self.layout.page_size > MOST_INTERIOR:
                break
            level = np.concatenate(children).tolist()
            if missing := [number for number in level if number not in self.interior]:
                return missing
        self._complete = self.depth is not None
        return []

    def check_children(self, number: int, children: Ints) -> None:
        """Raise an error if an interior page has a malformed list of children.

        Raises
        ------
        DatabaseError
            A child is outside of the file, is the page itself, or is listed twice.
        """
        outside = (children < 1) | (children > self.layout.page_count) | (children == number)
        if outside.any():
            child, count = int(children[outside][0]), self.layout.page_count
            raise self.malformed(number, f"page {child} of {count} as a child")
        if repeats(children):
            raise self.malformed(number, "a child twice")

    def malformed(self, number: int, what: str) -> DatabaseError:
        """Make the error for a malformed page."""
        return DatabaseError(f"{self.name}: malformed: page {number} has {what}")

    def _interior(self, number: int, page: Page) -> Node:
        raise NotImplementedError

    def level(self, wanted: Mapping[int, object], height: int) -> Walk[dict[int, Page]]:
        """Read pages of one level: store the interior pages, and return the leaves.

        Parameters
        ----------
        wanted
            Mapping whose keys are page numbers.
        height
            Number of levels between the root and this level, 0 for the root itself.

        Returns
        -------
        dict
            Leaves by page number. Each begins with its page header, even if it is page 1.
        """
        if height >= MOST_LEVELS:
            raise self.malformed(self.root, f"more than {MOST_LEVELS} levels below it")
        fetched = yield {number for number in wanted if number not in self.interior}
        leaves: dict[int, Page] = {}
        for number in wanted:
            if number in self.interior:
                continue
            page = fetched[number]
            # Most pages are leaves: the first test saves thousands of calls of `learn`.
            if page[0] == self.leaf_type or not self.learn(number, page):
                leaves[number] = page
        if 1 in leaves:  # the file header precedes the page header
            behind = LEAF_HEADER + 2 * struct.unpack_from(">H", leaves[1], 103)[0]
            if 100 + behind > self.layout.usable:
                raise self.malformed(1, "too many cells")
            leaves[1] = b"".join((leaves[1][100 : 100 + behind], leaves[1][behind:]))
        if leaves:
            self.depth = height
        return leaves

    def cell_offsets(self, number: int, page: Page, header: int) -> Ints:
        """Read the cell pointers of a page.

        Parameters
        ----------
        number, page
            Number and bytes of the page; a leaf as `level` returns it.
        header
            Length of the page header in bytes, 8 of a leaf, 12 of an interior page.
        """
        at = _header_at(number) if header == INTERIOR_HEADER else 0
        count = struct.unpack_from(">H", page, at + 3)[0]
        if at + header + 2 * count > self.layout.usable:
            raise self.malformed(number, f"{count} cells")
        cells = np.frombuffer(page, ">u2", count, at + header).astype(np.int64)
        if count and int(cells.max()) + LEAST_CELL - 2 > self.layout.usable:
            raise self.malformed(number, "a cell outside of the page")
        return cells

    def _last_child(self, number: int, page: Page) -> int:
        child: int = struct.unpack_from(">I", page, _header_at(number) + 8)[0]
        return child

    def local_size(self, size: Ints) -> Ints:
        """Compute how many bytes of each record are in its cell, not in overflow pages.

        Parameters
        ----------
        size
            Length of each record in bytes, int64, shape (n,).
        """
        usable = self.layout.usable
        least = (usable - 12) * 32 // 255 - 23
        spilt = least + (size - least) % (usable - 4)
        inside: Ints = np.where(spilt <= self.most_local, spilt, least)
        return np.where(size <= self.most_local, size, inside).astype(np.int64)

    def chains(self, chains: Sequence[tuple[int, int]], visited: Visited) -> Walk[list[bytes]]:
        """Read overflow chains, each given by its first page and its length in bytes."""
        return read_chains(self.name, self.layout, chains, most=MOST_PAYLOAD, visit=visited.add)

    def decode(self, record: bytes) -> list[Value]:
        """Decode a record; an error message begins with the name of the file."""
        try:
            return decode_record(record)
        except DatabaseError as failure:
            raise DatabaseError(f"{self.name}: {failure}") from None


class Visited:
    """The pages that one walk visited; a sound b-tree leads to no page twice."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._seen: set[int] = set()

    def add(self, numbers: Collection[int]) -> None:
        """Mark pages as visited.

        Raises
        ------
        DatabaseError
            One of the pages was visited before.
        """
        again = self._seen.intersection(numbers)
        if again:
            raise DatabaseError(f"{self._name}: malformed: two ways lead to page {min(again)}")
        self._seen.update(numbers)


class VisitedMany(Visited):
    """A `Visited` for walks through much of a file; it takes one byte for each page of the file.

    Parameters
    ----------
    pages
        Pages of the file.
    """

    def __init__(self, pages: Pages) -> None:
        super().__init__(pages.name)
        self._marks = np.zeros(pages.layout.page_count + 1, bool)

    def add(self, numbers: Collection[int]) -> None:
        """Mark pages as visited, see `Visited.add`."""
        which = np.fromiter(numbers, np.int64, len(numbers))
        if self._marks[which].any():
            again = int(which[self._marks[which]].min())
            raise DatabaseError(f"{self._name}: malformed: two ways lead to page {again}")
        self._marks[which] = True


def repeats(numbers: Ints) -> bool:
    """Tell whether an array has a number twice; this is faster than `numpy.unique`."""
    if (numbers[1:] > numbers[:-1]).all():
        return False
    ordered = np.sort(numbers)
    return bool((ordered[1:] == ordered[:-1]).any())


def _header_at(number: int) -> int:
    return 100 if number == 1 else 0
