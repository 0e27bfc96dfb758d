"""Entries of the indexes on keys and on a dimension."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from streamfile._arrays import Ints
from streamfile.format.records import NUMBER_SIZES
from streamfile.format.rows import VectorRows
from vfs.btree.pages import LocalPages
from vfs.btree.table import Table
from vfs.btree.whole_trees import read_rows
from vfs.writer.record import encode_record

PAIRS = 10_000  # entries that are encoded in one step


def column(pages: LocalPages, table: Table, dim: int, dimension: int) -> tuple[Ints, Ints]:
    """Read one dimension of all vectors.

    Returns
    -------
    values, rowids
        Stored integers, and the row ids of the vectors, int64, shape (n,).
    """
    values, rowids = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for rows in read_rows(pages, table):
        values.append(VectorRows(pages.name, rows, dim).column(dimension))
        rowids.append(rows.rowids)
    return np.concatenate(values), np.concatenate(rowids)


def pair_records(values: Ints, rowids: Ints) -> Iterator[bytes]:
    """Yield the encoded entries of an index on integers, in the given order."""
    for begin in range(0, len(values), PAIRS):
        part = slice(begin, begin + PAIRS)
        pairs = np.stack([values[part], rowids[part]], 1)
        bits = np.where(pairs < 0, ~pairs, pairs)
        kinds = 1 + sum((bits >> most > 0).astype(np.int64) for most in (7, 15, 23, 31, 47))
        kinds = np.where((pairs == 0) | (pairs == 1), 8 + pairs, kinds)
        sizes = NUMBER_SIZES[kinds]
        numbers = pairs.astype(">i8")[..., None].view(np.uint8)
        used = np.arange(8) >= 8 - sizes[..., None]
        headers = np.column_stack([np.full(len(pairs), 3), kinds]).astype(np.uint8)
        bodies = numbers.reshape(len(pairs), -1)
        data = np.hstack([headers, bodies])[
            np.hstack([np.ones_like(headers, bool), used.reshape(len(pairs), -1)])
        ].tobytes()
        ends = np.cumsum(3 + sizes.sum(axis=1)).tolist()
        yield from (data[at:end] for at, end in zip([0, *ends], ends, strict=False))


SHORT = 57  # bytes of the longest key whose serial type is a varint of one byte


def index_records(entries: Iterable[tuple[bytes, int]]) -> Iterator[bytes]:
    """Yield the encoded entries of an index on keys, in the given order."""
    for key, rowid in entries:
        if len(key) <= SHORT and 1 < rowid < 1 << 23:
            width = 1 if rowid < 1 << 7 else 2 if rowid < 1 << 15 else 3
            yield bytes((3, 13 + 2 * len(key), width)) + key + rowid.to_bytes(width, "big")
        else:
            yield encode_record([key.decode(), rowid])
