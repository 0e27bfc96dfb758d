"""Size and speed of a packed router: `python benchmarks/router.py`.

The trees are those of files of 3,000,000 rows in pages of 4096 bytes, made without files: leaves
lie in a row, interior pages right behind them, level by level. The table has 3 rows a leaf (300
dimensions) or 16 to 17 (50 dimensions); the index has keys of 3 to 25 characters whose row ids are
in no order; two more trees are those of a full-text index, one of them with 15,000 leaves that
overflow to a page each. Times are the least of several runs.
"""

from __future__ import annotations

import random
import struct
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from vfs.btree.index import Index, nocase
from vfs.btree.index_cells import Cell, IndexNode
from vfs.btree.pages import Layout
from vfs.btree.table import Table, TableNode
from vfs.btree.walk import run
from vfs.router.router import pack, unpack

ROWS = 3_000_000
PAGE_SIZE = 4096
CHILDREN = 408  # of an interior page of a table
BLOCKS = 15_000
MOST_PACKED, AIM_PACKED = 400_000, 200_000
MOST_UNPACK, AIM_UNPACK = 0.050, 0.025
MOST_PACK = 3.0
WORDS = 100_000
WORDS_IN_KEY = (1, 2, 2, 2, 3)
SEED = 1
RUNS = 15
LETTERS = "etaoinshrdlucmfwypvbgkjqxz"
FREQUENCIES = [
    12,
    9,
    8,
    8,
    7,
    7,
    6,
    6,
    6,
    4,
    4,
    3,
    3,
    2,
    2,
    2,
    2,
    2,
    1,
    1,
    1,
    1,
    0.3,
    0.3,
    0.3,
    0.3,
]

Ints = npt.NDArray[np.int64]


@dataclass
class NoPages:
    """What a tree needs of a file that nothing is read from."""

    name: str
    layout: Layout


def empty_file(page_count: int) -> NoPages:
    """Make a file of so many pages.

    Parameters
    ----------
    page_count : int

    Returns
    -------
    NoPages
    """
    header = bytearray(100)
    header[:16] = b"SQLite format 3\0"
    struct.pack_into(">H", header, 16, PAGE_SIZE)
    return NoPages("synthetic", Layout("synthetic", bytes(header), page_count * PAGE_SIZE))


def keys_of(count: int) -> list[bytes]:
    """Make keys like those of the Google News vectors: words and names of several words.

    Parameters
    ----------
    count : int

    Returns
    -------
    list of bytes
        All different, in the order of NOCASE.
    """
    rng = random.Random(SEED)
    lengths = [rng.randrange(3, 9) for _ in range(WORDS)]
    words = ["".join(rng.choices(LETTERS, FREQUENCIES, k=length)) for length in lengths]
    keys: set[str] = set()
    while len(keys) < count:
        # Common words are in many names: the n-th one as often as 1 / n says.
        several = [words[int(WORDS ** rng.random()) - 1] for _ in range(rng.choice(WORDS_IN_KEY))]
        if rng.random() < 0.1:
            several.append(str(rng.randrange(10_000)))
        case = rng.choice([str.title, str.title, str.title, str.lower, str.upper])
        keys.add(case("_".join(several))[:25])
    return sorted((key.encode() for key in keys), key=lambda key: (nocase(key), key))


def grow_table(first: int, leaves: Ints, last_rows: Ints) -> tuple[dict[int, TableNode], int, int]:
    """Make the interior pages of a table.

    Parameters
    ----------
    first : int
        The page that they begin at.
    leaves, last_rows : ndarray
        Page numbers of the leaves, and the last row id of each.

    Returns
    -------
    nodes, root, depth
    """
    nodes: dict[int, TableNode] = {}
    depth = 0
    while len(leaves) > 1:
        begins = range(0, len(leaves), CHILDREN)
        for number, begin in enumerate(begins, first):
            share = slice(begin, begin + CHILDREN)
            nodes[number] = TableNode(last_rows[share][:-1].copy(), leaves[share].copy())
        last_rows = last_rows[[min(b + CHILDREN, len(leaves)) - 1 for b in begins]]
        leaves = np.arange(first, first + len(begins))
        first, depth = first + len(begins), depth + 1
    return nodes, int(leaves[0]), depth


