"""Compact encoding of the interior pages of b-trees, which together lead to every leaf.

Row ids and page numbers are nearly arithmetic progressions, and neighbouring keys share prefixes.
Unpacked pages stay in flat arrays; a node is made when a walk needs its page.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

from vfs.btree.index import Index
from vfs.btree.index_cells import IndexNode
from vfs.btree.record import Ints
from vfs.btree.table import Table, TableNode
from vfs.btree.tree import MOST_LEVELS, Node, repeats
from vfs.router.cells import PackedCells, pack_cells
from vfs.router.columns import Columns, column, compress, rising_column, runs

FACTS = struct.Struct("<6q")
MOST_NODES = 1 << 17
MOST_CHILDREN = 1 << 22
LAST_PAGE = (1 << 32) - 1  # greatest page number that a pointer of four bytes has


class Nodes(MutableMapping[int, Node]):
    """Mapping of page numbers to interior pages, each made at its first access.

    Parameters
    ----------
    numbers
        Page numbers, int64, shape (n,).
    make
        Function that makes the node of the page at a position in `numbers`.
    known
        Nodes that exist already, by page number; they replace packed ones.
    """

    def __init__(
        self, numbers: Ints, make: Callable[[int], Node], known: Mapping[int, Node]
    ) -> None:
        self._make = make
        positions = zip(numbers.tolist(), range(len(numbers)), strict=True)
        self._nodes: dict[int, Node | int] = dict(positions)
        self._nodes.update(known)

    def __getitem__(self, number: int) -> Node:
        node = self._nodes[number]
        if isinstance(node, int):
            node = self._nodes[number] = self._make(node)
        return node

    def __setitem__(self, number: int, node: Node) -> None:
        self._nodes[number] = node

    def __delitem__(self, number: int) -> None:
        del self._nodes[number]

    def __contains__(self, number: object) -> bool:
        return number in self._nodes

    def __iter__(self) -> Iterator[int]:
        return iter(list(self._nodes))  # another thread may learn a page meanwhile

    def __len__(self) -> int:
        return len(self._nodes)


def pack(trees: Sequence[Table | Index]) -> bytes:
    """Pack the interior pages that trees have stored.

    Parameters
    ----------
    trees
        Trees, in the order in which `unpack` gets them.
    """
    fields: list[bytes] = []
    for tree in trees:
        numbers = sorted(tree.interior)
        nodes = [tree.interior[number] for number in numbers]
        children = [node.children for node in nodes]
        depth = -1 if tree.depth is None else tree.depth
        fields.append(FACTS.pack(*_facts(tree), depth, len(nodes), sum(map(len, children))))
        fields.append(rising_column(numbers))
        fields.append(column([len(below) for below in children]))
        fields += runs(children)
        if isinstance(tree, Table):
            fields += runs([node.keys for node in nodes if isinstance(node, TableNode)])
        else:
            fields += pack_cells([node for node in nodes if isinstance(node, IndexNode)])
    return compress(fields)


def unpack(record: bytes, trees: Sequence[Table | Index]) -> bool:
    """Add the interior pages of a record to trees.

    Parameters
    ----------
    record
        Record from `pack`.
    trees
        The trees, in the same order. They keep the interior pages that they have stored.

    Returns
    -------
    bool
        Whether the record was used. If it is damaged or of other trees, no tree is changed.
    """
    try:
        columns = Columns(record)
        unpacked = [_unpack_tree(columns, tree) for tree in trees]
    except (zlib.error, ValueError):
        return False
    if not columns.exhausted:
        return False
    for tree, (depth, numbers, make) in zip(trees, unpacked, strict=True):
        tree.depth = depth if tree.depth is None else tree.depth
        nodes: Nodes[Any] = Nodes(numbers, make, tree.interior)
        tree.interior = nodes
    return True


def _facts(tree: Table | Index) -> list[int]:
    """List the root, type and page size, by which a record is matched to a tree."""
    return [tree.root, tree.interior_type, tree.layout.page_size]


def _unpack_tree(
    columns: Columns, tree: Table | Index
) -> tuple[int | None, Ints, Callable[[int], Any]]:
    """Read the columns of one tree.

    Returns
    -------
    depth, numbers, make
        The depth of the tree, None if unknown, its page numbers, and a function that makes the
        node of the page at a position.

    Raises
    ------
    ValueError
        The columns are of another tree, or contradict the file format.
    """
    *facts, depth, count, total = FACTS.unpack(columns.octets(FACTS.size))
    if facts != _facts(tree) or not -1 <= depth < MOST_LEVELS:
        raise ValueError("another tree")
    if not 0 <= count <= MOST_NODES or not 0 <= total <= MOST_CHILDREN:
        raise ValueError("more pages than are believed")
    numbers, counts = columns.rising_column(count), columns.column(count)
    if np.any(numbers[1:] <= numbers[:-1]) or np.any((counts < 1) | (counts > total)):
        raise ValueError("pages that cannot be")
    ends = np.cumsum(counts)
    if int(ends[-1:].sum()) != total:
        raise ValueError("not as many children as the counts say")
    children = columns.runs(counts)
    _check_children(numbers, counts, children, tree.layout.page_count)
    gaps = np.append(0, ends - np.arange(1, count + 1))  # number of cells before each page
    make_node: Callable[[int, Ints], TableNode | IndexNode]
    if isinstance(tree, Table):
        make_node = _table_nodes(columns, gaps)
    else:
        make_node = PackedCells(columns, tree, gaps).node

    def make(position: int) -> TableNode | IndexNode:
        end = int(ends[position])
        return make_node(position, children[end - int(counts[position]) : end])

    return None if depth < 0 else depth, numbers, make


def _check_children(numbers: Ints, counts: Ints, children: Ints, page_count: int) -> None:
    """Raise an error for malformed children, as `BTree.check_children`, of all pages at once."""
    if np.any((children < 1) | (children > min(page_count, LAST_PAGE))):
        raise ValueError("a child outside of the file")
    if np.any(children == np.repeat(numbers, counts)):
        raise ValueError("a page as its own child")
    families = np.repeat(np.arange(len(counts)) << 32, counts)
    if repeats(families | children):
        raise ValueError("a child twice")


def _table_nodes(columns: Columns, gaps: Ints) -> Callable[[int, Ints], TableNode]:
    """Read the row ids of a table's pages, and return a function that makes a node."""
    keys = columns.runs(np.diff(gaps))
    falls = np.flatnonzero(keys[1:] <= keys[:-1]) + 1
    if not np.isin(falls, gaps).all():
        raise ValueError("row ids out of order")
    return lambda position, below: TableNode(keys[gaps[position] : gaps[position + 1]], below)
