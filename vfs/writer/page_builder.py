"""Base class of the bulk loaders of tables and indexes (file format, section 1.6).

Leaves are written one after another. Memory holds the cells of their parents, a few bytes for
each leaf. At the end the interior pages are written behind the leaves, level by level.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Generic, TypeVar

from vfs.btree.tree import INTERIOR_HEADER, LEAF_HEADER
from vfs.writer.page_file import PageFile, Stream

POINTER = 2  # bytes of a cell pointer


@dataclass
class Spilt:
    """A cell whose record overflows, before overflow pages are allocated for the record.

    Attributes
    ----------
    local
        The bytes of the cell in its page, without the number of the overflow page.
    left
        Number of the record's bytes in overflow pages.
    rest
        Stream of these bytes.
    """

    local: bytes
    left: int
    rest: Stream

    def __len__(self) -> int:
        return len(self.local) + 4


Cell = bytes | Spilt
C = TypeVar("C", bound=Sized)
Chain = tuple[list[range], Spilt]


class Level:
    """Cells of the interior pages of one level.

    Each cell has the number of a child page, and the key or row id that divides this child from
    the next one. The key or row id of the last cell is not used.
    """

    def __init__(self) -> None:
        self._cells = bytearray()
        self._sizes = array("H")

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[bytes]:
        begin = 0
        for size in self._sizes:
            yield bytes(self._cells[begin : begin + size])
            begin += size

    def add(self, child: int, between: bytes) -> None:
        """Add the next child page, and the bytes that divide it from the page behind it."""
        self._cells += child.to_bytes(4, "big")
        self._cells += between
        self._sizes.append(4 + len(between))

    def last(self) -> bytes:
        """Return the number of the child page that was added last, four bytes."""
        begin = len(self._cells) - self._sizes[-1]
        return bytes(self._cells[begin : begin + 4])


class Divider(Generic[C]):
    """Division of a sequence of cells into pages.

    One cell between two pages goes to their parent instead of to either page. The last page has
    at least one cell.

    Parameters
    ----------
    room
        Bytes of a page for its cells and their pointers.
    emit
        Called for each page but the last, in order, with the cells of the page and the cell
        between this page and the next.
    """

    def __init__(self, room: int, emit: Callable[[list[C], C], None]) -> None:
        self._room = room
        self._emit = emit
        self._held: tuple[list[C], C] | None = None
        self._cells: list[C] = []
        self._used = 0

    def add(self, cell: C) -> None:
        """Add the next cell."""
        self._used += len(cell) + POINTER
        if self._used <= self._room:
            self._cells.append(cell)
            return
        if self._held:
            self._emit(*self._held)
        self._held = self._cells, cell
        self._cells, self._used = [], 0

    def finish(self) -> list[C]:
        """Emit the last page but one, and return the cells of the last page."""
        if self._held:
            cells, between = self._held
            if not self._cells:
                self._cells = [between]
                between = cells.pop()
            self._emit(cells, between)
        return self._cells


class Loader:
    """A b-tree that is being written.

    Parameters
    ----------
    pages
        The file that the b-tree is written to.
    front
        Whether the b-tree takes pages of the reserve, see `PageFile.allocate`.
    """

    leaf_type: int
    interior_type: int

    def __init__(self, pages: PageFile, *, front: bool = False) -> None:
        self.finished = False
        self._pages = pages
        self._front = front
        self._level = Level()
        usable = pages.page_size
        self._room = usable - LEAF_HEADER
        self._interior_room = usable - INTERIOR_HEADER
        self._least_local = (usable - 12) * 32 // 255 - 23
        self._most_local: int

    def _cell(self, head: bytes, size: int, record: Stream) -> Cell:
        """Make the cell of a record; `add` makes the cells of short records itself, faster."""
        local = size
        if size > self._most_local:
            local = self._least_local + (size - self._least_local) % (self._pages.page_size - 4)
            if local > self._most_local:
                local = self._least_local
        begin = head + record.take(local)
        if local < size:
            return Spilt(begin, size - local, record)
        record.end()
        return begin

    def _write_leaf(self, cells: Sequence[Cell], between: Cell) -> None:
        """Write a leaf and, behind it, the overflow pages of its cells and of `between`."""
        ((number,),) = self._pages.allocate(1, front=self._front)
        placed, chains = self._place([*cells, between])
        up = placed.pop()
        self._pages.put(number, build_page(self.leaf_type, placed, self._pages.page_size))
        self._write_chains(chains)
        self._level.add(number, up)

    def _place(self, cells: Sequence[Cell]) -> tuple[list[bytes], list[Chain]]:
        """Allocate overflow pages for the cells that need them, and encode all cells."""
        room = self._pages.page_size - 4
        placed: list[bytes] = []
        chains: list[Chain] = []
        for cell in cells:
            if isinstance(cell, Spilt):
                runs = self._pages.allocate(-(-cell.left // room), front=self._front)
                chains.append((runs, cell))
                cell = cell.local + runs[0][0].to_bytes(4, "big")
            placed.append(cell)
        return placed, chains

    def _write_chains(self, chains: Sequence[Chain]) -> None:
        for runs, cell in chains:
            self._pages.put_chain(runs, cell.left, cell.rest)
            cell.rest.end()

    def _write_levels(self) -> int:
        """Write the interior pages, and return the root page's number."""
        self.finished = True
        while len(self._level) > 1:
            self._level = self._write_level(self._level)
        return int.from_bytes(self._level.last(), "big")

    def _write_level(self, below: Level) -> Level:
        """Write the interior pages of one level, and return the cells of the level above."""
        above = Level()

        def write(cells: Sequence[bytes], right: bytes, between: bytes) -> None:
            ((number,),) = self._pages.allocate(1, front=self._front)
            page = build_page(self.interior_type, cells, self._pages.page_size, right=right)
            self._pages.put(number, page)
            above.add(number, between)

        divider = Divider[bytes](
            self._interior_room, lambda cells, up: write(cells, up[:4], up[4:])
        )
        for cell in islice(below, len(below) - 1):
            divider.add(cell)
        write(divider.finish(), below.last(), b"")
        return above

    def _check_open(self) -> None:
        if self.finished:
            raise ValueError("this b-tree is finished: expected records before `finish` only")


def build_page(
    kind: int, cells: Sequence[bytes], page_size: int, *, right: bytes = b"", before: bytes = b""
) -> bytes:
    """Build a page of a b-tree (file format, section 1.6).

    Parameters
    ----------
    kind, cells
        Type of the page, and its cells in order, which must fit into it.
    page_size
        Page size in bytes.
    right
        Number of the last child of an interior page, four bytes.
    before
        The file header, if this is page 1.
    """
    content = b"".join(cells)
    start = page_size - len(content)
    offsets = islice(accumulate(map(len, cells), initial=start), len(cells))
    head = struct.pack(f">BHHHB{len(right)}s", kind, 0, len(cells), start & 0xFFFF, 0, right)
    pointers = struct.pack(f">{len(cells)}H", *offsets)
    gap = bytes(start - len(before) - len(head) - len(pointers))
    return b"".join((before, head, pointers, gap, content))
