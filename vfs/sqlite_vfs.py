"""SQL on a remote SQLite database: an apsw VFS over a remote file."""

from __future__ import annotations

import itertools
import time
import weakref
from typing import Any

import apsw

from vfs.btree.pages import RemotePages
from vfs.errors import DatabaseError
from vfs.forks import ForkLock
from vfs.remote_file import RemoteFile, open_file

NAME = "streamfile-http"
HEADS = 8
FIRST_WINDOW = 32 << 10
LAST_WINDOW = 4 << 20
AT_ONCE = 0.02  # seconds after a failed read; another read in this time is of the same statement


def connect(url: str, **options: Any) -> apsw.Connection:
    """Open a SQLite database on a web server for reading.

    Parameters
    ----------
    url
        An http or https URL on a server that supports range requests.
    **options
        See `vfs.open`.

    Returns
    -------
    apsw.Connection
        A read-only connection. SQLite treats the file as immutable: it locks nothing, and looks
        for no journal. `file_of` returns the remote file, which has the counters.

    Raises
    ------
    DatabaseError
        The file is no SQLite database, or a truncated one.
    TransportError
        See `vfs.errors`. A statement raises the errors of the requests that it needs.
    """
    file = open_file(url, **options)
    try:
        return _connect(_HttpFile(file, owned=True))
    except BaseException:
        file.close()
        raise


def connect_to(file: RemoteFile) -> apsw.Connection:
    """Open the database in a remote file, see `connect`; `close` leaves the file open."""
    return _connect(_HttpFile(file, owned=False))


def _connect(handle: _HttpFile) -> apsw.Connection:
    file = handle.file
    file.validate()
    RemotePages(file)  # raises our own error if the file is no database
    name = _register(handle)
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    try:
        connection = _Connection(f"file:{name}?immutable=1&mode=ro", flags=flags, vfs=NAME)
        connection.file = file
        handle.connection = weakref.ref(connection)
        connection.pragma("temp_store", "memory")
    except apsw.Error as failure:
        raise DatabaseError(f"{file.name}: SQLite cannot open it: {failure}") from failure
    finally:
        with _lock:
            del _files[name]
    return connection


class _Connection(apsw.Connection):
    """A connection with a reference to its remote file."""

    file: RemoteFile


def file_of(connection: apsw.Connection) -> RemoteFile:
    """Return the remote file that a connection from `connect` reads."""
    if not isinstance(connection, _Connection):
        raise TypeError("expected a connection made by vfs.connect")
    return connection.file


_lock = ForkLock()
_files: dict[str, _HttpFile] = {}
_numbers = itertools.count(1)
_vfs: _HttpVFS | None = None


def _register(handle: _HttpFile) -> str:
    global _vfs
    with _lock:
        if _vfs is None:
            _vfs = _HttpVFS(NAME, "")
        name = f"remote-{next(_numbers)}"
        _files[name] = handle
    return name


class _HttpVFS(apsw.VFS):
    """The VFS, which opens registered remote files; the platform opens temporary files."""

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> Any:
        if not isinstance(name, apsw.URIFilename):
            return super().xOpen(name, flags)
        handle = _files.get(name.filename().rpartition("/")[2])
        if handle is None:
            raise apsw.CantOpenError(f"no remote file {name.filename()!r}")
        flags[1] = apsw.SQLITE_OPEN_READONLY
        return handle

    def xFullPathname(self, name: str) -> str:
        return name

    def xAccess(self, pathname: str, flags: int) -> bool:
        return False


class _HttpFile:
    """A file of the VFS, whose bytes come from a remote file."""

    def __init__(self, file: RemoteFile, *, owned: bool) -> None:
        self.file = file
        self._owned = owned
        self._ahead = ReadAhead(file.size)
        self._failed = -AT_ONCE
        self.connection: weakref.ref[apsw.Connection] | None = None

    def xRead(self, amount: int, offset: int) -> bytes:
        start, end = self._ahead.window(offset, amount)
        data = self.file.cached(offset, amount)
        if data is not None:
            return data
        began = time.monotonic()
        try:
            return self.file.read(start, end - start)[offset - start :][:amount]
        except BaseException:
            # An integrity check goes on after an error, up to a hundred times with all retries.
            # An interrupt ends the check, and all other statements of the connection too. So it
            # needs two failed reads in quick succession; other statements end after the first.
            connection = self.connection() if self.connection is not None else None
            if connection is not None and began - self._failed < AT_ONCE:
                connection.interrupt()
            self._failed = time.monotonic()
            raise

    def xFileSize(self) -> int:
        return self.file.size

    def xDeviceCharacteristics(self) -> int:
        return apsw.SQLITE_IOCAP_IMMUTABLE

    def xSectorSize(self) -> int:
        return 4096

    def xFileControl(self, op: int, pointer: int) -> bool:
        return False

    def xLock(self, level: int) -> None:
        pass

    def xUnlock(self, level: int) -> None:
        pass

    def xCheckReservedLock(self) -> bool:
        return False

    def xClose(self) -> None:
        if self._owned:
            self.file.close()


class ReadAhead:
    """Size of the next read: one page, or a growing window for pages that are read in order.

    Several scans may alternate, for example of a table and its index, so the last reads of several
    scans are recorded. An integrity check reads its pages backwards.

    Parameters
    ----------
    size
        Length of the file in bytes.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._heads: list[tuple[int, int, int]] = []  # start, end and window of a scan's last read

    def window(self, offset: int, amount: int) -> tuple[int, int]:
        """Record a read, and return the range (start, end) to fetch if it is not cached."""
        end, window = offset + amount, 0
        backwards = False
        for head in reversed(self._heads):
            start, stop, size = head
            # Interior pages lie between the leaves of a scan, so a few pages may be skipped.
            backwards = 0 <= start - end <= 4 * amount
            if backwards or 0 <= offset - stop <= 4 * amount:
                self._heads.remove(head)
                window = min(max(2 * size, FIRST_WINDOW), LAST_WINDOW)
                break
        self._heads = [*self._heads[1 - HEADS :], (offset, end, window)]
        if backwards:
            return max(min(offset, end - window), 0), end
        return offset, max(end, min(offset + window, self._size))
