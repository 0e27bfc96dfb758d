"""Table ``magnitude_key_lengths``: the length of each key in characters, one byte per key."""

from __future__ import annotations

import numpy as np

from streamfile._arrays import Ints
from vfs.btree.table import Table
from vfs.btree.walk import Walk

LONGEST = 255  # stored length of keys of 255 characters or more
LENGTHS_MARGIN = 64  # bytes of a page that a row of lengths leaves for headers


def lengths_in_row(page_size: int) -> int:
    """Return the number of lengths in each row of ``magnitude_key_lengths``, except the last row.

    Parameters
    ----------
    page_size
        Page size of the database in bytes.
    """
    return page_size - LENGTHS_MARGIN


def read_lengths(table: Table, rowids: Ints) -> Walk[Ints]:
    """Read the lengths of the keys of rows.

    Parameters
    ----------
    table
        The table ``magnitude_key_lengths``.
    rowids
        Row ids of the vectors' table, int64, shape (n,).

    Returns
    -------
    ndarray
        Lengths in characters, 255 for keys of 255 or more, int64, shape (n,).

    Raises
    ------
    vfs.DatabaseError
        The table does not have the length of a key.
    """
    step = lengths_in_row(table.layout.page_size)
    numbers, places = (rowids - 1) // step + 1, (rowids - 1) % step
    rows = yield from table.find(numbers)
    if np.isin(numbers, rows.rowids).all():
        which = np.searchsorted(rows.rowids, numbers)
        begins = rows.starts[which] + rows.data[rows.starts[which]]  # behind the record's header
        inside = begins + places < rows.starts[which] + rows.sizes[which]
        if inside.all() and np.all(rows.data[begins - 1] % 2 == 0):  # serial type of a blob
            lengths: Ints = rows.data[begins + places].astype(np.int64)
            return lengths
    raise table.malformed(table.root, "not the lengths of all keys below it")
