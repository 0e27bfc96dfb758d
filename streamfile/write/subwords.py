"""Writer of the full-text index of a ``.magnitude`` file, in the tables of SQLite's FTS3."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from streamfile.format.tables import BLOCKS, SEGMENTS, SUBWORDS
from streamfile.fts3.builder import NgramIndex
from streamfile.fts3.segment_writer import Segment, largest_block
from streamfile.write.database import Builder
from streamfile.write.keys import Keys
from streamfile.write.prefetch import ahead
from vfs.btree.table import Rows
from vfs.writer.record import encode_record, encode_varint

CONTENT = f"{SUBWORDS}_content"
SEGMENTS_INDEX = f"sqlite_autoindex_{SEGMENTS}_1"

VIRTUAL_SQL = f"CREATE VIRTUAL TABLE {SUBWORDS} USING fts3(char_ngrams, num_ngrams)"
# The SQL that SQLite writes for the tables behind the virtual table.
CONTENT_SQL = (
    f"CREATE TABLE '{CONTENT}'(docid INTEGER PRIMARY KEY, 'c0char_ngrams', 'c1num_ngrams')"
)
BLOCKS_SQL = f"CREATE TABLE '{BLOCKS}'(blockid INTEGER PRIMARY KEY, block BLOB)"
SEGMENTS_SQL = (
    f"CREATE TABLE '{SEGMENTS}'(level INTEGER,idx INTEGER,start_block INTEGER,"
    "leaves_end_block INTEGER,end_block INTEGER,root BLOB,PRIMARY KEY(level, idx))"
)


def write_subwords(builder: Builder, keys: Keys, ngrams: tuple[int, int], folder: Path) -> None:
    """Write the n-grams of all keys, and their full-text index.

    Parameters
    ----------
    builder
        Builder of the file.
    keys
        Keys of all rows.
    ngrams
        Number of characters in the shortest and in the longest n-grams.
    folder
        Directory of temporary files.
    """
    with closing(NgramIndex(*ngrams, folder=folder)) as index:

        def added() -> Iterator[tuple[int, list[tuple[bytes, int]]]]:
            for first, some in keys.batches():
                yield first, index.add(first, some)

        builder.note("table", SUBWORDS, SUBWORDS, 0, VIRTUAL_SQL)
        builder.table(CONTENT, CONTENT_SQL, (_contents(*some) for some in ahead(added())))
        write_segment(builder, index.finish(largest_block(builder.page_size)))


def _contents(first: int, contents: Sequence[tuple[bytes, int]]) -> Rows:
    """Encode rows of the table ``magnitude_subword_content``."""
    heads: dict[int, bytes] = {}
    records: list[bytes] = []
    for data, number in contents:
        if 1 << 7 <= number < 1 << 15:  # usual numbers, which take two bytes
            head = heads.get(len(data))
            if head is None:
                types = b"\0" + encode_varint(13 + 2 * len(data)) + b"\2"
                head = heads[len(data)] = bytes((1 + len(types),)) + types
            records.append(head + data + number.to_bytes(2, "big"))
        else:
            records.append(encode_record((None, data.decode(), number)))
    return Rows.of(first, records)


def write_segment(builder: Builder, segment: Segment) -> None:
    """Write a full-text index of one segment; the list of segments goes to the front."""
    blocks = ((number, (None, block)) for number, block in segment.blocks())
    builder.records(BLOCKS, BLOCKS_SQL, blocks)
    rows = [segment.row] if segment.row else []
    builder.records(SEGMENTS, SEGMENTS_SQL, enumerate(rows, 1), front=True)
    entries = [(*row[:2], rowid) for rowid, row in enumerate(rows, 1)]
    builder.entries(SEGMENTS_INDEX, SEGMENTS, entries)
