"""Table ``sqlite_schema`` (https://sqlite.org/fileformat2.html, section 2.6)."""

from __future__ import annotations

from streamfile.errors import FormatError
from vfs.btree.pages import Pages
from vfs.btree.table import Table
from vfs.btree.walk import run

SchemaRow = tuple[str, str, str, int, str | None]  # type, name, table, root page, SQL

MOST_SCHEMA_PAGES = 1000


def read_schema(pages: Pages) -> list[SchemaRow]:
    """Read the table ``sqlite_schema``.

    Raises
    ------
    FormatError
        A row is malformed.
    vfs.DatabaseError
        The database is damaged.
    """
    schema: list[SchemaRow] = []
    for _, row in run(pages, Table(pages, 1).scan(most_pages=MOST_SCHEMA_PAGES), opening=True):
        match row:
            case [bytes(kind), bytes(name), bytes(table), int(root), sql] if root >= 0:
                try:
                    text = sql.decode() if isinstance(sql, bytes) else None
                    schema.append((kind.decode(), name.decode(), table.decode(), root, text))
                    continue
                except UnicodeDecodeError:
                    pass
        raise FormatError(f"{pages.name}: malformed: a row of its schema")
    return schema
