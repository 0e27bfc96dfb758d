"""Matrix of a file's vectors for cosines: kept if it fits, else read again for each call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from streamfile._arrays import Array, Bytes, Floats, Ints
from streamfile.errors import FormatError
from streamfile.readers.base import Reader
from streamfile.readers.per_version import PerVersion
from streamfile.search.matrix_file import USUAL_KEY, InFile, InMemory, Stored, Target, load
from streamfile.search.page_decoder import Block
from streamfile.search.scan import plan_scan, scan
from vfs.cache.kept_files import KeptFiles
from vfs.cache.unfinished_file import KeptFile
from vfs.deadline import current
from vfs.errors import CacheDirectoryError, CacheSpaceError

NAME = "matrix.v1"
LEAST_FILE = 8 << 20  # bytes of vectors, below which no file is made
MOST_IN_MEMORY = 256 << 20  # bytes of vectors and keys
PART = 2000  # rows that are read in one step


@dataclass(frozen=True)
class Kept:
    """Rows that are kept for later calls.

    Attributes
    ----------
    stored
        The rows.
    file
        File of the rows, not evicted while this object exists; None for rows in memory.
    """

    stored: Stored
    file: KeptFile | InFile | None


class Matrix:
    """Matrix of the rows of a file, for cosines with given vectors.

    The first use reads the rows and keeps them. Less than 8 MiB of vectors are kept in memory, more
    vectors in a file of the cache directory, which other processes use too. If the file cannot be
    made, at most 256 MiB are kept in memory.

    Parameters
    ----------
    reader
        Reader of the file.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self._kept: PerVersion[Kept] = PerVersion(reader)

    def check_cost(self, count: int) -> None:
        """Check the cost of reading the first `count` rows, 0 for kept rows, against the budgets.

        Raises
        ------
        vfs.BudgetError
            A budget would be exceeded. No row was requested.
        """
        if count and self._find(count) is None:
            plan_scan(self.reader, count)

    def cosines(self, vectors: Array, count: int) -> Floats:
        """Compute the cosines of vectors with the first rows.

        Parameters
        ----------
        vectors
            Vectors of unit length, shape (m, dim).
        count
            Number of rows.

        Returns
        -------
        ndarray
            Cosines, float32, shape (m, count); 0 for a row of length 0.
        """
        columns = np.ascontiguousarray(vectors, np.float32)
        answer = np.empty((len(columns), count), np.float32)

        def compute(first: int, block: Floats, lengths: Floats) -> None:
            part = answer[:, first : first + len(block)]
            for row, column in zip(part, columns, strict=True):
                np.divide(np.matmul(block, column, out=row), lengths, out=row)

        stored = self._keep(count)
        if stored is not None:
            compute(0, stored.vectors[:count], stored.lengths[:count])
        else:
            for _ in scan(
                self.reader,
                count,
                lambda block: compute(block.first, block.vectors, _lengths(block.vectors)),
            ):
                pass
        return answer

    def pick(self, places: Ints, count: int) -> Iterator[tuple[list[str], Floats]]:
        """Yield the keys and vectors of some of the first rows, kept or read for this call.

        Parameters
        ----------
        places
            Positions of the rows, rising, int64, shape (n,).
        count
            Number of first rows from which the positions were chosen.

        Yields
        ------
        keys, vectors
            Keys, and vectors of unit length, of consecutive parts of `places`.
        """
        kept = self._here(count)
        if kept is None and len(places) > max(PART, count // 50):  # a scan costs less

            def choose(block: Block) -> tuple[list[str], Floats]:
                end = block.first + len(block.vectors)
                chosen = places[slice(*np.searchsorted(places, [block.first, end]))] - block.first
                return block.keys.decode(chosen), block.vectors[chosen]

            yield from scan(self.reader, count, choose)
            return
        for begin in range(0, len(places), PART):
            part = places[begin : begin + PART]
            current().progress()
            if kept is not None:
                yield kept.stored.keys.decode(part), kept.stored.vectors[part]
                continue
            rows = self.reader.rows(part + 1)
            if len(rows.rowids) < len(part):
                raise FormatError(f"{self.reader.name}: malformed: a row is missing")
            yield rows.keys(), rows.vectors(self.reader.contents.format.precision, normalized=True)

    def close(self) -> None:
        """Wait until a new file of rows has its final name, and release the rows."""
        kept = self._kept.take()
        if kept is not None and isinstance(kept.file, InFile):
            kept.file.wait()

    def _keep(self, count: int) -> Stored | None:
        """Return kept rows, which are read if necessary; None if they are too many to keep."""
        with self._kept.lock:
            if (kept := self._find(count)) is not None:
                return kept.stored
            contents = self.reader.current()
            dim = contents.format.dim
            self._kept.take()  # before memory for the new rows is allocated
            target = self._target(count, dim)
            if isinstance(target, InFile) and not target.wanted:
                target.wait()  # another process made it meanwhile
                if (kept := self._find(count)) is not None:
                    return kept.stored
                target = self._in_memory(count, dim)
            if target is None:
                return None
            stored = self._fill(target)
            made = target if isinstance(target, InFile) else None
            self._kept.set(contents, Kept(stored, made))
            return stored

    def _fill(self, target: Target) -> Stored:
        def take(block: Block) -> tuple[Bytes, Ints]:
            target.put(block.first, block.vectors)
            part = slice(block.first, block.first + len(block.vectors))
            target.lengths[part] = _lengths(block.vectors)
            return block.keys.join()

        try:
            for keys, sizes in scan(self.reader, target.count, take):
                target.put_keys(keys, sizes)
            return target.finish()
        except BaseException:
            target.abandon()
            raise

    def _target(self, count: int, dim: int) -> Target | None:
        files, name = self._file(count)
        if files is not None and name is not None and 4 * count * dim >= LEAST_FILE:
            with suppress(CacheSpaceError, CacheDirectoryError):
                return InFile(files, name, count, dim)
        return self._in_memory(count, dim)

    def _in_memory(self, count: int, dim: int) -> Target | None:
        return InMemory(count, dim) if count * (4 * dim + USUAL_KEY) <= MOST_IN_MEMORY else None

    def _file(self, count: int) -> tuple[KeptFiles | None, bytes | None]:
        return self.reader.kept(f"{NAME} {count}")

    def _find(self, count: int) -> Kept | None:
        """Find at least `count` rows that this object or a kept file has."""
        kept, contents = self._here(count), self.reader.current()
        told = contents.format
        if kept is not None or 4 * count * told.dim < LEAST_FILE:
            return kept
        for rows in dict.fromkeys([told.size, count]):
            files, name = self._file(rows)
            file = files.get(name) if files is not None and name is not None else None
            if file is None:
                continue
            stored = load(file, count, told.dim)
            if stored is not None:
                kept = Kept(stored, file)
                self._kept.set(contents, kept)
                return kept
            with suppress(OSError):  # damaged: it must be made again
                file.path.unlink()
        return None

    def _here(self, count: int) -> Kept | None:
        """Return this object's rows if they are at least `count`, and of the present version."""
        kept = self._kept.get()
        return kept if kept is not None and len(kept.stored.lengths) >= count else None


def _lengths(vectors: Floats) -> Floats:
    lengths: Floats = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    lengths[lengths == 0] = 1
    return lengths
