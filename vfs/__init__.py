"""Random access to files, and to SQLite databases, on HTTP servers that answer Range requests.

`open` gives the bytes of a file by range, `connect` an ordinary read-only SQLite connection.
Below them, `Table` and `Index` take many keys down a SQLite b-tree together, one wave of parallel
requests a level.
`DatabaseWriter` writes such databases page by page.
"""

from __future__ import annotations

from typing import Any

from vfs._cache import default_kept_files
from vfs._chain import BEGINNING, Blob, BlobPiece, BlobTable, Place, blob_ranges, read_blobs
from vfs._encode import encode_record, encode_varint
from vfs._file import RemoteFile
from vfs._identity import Identity, local_name
from vfs._index import Index, nocase
from vfs._kept import KeptFiles
from vfs._options import Options
from vfs._pages import Layout, LocalPages, Pages, RemotePages
from vfs._part import KeptFile, Part
from vfs._record import decode_record, read_varints
from vfs._router import pack, unpack
from vfs._span import ScanPages
from vfs._sqlite import connect, connect_to, file_of
from vfs._stats import Budget, Counters, Stats
from vfs._sweep import read_keys
from vfs._table import Rows, Table
from vfs._tree import VisitedMany
from vfs._walk import Walk, run, together
from vfs._whole import is_index, read_entries, read_rows, survey
from vfs._workers import Workers
from vfs._writer import DatabaseWriter
from vfs.errors import (
    AccessError,
    BudgetError,
    CacheDirectoryError,
    CacheSpaceError,
    ConnectError,
    DatabaseError,
    DeadlineError,
    FileChangedError,
    NotFoundError,
    OptionError,
    RangeError,
    RedirectError,
    ResponseError,
    StatusError,
    TransportError,
    VFSError,
)

__all__ = [
    "BEGINNING",
    "AccessError",
    "Blob",
    "BlobPiece",
    "BlobTable",
    "Budget",
    "BudgetError",
    "CacheDirectoryError",
    "CacheSpaceError",
    "ConnectError",
    "Counters",
    "DatabaseError",
    "DatabaseWriter",
    "DeadlineError",
    "FileChangedError",
    "Identity",
    "Index",
    "KeptFile",
    "KeptFiles",
    "Layout",
    "LocalPages",
    "NotFoundError",
    "OptionError",
    "Options",
    "Pages",
    "Part",
    "Place",
    "RangeError",
    "RedirectError",
    "RemoteFile",
    "RemotePages",
    "ResponseError",
    "Rows",
    "ScanPages",
    "Stats",
    "StatusError",
    "Table",
    "TransportError",
    "VFSError",
    "VisitedMany",
    "Walk",
    "Workers",
    "blob_ranges",
    "connect",
    "connect_to",
    "decode_record",
    "default_kept_files",
    "encode_record",
    "encode_varint",
    "file_of",
    "is_index",
    "local_name",
    "nocase",
    "open",
    "pack",
    "read_blobs",
    "read_entries",
    "read_keys",
    "read_rows",
    "read_varints",
    "run",
    "survey",
    "together",
    "unpack",
]


def open(url: str, **options: Any) -> RemoteFile:  # noqa: A001
    """Open a file on a web server for reading by range.

    One request opens it, none where the cache remembers the file; the first data request then
    makes sure that the server still has that version.

    Parameters
    ----------
    url
        An http or https address of a server that answers Range requests.
    **options
        The attributes of `vfs.Options`: ``cache_dir``, ``cache_size`` (bytes), ``memory_size``
        (bytes), ``cache_key``, ``connections``, ``timeout`` (seconds), ``retries``,
        ``deadline`` (seconds), ``headers``, ``session``, ``max_requests``, ``max_bytes``.

    Returns
    -------
    RemoteFile
        With ``read``, ``read_many``, ``size``, ``identity``, ``stats``.

    Raises
    ------
    VFSError
        See `vfs.errors` for the tree.
    """
    return RemoteFile(url, **options)
