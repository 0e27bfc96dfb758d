"""Cells of index pages (SQLite file format, section 1.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vfs.btree.record import Ints, Page, read_varint
from vfs.btree.tree import BTree

Entry = tuple[bytes, int]
LEAST_RECORD = 3  # bytes of the shortest record, NULL and row id 0: its header alone


@dataclass(frozen=True)
class Cell:
    """A cell of an index page.

    Attributes
    ----------
    local
        The part of the record that is in the page.
    size
        Length of the whole record in bytes.
    overflow
        The first page of the overflow chain, 0 if the record does not overflow.
    """

    local: bytes
    size: int
    overflow: int


@dataclass(frozen=True)
class IndexNode:
    """A page of an index b-tree: cell i sorts between child i and child i + 1.

    Attributes
    ----------
    cells
        The cells of the page, in order.
    children
        Page numbers of the children, int64, one more than cells; none in a leaf.
    """

    cells: Sequence[Cell] | Cells
    children: Ints


class Cells:
    """The cells of an index page, a sequence that decodes a cell at each access."""

    def __init__(self, index: BTree[Any], number: int, page: Page, offsets: Ints) -> None:
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
