"""Builder of a database whose front is laid out for streaming."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from streamfile.format.schema import SchemaRow
from vfs.btree.pages import LocalPages
from vfs.btree.table import Rows
from vfs.writer.database import DatabaseWriter
from vfs.writer.record import encode_record

Record = Sequence[int | float | str | bytes | None]

FILE_HEADER = 100  # bytes of page 1 before the schema's page header
FRONT_TABLES = 3  # tables with at least one page each: facts, router, list of segments


class Builder:
    """A database under construction.

    Parameters
    ----------
    path
        Path of the file. The caller renames the file after `finish`, or removes it.
    page_size
        Page size in bytes.
    schema, reserve
        Number of bytes at the front of the file that are reserved for the schema, and for the
        tables that a reader needs first.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, page_size: int, schema: int, reserve: int
    ) -> None:
        self.path = path
        self.page_size = page_size
        held = -(-schema // page_size) if schema > page_size - FILE_HEADER else 0
        pages = held + max(-(-reserve // page_size), FRONT_TABLES)
        self._writer = DatabaseWriter(path, page_size=page_size, reserve=pages, schema=held)
        self._schema: list[SchemaRow] = []

    @property
    def schema(self) -> list[SchemaRow]:
        """Rows of the schema for the tables and indexes so far."""
        return list(self._schema)

    def root(self, name: str) -> int:
        """Return the root page of a table or index."""
        return next(root for _, known, _, root, _ in self._schema if known == name)

    def table(
        self, name: str, sql: str | None, batches: Iterable[Rows], *, front: bool = False
    ) -> None:
        """Write a table of encoded records with rising row ids, see `records`."""
        loader = self._writer.table(front=front)
        for rows in batches:
            loader.add(rows)
        self.note("table", name, name, loader.finish(), sql)

    def records(
        self,
        name: str,
        sql: str | None,
        records: Iterable[tuple[int, Record]],
        *,
        front: bool = False,
    ) -> None:
        """Write a table.

        Parameters
        ----------
        name, sql
            Name of the table, and its SQL in the schema.
        records
            (row id, values) of each row, with rising row ids.
        front
            Whether to write the table to the reserve.
        """
        loader = self._writer.table(front=front)
        for rowid, values in records:
            loader.add_record(rowid, encode_record(values))
        self.note("table", name, name, loader.finish(), sql)

    def streams(
        self, name: str, sql: str | None, rows: Iterable[tuple[int, int, Iterable[bytes]]]
    ) -> None:
        """Write a table of records larger than memory, given as (row id, size, pieces)."""
        loader = self._writer.table()
        for rowid, size, pieces in rows:
            loader.add_stream(rowid, size, pieces)
        self.note("table", name, name, loader.finish(), sql)

    def index(
        self,
        name: str,
        table: str,
        sql: str | None,
        records: Iterable[bytes],
        *,
        kind: str = "index",
    ) -> None:
        """Write an index, or a table that is stored as one, of sorted encoded entries."""
        loader = self._writer.index()
        loader.add(records)
        self.note(kind, name, table, loader.finish(), sql)

    def entries(self, name: str, table: str, entries: Iterable[Record]) -> None:
        """Write an automatic index of SQLite, which has no SQL, of sorted entries."""
        self.index(name, table, None, map(encode_record, entries))

    def note(self, kind: str, name: str, table: str, root: int, sql: str | None) -> None:
        """Add a row to the schema."""
        self._schema.append((kind, name, table, root, sql))

    def pages(self) -> LocalPages:
        """Open the pages that are written so far, for reading."""
        self._writer.flush()
        return LocalPages(self.path)

    def finish(self, order: Sequence[str] = ()) -> None:
        """Write the schema: first the tables in `order`, then other tables, then indexes."""
        places = {name: at for at, name in enumerate(order)}
        self._writer.finish(
            sorted(
                self._schema,
                key=lambda row: (row[0] == "index", places.get(row[1], len(places))),
            )
        )

    def close(self) -> None:
        """Close the file, finished or not."""
        self._writer.close()
