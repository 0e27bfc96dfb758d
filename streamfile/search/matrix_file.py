"""Vectors, lengths and keys of a file's first rows, in memory or as a file that is mapped.

Such a file has a header of 4,096 bytes (``HEADER``, then its checksum), and behind it the vectors
(float32), the lengths (float32), where each key ends (int64) and the keys, each part from a
multiple of 64 bytes on.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from streamfile._arrays import Bytes, Floats, Ints
from streamfile.format.records import Keys
from vfs.cache.kept_files import KeptFiles
from vfs.cache.unfinished_file import KeptFile, Part
from vfs.errors import VFSError

log = logging.getLogger(__name__)

MAGIC = b"streamfile matrix 1\n"
HEADER = struct.Struct("<20s4xQQQ")  # magic, rows, dim, bytes of keys
BEGIN = 4096
ALIGNMENT = 64
USUAL_KEY = 80  # bytes, rather too many


@dataclass(frozen=True)
class Stored:
    """The first rows of a file.

    Attributes
    ----------
    vectors, lengths
        As stored for unit length, float32, shape (n, dim); and their lengths, which are 1 but for
        rounding, shape (n,).
    keys
        Of the rows.
    """

    vectors: Floats
    lengths: Floats
    keys: Keys


class Target:
    """Takes rows, block by block.

    Parameters
    ----------
    count, dim
        How many rows, and their dimensions.
    """

    def __init__(self, count: int, dim: int) -> None:
        self.count, self.dim = count, dim
        self.lengths = np.empty(count, np.float32)
        self._sizes = np.empty(count, np.int64)
        self._keys: list[bytes] = []
        self._taken = 0

    def put(self, first: int, vectors: Floats) -> None:
        """Take vectors, in any order and from any thread."""
        raise NotImplementedError

    def put_keys(self, keys: Bytes, sizes: Ints) -> None:
        """Take the keys of the next rows, joined."""
        self._sizes[self._taken : self._taken + len(sizes)] = sizes
        self._taken += len(sizes)
        self._keys.append(keys.tobytes())

    def finish(self) -> Stored:
        """Give all rows."""
        raise NotImplementedError

    def abandon(self) -> None:
        """Forget all rows."""

    def _joined(self) -> tuple[Bytes, Ints]:
        keys, self._keys = b"".join(self._keys), []
        return np.frombuffer(keys, np.uint8), np.cumsum(self._sizes)


class InMemory(Target):
    """Takes rows into memory."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__(count, dim)
        self._vectors = np.empty((count, dim), np.float32)

    def put(self, first: int, vectors: Floats) -> None:
        """Take vectors, as `Target.put`."""
        self._vectors[first : first + len(vectors)] = vectors

    def finish(self) -> Stored:
        """Give all rows, as `Target.finish`."""
        keys, ends = self._joined()
        return Stored(self._vectors, self.lengths, _keys(keys, ends))


