"""Vectors, lengths and keys of a file's first rows, in memory or in a mapped file.

The mapped file has a header of 4,096 bytes (``HEADER``). The vectors (float32), the lengths
(float32), the ends of the keys (int64) and the keys follow. Each part begins at a multiple of 64
bytes. Vectors are checked when they are used first, all else when the file is opened.
"""

from __future__ import annotations

import logging
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streamfile._arrays import Bytes, Floats, Ints
from streamfile.format.records import Keys
from vfs.cache.checksums import Checked, DamagedFileError
from vfs.cache.kept_file import KeptFile, map_checked
from vfs.cache.kept_files import KeptFiles
from vfs.cache.locks import Patience
from vfs.cache.unfinished_file import Part
from vfs.deadline import carried, current
from vfs.errors import VFSError

log = logging.getLogger(__name__)

MAGIC = b"streamfile matrix 1\n"
HEADER = struct.Struct("<20s4xQQQ")  # magic, rows, dim, bytes of keys
BEGIN = 4096
ALIGNMENT = 64
USUAL_KEY = 80  # bytes reserved for each key, more than most keys need
STEP = 1 << 20  # bytes of vectors that are checked, and then used while they are in the CPU's cache


@dataclass(frozen=True)
class Stored:
    """The first rows of a file.

    Attributes
    ----------
    vectors, lengths
        Stored vectors of unit length, float32, shape (n, dim), and their actual lengths, which
        differ from 1 by rounding, float32, shape (n,).
    keys
        Keys of the rows.
    checked
        The file of the rows, None for rows in memory.
    """

    vectors: Floats
    lengths: Floats
    keys: Keys
    checked: Checked | None = None

    def steps(self, count: int) -> Iterator[tuple[int, int]]:
        """Yield ranges of the first `count` rows, whose vectors were checked just before.

        Raises
        ------
        DamagedFileError
            The file has other bytes than were written.
        """
        known = self.checked is None or self.checked.complete
        step = count if known else max(1, STEP // (4 * self.vectors.shape[1]))
        for first in range(0, count, max(1, step)):
            end = min(first + step, count)
            self.check(first, end)
            yield first, end

    def check(self, first: int, end: int) -> None:
        """Check the vectors of a range of rows, see `steps`."""
        if self.checked is not None:
            row = 4 * self.vectors.shape[1]
            self.checked.check(BEGIN + row * first, BEGIN + row * end)


class Target:
    """Collector of rows, to which a scan passes them block by block.

    Parameters
    ----------
    count, dim
        Number of rows, and of dimensions.

    Attributes
    ----------
    lengths
        Lengths of the vectors, float32, shape (count,), which the caller fills.
    """

    def __init__(self, count: int, dim: int) -> None:
        self.count, self.dim = count, dim
        self.lengths = np.empty(count, np.float32)
        self._sizes = np.empty(count, np.int64)
        self._keys: list[bytes] = []
        self._taken = 0

    def put(self, first: int, vectors: Floats) -> None:
        """Store vectors from row `first` on, in any order of calls and from any thread."""
        raise NotImplementedError

    def put_keys(self, keys: Bytes, sizes: Ints) -> None:
        """Store the joined keys of the next rows, and the length of each key in bytes."""
        self._sizes[self._taken : self._taken + len(sizes)] = sizes
        self._taken += len(sizes)
        self._keys.append(keys.tobytes())

    def finish(self) -> Stored:
        """Return all rows."""
        raise NotImplementedError

    def abandon(self) -> None:
        """Release all rows, after an error."""

    def _joined(self) -> tuple[Bytes, Ints]:
        keys, self._keys = b"".join(self._keys), []
        return np.frombuffer(keys, np.uint8), np.cumsum(self._sizes)


class InMemory(Target):
    """Collector of rows in memory."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__(count, dim)
        self._vectors = np.empty((count, dim), np.float32)

    def put(self, first: int, vectors: Floats) -> None:
        """Store vectors, see `Target.put`."""
        self._vectors[first : first + len(vectors)] = vectors

    def finish(self) -> Stored:
        """Return all rows, see `Target.finish`."""
        keys, ends = self._joined()
        return Stored(self._vectors, self.lengths, _keys(keys, ends))


class InFile(Target):
    """Collector of rows in a kept file.

    A thread writes the file to disk and gives it its final name, while the rows can be used
    already. The interpreter waits for this thread when it exits.

    Parameters
    ----------
    files, name
        Kept files that the file belongs to, and its name.
    count, dim
        Number of rows, and of dimensions.

    Attributes
    ----------
    kept
        The kept file, None before it has its final name.

    Raises
    ------
    vfs.CacheSpaceError
        The file does not fit.
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
        self._patience = Patience(current())
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
        """Whether the file must be written: no other process has made it meanwhile."""
        return self._part is not None

    def put(self, first: int, vectors: Floats) -> None:
        """Store vectors, see `Target.put`."""
        self._write(vectors, BEGIN + 4 * self.dim * first)

    def finish(self) -> Stored:
        """Return all rows, see `Target.finish`."""
        assert self._part is not None
        keys, ends = self._joined()
        places = _layout(self.count, self.dim, len(keys))
        self._part.reserve(places[-1])
        parts: list[npt.NDArray[Any]] = [self.lengths, ends, keys]
        for place, array in zip(places[1:], parts, strict=False):
            self._write(array, place)
        header = HEADER.pack(MAGIC, self.count, self.dim, len(keys))
        self._write(np.frombuffer(header, np.uint8), 0)
        part = self._part
        digests = part.digests()
        view, checked = map_checked(part.path, part.file, part.size, digests, at_once=True)
        stored = _stored(view, checked, self.count, self.dim)
        self._good = True
        self._ended.set()
        return stored

    def abandon(self) -> None:
        """Stop writing, and remove the file."""
        self._ended.set()
        self._thread.join()

    def wait(self) -> None:
        """Wait until the file has its final name, or until that failed."""
        self._thread.join()

    def _keep(self, files: KeptFiles, name: bytes, size: int) -> None:
        try:
            with carried(self._patience):
                self.kept = files.make(name, size, self._lend, unchecked=True)
        except (VFSError, OSError) as failure:
            self._failure = failure
            log.info("the vectors are not kept: %s", failure)
        finally:
            self._begun.set()

    def _lend(self, part: Part) -> None:
        """Let the thread that made this object write the file, and wait for it."""
        self._part = part
        self._begun.set()
        self._ended.wait()
        self._patience.renew()
        if not self._good:
            raise InterruptedError("nothing to keep")

    def _write(self, array: npt.NDArray[Any], place: int) -> None:
        assert self._part is not None
        self._part.write(array.reshape(-1).view(np.uint8).data, place)


def load(kept: KeptFile, count: int, dim: int) -> Stored:
    """Map a kept file.

    Parameters
    ----------
    kept
        The file.
    count, dim
        Least number of rows, and number of dimensions.

    Raises
    ------
    DamagedFileError
        The file has other bytes than were written, or is no matrix of so many rows.
    """
    # A product reads the whole file: one call maps its pages faster than a fault for each page.
    view, checked = kept.map(at_once=True)
    return _stored(view, checked, count, dim)


def _stored(view: memoryview, checked: Checked, count: int, dim: int) -> Stored:
    checked.check(0, min(HEADER.size, len(view)))
    told = HEADER.unpack_from(view) if len(view) >= BEGIN else (b"", 0, 0, 0)
    magic, rows, columns, length = told
    places = _layout(rows, columns, length)
    if magic != MAGIC or rows < count or columns != dim or places[-1] != len(view):
        raise DamagedFileError(f"{checked.path}: no matrix of {count:,} rows and {dim} dimensions")
    checked.check(places[1])
    ends = np.frombuffer(view, np.int64, rows, places[2])
    return Stored(
        np.frombuffer(view, np.float32, rows * dim, places[0]).reshape(rows, dim),
        np.frombuffer(view, np.float32, rows, places[1]),
        _keys(np.frombuffer(view, np.uint8, length, places[3]), ends),
        checked,
    )


def _layout(rows: int, dim: int, keys: int) -> list[int]:
    """Compute the offsets of vectors, lengths, ends of keys, keys, and of the file's end."""
    places = [BEGIN]
    for size in (4 * dim * rows, 4 * rows, 8 * rows):
        places.append(-(-(places[-1] + size) // ALIGNMENT) * ALIGNMENT)
    return [*places, places[-1] + keys]


def _keys(keys: Bytes, ends: Ints) -> Keys:
    return Keys(keys, np.concatenate([[0], ends[:-1]]), ends)
