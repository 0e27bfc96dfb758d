"""Description of a ``.magnitude`` file for people."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from streamfile.format.schema import read_schema
from streamfile.format.tables import (
    APPROXIMATE,
    BLOBS,
    ELMO_OPTIONS,
    ELMO_WEIGHTS,
    KEY_LENGTHS,
    SUBWORDS,
    VECTORS,
)
from streamfile.readers.contents import Contents
from streamfile.readers.open import open_reader
from vfs.btree.blobs import BlobTable
from vfs.btree.index import Index
from vfs.btree.pages import Pages
from vfs.btree.table import Table
from vfs.btree.walk import run
from vfs.btree.whole_trees import is_index

PARTS = {
    VECTORS: "vectors",
    APPROXIMATE: "approximate index",
    ELMO_WEIGHTS: "ELMo weights",
    ELMO_OPTIONS: "ELMo options",
    KEY_LENGTHS: "key lengths",
}
OTHER = "schema, facts, router"


@dataclass(frozen=True)
class Info:
    """Description of a ``.magnitude`` file.

    Attributes
    ----------
    name
        Path or URL of the file.
    size, page_size
        Length of the file, and of a page, in bytes.
    rows, dim, precision
        Number of vectors, of dimensions, and of stored decimal places.
    flavour
        ``light``, ``medium`` or ``heavy``.
    elmo
        Whether the file contains an ELMo model.
    streaming
        Whether the file is laid out for streaming.
    parts
        Estimated number of bytes of each part, by name.
    """

    __module__ = "streamfile"

    name: str
    size: int
    page_size: int
    rows: int
    dim: int
    precision: int
    flavour: str
    elmo: bool
    streaming: bool
    parts: Mapping[str, int]

    def lines(self) -> list[str]:
        """Return the description as lines of text."""
        kind = "ELMo, " if self.elmo else ""
        layout = "for streaming" if self.streaming else "original; streamfile repack changes it"
        return [
            self.name,
            f"  {kind}{self.flavour}: {self.rows:,} vectors of {self.dim:,} dimensions, "
            f"precision {self.precision}",
            f"  {self.size:,} bytes in pages of {self.page_size:,}, laid out {layout}",
            *(f"  {size:>16,}  {part}" for part, size in self.parts.items()),
        ]


def info(source: str | os.PathLike[str], **options: Any) -> Info:
    """Describe a ``.magnitude`` file, from a small part of it.

    Parameters
    ----------
    source : str or os.PathLike
        Path or URL of the file. A URL takes two round trips.
    **options
        Options for a URL, see `vfs.open`.

    Raises
    ------
    FormatError, vfs.VFSError
        The file is no ``.magnitude`` file, is damaged, or cannot be reached.
    PathError
        The file does not exist.
    """
    with closing(open_reader(source, **options)) as reader:
        contents = reader.current()
        told, layout = contents.format, contents.pages.layout
        return Info(
            name=reader.name,
            size=layout.page_count * layout.page_size,
            page_size=layout.page_size,
            rows=told.size,
            dim=told.dim,
            precision=told.precision,
            flavour="heavy" if told.approx else "medium" if told.segments_root else "light",
            elmo=told.elmo,
            streaming=told.router_root > 0,
            parts=_parts(contents),
        )


def _parts(contents: Contents) -> dict[str, int]:
    """Estimate the bytes of each part, from root pages and the pages that they point to."""
    pages, told = contents.pages, contents.format
    schema = [row for row in read_schema(pages) if row[3]]
    pages.read({row[3] for row in schema}, opening=True)  # in one wave
    # In the layout for streaming, leaves come before the interior pages that point to them. In the
    # original layout, all but the first leaves come behind them.
    behind = not told.router_root
    found = {1: (OTHER, behind)}  # by page: its part, and whether the next pages are of the part
    begins: list[tuple[int, int, str]] = []
    for kind, name, _, root, _ in schema:
        part = PARTS.get(name, OTHER)
        if SUBWORDS in name:
            part = "n-grams"
        elif kind == "index":
            part = "index on keys" if root == told.index_root else "other indexes"
        below = sorted(_below(pages, name, root))
        found |= dict.fromkeys([*below, root], (part, behind or name in BLOBS))
        if behind and len(below) > 1:
            stride = (below[-1] - below[1]) // max(1, len(below) - 2)  # the first two are adjacent
            begins.append((below[0], below[0] if name in BLOBS else stride, part))
    roots = {row[3] for row in schema}  # at the beginning of a file that SQLite has vacuumed
    for first, most, part in begins:
        before = max((page for page in found if page < first), default=0)
        least = before if before in roots else first - most - 1
        found.setdefault(max(before, least) + 1, (part, True))
    count, size = pages.layout.page_count, pages.layout.page_size
    marks = sorted((page, *what) for page, what in found.items() if 1 <= page <= count)
    sizes = dict.fromkeys(sorted({part for _, part, _ in marks}), 0)
    for (page, part, owns), (following, other, _) in pairwise([*marks, (count + 1, "", True)]):
        sizes[part] += size
        sizes[part if owns or not other else other] += (following - page - 1) * size
    return sizes


def _below(pages: Pages, name: str, root: int) -> list[int]:
    """List the pages that a root points to; for a table of blobs, the ends of its chains."""
    index = is_index(pages, root)
    tree = Index(pages, root, fold=bytes) if index else Table(pages, root)
    run(pages, tree.touch(), opening=True)
    if root in tree.interior:
        children: list[int] = tree.interior[root].children.tolist()
        return children
    if name not in BLOBS:
        return []
    room = pages.layout.usable - 4
    chains = [blob for _, blob in run(pages, BlobTable(pages, root).records()) if blob.overflow]
    lengths = [-((len(chain.local) - chain.size) // room) for chain in chains]
    begins = [chain.overflow for chain in chains]
    return begins + [at + count - 1 for at, count in zip(begins, lengths, strict=True)]
