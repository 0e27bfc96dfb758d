"""Copies of existing ``.magnitude`` files, laid out for streaming."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from streamfile._progress import Progress
from streamfile.errors import FormatError, PathError
from streamfile.format.key_lengths import LONGEST
from streamfile.format.rows import VectorRows
from streamfile.format.schema import SchemaRow, read_schema
from streamfile.format.tables import (
    BLOBS,
    BLOCKS,
    FACTS,
    KEY_LENGTHS,
    ROUTER,
    SEGMENTS,
    Format,
    read_format,
)
from streamfile.fts3.doclists import merged
from streamfile.fts3.segment_reader import read_segments
from streamfile.fts3.segment_writer import Segment, largest_block
from streamfile.write.check import check
from streamfile.write.database import Builder
from streamfile.write.output import unfinished
from streamfile.write.streaming_front import SCHEMA, reserve_for, write_front
from streamfile.write.subwords import SEGMENTS_INDEX, write_segment
from vfs.btree.blobs import Blob, BlobTable, read_blobs
from vfs.btree.pages import LocalPages
from vfs.btree.record import decode_record
from vfs.btree.table import Rows, Table
from vfs.btree.walk import run
from vfs.btree.whole_trees import is_index, read_entries, read_rows
from vfs.options import expanded

MADE = (ROUTER, KEY_LENGTHS)  # tables that are made anew, not copied
FULLTEXT = (SEGMENTS, SEGMENTS_INDEX, BLOCKS)
SAMPLES = 10


def repack(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    verify: bool = False,
    force: bool = False,
    log: bool = True,
) -> None:
    """Copy an existing ``.magnitude`` file to one that is laid out for streaming.

    The copy has the same tables, rows and row ids. Its full-text index has the same content in one
    segment. Two small tables are added, which other libraries ignore.

    Parameters
    ----------
    source : str or os.PathLike
        Path of the file, on this machine.
    output : str or os.PathLike
        Path of the copy, which takes about as much disk space as the source.
    verify : bool
        Whether to compare every row of both files afterwards.
    force : bool
        Whether to replace an existing output.
    log : bool
        Whether to show progress, on a terminal.

    Raises
    ------
    FormatError, vfs.DatabaseError
        The source is no ``.magnitude`` file, or is damaged.
    PathError, ExistsError
        The source does not exist; the output exists.
    OSError
        The output cannot be written, or the disk is full.
    """
    source, target = Path(expanded(source)), Path(expanded(output))
    if not source.is_file():
        raise PathError(f"{source}: no such file; download it first if it is on the web")
    pages = LocalPages(source)
    told = read_format(pages)
    with unfinished(target, force=force) as path:
        with Progress(source.name, told.size, unit=" rows", log=log) as bar:
            samples = _write(pages, told, path, bar)
        check(path, told.size, samples)
        if verify:
            compare(pages, LocalPages(path))


def compare(first: LocalPages, second: LocalPages) -> None:
    """Compare all tables and indexes of two files, except the router.

    The full-text indexes are compared by their merged terms. The key lengths of the second file
    are compared with its keys.

    Raises
    ------
    FormatError
        The files differ; the message tells the first difference.
    """
    mine, theirs = (
        {row[1]: row for row in read_schema(pages) if row[1] not in MADE}
        for pages in (first, second)
    )
    facts = [{row[:3] + row[4:] for row in schema.values()} for schema in (mine, theirs)]
    if facts[0] != facts[1]:
        raise FormatError(f"{second.name}: other tables than in {first.name}")
    for name, (*_, root, _) in mine.items():
        if name in FULLTEXT or not root:
            continue
        pair = zip_longest(_records(first, name, root), _records(second, name, theirs[name][3]))
        for number, (one, other) in enumerate(pair, 1):
            if one != other:
                raise FormatError(f"{second.name}: record {number:,} of {name} differs")
    formats = [read_format(pages) for pages in (first, second)]
    if formats[0].segments_root:
        terms = [_terms(pages, told) for pages, told in zip((first, second), formats, strict=True)]
        for one, other in zip_longest(*terms):
            if one != other:
                raise FormatError(f"{second.name}: the n-gram {one or other} differs")
    if formats[1].lengths_root:
        rows = _Rows(second, formats[1])
        deque(rows.batches(), maxlen=0)
        records = _records(second, KEY_LENGTHS, formats[1].lengths_root)
        values = chain.from_iterable(decode_record(record) for _, record in records)
        found = b"".join(value for value in values if isinstance(value, bytes))
        if found != rows.lengths.tobytes():
            raise FormatError(f"{second.name}: the lengths of its keys are others")


def _write(pages: LocalPages, told: Format, path: Path, bar: Any) -> dict[int, bytes]:
    """Write the copy, and return sample records by row id, for `check`."""
    schema = read_schema(pages)
    names = {row[3]: row[1] for row in schema}
    reserve = reserve_for(told.size, told.dim, subword=bool(told.segments_root))
    copy = _Rows(pages, told)
    size = SCHEMA + sum(len(sql or "") for *_, sql in schema)
    page_size = pages.layout.page_size
    with closing(Builder(path, page_size=page_size, schema=size, reserve=reserve)) as builder:
        front = [row for row in schema if row[1] == FACTS]
        rows = sorted(schema, key=lambda row: (_place(row, told), row[0] == "index"))
        for kind, name, table, root, sql in rows:
            if name in (*MADE, *FULLTEXT, FACTS):
                continue
            if not root:
                builder.note(kind, name, table, root, sql)
            elif is_index(pages, root):
                builder.index(name, table, sql, read_entries(pages, root), kind=kind)
            elif name in BLOBS:
                builder.streams(name, sql, _streams(pages, root))
            elif root == told.table_root:
                builder.table(name, sql, _counted(copy.batches(), bar))
            else:
                builder.table(name, sql, read_rows(pages, Table(pages, root)))
        if told.segments_root:
            found = merged(read_segments(pages, told.segments_root, told.blocks_root), pages.name)
            write_segment(builder, Segment(found, largest_block(builder.page_size)))
        for _, name, _, root, sql in front:
            builder.table(name, sql, read_rows(pages, Table(pages, root)), front=True)
        write_front(builder, copy.lengths.tobytes(), names[told.index_root])
        builder.finish([row[1] for row in schema])
    return copy.samples


class _Rows:
    """Reader of the vectors' table, which keeps the lengths of the keys and some records."""

    def __init__(self, pages: LocalPages, told: Format) -> None:
        self._pages, self._format = pages, told
        self.lengths = np.zeros(told.size, np.uint8)
        self.samples: dict[int, bytes] = {}

    def batches(self) -> Iterator[Rows]:
        told = self._format
        for rows in read_rows(self._pages, Table(self._pages, told.table_root, told.size)):
            keys = VectorRows(self._pages.name, rows, told.dim).keys()
            inside = (rows.rowids >= 1) & (rows.rowids <= told.size)
            lengths = [min(len(key.partition("\0")[0]), LONGEST) for key in keys]
            self.lengths[rows.rowids[inside] - 1] = np.array(lengths, np.uint8)[inside]
            if len(self.samples) < SAMPLES and len(rows.rowids):
                self.samples[int(rows.rowids[0])] = next(_each(rows))[1]
            yield rows