class InFile(Target):
    """Takes rows into a file that will be kept.

    The file gets its name in the background, once the disk has all of it; the rows are there
    before that. An interpreter that exits waits for it.

    Parameters
    ----------
    files, name
        Where it is kept.
    count, dim
        How many rows, and their dimensions.

    Attributes
    ----------
    kept
        The file, once it has its name.

    Raises
    ------
    vfs.CacheSpaceError
        It does not fit.
    vfs.CacheDirectoryError
        The directory cannot be written.
    """

    def __init__(self, files: KeptFiles, name: bytes, count: int, dim: int) -> None:
        super().__init__(count, dim)
        self.kept: KeptFile | None = None
        self._part: Part | None = None
        self._failure: BaseException | None = None
        self._good = False
        self._begun, self._ended = threading.Event(), threading.Event()
        size = _layout(count, dim, count * USUAL_KEY)[-1]
        self._thread = threading.Thread(target=self._keep, args=(files, name, size))
        self._thread.start()
        try:
            self._begun.wait()
        except BaseException:
            self.abandon()
            raise
        if self._failure is not None:
            raise self._failure

    @property
    def wanted(self) -> bool:
        """Whether no other process has made the same file meanwhile."""
        return self._part is not None

    def put(self, first: int, vectors: Floats) -> None:
        """Take vectors, as `Target.put`."""
        self._write(vectors, BEGIN + 4 * self.dim * first)

    def finish(self) -> Stored:
        """Give all rows, as `Target.finish`."""
        assert self._part is not None
        keys, ends = self._joined()
        places = _layout(self.count, self.dim, len(keys))
        self._part.reserve(places[-1])
        parts: list[npt.NDArray[Any]] = [self.lengths, ends, keys]
        for place, array in zip(places[1:], parts, strict=False):
            self._write(array, place)
        header = HEADER.pack(MAGIC, self.count, self.dim, len(keys))
        self._write(np.frombuffer(header + xxhash.xxh3_64_digest(header), np.uint8), 0)
        stored = _map(self._part.file, self.count, self.dim)
        assert stored is not None
        self._good = True
        self._ended.set()
        return stored

    def abandon(self) -> None:
        """Leave no file."""
        self._ended.set()
        self._thread.join()

    def wait(self) -> None:
        """Wait until the file has its name."""
        self._thread.join()

    def _keep(self, files: KeptFiles, name: bytes, size: int) -> None:
        try:
            self.kept = files.make(name, size, self._lend)
        except (VFSError, OSError) as failure:
            self._failure = failure
            log.info("the vectors are not kept: %s", failure)
        finally:
            self._begun.set()

    def _lend(self, part: Part) -> None:
        """Let the other thread write the file."""
        self._part = part
        self._begun.set()
        self._ended.wait()
        if not self._good:
            raise InterruptedError("nothing to keep")

    def _write(self, array: npt.NDArray[Any], place: int) -> None:
        assert self._part is not None
        view = array.reshape(-1).view(np.uint8).data
        while view:
            written = os.pwrite(self._part.file, view, place)
            view, place = view[written:], place + written


def load(kept: KeptFile, count: int, dim: int) -> Stored | None:
    """Map a kept file; None if it is not one of at least so many rows of that dimension."""
    with kept.path.open("rb") as file:
        return _map(file.fileno(), count, dim)


def _map(file: int, count: int, dim: int) -> Stored | None:
    size = os.fstat(file).st_size
    if size < BEGIN:
        return None
    # All of it is used at once: one call maps its pages faster than a fault for each of them.
    flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
    view = memoryview(mmap.mmap(file, 0, flags=flags, prot=mmap.PROT_READ))
    header, digest = view[: HEADER.size], view[HEADER.size : HEADER.size + 8]
    magic, rows, columns, length = HEADER.unpack(header)
    if magic != MAGIC or digest != xxhash.xxh3_64_digest(header):
        return None
    places = _layout(rows, columns, length)
    if rows < count or columns != dim or places[-1] != size:
        return None
    ends = np.frombuffer(view, np.int64, rows, places[2])
    if rows and (ends[0] < 0 or ends[-1] != length or np.any(ends[1:] < ends[:-1])):
        return None
    return Stored(
        np.frombuffer(view, np.float32, rows * dim, places[0]).reshape(rows, dim),
        np.frombuffer(view, np.float32, rows, places[1]),
        _keys(np.frombuffer(view, np.uint8, length, places[3]), ends),
    )


def _layout(rows: int, dim: int, keys: int) -> list[int]:
    """Tell where vectors, lengths, ends of keys and keys begin, and where the file ends."""
    places = [BEGIN]
    for size in (4 * dim * rows, 4 * rows, 8 * rows):
        places.append(-(-(places[-1] + size) // ALIGNMENT) * ALIGNMENT)
    return [*places, places[-1] + keys]


def _keys(keys: Bytes, ends: Ints) -> Keys:
    return Keys(keys, np.concatenate([[0], ends[:-1]]), ends)
