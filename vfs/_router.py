"""The interior pages of trees, packed small.

Row ids and page numbers of neighbours differ by nearly the same amount, so their differences,
byte plane by byte plane, shrink to almost nothing: a reader that starts with this knows the way
to every leaf.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vfs._btree import Cell, Index, IndexNode, Table, TableNode
from vfs._record import Ints

LENGTH = struct.Struct("<Q")


def pack(trees: Sequence[Table | Index]) -> bytes:
    """Pack the interior pages that trees know.

    Parameters
    ----------
    trees
        In a fixed order.
    """
    fields: list[bytes] = []
    for tree in trees:
        numbers = sorted(tree.interior)
        nodes = [tree.interior[number] for number in numbers]
        depth = -1 if tree.depth is None else tree.depth
        fields.append(_deltas([tree.root, depth]))
        fields.append(_deltas(numbers))
        fields.append(_deltas([len(node.children) for node in nodes]))
        fields.append(_deltas(_joined([node.children for node in nodes])))
        if isinstance(tree, Table):
            keys = [node.keys for node in nodes if isinstance(node, TableNode)]
            fields.append(_deltas(_joined(keys)))
        else:
            indexed = [node for node in nodes if isinstance(node, IndexNode)]
            cells = [node.cells[i] for node in indexed for i in range(len(node.cells))]
            fields.append(_deltas([len(cell.local) for cell in cells]))
            fields.append(_deltas([cell.size for cell in cells]))
            fields.append(_deltas([cell.overflow for cell in cells]))
            fields.append(b"".join(cell.local for cell in cells))
    body = b"".join(LENGTH.pack(len(field)) + field for field in fields)
    return zlib.compress(body, 9)


def unpack(record: bytes, trees: Sequence[Table | Index]) -> bool:
    """Give trees the interior pages that `pack` saw, beside those that they know.

    Parameters
    ----------
    record
        From `pack`.
    trees
        In the same order.

    Returns
    -------
    bool
        False if the record is of other trees.
    """
    body, fields, at = zlib.decompress(record), [], 0
    while at < len(body):
        (length,) = LENGTH.unpack_from(body, at)
        fields.append(body[at + LENGTH.size : at + LENGTH.size + length])
        at += LENGTH.size + length
    fields.reverse()
    for tree in trees:
        root, depth = _sums(fields.pop()).tolist()
        if root != tree.root:
            return False
        if tree.depth is None and depth >= 0:
            tree.depth = depth
        numbers = _sums(fields.pop()).tolist()
        counts = _sums(fields.pop())
        children = _split(_sums(fields.pop()), counts)
        if isinstance(tree, Table):
            keys = _split(_sums(fields.pop()), counts - 1)
            tree.interior |= dict(zip(numbers, map(TableNode, keys, children), strict=True))
            continue
        lengths, sizes, overflows = (_sums(fields.pop()).tolist() for _ in range(3))
        text, at = fields.pop(), 0
        cells: list[Cell] = []
        for length, size, overflow in zip(lengths, sizes, overflows, strict=True):
            cells.append(Cell(text[at : at + length], size, overflow))
            at += length
        at = 0
        for number, below in zip(numbers, children, strict=True):
            tree.interior[number] = IndexNode(cells[at : at + len(below) - 1], below)
            at += len(below) - 1
    return True


def _split(values: Ints, counts: Ints) -> list[Ints]:
    return np.split(values, np.cumsum(counts))[:-1]


def _joined(arrays: Sequence[Ints]) -> Ints:
    return np.concatenate(arrays) if arrays else np.zeros(0, np.int64)


def _deltas(values: npt.ArrayLike) -> bytes:
    """Write integers as differences, the low bytes of all first."""
    differences = np.diff(np.asarray(values, "<i8"), prepend=np.int64(0))
    return differences.astype("<i8").view(np.uint8).reshape(-1, 8).T.tobytes()


def _sums(field: bytes) -> Ints:
    planes = np.frombuffer(field, np.uint8).reshape(8, -1)
    return np.cumsum(np.ascontiguousarray(planes.T).view("<i8").ravel()).astype(np.int64)
