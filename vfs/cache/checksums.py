"""Checksums of a kept file's pieces: made from what is written, checked before what is used.

They tell of bits that flipped, of writes that were torn or lost, of files that were cut off or
exchanged; they do not tell of forgery. A folder of its own has them, so that a kept file is a plain
file for libraries that open it by its path.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from vfs.errors import CacheDirectoryError

PIECE = 256 << 10  # bytes; the last piece of a file may be shorter
AT_ONCE = 4  # pieces of one read
DIGEST = 16  # bytes
HEADER = struct.Struct("<24s16sQ")  # magic, checksum of the file's name, length of the file
MAGIC = b"streamfile checksums 1\n"


class DamagedFileError(CacheDirectoryError):
    """A kept file has other bytes than were written. It is discarded and made again, once."""


class Digests:
    """Collector of the checksums of an unfinished file, from the data that is written.

    A part of a piece waits in memory until the rest of the piece is written.
    """

    def __init__(self) -> None:
        self._whole: dict[int, bytes] = {}
        self._parts: dict[int, dict[int, bytes]] = {}  # by piece and by offset in the piece
        self._lock = threading.Lock()

    def add(self, data: memoryview, at: int) -> None:
        """Add data that is written at an offset; in any order, and from any thread."""
        while data:
            piece, offset = divmod(at, PIECE)
            part = data[: PIECE - offset]
            if len(part) == PIECE:
                self._whole[piece] = digest(part)
            else:
                self._join(piece, offset, bytes(part))
            data, at = data[len(part) :], at + len(part)

    def cut(self, size: int) -> None:
        """Forget the pieces that do not end within a new length of the file."""
        with self._lock:
            for pieces in (self._whole, self._parts):
                for piece in [piece for piece in pieces if (piece + 1) * PIECE > size]:
                    del pieces[piece]

    def of_beginning(self, file: int, length: int) -> bytes | None:
        """Return one checksum of the first bytes of the file.

        Parameters
        ----------
        file
            Descriptor of the file, for a piece of which only a part is asked for.
        length
            Number of bytes.

        Returns
        -------
        bytes or None
            None if not all of these bytes were written, or the file has others.
        """
        last, rest = divmod(length, PIECE)
        with self._lock:
            found = [self._whole.get(piece) for piece in range(last)]
            parts, whole = _joined(self._parts.get(last, {})), self._whole.get(last)
        if rest and whole is not None:
            parts = os.pread(file, PIECE, last * PIECE)
            if digest(parts) != whole:
                return None
        known = [one for one in found if one is not None]
        if len(known) < last or len(parts) < rest:
            return None
        return digest(b"".join([*known, parts[:rest]]))

    def of_file(self, file: int, size: int, path: Path) -> bytes:
        """Return the checksums of all pieces of the complete file.

        Parameters
        ----------
        file
            Descriptor of the file, from which pieces are read that were not written completely.
        size
            Length of the file in bytes.
        path
            Path of the file, for messages.

        Raises
        ------
        DamagedFileError
            The file has other bytes than were written.
        """
        found = []
        for piece in range(-(-size // PIECE)):
            known = self._whole.get(piece)
            if known is None:
                begin = piece * PIECE
                data = os.pread(file, min(PIECE, size - begin), begin)
                for offset, part in self._parts.get(piece, {}).items():
                    if data[offset : offset + len(part)] != part:
                        raise _damaged(path, begin)
                known = digest(data)
            found.append(known)
        return b"".join(found)

    def _join(self, piece: int, offset: int, part: bytes) -> None:
        with self._lock:
            parts = self._parts.setdefault(piece, {})
            parts[offset] = part
            if sum(map(len, parts.values())) >= PIECE:
                whole = _joined(parts)
                if len(whole) == PIECE:
                    self._whole[piece] = digest(whole)
                    del self._parts[piece]


class Checked:
    """Content of a file, whose pieces are checked when they are used first.

    Whoever cuts a file off while it is mapped ends this process (SIGBUS) if a missing page is read
    between a check of the file's length and the next one. Only reads without a map avoid that; they
    would copy all vectors for every search.

    Parameters
    ----------
    path
        Path of the file, for messages.
    content
        Descriptor of the file, or map of the file.
    size
        Length that the file had when it was complete.
    digests
        Checksums of the pieces.
    """

    def __init__(self, path: Path, content: int | mmap.mmap, size: int, digests: bytes) -> None:
        self.path, self._content, self.size, self._digests = path, content, size, digests
        self._good = np.zeros(-(-size // PIECE), np.bool_)
        self._complete = not size

    @property
    def complete(self) -> bool:
        """Whether all pieces were checked."""
        return self._complete

    def check(self, start: int = 0, end: int | None = None) -> None:
        """Check the pieces that a range of bytes touches, and the length of the file.

        Raises
        ------
        DamagedFileError
            The file has another length, or a piece has other bytes than were written.
        """
        end = self.size if end is None else end
        self._check_length()
        if not self._complete and start < end:
            first = start // PIECE
            self._check(first + np.flatnonzero(~self._good[first : -(-end // PIECE)]))

    def check_many(self, starts: npt.NDArray[np.int64], length: int) -> None:
        """Check the pieces that some ranges of equal length touch, see `check`."""
        self._check_length()
        if not self._complete:
            first, last = starts // PIECE, (starts + length - 1) // PIECE
            for step in range(int((last - first).max(initial=-1)) + 1):
                pieces = np.minimum(first + step, last)
                self._check(np.unique(pieces[~self._good[pieces]]))

    def _check_length(self) -> None:
        if isinstance(self._content, mmap.mmap):
            length = self._content.size()
        else:
            length = os.fstat(self._content).st_size
        if length != self.size:
            raise DamagedFileError(
                f"{os.fspath(self.path)}: the kept file has {length:,} bytes, where {self.size:,} "
                "were written"
            )

    def check_copy(self, content: bytes) -> None:
        """Check a copy of the whole content, see `check`."""
        if len(content) != self.size:
            self._check_length()
        for piece, begin in enumerate(range(0, self.size, PIECE)):
            self._compare(piece, memoryview(content)[begin : begin + PIECE])

    def _check(self, pieces: npt.NDArray[np.int64]) -> None:
        if isinstance(self._content, mmap.mmap):
            view = memoryview(self._content)
            for piece in pieces.tolist():
                self._compare(piece, view[piece * PIECE : (piece + 1) * PIECE])
        else:
            read, data = -1, memoryview(b"")
            for piece in pieces.tolist():
                if piece // AT_ONCE != read:
                    read = piece // AT_ONCE
                    data = memoryview(_read(self._content, read * AT_ONCE * PIECE))
                begin = piece % AT_ONCE * PIECE
                self._compare(piece, data[begin : begin + PIECE])
        self._complete = bool(self._good.all())

    def _compare(self, piece: int, data: bytes | memoryview) -> None:
        if digest(data) != self._digests[piece * DIGEST : (piece + 1) * DIGEST]:
            raise _damaged(self.path, piece * PIECE)
        self._good[piece] = True


def digest(data: bytes | memoryview) -> bytes:
    """Compute the checksum of a piece."""
    return xxhash.xxh3_128_digest(data)


def pack(name: str, size: int, digests: bytes) -> bytes:
    """Serialise the checksums of a file.

    Parameters
    ----------
    name
        Name of the file, which another file's checksums do not have.
    size
        Length of the file in bytes.
    digests
        Checksums of its pieces.
    """
    content = HEADER.pack(MAGIC, digest(name.encode()), size) + digests
    return content + digest(content)


def unpack(data: bytes, name: str, size: int) -> bytes | None:
    """Return the checksums of a file's pieces; None if they are damaged or of another file.

    Parameters
    ----------
    data
        What `pack` returned for the file.
    name, size
        Name and present length of the file.
    """
    content = data[:-DIGEST]
    header = HEADER.pack(MAGIC, digest(name.encode()), size)
    sound = len(data) == packed_size(size) and digest(content) == data[-DIGEST:]
    return content[HEADER.size :] if sound and content.startswith(header) else None


def packed_size(size: int) -> int:
    """Compute the length of what `pack` returns for a file of some length."""
    return HEADER.size + -(-size // PIECE) * DIGEST + DIGEST


def _joined(parts: dict[int, bytes]) -> bytes:
    """Join parts of a piece from its beginning up to the first gap."""
    found = b""
    while len(found) in parts:
        found += parts[len(found)]
    return found


def _read(file: int, at: int) -> bytes:
    """Read some pieces; what the disk cannot read is empty."""
    try:
        return os.pread(file, AT_ONCE * PIECE, at)
    except OSError:
        return b""


def _damaged(path: Path, begin: int) -> DamagedFileError:
    return DamagedFileError(
        f"{os.fspath(path)}: the kept file has other bytes than were written, at byte {begin:,} or "
        "behind it"
    )
