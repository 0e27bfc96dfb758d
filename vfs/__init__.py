"""Random access to files and SQLite databases on HTTP servers that support range requests.

`open` opens a file for reading by range, `connect` opens a SQLite database and returns a read-only
connection, and `DatabaseWriter` writes a SQLite database page by page. The subpackages are
`transport` (HTTP), `cache` (memory and disk), `btree` (SQLite's b-trees, read level by level),
`router` (packed interior pages of b-trees) and `writer`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vfs.errors import (
    AccessError,
    BudgetError,
    CacheDirectoryError,
    CacheSpaceError,
    ClosedError,
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

if TYPE_CHECKING:
    from vfs.identity import Identity
    from vfs.options import Options
    from vfs.remote_file import RemoteFile
    from vfs.remote_file import open_file as open  # noqa: A004
    from vfs.sqlite_vfs import connect, file_of
    from vfs.stats import Budget, Counters, Stats
    from vfs.writer.database import DatabaseWriter

__all__ = [
    "AccessError",
    "Budget",
    "BudgetError",
    "CacheDirectoryError",
    "CacheSpaceError",
    "ClosedError",
    "ConnectError",
    "Counters",
    "DatabaseError",
    "DatabaseWriter",
    "DeadlineError",
    "FileChangedError",
    "Identity",
    "NotFoundError",
    "OptionError",
    "Options",
    "RangeError",
    "RedirectError",
    "RemoteFile",
    "ResponseError",
    "Stats",
    "StatusError",
    "TransportError",
    "VFSError",
    "connect",
    "file_of",
    "open",
]

_MODULES = {
    "Budget": "vfs.stats",
    "Counters": "vfs.stats",
    "DatabaseWriter": "vfs.writer.database",
    "Identity": "vfs.identity",
    "Options": "vfs.options",
    "RemoteFile": "vfs.remote_file",
    "Stats": "vfs.stats",
    "connect": "vfs.sqlite_vfs",
    "file_of": "vfs.sqlite_vfs",
    "open": "vfs.remote_file",
}


def __getattr__(name: str) -> Any:
    """Import the module of a public name when the name is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_MODULES[name]), "open_file" if name == "open" else name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
