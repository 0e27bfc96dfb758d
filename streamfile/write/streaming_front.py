"""Tables at the front of a file that is laid out for streaming, which a reader needs first."""

from __future__ import annotations

from streamfile.format.key_lengths import lengths_in_row
from streamfile.format.packed_blocks import pack_blocks
from streamfile.format.tables import BLOCKS, KEY_LENGTHS, ROUTER, SEGMENTS, VECTORS
from streamfile.fts3.reader import Fulltext
from streamfile.write.database import Builder
from vfs.btree.index import Index, nocase
from vfs.btree.table import Table
from vfs.btree.walk import run
from vfs.btree.whole_trees import survey
from vfs.router.router import pack

ROUTER_SQL = f"CREATE TABLE {ROUTER} (trees BLOB, ngrams BLOB)"
LENGTHS_SQL = f"CREATE TABLE {KEY_LENGTHS} (data BLOB)"
SCHEMA = 4096  # bytes of the schema without the columns of the vectors' table
SMALL_TABLES = 8192  # bytes at the front that do not depend on dimensions and rows
DIMENSION = 20  # bytes per dimension in magnitude_format
ROW = 0.12  # bytes per row in the router
SEARCHED_ROW = 0.1  # bytes per row for the n-grams in the router


def reserve_for(rows: int, dim: int, *, subword: bool) -> int:
    """Estimate the bytes of the tables at the front, without the schema."""
    return SMALL_TABLES + DIMENSION * dim + int((ROW + subword * SEARCHED_ROW) * rows)


def write_front(builder: Builder, lengths: bytes, key_index: str) -> None:
    """Write the tables that only a layout for streaming has.

    Parameters
    ----------
    builder
        Builder of a file whose other tables are all written.
    lengths
        Length of each row's key in characters, one byte per row, see `Keys.lengths`.
    key_index
        Name of the index on keys.
    """
    step = lengths_in_row(builder.page_size)
    pieces = [(lengths[at : at + step],) for at in range(0, len(lengths), step)]
    builder.records(KEY_LENGTHS, LENGTHS_SQL, enumerate(pieces, 1))
    pages = builder.pages()
    trees: list[Table | Index] = [
        Table(pages, builder.root(VECTORS)),
        Index(pages, builder.root(key_index), fold=nocase),
    ]
    nodes = None
    if any(name == SEGMENTS for _, name, *_ in builder.schema):
        fulltext = Fulltext(pages, builder.root(SEGMENTS), builder.root(BLOCKS))
        trees += [fulltext.segments, fulltext.blocks]
        nodes = pack_blocks(run(pages, fulltext.interior_blocks()))
    trees.append(Table(pages, builder.root(KEY_LENGTHS)))
    for tree in trees:
        survey(pages, tree)
    # One row, so that the first page leads to all overflow pages.
    builder.records(ROUTER, ROUTER_SQL, [(1, (pack(trees), nodes))], front=True)
