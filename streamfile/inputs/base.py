"""Base class of the readers of word-vector files."""

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
BATCH = 1 << 21  # bytes of the content of a batch, after decompression
LONGEST_LINE = 16 << 20  # bytes
MOST_SHOWN = 40  # characters of malformed content in an error message


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of a file.

    Attributes
    ----------
    keys
        Keys in UTF-8, n of them.
    vectors
        Vectors, float64 or float32, shape (n, dim).
    position
        Number of bytes of the file that were read so far; of a gzip, compressed bytes.
    """

    keys: list[bytes]
    vectors: npt.NDArray[Any]
    position: int


class VectorFile(ABC):
    """Reader of a file of keys and vectors, from its beginning to its end.

    Parameters
    ----------
    path
        Path of the file, which may be compressed with gzip.

    Attributes
    ----------
    name
        Name of the file, without its directory.
    size, unit
        Length of the file, up to which `Batch.position` rises, and its unit, bytes.
    dim
        Number of dimensions of each vector.
    declared
        Number of rows according to the header, None without a header.
    encoding_errors
        Number of keys that were not UTF-8, among the keys read so far. In such a key, U+FFFD
        replaces the bytes that cannot be decoded.

    Raises
    ------
    PathError
        The file does not exist.
    FormatError
        The beginning of the file is malformed.
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
        """Yield all rows in order, in batches of a few megabytes.

        Each call reads the file from its beginning. Do not use two iterators at the same time.

        Raises
        ------
        FormatError
            The file is malformed; the message has the number of the line or of the byte.
        """

    @abstractmethod
    def _read_head(self, stream: Stream) -> None:
        """Read the beginning of the file, and set `dim` and `declared`."""

    def _checked_dim(self, dim: int) -> int:
        if not 1 <= dim <= MOST_DIM:
            raise FormatError(
                f"{self.path}: expected vectors of 1 to {MOST_DIM:,} dimensions, found {dim:,}"
            )
        return dim

    def _valid(self, keys: list[bytes]) -> list[bytes]:
        """Replace bytes that are not UTF-8 in keys, and count such keys."""
        try:
            b" ".join(keys).decode()
        except UnicodeDecodeError:
            valid = [key.decode(errors="replace").encode() for key in keys]
            self.encoding_errors += sum(a != b for a, b in zip(keys, valid, strict=True))
            return valid
        return keys


class Stream:
    """Reader of the bytes of a file, which are decompressed if the file is a gzip.

    Parameters
    ----------
    path
        Path of the file.
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
        """Go to an offset in the content, by reading from the first byte."""
        self._content.seek(0)
        self.read(start)

    @property
    def position(self) -> int:
        """Number of bytes of the file that were read; of a gzip, compressed bytes."""
        return self._file.tell()

    def read(self, size: int) -> bytes:
        """Read `size` bytes, fewer only at the end."""
        return self._unpack(self._content.read, size)

    def read_line(self) -> bytes:
        """Read a line with its newline, or `LONGEST_LINE` + 1 bytes of a longer one."""
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
    """Return the beginning of malformed content, for error messages."""
    more = "..." if len(found) > MOST_SHOWN else ""
    return repr(found[:MOST_SHOWN].decode(errors="replace")) + more
