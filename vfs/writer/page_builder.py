"""What tables and indexes written in one go share (file format, section 1.6).

Leaves are filled one after another. What leads to them is kept until the end, a few bytes a leaf,
and then written behind them, level by level.
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

POINTER = 2


@dataclass
class Spilt:
    """A cell whose record goes on in overflow pages that it was not given yet."""

    local: bytes
    left: int
    rest: Stream

    def __len__(self) -> int:
        return len(self.local) + 4


Cell = bytes | Spilt
C = TypeVar("C", bound=Sized)
Chain = tuple[list[range], Spilt]


class Level:
    """Cells of the interior pages of a level: a child page, and what is between it and the next.

    That of the last cell goes nowhere.
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
        """Add a page, the next in order."""
        self._cells += child.to_bytes(4, "big")
        self._cells += between
        self._sizes.append(4 + len(between))

    def last(self) -> bytes:
        """Give the page that was added last, four bytes."""
        begin = len(self._cells) - self._sizes[-1]
        return bytes(self._cells[begin : begin + 4])


class Divider(Generic[C]):
    """Divides cells into pages; between two pages one cell goes up, and no page is left empty.

    Parameters
    ----------
    room
        Bytes for the cells of a page and their pointers.
    emit
        Called for each page but the last, in order, with its cells and the one behind them.
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
        """Give the cells of the last page."""
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
        Where to.
    front
        Whether it goes to the reserve, see `PageFile.allocate`.
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
        """Make the cell of a record; most are made faster where they are added."""
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
        """Write a leaf, and right behind it what its cells, and the one after it, overflow to."""
        ((number,),) = self._pages.allocate(1, front=self._front)
        placed, chains = self._place([*cells, between])
        up = placed.pop()
        self._pages.put(number, build_page(self.leaf_type, placed, self._pages.page_size))
        self._write_chains(chains)
        self._level.add(number, up)

    def _place(self, cells: Sequence[Cell]) -> tuple[list[bytes], list[Chain]]:
        """Give overflow pages to the cells that need some."""
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
        """Write the interior pages and give the root."""
        self.finished = True
        while len(self._level) > 1:
            self._level = self._write_level(self._level)
        return int.from_bytes(self._level.last(), "big")

    def _write_level(self, below: Level) -> Level:
        """Write the pages of one level, at least two if one has no room for all."""
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
        Its type and its cells, in order; they fit.
    page_size
        In bytes.
    right
        The last child of an interior page, four bytes.
    before
        The file's own header, on page 1.
    """
    content = b"".join(cells)
    start = page_size - len(content)
    offsets = islice(accumulate(map(len, cells), initial=start), len(cells))
    head = struct.pack(f">BHHHB{len(right)}s", kind, 0, len(cells), start & 0xFFFF, 0, right)
    pointers = struct.pack(f">{len(cells)}H", *offsets)
    gap = bytes(start - len(before) - len(head) - len(pointers))
    return b"".join((before, head, pointers, gap, content))
