"""Keys of many row ids, read from the leaves of an index in one wave."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vfs.btree.index import Bounds, Index
from vfs.btree.record import SIZES, Ints, Page, concatenate, decode_record, read_varints
from vfs.btree.tree import LEAF_HEADER, Visited
from vfs.btree.walk import Walk
from vfs.errors import DatabaseError

WIDTHS = np.array(SIZES)


def read_keys(
    index: Index, rowids: npt.ArrayLike, *, prefix: bytes = b""
) -> Walk[dict[int, bytes]]:
    """Look up the keys of row ids by reading the index, its leaves in one wave.

    Parameters
    ----------
    index
        Index on a text column.
    rowids
        Row ids in any order.
    prefix
        Prefix in UTF-8, without NUL. Only pages that can have keys with this prefix, under the
        collation, are read.

    Returns
    -------
    dict
        Keys by row id. A row id is left out if the index does not have it, or if its key
        overflows the page. Keys that do not begin with the prefix may be left out too.
    """
    wanted = np.unique(np.asarray(rowids, np.int64))
    found: dict[int, bytes] = {}
    pages: list[Page] = []
    offsets: list[Ints] = []
    folded = index.fold(prefix) if prefix else b""
    level: dict[int, Bounds] = {index.root: (None, None)}
    visited, height = Visited(index.name), 0
    while level:
        visited.add(level)
        leaves = yield from index.level(level, height)
        below: dict[int, Bounds] = {}
        for number, bounds in level.items():
            if number in leaves:
                pages.append(leaves[number])
                offsets.append(index.cell_offsets(number, leaves[number], LEAF_HEADER))
                index.check_bounds(number, index.leaf(number, leaves[number]), bounds)
                continue
            node = index.interior[number]
            first, last = index.beginning_with(node, folded)
            for cell in (node.cells[place] for place in range(first, last)):
                if not cell.overflow:
                    match _values(cell.local):
                        case [bytes(key), int(rowid)]:
                            found[rowid] = key
            for place, child in enumerate(node.children[first : last + 1].tolist(), first):
                if child in below:
                    raise index.malformed(index.root, "a page twice below it")
                below[child] = index.bounds(node, place, bounds)
        level, height = below, height + 1
    data, starts = concatenate(pages)
    base = np.repeat(starts, [len(cells) for cells in offsets])
    sizes, at = read_varints(data, base + np.concatenate([*offsets, np.zeros(0, np.int64)]))
    whole = (sizes > 0) & (sizes <= index.most_local) & (at + sizes <= base + index.layout.usable)
    sizes, at = sizes[whole], at[whole]
    header, types = read_varints(data, at)
    kinds, types = read_varints(data, types)
    rowid_kinds = data[types].astype(np.int64)
    key_sizes = (kinds - 13) // 2
    widths = WIDTHS[np.minimum(rowid_kinds, 7)]
    widths[rowid_kinds >= 8] = 0
    sound = (kinds >= 13) & (kinds % 2 == 1) & (rowid_kinds >= 1) & (rowid_kinds <= 9)
    sound &= (rowid_kinds != 7) & (header + key_sizes + widths == sizes) & (header > 0)
    begins, key_sizes = (at + header)[sound], key_sizes[sound]
    rowids_here = _integers(data, begins + key_sizes, widths[sound], rowid_kinds[sound])
    for i in np.flatnonzero(np.isin(rowids_here, wanted)).tolist():
        begin = int(begins[i])
        found[int(rowids_here[i])] = data[begin : begin + int(key_sizes[i])].tobytes()
    return {rowid: found[rowid] for rowid in wanted.tolist() if rowid in found}


def _integers(data: npt.NDArray[np.uint8], at: Ints, widths: Ints, kinds: Ints) -> Ints:
    values = np.where(kinds >= 8, kinds - 8, 0)
    for position in range(int(widths.max(initial=0))):
        inside = position < widths
        byte = data[np.where(inside, at + position, 0)].astype(np.int64)
        if position == 0:
            byte = byte.astype(np.int8).astype(np.int64)  # the first byte has the sign bit
        values = np.where(inside, values << 8 | byte & (-1 if position == 0 else 0xFF), values)
    return values


def _values(record: bytes) -> list[object]:
    try:
        return list(decode_record(record))
    except DatabaseError:
        return []
