"""The interior pages of trees, packed small.

Row ids and page numbers of neighbours differ by nearly the same amount, so their differences,
byte plane by byte plane, shrink to almost nothing: a reader that starts with this knows the way
to every leaf.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vfs._index import LEAST_RECORD, Cell, Index, IndexNode
from vfs._record import Ints
from vfs._table import Table, TableNode
from vfs._tree import MOST_LEVELS
from vfs.errors import DatabaseError

LENGTH = struct.Struct("<Q")
MOST_BODY = 64 << 20


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
        fields.append(_deltas([*_facts(tree), -1 if tree.depth is None else tree.depth]))
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
        False, and no tree is changed, if the record is of other trees or damaged.
    """
    try:
        fields = _fields(record)
        if len(fields) != sum(5 if isinstance(tree, Table) else 8 for tree in trees):
            return False
        unpacked = [_unpack_tree(fields, tree) for tree in trees]
    except (zlib.error, struct.error, ValueError, DatabaseError):
        return False
    for tree, (depth, nodes) in zip(trees, unpacked, strict=True):
        tree.depth = depth if tree.depth is None else tree.depth
        tree.interior = nodes | tree.interior
    return True


def _facts(tree: Table | Index) -> list[int]:
    """Tell a tree from others."""
    return [tree.root, tree.interior_type, tree.layout.page_size, tree.layout.page_count]


def _fields(record: bytes) -> list[bytes]:
    """Give the fields of a record, the last one first."""
    inflater = zlib.decompressobj()
    body = inflater.decompress(record, MOST_BODY)
    if not inflater.eof:
        raise ValueError("cut off, or too long")
    fields, at = [], 0
    while at < len(body):
        (length,) = LENGTH.unpack_from(body, at)
        at += LENGTH.size + length
        if at > len(body):
            raise ValueError("a field is cut off")
        fields.append(body[at - length : at])
    return fields[::-1]


def _unpack_tree(fields: list[bytes], tree: Table | Index) -> tuple[int | None, dict[int, Any]]:
    """Take the fields of one tree: its depth, and its interior pages by number.

    Raises
    ------
    ValueError, DatabaseError
        They are of another tree, or contradict themselves.
    """
    *facts, depth = _sums(fields.pop()).tolist()
    if facts != _facts(tree) or not -1 <= depth < MOST_LEVELS:
        raise ValueError("another tree")
    numbers = _sums(fields.pop())
    counts = _sums(fields.pop())
    if not np.array_equal(np.unique(numbers), numbers) or np.any(counts < 1):
        raise ValueError("pages that cannot be")
    children = _split(_sums(fields.pop()), counts)
    for number, below in zip(numbers.tolist(), children, strict=True):
        tree.check_children(number, below)
    known = None if depth < 0 else depth
    if isinstance(tree, Table):
        keys = _split(_sums(fields.pop()), counts - 1)
        if any(np.any(some[1:] <= some[:-1]) for some in keys):
            raise ValueError("row ids out of order")
        return known, dict(zip(numbers.tolist(), map(TableNode, keys, children), strict=True))
    cells = _cells(fields, tree)
    ends = np.cumsum(counts - 1)
    if len(cells) != ends[-1:].sum():
        raise ValueError("not as many cells as pages need")
    nodes: dict[int, IndexNode] = {}
    for number, end, below in zip(numbers.tolist(), ends.tolist(), children, strict=True):
        share = cells[end - len(below) + 1 : end]
        nodes[number] = IndexNode(tree.check_room(number, share), below)
    return known, nodes


def _cells(fields: list[bytes], index: Index) -> list[Cell]:
    """Take the cells of an index."""
    lengths, sizes, overflows = (_sums(fields.pop()) for _ in range(3))
    text = fields.pop()
    spilt = overflows > 0
    if (
        np.any(sizes < LEAST_RECORD)
        or np.any(lengths != index.local_size(sizes))
        or np.any(spilt != (lengths < sizes))
        or np.any(overflows > index.layout.page_count)
        or int(lengths.sum()) != len(text)
    ):
        raise ValueError("cells that cannot be")
    ends = np.cumsum(lengths).tolist()
    locals_ = [text[end - length : end] for end, length in zip(ends, lengths.tolist(), strict=True)]
    return list(map(Cell, locals_, sizes.tolist(), overflows.tolist()))


def _split(values: Ints, counts: Ints) -> list[Ints]:
    """Cut into pieces of so many values each.

    Raises
    ------
    ValueError
        There are more or fewer values.
    """
    if np.any(counts > len(values)) or int(counts.sum()) != len(values):
        raise ValueError("not as many values as the counts say")
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
