"""Reader of a local file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TypeVar, cast
from urllib.parse import quote

import apsw

from streamfile.readers.base import Entries, Reader, choose, encode
from streamfile.readers.contents import Contents
from streamfile.readers.sql import SqlConnection
from vfs.btree.index import nocase
from vfs.btree.pages import LocalPages
from vfs.btree.walk import Walk, run
from vfs.cache.directory import default_kept_files
from vfs.cache.kept_files import KeptFiles
from vfs.identity import local_name
from vfs.stats import Budget, Stats

T = TypeVar("T")

MOST_SQL_COLUMNS = 2000
SQL_BATCH = 500
SELECT = "SELECT CAST(key AS BLOB), rowid FROM magnitude WHERE key IN ({})"


class LocalReader(Reader):
    """Reader of a local file, which looks up keys by SQL if SQLite can open the table.

    Parameters
    ----------
    path
        Path of the file.

    Raises
    ------
    streamfile.errors.FormatError
        The file is no ``.magnitude`` file.
    vfs.DatabaseError
        The file is no SQLite database, or a damaged one.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path, Budget(Stats()), SqlConnection(path, partial(_connect, path)))
        self._contents = Contents.of(LocalPages(path))

    @property
    def prefers_sql(self) -> bool:
        """Whether the table has at most 2,000 columns, the default limit of SQLite."""
        return self.contents.format.dim + 2 <= MOST_SQL_COLUMNS

    def current(self) -> Contents:
        """Return the contents of the file, which are read only once."""
        return self.contents

    def find(self, keys: Sequence[str], *, case_insensitive: bool) -> dict[str, int]:
        """Look up keys, see `Reader.find`."""
        if not self.prefers_sql:
            return super().find(keys, case_insensitive=case_insensitive)
        wanted = encode(keys)
        rows = self._select(wanted)
        if not case_insensitive:
            exact = dict(rows)
            if len(exact) < len(rows):  # the lowest row id of equal keys
                exact = dict(sorted(rows, key=itemgetter(1), reverse=True))
            return {
                key: exact[name] for key, name in zip(keys, wanted, strict=True) if name in exact
            }
        rows.sort(key=itemgetter(1))
        groups: dict[bytes, Entries] = {}
        for entry in rows:
            if entry[0] is None:  # a damaged row: in the index its key is not NULL
                continue
            groups.setdefault(nocase(entry[0]), []).append(entry)
        entries = [groups.get(nocase(name), []) for name in wanted]
        return choose(keys, wanted, entries, case_insensitive=True)

    def run(self, walk: Callable[[Contents], Walk[T]]) -> T:
        """Run a walk over the pages of the file, see `Reader.run`."""
        contents = self.contents
        return run(contents.pages, walk(contents))

    def kept(self, what: str) -> tuple[KeptFiles | None, bytes | None]:
        """Return the kept files and the name of a derived file, see `Reader.kept`."""
        self.check_open()
        return default_kept_files(), local_name(self.name, what)

    def _select(self, wanted: Sequence[bytes]) -> Entries:
        """Select the keys and row ids of rows whose keys equal a wanted key under NOCASE."""
        rows: Entries = []
        with self.sql.entered() as connection:
            for begin in range(0, len(wanted), SQL_BATCH):
                batch = wanted[begin : begin + SQL_BATCH]
                sql = SELECT.format(",".join(["CAST(? AS TEXT)"] * len(batch)))
                rows += cast("Entries", connection.execute(sql, batch).fetchall())
        return rows


def _connect(path: str) -> apsw.Connection:
    uri = f"file:{quote(str(Path(path).resolve()))}?immutable=1"
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    connection = apsw.Connection(uri, flags=flags)
    connection.pragma("mmap_size", 1 << 40)
    return connection
