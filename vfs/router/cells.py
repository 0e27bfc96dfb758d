"""Compact encoding of the cells of an index's interior pages.

A record consists of a header, a key and a row id. The header follows from the length, and a key
shares a prefix with the key before it in the page. The encoding uses both to save bytes, and is
lossless for any records.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vfs.btree.index import Index
from vfs.btree.index_cells import LEAST_RECORD, Cell, IndexNode
from vfs.btree.record import SIZES, Ints
from vfs.router.columns import Columns, column

MOST_CELLS = 1 << 20
LONGEST_END = 7  # most bytes of a header or a row id, so that they fit into a positive int64
# The key's serial type, 13 plus twice the key's length, is in the last but one byte of the header.
# The header as an integer, less the record's length shifted by 9 bits, therefore varies little.
KEY_TYPE = 9


def pack_cells(nodes: Sequence[IndexNode]) -> list[bytes]:
    """Pack the cells of pages into fields for `compress`."""
    cells: list[tuple[int, ...]] = []
    text: list[bytes] = []
    for node in nodes:
        before = b""
        for cell in (node.cells[i] for i in range(len(node.cells))):
            begin, end = _key_of(cell.local)
            key = cell.local[begin:end]
            head, tail = cell.local[:begin], cell.local[end:]
            shared = _shared(before, key)
            values = [int.from_bytes(part, "big") for part in (head, tail)]
            cells.append((cell.size, cell.overflow, len(head), len(tail), *values, shared))
            text.append(key[shared:])
            before = key
    table = np.array(cells, np.int64).reshape(-1, 7).T
    table[4] -= table[0] << KEY_TYPE
    return [*map(column, table), b"".join(text)]


def _shared(before: bytes, key: bytes) -> int:
    """Compute the length of the common prefix."""
    pairs = enumerate(zip(before, key, strict=False))
    return next((i for i, (one, other) in pairs if one != other), min(len(before), len(key)))


def _key_of(record: bytes) -> tuple[int, int]:
    """Find the begin and end of the key in the part of a record that is in the page."""
    begin = min(record[0], LONGEST_END, len(record))
    kind = record[begin - 1] if begin else 0
    row_id = SIZES[kind] if kind < len(SIZES) else 0
    return begin, len(record) - min(row_id, LONGEST_END, len(record) - begin)


class PackedCells:
    """Unpacked cells, in flat arrays.

    Parameters
    ----------
    columns
        Columns whose next fields are from `pack_cells`.
    index
        The index that has the cells.
    bounds
        Number of cells before each page, and behind the last page, int64, shape (pages + 1,).

    Raises
    ------
    ValueError
        The cells contradict the file format.
    """

    def __init__(self, columns: Columns, index: Index, bounds: Ints) -> None:
        if bounds[-1] > MOST_CELLS:
            raise ValueError("more cells than are believed")
        self._bounds = bounds
        self._cells = np.stack([columns.column(int(bounds[-1])) for _ in range(7)])
        sizes, overflows, heads, tails, head, tail, shared = self._cells
        head += sizes << KEY_TYPE
        if np.any(sizes < LEAST_RECORD) or np.any((heads | tails) & ~LONGEST_END):
            raise ValueError("records that cannot be")
        local = index.local_size(sizes)
        keys = local - heads - tails
        before = np.append(0, keys)[:-1]
        before[bounds[:-1][np.diff(bounds) > 0]] = 0
        own = keys - shared
        filled = np.append(0, np.cumsum(local))[bounds]
        if (
            np.any((overflows > 0) != (local < sizes))
            or np.any((overflows < 0) | (overflows > index.layout.page_count))
            or np.any(head >> 8 * heads | tail >> 8 * tails)
            or np.any((own < 0) | (shared < 0) | (shared > before))
            or np.any(np.diff(filled) > index.layout.usable)
        ):
            raise ValueError("cells that cannot be")
        self._ends = np.append(0, np.cumsum(own))
        self._text = columns.octets(int(self._ends[-1]))

    def node(self, page: int, children: Ints) -> IndexNode:
        """Make the node of a page.

        Parameters
        ----------
        page
            Position of the page among the packed pages, from 0.
        children
            Page numbers of its children.
        """
        begin, end = int(self._bounds[page]), int(self._bounds[page + 1])
        ends = self._ends[begin : end + 1].tolist()
        cells: list[Cell] = []
        key = b""
        for i, values in enumerate(self._cells[:, begin:end].T.tolist()):
            size, overflow, heads, tails, head, tail, shared = values
            key = key[:shared] + self._text[ends[i] : ends[i + 1]]
            local = head.to_bytes(heads, "big") + key + tail.to_bytes(tails, "big")
            cells.append(Cell(local, size, overflow))
        return IndexNode(cells, children)
