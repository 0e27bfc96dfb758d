"""Random access to files, and to SQLite databases, on HTTP servers that answer Range requests.

`open` gives the bytes of a file by range, `connect` an ordinary read-only SQLite connection.
Below them, `Table` and `Index` take many keys down a SQLite b-tree together, one wave of parallel
requests a level.
`DatabaseWriter` writes such databases page by page.
"""

from __future__ import annotations

from typing import Any

from vfs.btree.blobs import BEGINNING, Blob, BlobPiece, BlobTable, Place, blob_ranges, read_blobs
from vfs.btree.index import Index, nocase
from vfs.btree.index_keys import read_keys
from vfs.btree.pages import Layout, LocalPages, Pages, RemotePages
from vfs.btree.record import decode_record, read_varints
from vfs.btree.scan_pages import ScanPages
from vfs.btree.table import Rows, Table
from vfs.btree.tree import VisitedMany
from vfs.btree.walk import Walk, run, together
from vfs.btree.whole_trees import is_index, read_entries, read_rows, survey
from vfs.cache.directory import default_kept_files
from vfs.cache.kept_files import KeptFiles
from vfs.cache.unfinished_file import KeptFile, Part
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
from vfs.identity import Identity, local_name
from vfs.options import Options
from vfs.remote_file import RemoteFile
from vfs.router.router import pack, unpack
from vfs.sqlite_vfs import connect, connect_to, file_of
from vfs.stats import Budget, Counters, Stats
from vfs.workers import Workers
from vfs.writer.database import DatabaseWriter
from vfs.writer.record import encode_record, encode_varint

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
