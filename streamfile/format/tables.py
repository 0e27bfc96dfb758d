"""Tables of a ``.magnitude`` file, and the facts in its table ``magnitude_format``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from streamfile.errors import FormatError
from streamfile.format.schema import MOST_SCHEMA_PAGES
from vfs.btree.pages import Pages
from vfs.btree.table import Table
from vfs.btree.walk import run

# Names of tables.
VECTORS, FACTS = "magnitude", "magnitude_format"
SUBWORDS = "magnitude_subword"
SEGMENTS, BLOCKS = f"{SUBWORDS}_segdir", f"{SUBWORDS}_segments"
APPROXIMATE = "magnitude_approx"
ELMO_WEIGHTS, ELMO_OPTIONS = "magnitude_meta_1", "magnitude_meta_2"
ROUTER, KEY_LENGTHS = "magnitude_router", "magnitude_key_lengths"
BLOBS = {APPROXIMATE: 1, ELMO_WEIGHTS: 0, ELMO_OPTIONS: 0}  # position of the blob's column

NEWEST_VERSION = 2
MOST_DIM = 30000
MOST_NGRAM = 100
MOST_TREES = 1 << 20
LEAST_ROW = 8  # bytes of a row with one dimension, its cell pointer included
ON_KEY = re.compile(rb"\(\s*[`\"\[]?key[`\"\]]?\s*\)\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class Format:
    """Facts about a ``.magnitude`` file, from its schema and its table ``magnitude_format``.

    Attributes
    ----------
    size
        Number of vectors.
    dim
        Number of dimensions of each vector.
    precision
        Number of decimal places of the stored integers.
    elmo
        Whether the file contains an ELMo model.
    table_root, index_root
        Root pages of the vectors' table, and of the index on its keys.
    segments_root, blocks_root
        Root pages of the tables of the full-text index of n-grams, 0 without such an index.
    subword_start, subword_end
        Number of characters in the shortest and in the longest n-grams of that index.
    approx
        Whether the file contains an index of approximate neighbours.
    approx_trees
        Number of trees in that index, 0 without such an index.
    max_duplicate_keys
        Greatest number of rows with keys that are equal under NOCASE. It is 1 if the file does not
        tell it, or has no index of approximate neighbours.
    blob_roots
        Root pages of the existing tables that contain a file as a blob, by name of the table.
    router_root, lengths_root
        Root pages of the tables ``magnitude_router`` and ``magnitude_key_lengths``, 0 without such
        a table.
    """

    size: int
    dim: int
    precision: int
    elmo: bool
    table_root: int
    index_root: int
    segments_root: int = 0
    blocks_root: int = 0
    subword_start: int = 0
    subword_end: int = 0
    approx: bool = False
    approx_trees: int = 0
    max_duplicate_keys: int = 1
    blob_roots: Mapping[str, int] = field(default_factory=dict)
    router_root: int = 0
    lengths_root: int = 0


def read_format(pages: Pages) -> Format:
    """Read the schema and the table ``magnitude_format``.

    Parameters
    ----------
    pages
        Pages of the file.

    Raises
    ------
    FormatError
        The database is no ``.magnitude`` file, or has a newer format version.
    vfs.DatabaseError
        The database is damaged.
    """
    roots: dict[str, int] = {}
    key_index = 0
    for _, row in run(pages, Table(pages, 1).scan(most_pages=MOST_SCHEMA_PAGES), opening=True):
        match row:
            case [b"table", bytes(name), _, int(root), _]:
                roots[name.decode(errors="replace")] = root
            case [b"index", _, table, int(root), bytes(sql)] if ON_KEY.search(sql):
                key_index = root if table == VECTORS.encode() else key_index
    if VECTORS not in roots or FACTS not in roots or not key_index:
        raise FormatError(
            f"{pages.name}: a SQLite database, but no .magnitude file: expected the tables "
            "magnitude and magnitude_format and an index on magnitude(key), found the tables "
            f"{', '.join(sorted(roots)[:10]) or '(none)'}"
        )
    scan = Table(pages, roots[FACTS]).scan(most_pages=MOST_SCHEMA_PAGES)
    told: dict[str, Any] = {}
    for _, row in run(pages, scan, opening=True):
        if len(row) == 2 and isinstance(row[0], bytes):
            told.setdefault(row[0].decode(errors="replace"), row[1])
    version = told.get("version", 1)
    if not isinstance(version, int) or version > NEWEST_VERSION:
        raise FormatError(
            f"{pages.name}: format version {version!r}; this release reads up to version "
            f"{NEWEST_VERSION}: update streamfile (pip install -U streamfile)"
        )
    most_rows = pages.layout.page_count * pages.layout.page_size // LEAST_ROW
    expected = [("dim", 1, MOST_DIM), ("size", 0, most_rows), ("precision", 0, 18)]
    subword = bool(told.get("subword")) and roots.keys() >= {SEGMENTS, BLOCKS}
    if subword:
        expected += [("subword_start", 1, MOST_NGRAM), ("subword_end", 1, MOST_NGRAM)]
    approx = bool(told.get("approx")) and APPROXIMATE in roots
    if approx:
        told.setdefault("max_duplicate_keys", 1)
        expected += [("approx_trees", 1, MOST_TREES), ("max_duplicate_keys", 0, most_rows)]
    for fact, least, most in expected:
        value = told.get(fact)
        if not isinstance(value, int) or not least <= value <= most:
            raise FormatError(
                f"{pages.name}: magnitude_format has {fact}={value!r}; expected a number from "
                f"{least} to {most}"
            )
    return Format(
        size=told["size"],
        dim=told["dim"],
        precision=told["precision"],
        elmo=bool(told.get("elmo", 0)),
        table_root=roots[VECTORS],
        index_root=key_index,
        segments_root=roots[SEGMENTS] if subword else 0,
        blocks_root=roots[BLOCKS] if subword else 0,
        subword_start=told["subword_start"] if subword else 0,
        subword_end=told["subword_end"] if subword else 0,
        approx=approx,
        approx_trees=told["approx_trees"] if approx else 0,
        max_duplicate_keys=max(1, told["max_duplicate_keys"]) if approx else 1,
        blob_roots={name: roots[name] for name in BLOBS if name in roots},
        router_root=roots.get(ROUTER, 0),
        lengths_root=roots.get(KEY_LENGTHS, 0),
    )
