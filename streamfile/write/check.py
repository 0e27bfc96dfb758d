"""Check of a written file, before it gets its final name."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import apsw

from streamfile.errors import FormatError
from streamfile.format.tables import read_format
from streamfile.readers.local import MOST_SQL_COLUMNS
from vfs.btree.pages import LocalPages
from vfs.btree.table import Table
from vfs.btree.walk import run


def check(path: Path, rows: int, samples: Mapping[int, bytes]) -> None:
    """Check a new file: the number of rows, some records and, by SQLite, all tables.

    SQLite cannot check files whose vectors have more dimensions than its limit on columns.

    Parameters
    ----------
    path
        Path of the file.
    rows
        Expected number of rows.
    samples
        Expected records of some rows, by row id.

    Raises
    ------
    FormatError
        The file is damaged, by a fault of the disk, the memory, or this program.
    """
    pages = LocalPages(path)
    told = read_format(pages)
    found = run(pages, Table(pages, told.table_root, told.size).find(list(samples)))
    spans = zip(found.starts.tolist(), found.sizes.tolist(), strict=True)
    records = [found.data[begin : begin + size].tobytes() for begin, size in spans]
    if dict(zip(found.rowids.tolist(), records, strict=True)) != dict(samples):
        raise _wrong(path, "rows that were written are not there")
    if told.dim + 2 <= MOST_SQL_COLUMNS:
        try:
            _check_sql(path, rows)
        except apsw.Error as failure:
            raise _wrong(path, f"SQLite cannot read it: {failure}") from failure
        return
    last = run(pages, Table(pages, told.table_root).find([rows, rows + 1])).rowids.tolist()
    if last != [rows][: rows > 0]:
        raise _wrong(path, f"the last row is not row {rows:,}")


def _check_sql(path: Path, rows: int) -> None:
    uri = f"file:{quote(str(path.resolve()))}?immutable=1"
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    with closing(apsw.Connection(uri, flags=flags)) as connection:
        for table in [
            name
            for (name,) in connection.execute(
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0"
            )
        ]:
            said = connection.execute(f'PRAGMA integrity_check("{table}")').get
            if said != "ok":
                raise _wrong(path, f"SQLite finds in the table {table}: {said}")
        count = connection.execute("SELECT count(*) FROM magnitude").get
        if count != rows:
            raise _wrong(path, f"it has {count:,} rows instead of {rows:,}")


def _wrong(path: Path, what: str) -> FormatError:
    return FormatError(f"{path}: the file that was written is damaged: {what}. Try again")
