"""The vectors of a whole file for products: kept where they fit, else read every time."""

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
from vfs.errors import CacheDirectoryError, CacheSpaceError

NAME = "matrix.v1"
LEAST_FILE = 8 << 20  # bytes
MOST_IN_MEMORY = 256 << 20  # bytes
PART = 2000  # rows


@dataclass(frozen=True)
class Kept:
    """Rows that need not be read again.

    Attributes
    ----------
    stored
        The rows.
    file
        What keeps them from being evicted; None for those in memory.
    """

    stored: Stored
    file: KeptFile | InFile | None


class Matrix:
    """The cosines of all rows of a file with some vectors.

    Rows are kept after the first time: in memory if they are few, else as a file in the cache
    directory, which other processes use too. Where that is not possible, they are kept in memory
    if they are at most 256 MiB.

    Parameters
    ----------
    reader
        Of the file.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self._kept: PerVersion[Kept] = PerVersion(reader)

    def check_cost(self, count: int) -> None:
        """Hold the cost of reading so many rows against the budgets.

        Raises
        ------
        vfs.BudgetError
            They would be passed. No row was asked for.
        """
        if count and self._find(count) is None:
            plan_scan(self.reader, count)

    def cosines(self, vectors: Array, count: int) -> Floats:
        """Compute cosines with the first rows.

        Parameters
        ----------
        vectors
            Of unit length, shape (m, dim).
        count
            How many rows.

        Returns
        -------
        ndarray
            float32, shape (m, count); 0 where a row has no direction.
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
        """Read the keys and vectors of some of the first rows: what is kept, few or many.

        Parameters
        ----------
        places
            Rising.
        count
            How many rows they were picked from.

        Yields
        ------
        keys, vectors
            Of all places, in their order, in one part or several.
        """
        kept = self._here(count)
        if kept is None and len(places) > max(PART, count // 50):  # all rows in a row cost less

            def choose(block: Block) -> tuple[list[str], Floats]:
                end = block.first + len(block.vectors)
                chosen = places[slice(*np.searchsorted(places, [block.first, end]))] - block.first
                return block.keys.decode(chosen), block.vectors[chosen]

            yield from scan(self.reader, count, choose)
            return
        for begin in range(0, len(places), PART):
            part = places[begin : begin + PART]
            if kept is not None:
                yield kept.stored.keys.decode(part), kept.stored.vectors[part]
                continue
            rows = self.reader.rows(part + 1)
            if len(rows.rowids) < len(part):
                raise FormatError(f"{self.reader.name}: malformed: a row is missing")
            yield rows.keys(), rows.vectors(self.reader.contents.format.precision, normalized=True)

    def close(self) -> None:
        """Wait until a file that was made has its name, and let go of the rows."""
        kept = self._kept.take()
        if kept is not None and isinstance(kept.file, InFile):
            kept.file.wait()

    def _keep(self, count: int) -> Stored | None:
        """Read rows to keep them, unless they are here already or too many."""
        with self._kept.lock:
            if (kept := self._find(count)) is not None:
                return kept.stored
            contents = self.reader.current()
            dim = contents.format.dim
            self._kept.take()  # before there are two
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
        """Find rows that were kept by this object, or as a file."""
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
            with suppress(OSError):  # damaged: it is to be made again
                file.path.unlink()
        return None

    def _here(self, count: int) -> Kept | None:
        """Return rows of this object, if they are enough and of the right version."""
        kept = self._kept.get()
        return kept if kept is not None and len(kept.stored.lengths) >= count else None


def _lengths(vectors: Floats) -> Floats:
    lengths: Floats = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    lengths[lengths == 0] = 1
    return lengths
