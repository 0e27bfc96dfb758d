"""Contents of one version of a file: its pages, its format, and its b-trees."""

from __future__ import annotations

from dataclasses import dataclass

from streamfile.format.tables import Format, read_format
from streamfile.fts3.reader import Fulltext
from vfs.btree.index import Index, nocase
from vfs.btree.pages import LocalPages, RemotePages
from vfs.btree.table import Table
from vfs.identity import Identity


@dataclass(frozen=True)
class Contents:
    """Pages, format and b-trees of one version of a file."""

    pages: LocalPages | RemotePages
    format: Format
    table: Table
    index: Index
    fulltext: Fulltext | None
    lengths: Table | None
    version: Identity | None

    @classmethod
    def of(cls, pages: LocalPages | RemotePages, version: Identity | None = None) -> Contents:
        """Read the schema and the format table, and make the b-trees."""
        told = read_format(pages)
        table = Table(pages, told.table_root, told.size)
        index = Index(pages, told.index_root, told.size, fold=nocase)
        fulltext = None
        if told.segments_root:
            fulltext = Fulltext(pages, told.segments_root, told.blocks_root)
        lengths = Table(pages, told.lengths_root) if told.lengths_root else None
        return cls(pages, told, table, index, fulltext, lengths, version)

    @property
    def trees(self) -> list[Table | Index]:
        """All b-trees, in the order in which a router packs them."""
        trees: list[Table | Index] = [self.table, self.index]
        if self.fulltext is not None:
            trees += [self.fulltext.segments, self.fulltext.blocks]
        if self.lengths is not None:
            trees.append(self.lengths)
        return trees
