"""The nearest rows of a file by the index of approximate neighbours that it may hold."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from streamfile._arrays import Doubles
from streamfile.errors import NoIndexError
from streamfile.format.tables import APPROXIMATE, Format
from streamfile.readers.contents import Contents
from streamfile.readers.kept_blobs import keep_blob
from streamfile.readers.per_version import PerVersion
from streamfile.search.annoy_index import NeighbourIndex, open_index
from streamfile.search.matrix import Matrix
from vfs.cache.unfinished_file import KeptFile

MOST_SEARCHED = 2**31 - 1


@dataclass(frozen=True)
class Opened:
    """The index of one version of a file.

    Attributes
    ----------
    format
        What that version of the file says of itself.
    index
        To be searched.
    kept
        The file that the index is in, which stays while this object does.
    """

    format: Format
    index: NeighbourIndex
    kept: KeptFile


class Approximate:
    """Searches the index of a file, which is fetched and opened when it is first needed.

    Parameters
    ----------
    matrix
        Of the file.
    """

    def __init__(self, matrix: Matrix) -> None:
        self._matrix = matrix
        self._opened: PerVersion[Opened] = PerVersion(matrix.reader)

    def check(self) -> None:
        """Tell at once where there is no index.

        Raises
        ------
        NoIndexError
            The file has none.
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
        """Rank rows by the cosine.

        Parameters
        ----------
        target
            Of unit length, shape (dim,).
        topn
            How many answers, None for all that are found.
        effort
            Share of the usual candidates to look at, from 0 to 1.
        excluded
            Folded keys that are no answers.
        fold
            Keys that it makes the same are one key.

        Returns
        -------
        list of (key, cosine)
            The best first, and of equals the first in the file.
        """
        if topn == 0:
            return []
        opened = self._opened.get_or_make(self._open)
        told = opened.format
        n = told.max_duplicate_keys * ((told.size if topn is None else topn) + len(excluded))
        search_k = int(min(max(effort, 0.0), 1.0) * n * told.approx_trees)
        rows, distances = opened.index.search(
            target[: told.dim], min(n, MOST_SEARCHED), min(search_k, MOST_SEARCHED)
        )
        # Of a vector with features behind it, the file's part is shorter.
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
        """Let go of the index."""
        self._opened.take()

    def _open(self, contents: Contents) -> Opened:
        told, reader = contents.format, self._matrix.reader
        kept = keep_blob(reader, APPROXIMATE)
        return Opened(told, open_index(kept.path, told.dim, told.size, reader.name), kept)
