"""What every reader of a file of vectors does: find keys, read rows, run walks over its pages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy.typing as npt

from streamfile.format.rows import VectorRows
from streamfile.readers.contents import Contents
from streamfile.readers.sql import SqlConnection
from vfs.btree.walk import Walk
from vfs.cache.kept_files import KeptFiles
from vfs.stats import Budget

T = TypeVar("T")
Entries = list[tuple[bytes, int]]  # keys and row ids


class Reader(ABC):
    """One open file, shared between threads, usable after a fork.

    Parameters
    ----------
    name
        The file's path, or its URL without secrets.
    budget
        Limits on requests and bytes, and their counters; those of a local file stay zero.
    sql
        SQLite's own view of the file.

    Attributes
    ----------
    name, budget, sql
        As given.
    stats
        The counters of the budget.
    """

    def __init__(self, name: str, budget: Budget, sql: SqlConnection) -> None:
        self.name = name
        self.budget = budget
        self.stats = budget.stats
        self.sql = sql

    @property
    @abstractmethod
    def contents(self) -> Contents:
        """What was read to open the file, of the version that answers come from so far."""

    @property
    def prefers_sql(self) -> bool:
        """Whether SQLite searches n-grams faster, and can."""
        return False

    @abstractmethod
    def current(self) -> Contents:
        """Return the contents of the version that is there now, and read that one from here on.

        For a remote file known from the cache, the first call asks the server.
        """

    @abstractmethod
    def find(self, keys: Sequence[str], *, case_insensitive: bool) -> dict[str, int]:
        """Look keys up.

        Parameters
        ----------
        keys
            Any strings, all different.
        case_insensitive
            Whether a row whose key differs in case counts, where none has the very key.

        Returns
        -------
        dict
            The row id of each key that the file has: the lowest where it has several.
        """

    @abstractmethod
    def run(self, walk: Callable[[Contents], Walk[T]]) -> T:
        """Drive a walk over the file's pages to its end, and return its result.

        Parameters
        ----------
        walk
            Begins the walk. It may be called twice: again where the first answer of a server
            tells that the file has changed since it was cached.
        """

    @abstractmethod
    def kept(self, what: str) -> tuple[KeptFiles | None, bytes | None]:
        """Return the kept files, and the name there of what is made of this version of the file.

        Parameters
        ----------
        what
            Is made.

        Returns
        -------
        files, name
            None where nothing can be kept, or where the server does not tell versions apart.
        """

    def rows(self, rowids: npt.ArrayLike) -> VectorRows:
        """Read rows by row id; those that do not exist are left out."""
        found = self.run(lambda contents: contents.table.find(rowids))
        return VectorRows(self.name, found, self.contents.format.dim)

    def close(self) -> None:
        """Close the file."""
        self.sql.close()


def encode(keys: Sequence[str]) -> list[bytes]:
    """Encode keys as the file stores them; surrogates stand for bytes that are no UTF-8."""
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
    """Choose the row of each key among entries that are equal to the key under NOCASE.

    Parameters
    ----------
    keys, wanted
        Each key, and its bytes.
    entries
        Of each key, by rising row id.
    case_insensitive
        See `Reader.find`.
    """
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
