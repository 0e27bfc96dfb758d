"""Search for the nearest rows of a file in its index of approximate neighbours."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

import numpy as np

from streamfile._arrays import Doubles, Floats, Ints
from streamfile.errors import NoIndexError
from streamfile.format.tables import APPROXIMATE, Format
from streamfile.readers.contents import Contents
from streamfile.readers.kept_blobs import keep_blob
from streamfile.readers.per_version import PerVersion
from streamfile.search.annoy_index import NeighbourIndex, open_index
from streamfile.search.matrix import Matrix
from vfs.cache.checksums import DamagedFileError
from vfs.cache.kept_file import KeptFile, again

MOST_SEARCHED = 2**31 - 1


@dataclass(frozen=True)
class Opened:
    """The index of approximate neighbours of one version of a file.

    Attributes
    ----------
    format
        Format of that version.
    index
        The index.
    kept
        Kept file of the index, not evicted while this object exists.
    """

    format: Format
    index: NeighbourIndex
    kept: KeptFile


class Approximate:
    """Search in the index of a file; the first search fetches and opens the index.

    Parameters
    ----------
    matrix
        Matrix of the file.
    """

    def __init__(self, matrix: Matrix) -> None:
        self._matrix = matrix
        self._opened: PerVersion[Opened] = PerVersion(matrix.reader)

    def check(self) -> None:
        """Raise an error if the file has no index.

        Raises
        ------
        NoIndexError
            The file has no index.
        """
        reader = self._matrix.reader
        if not reader.current().format.approx:
            raise NoIndexError(
                f"{reader.name}: the file has no index of approximate neighbours: expected one "
                "that was converted with the flag -a (a 'heavy' one); use most_similar, which "
                "needs none"
            )

    def rank(
        self,
        target: Doubles,
        *,
        topn: int | None,
        effort: float,
        excluded: Collection[str],
        fold: Callable[[str], str],
    ) -> list[tuple[str, float]]:
        """Rank the rows that the index finds by their cosines with a vector.

        Parameters
        ----------
        target
            Vector of unit length, shape (dim,) or longer by the placeholders.
        topn
            Greatest number of results, None for all that the index finds.
        effort
            Share of the usual number of candidates, from 0 to 1.
        excluded
            Folded keys that are left out.
        fold
            Function that folds keys. Of rows with equal folded keys, only the best is a result.

        Returns
        -------
        list of (key, cosine)
            Results by falling cosine; rows with equal cosines in the order of the file.
        """
        if topn == 0:
            return []

        rows, distances, told = again(partial(self._search, target, topn, effort, len(excluded)))
        # Without the placeholders, the length of a vector may be below 1.
        length = float(np.linalg.norm(target[: told.dim]))
        cosines = (length * (1 - distances.astype(np.float64) ** 2 / 2)).tolist()
        order = np.argsort(rows)
        keys: dict[int, str] = {}
        for names, _ in self._matrix.pick(rows[order], told.size):
            keys |= zip(rows[order][len(keys) :].tolist(), names, strict=False)
        found: dict[str, tuple[str, float]] = {}
        for row, cosine in zip(rows.tolist(), cosines, strict=True):
            name = fold(keys[row])
            if name not in excluded:
                found.setdefault(name, (keys[row], cosine))
        return list(found.values())[:topn]

    def close(self) -> None:
        """Release the index."""
        self._opened.take()

    def _search(
        self, target: Doubles, topn: int | None, effort: float, excluded: int
    ) -> tuple[Ints, Floats, Format]:
        """Search the index; see `rank`, and `NeighbourIndex.search`."""
        opened = self._opened.get_or_make(self._open)
        told = opened.format
        n = told.max_duplicate_keys * ((told.size if topn is None else topn) + excluded)
        search_k = int(min(max(effort, 0.0), 1.0) * n * told.approx_trees)
        try:
            rows, distances = opened.index.search(
                target[: told.dim], min(n, MOST_SEARCHED), min(search_k, MOST_SEARCHED)
            )
        except DamagedFileError as damage:
            if self._opened.remove(opened):
                opened.kept.discard(damage)
            raise
        return rows, distances, told

    def _open(self, contents: Contents) -> Opened:
        told, reader = contents.format, self._matrix.reader
        kept = keep_blob(reader, APPROXIMATE, unchecked=True)
        try:
            return Opened(told, open_index(kept, told.dim, told.size, reader.name), kept)
        except DamagedFileError as damage:
            kept.discard(damage)
            raise