def grow_index(first: int, keys: list[bytes]) -> tuple[int, dict[int, IndexNode], int, int]:
    """Make the interior pages of an index on keys whose row ids are in no order.

    Parameters
    ----------
    first : int
        The page that its leaves begin at.
    keys : list of bytes

    Returns
    -------
    leaves, nodes, root, depth
        The number of its leaves, and as `grow_table`.
    """
    rowids = np.random.default_rng(SEED).permutation(len(keys)) + 1
    records = [record_of(*entry) for entry in zip(keys, rowids.tolist(), strict=True)]
    records, shares = split(records, PAGE_SIZE - 8, 3)
    leaves, depth = len(shares), 0
    nodes: dict[int, IndexNode] = {}
    children = np.arange(first, first + leaves)
    while len(children) > 1:
        first = int(children[-1]) + 1
        between, shares = split(records, PAGE_SIZE - 12, 7)
        at = 0
        for number, share in enumerate(shares, first):
            cells = [Cell(record, len(record), 0) for record in share]
            nodes[number] = IndexNode(cells, children[at : at + len(share) + 1].copy())
            at += len(share) + 1
        records, depth = between, depth + 1
        children = np.arange(first, first + len(shares))
    return leaves, nodes, int(children[0]), depth


def record_of(key: bytes, rowid: int) -> bytes:
    """Make the record of an index entry."""
    kind = next(kind for kind in (1, 2, 3) if rowid < 1 << 8 * kind - 1)
    return bytes([3, 13 + 2 * len(key), kind]) + key + rowid.to_bytes(kind, "big")


def split(records: list[bytes], room: int, beside: int) -> tuple[list[bytes], list[list[bytes]]]:
    """Fill pages with records; one between each two pages goes to the level above.

    Parameters
    ----------
    records : list of bytes
    room : int
        Bytes of a page.
    beside : int
        Bytes that a record takes beside its own.

    Returns
    -------
    between : list of bytes
    shares : list of list of bytes
        One more.
    """
    ends = np.cumsum([len(record) + beside for record in records])
    cuts, used = [-1], 0
    while len(records) and ends[-1] - used > room:
        cut = min(int(np.searchsorted(ends, used + room, "right")), len(records) - 2)
        cuts.append(cut)
        used = int(ends[cut])
    cuts.append(len(records))
    return [records[cut] for cut in cuts[1:-1]], [records[a + 1 : b] for a, b in pairwise(cuts)]


def trees_of(rows_in_leaves: Ints, keys: list[bytes]) -> list[Table | Index]:
    """Make the trees of a file that know all of their interior pages.

    Parameters
    ----------
    rows_in_leaves : ndarray
        For each leaf of the table.
    keys : list of bytes

    Returns
    -------
    list of Table or Index
        Table, key index, segments and blocks of the full-text index.
    """
    last, leaves = np.cumsum(rows_in_leaves), np.arange(3, 3 + len(rows_in_leaves))
    nodes, root, depth = grow_table(3 + len(leaves), leaves, last)
    first = root + 1
    index_leaves, index_nodes, index_root, index_depth = grow_index(first, keys)
    segments = index_root + 1
    blocks = segments + 1 + 2 * np.arange(BLOCKS)
    block_nodes, blocks_root, blocks_depth = grow_table(
        int(blocks[-1]) + 2, blocks, np.arange(1, BLOCKS + 1)
    )
    pages = empty_file(blocks_root + 10)
    table, index = Table(pages, root, ROWS), Index(pages, index_root, ROWS, fold=nocase)
    table.interior, table.depth = nodes, depth
    index.interior, index.depth = index_nodes, index_depth
    segdir, block_table = Table(pages, segments), Table(pages, blocks_root)
    segdir.depth = 0
    block_table.interior, block_table.depth = block_nodes, blocks_depth
    print(
        f"  {len(leaves):,} leaves of the table and {len(nodes):,} interior pages; "
        f"{index_leaves:,} and {len(index_nodes):,} of the index; "
        f"{BLOCKS:,} and {len(block_nodes):,} of the full-text index"
    )
    return [table, index, segdir, block_table]


