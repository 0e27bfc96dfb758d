"""Errors that this package raises.

::

    StreamfileError
    ├── FormatError     a file of another format than expected: no .magnitude file, a newer
    │                   version, a malformed row, a text of vectors with a malformed line
    ├── PathError       a local file that does not exist, or a URL in place of a local path
    ├── ExistsError     an output file that exists already
    ├── NoIndexError    a search in an index that the file does not have
    └── ArgumentError   an argument with an impossible value

`vfs.errors` has the errors of the network, of the cache and of SQLite's file format.
"""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "ExistsError",
    "FormatError",
    "NoIndexError",
    "PathError",
    "StreamfileError",
]


class StreamfileError(Exception):
    """Base class of all errors of this package."""


class FormatError(StreamfileError):
    """The file does not have the expected format."""


class PathError(StreamfileError, FileNotFoundError):
    """The local file does not exist."""


class ExistsError(StreamfileError, FileExistsError):
    """The output file exists already."""


class NoIndexError(StreamfileError, RuntimeError):
    """The file does not have the index that a search needs."""


class ArgumentError(StreamfileError, ValueError):
    """An argument has an impossible value."""
