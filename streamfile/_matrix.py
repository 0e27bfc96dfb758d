"""The vectors of a whole file for products: in memory where they fit, else read every time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streamfile._format import Floats, Ints, VectorRows
from streamfile._reader import Contents, Reader
from streamfile._scan import plan_scan, scan
from streamfile.errors import FormatError

Array = npt.NDArray[Any]

MOST_KEPT = 256 << 20  # bytes
USUAL_KEY = 80  # bytes of a string, rather too many
PART = 2000  # rows


@dataclass(frozen=True)
class Kept:
    """The first rows of one version of a file.

    Attributes
    ----------
    contents
        Of that version.
    vectors, lengths
        As stored for unit length, float32, shape (n, dim); and their lengths, which are 1 but for
        rounding, shape (n,).
    keys
        Of the rows.
    """

    contents: Contents
    vectors: Floats
    lengths: Floats
    keys: list[str]


class Matrix:
    """The cosines of all rows of a file with some vectors.

    As many rows as were asked for are kept after the first time, if they are at most 256 MiB.

    Parameters
    ----------
    reader
        Of the file.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self._kept: Kept | None = None
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def check_cost(self, count: int) -> None:
        """Hold the cost of reading so many rows against the budgets.

        Raises
        ------
        vfs.BudgetError
            They would be passed. No row was asked for.
        """
        if count and self._here(count) is None:
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
        for first, block, lengths in self._blocks(count):
            part = answer[:, first : first + len(block)]
            for row, column in zip(part, columns, strict=True):
                np.divide(block @ column, lengths, out=row)
        return answer

    def pick(self, places: Ints, count: int) -> Iterator[tuple[list[str], Floats]]:
        """Give the keys and vectors of some of the first rows: what is kept, few or many.

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
        precision = self.reader.format.precision
        kept = self._here(count)
        if kept is not None:
            for begin in range(0, len(places), PART):
                part = places[begin : begin + PART]
                yield [kept.keys[place] for place in part.tolist()], kept.vectors[part]
        elif len(places) > max(PART, count // 50):  # all rows in a row cost less
            for first, rows in scan(self.reader, count, lambda rows: rows):
                begin, end = np.searchsorted(places, [first, first + len(rows.rowids)])
                chosen, keys = places[begin:end] - first, rows.keys()
                vectors = rows.vectors(precision, normalized=True)[chosen]
                yield [keys[at] for at in chosen.tolist()], vectors
        else:
            for begin in range(0, len(places), PART):
                part = places[begin : begin + PART]
                rows = self.reader.rows(part + 1)
                if len(rows.rowids) < len(part):
                    raise FormatError(f"{self.reader.name}: malformed: a row is missing")
                yield rows.keys(), rows.vectors(precision, normalized=True)

    def _blocks(self, count: int) -> Iterator[tuple[int, Floats, Floats]]:
        """Give blocks of rows and their lengths, which are 1 but for rounding."""
        kept = self._keep(count)
        if kept is not None:
            yield 0, kept.vectors[:count], kept.lengths[:count]
            return
        for first, (vectors, lengths, _) in self._scan(count, with_keys=False):
            yield first, vectors[: count - first], lengths[: count - first]

    def _keep(self, count: int) -> Kept | None:
        """Read rows to keep them, unless they are here already or too many."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._lock = threading.Lock()
        with self._lock:
            if (here := self._here(count)) is not None:
                return here
            contents = self.reader.contents
            dim = contents.format.dim
            if count * (4 * dim + USUAL_KEY) > MOST_KEPT:
                return None
            self._kept = None
            fresh = Kept(contents, np.empty((count, dim), np.float32), np.empty(count, "f4"), [])
            for first, (vectors, lengths, keys) in self._scan(count, with_keys=True):
                part = slice(first, first + len(vectors))
                fresh.vectors[part] = vectors[: count - first]
                fresh.lengths[part] = lengths[: count - first]
                fresh.keys.extend(keys[: count - first])
            self._kept = fresh
            return fresh

    def _here(self, count: int) -> Kept | None:
        """Give kept rows, if they are enough and of the right version."""
        kept = self._kept
        if kept is None or kept.contents is not self.reader.contents or len(kept.keys) < count:
            return None
        return kept

    def _scan(
        self, count: int, *, with_keys: bool
    ) -> Iterator[tuple[int, tuple[Floats, Floats, list[str]]]]:
        precision = self.reader.format.precision

        def decode(rows: VectorRows) -> tuple[Floats, Floats, list[str]]:
            block = rows.vectors(precision, normalized=True)
            lengths = np.sqrt(np.einsum("ij,ij->i", block, block))
            lengths[lengths == 0] = 1
            return block, lengths, rows.keys() if with_keys else []

        return scan(self.reader, count, decode)