def _counted(batches: Iterator[Rows], bar: Any) -> Iterator[Rows]:
    for rows in batches:
        yield rows
        bar.update(len(rows.rowids))


def _place(row: SchemaRow, told: Format) -> int:
    """Return the place of a table or index in the copy: vectors, key index, others, blobs."""
    if row[1] in BLOBS:
        return 3
    return {told.table_root: 0, told.index_root: 1}.get(row[3], 2)


def _streams(pages: LocalPages, root: int) -> Iterator[tuple[int, int, Iterator[bytes]]]:
    for rowid, blob in run(pages, BlobTable(pages, root).records()):
        yield rowid, blob.size, _pieces(pages, blob)


def _pieces(pages: LocalPages, blob: Blob) -> Iterator[bytes]:
    for piece in read_blobs(pages, [blob]):
        yield bytes(piece.data)
        pages.release()


def _records(pages: LocalPages, name: str, root: int) -> Iterator[Any]:
    if is_index(pages, root):
        return read_entries(pages, root)
    if name in BLOBS:
        return ((rowid, _digest(pieces)) for rowid, _, pieces in _streams(pages, root))
    return chain.from_iterable(map(_each, read_rows(pages, Table(pages, root))))


def _digest(pieces: Iterator[bytes]) -> bytes:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.digest()


def _each(rows: Rows) -> Iterator[tuple[int, bytes]]:
    data = rows.data.tobytes()
    for rowid, at, size in zip(
        rows.rowids.tolist(), rows.starts.tolist(), rows.sizes.tolist(), strict=True
    ):
        yield rowid, data[at : at + size]


def _terms(pages: LocalPages, told: Format) -> Iterator[tuple[bytes, bytes]]:
    for some in merged(read_segments(pages, told.segments_root, told.blocks_root), pages.name):
        at = 0
        for term, size in zip(some.terms, some.sizes.tolist(), strict=True):
            yield term, some.lists[at : at + size]
            at += size
