"""Whole b-trees of a file, from the first entry to the last (file format, section 1.6)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vfs.btree.index import Index
from vfs.btree.index_cells import IndexNode
from vfs.btree.pages import LocalPages, Pages
from vfs.btree.table import Rows, Table
from vfs.btree.tree import MOST_LEVELS, BTree, VisitedMany
from vfs.btree.walk import run

BATCH = 4 << 20  # bytes of a batch: its leaf pages or its records, whichever are more
FEW = 16  # leaves of the first batch, which measures the bytes of records per leaf
LAST = (1 << 63) - 1


def is_index(pages: Pages, root: int) -> bool:
    """Tell whether a b-tree is an index b-tree; so is the b-tree of a WITHOUT ROWID table."""
    page = pages.read([root], opening=True)[root]
    return page[100 if root == 1 else 0] in (Index.interior_type, Index.leaf_type)


def read_rows(pages: LocalPages, table: Table) -> Iterator[Rows]:
    """Yield a table's records in batches, in the order of row ids.

    Parameters
    ----------
    pages
        Pages of the file.
    table
        The table; each record has at most 16 MiB in its overflow pages.

    Raises
    ------
    DatabaseError
        The table is damaged.
    """
    visited = VisitedMany(pages)
    leaves = run(pages, table.leaves(LAST))
    begin, step = 0, FEW
    while begin < len(leaves):
        batch = leaves[begin : begin + step]
        data, starts = pages.block(batch)
        rows = run(pages, table.rows_of(batch, data, starts, visited))
        yield rows
        begin += len(batch)
        used = max(int(rows.sizes.sum()), len(batch) * pages.layout.page_size)
        step = max(1, BATCH * len(batch) // used)
        pages.release()


def read_entries(pages: LocalPages, root: int) -> Iterator[bytes]:
    """Yield the records of an index in the order of the index.

    Raises
    ------
    DatabaseError
        The index is damaged.
    """
    index = Index(pages, root, fold=bytes)
    visited = VisitedMany(pages)

    def below(number: int, height: int) -> Iterator[bytes]:
        if height >= MOST_LEVELS:
            raise index.malformed(root, f"more than {MOST_LEVELS} levels below it")
        visited.add((number,))
        node = _node(index, pages, number)
        children = node.children.tolist()
        for position in range(max(len(node.cells), len(children))):
            if children:
                yield from below(children[position], height + 1)
            if position < len(node.cells):
                cell = node.cells[position]
                tail = b""
                if cell.overflow:
                    chain = (cell.overflow, cell.size - len(cell.local))
                    (tail,) = run(pages, index.chains([chain], visited))
                yield cell.local + tail
        if height == 1:
            pages.release()

    return below(root, 0)


def survey(pages: Pages, tree: BTree[Any]) -> None:
    """Read all interior pages of a tree, so that it knows them and its depth.

    Raises
    ------
    DatabaseError
        The tree is damaged.
    """
    level, height = [tree.root], 0
    while not run(pages, tree.level({level[0]: None}, height)):
        if run(pages, tree.level(dict.fromkeys(level), height)):
            raise tree.malformed(tree.root, "leaves at different depths below it")
        level = [child for number in level for child in tree.interior[number].children.tolist()]
        height += 1


def _node(index: Index, pages: LocalPages, number: int) -> IndexNode:
    page = pages.read([number])[number]
    if index.learn(number, page):
        return index.interior.pop(number)
    return index.leaf(number, page)
