"""What files of word vectors have in common, whichever way they are written."""

from __future__ import annotations

import gzip
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from streamfile.errors import FormatError, PathError
from streamfile.format.tables import MOST_DIM

GZIP = b"\x1f\x8b"
BATCH = 1 << 21  # bytes of the file, or those that its gzip holds
LONGEST_LINE = 16 << 20
MOST_SHOWN = 40  # characters of what is wrong in a message


@dataclass(frozen=True)
class Batch:
    """Rows that follow each other in a file.

    Attributes
    ----------
    keys
        UTF-8.
    vectors
        float64 or float32, shape (n, dim).
    position
        Bytes of the file that are read, compressed where it is.
    """

    keys: list[bytes]
    vectors: npt.NDArray[Any]
    position: int


class VectorFile(ABC):
    """Keys and vectors in a file, read from its beginning to its end.

    Parameters
    ----------
    path
        Of the file, which may be compressed with gzip.

    Attributes
    ----------
    name
        Of the file, without its folder.
    size, unit
        Bytes of the file, what `Batch.position` rises to.
    dim
        Dimensions of each vector.
    declared
        Rows that its header tells, None where it has no header.
    encoding_errors
        Keys that were no UTF-8, among those read so far. U+FFFD replaces what cannot be decoded
        of them, so that they stay keys of their own.

    Raises
    ------
    PathError
        There is no such file.
    FormatError
        Its beginning is not what it should be.
    """

    unit = "B"
    dim: int
    declared: int | None

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise PathError(f"{path}: there is no such file")
        self.path, self.name = path, path.name
        self.size = path.stat().st_size
        self.encoding_errors = 0
        self._stream = Stream(path)
        try:
            self._read_head(self._stream)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    @abstractmethod
    def batches(self) -> Iterator[Batch]:
        """Read the rows from the first on, a few megabytes at a time.

        One such reading at a time: each begins the file anew.

        Raises
        ------
        FormatError
            The file is not what it should be; the message tells the line or the byte.
        """

    @abstractmethod
    def _read_head(self, stream: Stream) -> None:
        """Learn the dimensions and the declared rows."""

    def _checked_dim(self, dim: int) -> int:
        if not 1 <= dim <= MOST_DIM:
            raise FormatError(
                f"{self.path}: expected vectors of 1 to {MOST_DIM:,} dimensions, found {dim:,}"
            )
        return dim

    def _valid(self, keys: list[bytes]) -> list[bytes]:
        """Make all keys UTF-8."""
        try:
            b" ".join(keys).decode()
        except UnicodeDecodeError:
            valid = [key.decode(errors="replace").encode() for key in keys]
            self.encoding_errors += sum(a != b for a, b in zip(keys, valid, strict=True))
            return valid
        return keys


class Stream:
    """Bytes of a file, or those that its gzip holds.

    Parameters
    ----------
    path
        Of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb")
        packed = self._file.read(len(GZIP)) == GZIP
        self._file.seek(0)
        self._content = gzip.GzipFile(fileobj=self._file) if packed else self._file

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def skip_to(self, start: int) -> None:
        """Go back to the first byte, and from there to another."""
        self._content.seek(0)
        self.read(start)

    @property
    def position(self) -> int:
        """Bytes of the file that are read."""
        return self._file.tell()

    def read(self, size: int) -> bytes:
        """Read so many bytes, fewer only at the end."""
        return self._unpack(self._content.read, size)

    def read_line(self) -> bytes:
        """Read up to the next newline, or one byte more than the longest line."""
        return self._unpack(self._content.readline, LONGEST_LINE + 1)

    def _unpack(self, read: Any, size: int) -> bytes:
        try:
            content: bytes = read(size)
        except (EOFError, gzip.BadGzipFile, zlib.error) as failure:
            raise FormatError(
                f"{self._path}: byte {self.position:,}: broken gzip: {failure}"
            ) from failure
        return content


def shown(found: bytes) -> str:
    """Show what is wrong, not too much of it."""
    more = "..." if len(found) > MOST_SHOWN else ""
    return repr(found[:MOST_SHOWN].decode(errors="replace")) + more
