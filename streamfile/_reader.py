"""Keys and row numbers to rows, in a local file or on a web server."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote

import apsw
import numpy as np
import numpy.typing as npt

from streamfile._format import Format, VectorRows, read_format
from streamfile._fulltext import Fulltext
from streamfile._similar import similar_rows
from streamfile.errors import FormatError
from vfs import (
    Budget,
    DatabaseError,
    FileChangedError,
    Identity,
    Index,
    LocalPages,
    Pages,
    RemoteFile,
    RemotePages,
    ScanPages,
    Stats,
    Table,
    Walk,
    connect,
    nocase,
    pack,
    run,
    together,
    unpack,
)

T = TypeVar("T")
Entries = list[tuple[bytes, int]]

ROUTER = "router.v1"
MOST_SQL_COLUMNS = 2000
SQL_BATCH = 500
SELECT = "SELECT CAST(key AS BLOB), rowid FROM magnitude WHERE key IN ({})"

# SQLite has locks of its own. A process must not be forked while a thread is inside of them: the
# child would find them taken for ever.
sqlite = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=sqlite.acquire, after_in_parent=sqlite.release, after_in_child=sqlite.release
    )


@dataclass(frozen=True)
class Contents:
    """What was read to open one version of a file."""

    pages: Pages
    format: Format
    table: Table
    index: Index
    fulltext: Fulltext | None
    version: Identity | None

    @classmethod
    def of(cls, pages: Pages, version: Identity | None = None) -> Contents:
        """Read the schema, and what the file says of itself."""
        told = read_format(pages)
        table = Table(pages, told.table_root, told.size)
        index = Index(pages, told.index_root, told.size, fold=nocase)
        fulltext = None
        if told.segments_root:
            fulltext = Fulltext(pages, told.segments_root, told.blocks_root)
        return cls(pages, told, table, index, fulltext, version)

    @property
    def trees(self) -> tuple[Table | Index, ...]:
        """All trees, in the order in which they are packed."""
        if self.fulltext is None:
            return self.table, self.index
        return self.table, self.index, self.fulltext.segments, self.fulltext.blocks


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
        return _choose(keys, wanted, entries, case_insensitive=case_insensitive)

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

    def find(self, keys: Sequence[str], *, case_insensitive: bool) -> dict[str, int]:
        """Look keys up, as `Reader.find`."""
        if self.format.dim + 2 > MOST_SQL_COLUMNS:  # no stock SQLite opens such a table
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
        return _choose(keys, wanted, entries, case_insensitive=True)

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


class RemoteReader(Reader):
    """A file on a web server: walks its b-trees, all keys together.

    What is learned of the trees' interior pages is kept in the cache, so that a later process
    knows the way to every leaf it asks for.

    Parameters
    ----------
    url
        An http or https address.
    **options
        See `vfs.open`.

    Raises
    ------
    streamfile.errors.FormatError
        No ``.magnitude`` file.
    vfs.VFSError
        The file cannot be reached, or is no SQLite database.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._url, self._options = url, options
        self.file = RemoteFile(url, **options)
        self.stats = self.file.stats
        self.budget = self.file.budget
        self._lock = threading.Lock()
        try:
            self._open()
        except BaseException:
            self.file.close()
            raise

    @property
    def format(self) -> Format:
        """What the file says of itself, on the server, not just in the cache."""
        if self.file.identity != self._contents.version:
            self._open()
        return self._contents.format

    @property
    def contents(self) -> Contents:
        """What was read to open the file, of the version that the server has."""
        assert self.format
        return self._contents

    def scan_pages(self, gap: int) -> Pages:
        """Give what reads pages for a scan, as `Reader.scan_pages`: past the cache."""
        return ScanPages(self._pages, gap)

    def close(self) -> None:
        """Keep what was learned, and close the file."""
        super().close()
        self._save()
        self.file.close()

    def after_fork(self) -> None:
        """Replace the lock, which a thread of the parent process may have held."""
        super().after_fork()
        self._lock = threading.Lock()

    def _connect(self) -> apsw.Connection:
        return connect(self._url, **self._options)

    def _open(self) -> None:
        """Read what is needed to open the file, in the version that the cache or server has."""
        with self._lock:
            assumed = self.file.assumed
            try:
                self._load(assumed)
            except (FileChangedError, DatabaseError, FormatError):
                # That may be true only of what the cache remembers.
                version = self.file.identity
                if version == assumed:
                    raise
                self._load(version)

    def _load(self, version: Identity) -> None:
        pages = RemotePages(self.file)
        contents = Contents.of(pages, version)
        record = self.file.recall(ROUTER)
        if record is None or not unpack(record, contents.trees):
            roots = together([tree.touch() for tree in contents.trees])
            run(contents.pages, roots, opening=True)
            record = None
        self._contents, self._pages = contents, pages
        self._saved = 0 if record is None else self._known()

    def _run(self, walk: Callable[[Contents], Walk[T]]) -> T:
        contents = self._contents
        try:
            result = run(contents.pages, walk(contents), trees=contents.trees)
        except FileChangedError:
            if self.file.assumed == contents.version:
                raise
            self._open()
            contents = self._contents
            result = run(contents.pages, walk(contents), trees=contents.trees)
        if self._known() > 1.2 * self._saved:
            self._save()
        return result

    def _known(self) -> int:
        return sum(len(tree.interior) for tree in self._contents.trees)

    def _save(self) -> None:
        if self._known() > self._saved:
            self.file.remember(ROUTER, pack(self._contents.trees))
            self._saved = self._known()


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


def _choose(
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
