"""Matrix of a file's vectors for cosines: kept if it fits, else read again for each call."""

from __future__ import annotations

import logging
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
from vfs.cache.checksums import DamagedFileError
from vfs.cache.kept_file import KeptFile
from vfs.cache.kept_files import KeptFiles
from vfs.cache.locks import Patience
from vfs.deadline import carried, current
from vfs.errors import CacheDirectoryError, CacheSpaceError, DeadlineError

log = logging.getLogger(__name__)

NAME = "matrix.v2"
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

        kept = None
        for _ in range(2):  # a damaged file is made again, once
            try:
                kept = self._keep(count)
                if kept is None:
                    break
                for first, end in kept.stored.steps(count):
                    part = slice(first, end)
                    compute(first, kept.stored.vectors[part], kept.stored.lengths[part])
                return answer
            except DamagedFileError as damage:
                self._discard(kept, damage)
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
            if kept is not None and self._is_sound(kept, part):
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

    def _keep(self, count: int) -> Kept | None:
        """Return kept rows, which are read if necessary; None if they are too many to keep."""
        with self._kept.lock:
            if (kept := self._find(count)) is not None:
                return kept
            contents = self.reader.current()
            dim = contents.format.dim
            self._kept.take()  # before memory for the new rows is allocated
            target = self._target(count, dim)
            if isinstance(target, InFile) and not target.wanted:
                target.wait()  # another process made it meanwhile
                if (kept := self._find(count)) is not None:
                    return kept
                target = self._in_memory(count, dim)
            if target is None:
                return None
            stored = self._fill(target)
            kept = Kept(stored, target if isinstance(target, InFile) else None)
            self._kept.set(contents, kept)
            return kept

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
            with suppress(CacheSpaceError, CacheDirectoryError, DeadlineError):
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
            file = self._open(rows)
            if file is None:
                continue
            try:
                kept = Kept(load(file, count, told.dim), file)
            except DamagedFileError as damage:
                file.discard(damage)
                continue
            self._kept.set(contents, kept)
            return kept
        return None

    def _open(self, rows: int) -> KeptFile | None:
        files, name = self._file(rows)
        if files is None or name is None:
            return None
        try:
            with carried(Patience(current())):
                return files.get(name, unchecked=True)
        except DeadlineError as failure:
            log.info("the kept vectors are not used: %s", failure)
            return None

    def _is_sound(self, kept: Kept, places: Ints) -> bool:
        """Check rows by their rising positions; a damaged file is discarded."""
        try:
            kept.stored.check(int(places[0]), int(places[-1]) + 1)
        except DamagedFileError as damage:
            self._discard(kept, damage)
            return False
        return True

    def _discard(self, kept: Kept | None, damage: DamagedFileError) -> None:
        if kept is None or not self._kept.remove(kept):
            return
        file = kept.file
        if isinstance(file, InFile):
            file.wait()
            file = file.kept
        if file is not None:
            file.discard(damage)

    def _here(self, count: int) -> Kept | None:
        """Return this object's rows if they are at least `count`, and of the present version."""
        kept = self._kept.get()
        return kept if kept is not None and len(kept.stored.lengths) >= count else None


def _lengths(vectors: Floats) -> Floats:
    lengths: Floats = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    lengths[lengths == 0] = 1
    return lengths
