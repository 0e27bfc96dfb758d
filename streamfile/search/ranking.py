"""Ranking of the rows of a file by a score of their cosines with given vectors."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from streamfile._arrays import Doubles, unit
from streamfile.search.matrix import Matrix

GROUP = 64  # scores of each group

Score = Callable[[npt.NDArray[Any], float], npt.NDArray[Any]]


def rank(
    matrix: Matrix,
    units: Doubles,
    score: Score,
    count: int,
    *,
    shifted: bool,
    topn: int | None,
    least: float | None,
    excluded: Collection[str],
    fold: Callable[[str], str],
) -> list[tuple[str, float]]:
    """Rank the first rows of a file by score.

    The cosines of all rows are computed in float32. The cosines of rows that may be among the best
    are computed again in float64, so that equal vectors get equal scores in any row.

    Parameters
    ----------
    matrix
        Matrix of the file.
    units
        Vectors of unit length, float64, shape (m, dim).
    score
        Function of cosines, shape (m, n), and of their error, that returns scores, shape (n,). A
        positive error gives an upper bound of the scores, a negative one a lower bound.
    count
        Number of rows.
    shifted
        Whether these bounds are the scores plus the error.
    topn
        Greatest number of results, None for all.
    least
        Least score of a result, None for no limit.
    excluded
        Folded keys that are left out.
    fold
        Function that folds keys. Of rows with equal folded keys, only the best is a result.

    Returns
    -------
    list of (key, score)
        Results by falling score; rows with equal scores in the order of the file.
    """
    if topn == 0 or not count:
        return []
    targets = units[:, : matrix.reader.current().format.dim]
    cosines = matrix.cosines(targets, count)
    slack = 1e-6 + 1e-7 * targets.shape[1] ** 0.5
    # With `shifted` the bounds need no copy of the scores, which would take a tenth of the time.
    scores, above = (score(cosines, 0.0), slack) if shifted else (score(cosines, slack), 0.0)
    groups = Groups(scores)
    wanted = count if topn is None else topn + len(excluded)
    while True:
        bar = -np.inf
        if wanted < count:  # at least `wanted` rows have this score or a higher one
            likely = groups.places(groups.nth_highest(wanted))
            bar = float(score(cosines[:, likely], -slack).min())
        if least is not None:
            bar = max(bar, least)
        places = groups.places(bar - above)
        keys, exact = _rescore(matrix, places, targets, count)
        values = score(exact, 0.0)
        found: dict[str, tuple[str, float]] = {}
        for at in np.lexsort((places, -values)).tolist():
            name, value = fold(keys[at]), float(values[at])
            if least is not None and value < least:
                break
            if name not in excluded:
                found.setdefault(name, (keys[at], value))
        complete = wanted >= count or bar == least
        if complete or (topn is not None and len(found) >= topn):
            return list(found.values())[:topn]
        wanted *= 2


class Groups:
    """Scores in groups; a search skips the groups whose best score is low.

    Parameters
    ----------
    scores
        Scores, shape (n,).
    """

    def __init__(self, scores: npt.NDArray[Any]) -> None:
        self._scores = scores
        self._count = len(scores) // GROUP
        grouped = scores[: self._count * GROUP].reshape(GROUP, self._count)
        self._best = grouped.max(axis=0) if self._count else scores[:0]

    def nth_highest(self, n: int) -> float:
        """Return a number that at least the `n` highest scores reach, and few others."""
        scores = self._best if n < self._count else self._scores
        return float(np.partition(scores, len(scores) - n)[-n])

    def places(self, bar: float) -> npt.NDArray[np.int64]:
        """List the rising positions of the scores of at least `bar`."""
        high = np.flatnonzero(self._best >= bar)
        if len(high) > self._count // 8:
            return np.flatnonzero(self._scores >= bar)
        members = (high[:, None] + self._count * np.arange(GROUP)).ravel()
        rest = np.arange(self._count * GROUP, len(self._scores))
        places = np.concatenate([members, rest])
        return np.sort(places[self._scores[places] >= bar])


def _rescore(
    matrix: Matrix, places: npt.NDArray[np.int64], targets: Doubles, count: int
) -> tuple[list[str], Doubles]:
    """Read the keys of rows, and compute their cosines with unit vectors, shape (m, n)."""
    keys: list[str] = []
    cosines = [np.empty((len(targets), 0))]
    for names, stored in matrix.pick(places, count):
        keys += names
        vectors = unit(stored.astype(np.float64))
        # A matrix product would round equal vectors in different rows differently.
        cosines.append(np.array([(vectors * target).sum(1) for target in targets]))
    return keys, np.concatenate(cosines, axis=1)
