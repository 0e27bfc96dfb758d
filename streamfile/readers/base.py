"""Base class of readers of ``.magnitude`` files: lookup of keys, rows, walks over pages."""

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
from vfs.errors import ClosedError
from vfs.stats import Budget

T = TypeVar("T")
Entries = list[tuple[bytes, int]]  # keys and row ids


class Reader(ABC):
    """An open file. Threads may share it, and forked processes may use it.

    Parameters
    ----------
    name
        Path of the file, or its URL without secrets.
    budget
        Limits of requests and bytes, and their counters, which stay 0 for a local file.
    sql
        SQL connection to the file.

    Attributes
    ----------
    name, budget, sql
        The parameters of these names.
    stats
        Counters of the budget.
    """

    def __init__(self, name: str, budget: Budget, sql: SqlConnection) -> None:
        self.name = name
        self.budget = budget
        self.stats = budget.stats
        self.sql = sql
        self._contents: Contents | None = None  # a subclass sets it
        self._closed = False

    @property
    def contents(self) -> Contents:
        """Contents of the version that is read now; `current` checks that version."""
        contents = self._contents
        if self._closed or contents is None:
            raise ClosedError.of(self.name)
        return contents

    def check_open(self) -> None:
        """Raise a `vfs.ClosedError` if the reader was closed, as all other methods do."""
        if self._closed:
            raise ClosedError.of(self.name)

    @property
    def deadline(self) -> float | None:
        """The option of this name: seconds that a call may take."""
        return None

    @property
    def prefers_sql(self) -> bool:
        """Whether SQLite can search n-grams in the file, and does so faster than walks."""
        return False

    @abstractmethod
    def current(self) -> Contents:
        """Return the contents of the present version, and read that version from here on.

        If only the cache has told the version of a remote file so far, a request checks it.
        """

    def find(self, keys: Sequence[str], *, case_insensitive: bool) -> dict[str, int]:
        """Look up keys.

        Parameters
        ----------
        keys
            Strings without repeats.
        case_insensitive
            Whether to ignore the case of ASCII letters if no row has exactly the key.

        Returns
        -------
        dict
            The row id of each key that the file has, the lowest one of several matching rows.
        """
        wanted = encode(keys)
        entries = self.run(lambda contents: contents.index.find(wanted))
        return choose(keys, wanted, entries, case_insensitive=case_insensitive)

    @abstractmethod
    def run(self, walk: Callable[[Contents], Walk[T]]) -> T:
        """Run a walk over the pages of the file, and return the result of the walk.

        Parameters
        ----------
        walk
            Function that begins the walk. It is called again if the first response of the
            server shows that the cached version is outdated.
        """

    @abstractmethod
    def kept(self, what: str) -> tuple[KeptFiles | None, bytes | None]:
        """Return the kept files, and the name of a file that is derived from this version.

        Parameters
        ----------
        what
            Name of the derived content.

        Returns
        -------
        files, name
            `files` is None without a disk cache, `name` if the server sends no validator.
        """

    def rows(self, rowids: npt.ArrayLike) -> VectorRows:
        """Read rows, by rising row id; row ids that do not exist are left out."""
        found = self.run(lambda contents: contents.table.find(rowids))
        return VectorRows(self.name, found, self.contents.format.dim)

    def close(self) -> None:
        """Close the file; the reader answers no more.

        A call in another thread completes, or raises a `vfs.ClosedError`.
        """
        self._closed = True
        self.sql.close()
        self._contents = None


def encode(keys: Sequence[str]) -> list[bytes]:
    """Encode keys in UTF-8; surrogates of malformed bytes become these bytes again."""
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
    """Choose the row of each key from the entries that equal the key under NOCASE.

    Parameters
    ----------
    keys, wanted
        Keys, and the encoded keys.
    entries
        Entries of each key, by rising row id.
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