def bare(trees: list[Table | Index]) -> list[Table | Index]:
    """Give the same trees, which know nothing."""
    fresh: list[Table | Index] = []
    for tree in trees:
        pages = NoPages(tree.name, tree.layout)
        if isinstance(tree, Table):
            fresh.append(Table(pages, tree.root, tree.rows))
        else:
            fresh.append(Index(pages, tree.root, tree.rows, fold=nocase))
    return fresh


def seconds(work: Callable[[], object], runs: int) -> float:
    """Give the least time of several runs."""
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def same(one: Table | Index, other: Table | Index) -> bool:
    """Tell whether two trees know the same."""
    return one.interior.keys() == other.interior.keys() and all(
        np.array_equal(node.children, other.interior[number].children)
        and (
            np.array_equal(node.keys, other.interior[number].keys)
            if isinstance(node, TableNode)
            else list(node.cells) == list(other.interior[number].cells)
        )
        for number, node in one.interior.items()
    )


def measure(what: str, rows_in_leaves: Ints, keys: list[bytes]) -> None:
    """Pack and unpack, and print what it takes."""
    print(what)
    trees = trees_of(rows_in_leaves, keys)
    record = pack(trees)
    print(f"  packed: {len(record):,} bytes (at most {MOST_PACKED:,}, aim {AIM_PACKED:,})")
    print(
        f"  of them the table alone: {len(pack(trees[:1])):,}, the index {len(pack(trees[1:2])):,}"
    )
    took = seconds(lambda: pack(trees), 2)
    print(f"  pack: {took * 1e3:.0f} ms (at most {MOST_PACK * 1e3:.0f})")
    took = seconds(lambda: unpack(record, bare(trees)), RUNS)
    limits = f"at most {MOST_UNPACK * 1e3:.0f}, aim {AIM_UNPACK * 1e3:.0f}"
    print(f"  unpack: {took * 1e3:.1f} ms ({limits})")
    again = bare(trees)
    tracemalloc.start()
    assert unpack(record, again)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"  memory: {held / 1e6:.1f} MB held, {peak / 1e6:.1f} MB at most")
    table = again[0]
    assert isinstance(table, Table)
    began = time.perf_counter()
    assert table.unknown() == []
    print(f"  unknown: {(time.perf_counter() - began) * 1e3:.2f} ms")
    began = time.perf_counter()
    leaves = run(NoPages(table.name, table.layout), table.leaves(ROWS))  # reads nothing
    print(f"  {len(leaves):,} leaves listed: {(time.perf_counter() - began) * 1e3:.1f} ms")
    assert all(map(same, trees, again))


def main() -> None:
    """Measure both shapes of a file."""
    keys = keys_of(ROWS)
    lengths = list(map(len, keys))
    print(
        f"{ROWS:,} keys of {min(lengths)} to {max(lengths)} bytes, {np.mean(lengths):.1f} the mean"
    )
    measure("300 dimensions, 3 rows a leaf", np.full(ROWS // 3, 3), keys)
    rng = np.random.default_rng(SEED)
    counts = rng.integers(16, 18, ROWS // 16)
    counts = counts[: int(np.searchsorted(np.cumsum(counts), ROWS))]
    counts = np.append(counts, ROWS - int(counts.sum()))
    measure("50 dimensions, 16 or 17 rows a leaf", counts, keys)


if __name__ == "__main__":
    main()
