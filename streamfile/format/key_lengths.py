"""The table ``magnitude_key_lengths``: how many characters each key has, a byte a row."""

from __future__ import annotations

import numpy as np

from streamfile._arrays import Ints
from vfs.btree.table import Table
from vfs.btree.walk import Walk

LONGEST = 255  # characters of a key, or more
LENGTHS_MARGIN = 64  # bytes of a page beside its row of lengths


def lengths_in_row(page_size: int) -> int:
    """Tell how many keys' lengths a row of ``magnitude_key_lengths`` has: all but the last one."""
    return page_size - LENGTHS_MARGIN


def read_lengths(table: Table, rowids: Ints) -> Walk[Ints]:
    """Read how many characters the keys of rows have, at most 255.

    Raises
    ------
    vfs.DatabaseError
        The table does not have them.
    """
    step = lengths_in_row(table.layout.page_size)
    numbers, places = (rowids - 1) // step + 1, (rowids - 1) % step
    rows = yield from table.find(numbers)
    if np.isin(numbers, rows.rowids).all():
        which = np.searchsorted(rows.rowids, numbers)
        begins = rows.starts[which] + rows.data[rows.starts[which]]  # behind a header so long
        inside = begins + places < rows.starts[which] + rows.sizes[which]
        if inside.all() and np.all(rows.data[begins - 1] % 2 == 0):  # the type of a blob
            lengths: Ints = rows.data[begins + places].astype(np.int64)
            return lengths
    raise table.malformed(table.root, "not the lengths of all keys below it")
