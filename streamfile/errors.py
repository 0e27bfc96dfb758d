"""What a Magnitude object can refuse.

::

    StreamfileError
    ├── FormatError     a file that is not what it should be: no .magnitude file, a newer version,
    │                   a broken row; a text of vectors with a line that is none
    ├── PathError       no such local file, or a URL where a local path was meant
    ├── ExistsError     a file where another one was to be written
    ├── NoIndexError    a file without the index that was to be searched
    └── ArgumentError   an argument that cannot be

Errors of the network, of the cache and of SQLite's own format are those of `vfs.errors`.
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
    """Base of every error raised by this package."""


class FormatError(StreamfileError):
    """The file is not of the format that it should be."""


class PathError(StreamfileError, FileNotFoundError):
    """There is no such local file."""


class ExistsError(StreamfileError, FileExistsError):
    """There is a file where another one was to be written."""


class NoIndexError(StreamfileError, RuntimeError):
    """The file was made without the index that was to be searched."""


class ArgumentError(StreamfileError, ValueError):
    """An argument has a value that it cannot have."""
