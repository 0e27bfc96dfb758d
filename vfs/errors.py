"""What can go wrong between a URL and an answer.

::

    VFSError
    ├── OptionError              an option that does not exist, or a value that it cannot have
    ├── CacheDirectoryError      a cache directory was named and cannot be used
    ├── CacheSpaceError          a file does not fit the cache directory, or its disk
    ├── TransportError           the server, or the way to it
    │   ├── ConnectError         no such host, refused, broken off, bad certificate
    │   ├── DeadlineError        the deadline passed before the answer was complete
    │   ├── StatusError          an HTTP status that is no answer (attribute ``status``)
    │   │   ├── NotFoundError    404, 410
    │   │   └── AccessError      401, 403, 407
    │   ├── RangeError           the server does not answer range requests
    │   ├── RedirectError        a redirect that must not be followed
    │   └── ResponseError        a partial answer that is not the one asked for
    ├── FileChangedError         the file is no longer the version that was opened
    ├── BudgetError              ``max_requests`` or ``max_bytes`` would be passed
    └── DatabaseError            the bytes are no SQLite database, or a broken one
"""

from __future__ import annotations

__all__ = [
    "AccessError",
    "BudgetError",
    "CacheDirectoryError",
    "CacheSpaceError",
    "ConnectError",
    "DatabaseError",
    "DeadlineError",
    "FileChangedError",
    "NotFoundError",
    "OptionError",
    "RangeError",
    "RedirectError",
    "ResponseError",
    "StatusError",
    "TransportError",
    "VFSError",
]


class VFSError(Exception):
    """Base of every error raised by this package."""


class OptionError(VFSError, ValueError):
    """An option that does not exist, or a value that it cannot have."""


class CacheDirectoryError(VFSError, OSError):
    """The cache directory that was asked for cannot be used."""


class CacheSpaceError(VFSError, OSError):
    """A file that must rest on disk does not fit under the cap of the cache, or on the disk."""


class TransportError(VFSError, OSError):
    """The server, or the way to it, gave no usable answer."""


class ConnectError(TransportError):
    """No connection: unknown host, refused, broken off, or a bad certificate."""


class DeadlineError(TransportError, TimeoutError):
    """The overall deadline passed before the answer was complete."""


class StatusError(TransportError):
    """An HTTP status that is no answer.

    Parameters
    ----------
    message
        What was asked, what came, what to try.
    status
        The HTTP status code.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[type[StatusError], tuple[str, int]]:
        return type(self), (str(self), self.status)


class NotFoundError(StatusError, FileNotFoundError):
    """The server has no such file (404, 410)."""


class AccessError(StatusError, PermissionError):
    """The server wants other credentials (401, 403, 407)."""


class RangeError(TransportError):
    """The server does not answer range requests."""


class RedirectError(TransportError):
    """A redirect that must not be followed."""


class ResponseError(TransportError):
    """A partial answer that is not the one asked for."""


class FileChangedError(VFSError):
    """The file on the server is no longer the version that was opened."""


class BudgetError(VFSError):
    """A wave was not sent because it would pass ``max_requests`` or ``max_bytes``."""


class DatabaseError(VFSError):
    """The bytes are no SQLite database, or a broken one."""
