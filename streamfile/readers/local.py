"""A file on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import cast
from urllib.parse import quote

import apsw

from streamfile.readers.base import Entries, Reader, choose, encode, sqlite
from streamfile.readers.contents import Contents
from vfs.btree.index import nocase
from vfs.btree.pages import LocalPages
from vfs.cache.directory import default_kept_files
from vfs.cache.kept_files import KeptFiles
from vfs.errors import DatabaseError
from vfs.identity import local_name
from vfs.stats import Budget, Stats

MOST_SQL_COLUMNS = 2000
SQL_BATCH = 500
SELECT = "SELECT CAST(key AS BLOB), rowid FROM magnitude WHERE key IN ({})"


class LocalReader(Reader):
    """A file on this machine; SQLite finds its keys where it can.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    streamfile.errors.FormatError
        No ``.magnitude`` file.
    vfs.DatabaseError
        No SQLite database.
    """

    def __init__(self, path: str) -> None:
        self.stats = Stats()
        self.budget = Budget(self.stats, None, None)
        self._path = path
        self._contents = Contents.of(LocalPages(path))

    @property
    def prefers_sql(self) -> bool:
        """Whether SQLite can open the table, as no stock SQLite can if it is very wide."""
        return self.format.dim + 2 <= MOST_SQL_COLUMNS

    def find(self, keys: Sequence[str], *, case_insensitive: bool) -> dict[str, int]:
        """Look keys up, as `Reader.find`."""
        if not self.prefers_sql:
            return super().find(keys, case_insensitive=case_insensitive)
        wanted = encode(keys)
        try:
            rows = self._select(wanted)
        except apsw.Error as failure:
            raise DatabaseError(f"{self._path}: SQLite cannot read it: {failure}") from failure
        if not case_insensitive:
            exact = dict(rows)
            if len(exact) < len(rows):  # the lowest of equal keys
                exact = dict(sorted(rows, key=itemgetter(1), reverse=True))
            return {
                key: exact[name] for key, name in zip(keys, wanted, strict=True) if name in exact
            }
        rows.sort(key=itemgetter(1))
        groups: dict[bytes, Entries] = {}
        for entry in rows:
            if entry[0] is None:  # damaged: its index has a key there
                continue
            groups.setdefault(nocase(entry[0]), []).append(entry)
        entries = [groups.get(nocase(name), []) for name in wanted]
        return choose(keys, wanted, entries, case_insensitive=True)

    def kept(self, what: str) -> tuple[KeptFiles | None, bytes | None]:
        """Give the place and the name of a kept file, as `Reader.kept`."""
        return default_kept_files(), local_name(self._path, what)

    def _select(self, wanted: Sequence[bytes]) -> Entries:
        """Get the rows whose keys are equal to any of these under NOCASE."""
        rows: Entries = []
        with sqlite:
            if self._connection is None:
                self._connection = self._connect()
            for begin in range(0, len(wanted), SQL_BATCH):
                batch = wanted[begin : begin + SQL_BATCH]
                sql = SELECT.format(",".join(["CAST(? AS TEXT)"] * len(batch)))
                rows += cast("Entries", self._connection.execute(sql, batch).fetchall())
        return rows

    def _connect(self) -> apsw.Connection:
        uri = f"file:{quote(str(Path(self._path).resolve()))}?immutable=1"
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        connection = apsw.Connection(uri, flags=flags)
        connection.pragma("mmap_size", 1 << 40)
        return connection
