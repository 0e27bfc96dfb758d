"""Keys and row numbers to rows, whichever way pages come."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import apsw
import numpy as np
import numpy.typing as npt

from streamfile.format.rows import VectorRows
from streamfile.format.tables import Format
from streamfile.oov.similar import similar_rows
from streamfile.readers.contents import Contents
from streamfile.readers.kept_blobs import keep_blob
from vfs.btree.pages import Pages
from vfs.btree.walk import Walk, run
from vfs.cache.kept_files import KeptFiles
from vfs.cache.unfinished_file import KeptFile
from vfs.errors import DatabaseError
from vfs.stats import Budget, Stats

T = TypeVar("T")
Entries = list[tuple[bytes, int]]


# SQLite has locks of its own. A process must not be forked while a thread is inside of them: the
# child would find them taken for ever.
sqlite = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=sqlite.acquire, after_in_parent=sqlite.release, after_in_child=sqlite.release
    )


class Reader:
    """The rows of one ``.magnitude`` file.

    Attributes
    ----------
    stats
        Counters of the network; all zero for a local file.
    budget
        Limits on them.
    namespace
        Of the hashes of keys that it does not have.
    """

    stats: Stats
    budget: Budget
    namespace: str | None = None
    _contents: Contents
    _connection: apsw.Connection | None = None

    @property
    def name(self) -> str:
        """The file's path, or its URL without secrets."""
        return self._contents.pages.name

    @property
    def format(self) -> Format:
        """What the file says of itself."""
        return self._contents.format

    @property
    def assumed(self) -> Format:
        """The same, without asking the server whether the cache is still right."""
        return self._contents.format

    @property
    def prefers_sql(self) -> bool:
        """Whether SQLite searches faster, and can."""
        return False

    def find(self, keys: Sequence[str], *, case_insensitive: bool) -> dict[str, int]:
        """Look keys up.

        Parameters
        ----------
        keys
            Any strings, all different.
        case_insensitive
            Whether a row of other case counts, where none is of the same.

        Returns
        -------
        dict
            The row id of each key that the file has: the lowest where it has several.
        """
        wanted = encode(keys)
        entries = self._run(lambda contents: contents.index.find(wanted))
        return choose(keys, wanted, entries, case_insensitive=case_insensitive)

    def similar(
        self, keys: Sequence[str], *, language: str | None, case_insensitive: bool
    ) -> list[list[int]]:
        """Find the rows similar to keys that the file does not have, see `similar_rows`."""
        return self._run(
            lambda contents: similar_rows(
                contents,
                keys,
                language=language,
                case_insensitive=case_insensitive,
                encode=encode,
                match=self.execute,
                prefer_sql=self.prefers_sql,
            )
        )

    def execute(self, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Run an SQL query.

        Raises
        ------
        vfs.DatabaseError
            SQLite cannot.
        """
        try:
            with sqlite:
                if self._connection is None:
                    self._connection = self._connect()
                return self._connection.execute(sql, values).fetchall()
        except apsw.Error as failure:
            raise DatabaseError(f"{self.name}: SQLite cannot read it: {failure}") from failure

    def rows(self, rowids: npt.ArrayLike) -> VectorRows:
        """Read rows by row id; those that do not exist are left out."""
        rows = self._run(lambda contents: contents.table.find(rowids))
        return VectorRows(self.name, rows, self.format.dim)

    @property
    def contents(self) -> Contents:
        """What was read to open the file, of the version that the server has."""
        return self._contents

    def leaves(self, last: int) -> npt.NDArray[np.int64]:
        """List the leaf pages of the rows up to a row id, in their order."""
        return self._run(lambda contents: contents.table.leaves(last))

    def scan_pages(self, gap: int) -> Pages:
        """Give what reads pages for a scan, those at most a gap apart in one range."""
        return self._contents.pages

    def blob_file(self, what: str) -> KeptFile:
        """Give a file that is stored in this one, fetched once and kept, see `keep_blob`."""
        return keep_blob(self, what)

    def kept(self, what: str) -> tuple[KeptFiles | None, bytes | None]:
        """Give the kept files, and the name of one made of this file; None where there is none."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the file, and SQLite's connection."""
        with sqlite:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def after_fork(self) -> None:
        """Let go of what belongs to the parent process."""
        self._connection = None

    def _connect(self) -> apsw.Connection:
        raise NotImplementedError

    def _run(self, walk: Callable[[Contents], Walk[T]]) -> T:
        return run(self._contents.pages, walk(self._contents))


def encode(keys: Sequence[str]) -> list[bytes]:
    """Give the bytes that keys have in the file; those that are no text come as surrogates."""
    try:
        return [key.encode() for key in keys]
    except UnicodeEncodeError:
        return [_encode_surrogates(key) for key in keys]


def _encode_surrogates(key: str) -> bytes:
    try:
        return key.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return key.encode("utf-8", "surrogatepass")


def choose(
    keys: Sequence[str],
    wanted: Sequence[bytes],
    entries: Sequence[Entries],
    *,
    case_insensitive: bool,
) -> dict[str, int]:
    """Pick the row of each key among those equal under NOCASE, which come by rising row id."""
    chosen: dict[str, int] = {}
    for key, name, found in zip(keys, wanted, entries, strict=True):
        for other, rowid in found:
            if other == name:
                chosen[key] = rowid
                break
        else:
            lower = key.lower() if case_insensitive else None
            for other, rowid in found:
                if other.decode("utf-8", "surrogateescape").lower() == lower:
                    chosen[key] = rowid
                    break
    return chosen
