"""Errors that this package raises.

::

    VFSError
    ├── OptionError              an option that does not exist, or an impossible value
    ├── CacheDirectoryError      the named cache directory cannot be used
    ├── CacheSpaceError          a file does not fit the cache directory, or its disk
    ├── TransportError           the server or the network gave no usable response
    │   ├── ConnectError         unknown host, connection refused or broken, bad certificate
    │   ├── DeadlineError        the deadline passed before the response was complete
    │   ├── StatusError          an HTTP status that means failure (attribute ``status``)
    │   │   ├── NotFoundError    404, 410
    │   │   └── AccessError      401, 403, 407
    │   ├── RangeError           the server does not support range requests
    │   ├── RedirectError        a redirect that must not be followed
    │   └── ResponseError        a partial response that does not match the request
    ├── FileChangedError         the file is no longer the version that was opened
    ├── BudgetError              ``max_requests`` or ``max_bytes`` would be exceeded
    ├── ClosedError              the object was closed
    └── DatabaseError            the file is no SQLite database, or a damaged one
"""

from __future__ import annotations

__all__ = [
    "AccessError",
    "BudgetError",
    "CacheDirectoryError",
    "CacheSpaceError",
    "ClosedError",
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
    """Base class of all errors of this package."""


class OptionError(VFSError, ValueError):
    """An option does not exist, or has an impossible value."""


class CacheDirectoryError(VFSError, OSError):
    """The cache directory that the caller or the environment names cannot be used."""


class CacheSpaceError(VFSError, OSError):
    """A file that must be kept on disk does not fit under the cap of the cache, or on the disk."""


class TransportError(VFSError, OSError):
    """The server or the network gave no usable response."""


class ConnectError(TransportError):
    """No connection: unknown host, connection refused or broken, or a bad certificate."""


class DeadlineError(TransportError, TimeoutError):
    """The deadline of the call passed before the response was complete."""


class StatusError(TransportError):
    """An HTTP status that means failure.

    Parameters
    ----------
    message
        Text of the error: the request, the response, what to try.
    status
        The HTTP status code.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[type[StatusError], tuple[str, int]]:
        return type(self), (str(self), self.status)


class NotFoundError(StatusError, FileNotFoundError):
    """The server does not have the file (404, 410)."""


class AccessError(StatusError, PermissionError):
    """The server denies access, or wants other credentials (401, 403, 407)."""


class RangeError(TransportError):
    """The server does not support range requests."""


class RedirectError(TransportError):
    """A redirect that must not be followed."""


class ResponseError(TransportError):
    """A partial response that does not match the request."""


class FileChangedError(VFSError):
    """The file on the server is no longer the version that was opened."""

    @classmethod
    def of(cls, name: str, version: object, came: object, hint: str = "") -> FileChangedError:
        """Return the error that tells the expected version, what came, and what to try."""
        return cls(
            f"{name}: the file changed while it was open: expected version ({version}), the server "
            f"now has ({came}). Open it again to read the new version{hint}"
        )


class BudgetError(VFSError):
    """A request was not sent, because it would exceed ``max_requests`` or ``max_bytes``."""


class ClosedError(VFSError, ValueError):
    """The object was closed: a file, a reader, a model."""

    @classmethod
    def of(cls, name: str) -> ClosedError:
        """Return the error that names a closed file."""
        return cls(f"{name}: it was closed, and answers no more; open it again")


class DatabaseError(VFSError):
    """The file is no SQLite database, or a damaged one."""
