"""The best rows of a file by a score of their cosines with some vectors."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from streamfile._arrays import Doubles, unit
from streamfile.search.matrix import Matrix

GROUP = 64  # scores

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
    """Rank the first rows of a file.

    The cosines of all rows are rounded products; those of rows that may be among the best are
    computed again in float64, so that equal vectors score the same wherever they are.

    Parameters
    ----------
    matrix
        Of the file.
    units
        Vectors of unit length, shape (m, dim).
    score
        Makes scores, shape (n,), of cosines, shape (m, n), and of how far off they may be: with
        a positive number an upper bound, with a negative one a lower bound.
    count
        How many rows.
    shifted
        Whether these bounds are the score itself and that number more or less.
    topn
        How many answers, None for all.
    least
        The lowest score of an answer.
    excluded
        Folded keys that are no answers.
    fold
        Keys that it makes the same are one key.

    Returns
    -------
    list of (key, score)
        The best first, and of equals the first in the file.
    """
    if topn == 0 or not count:
        return []
    targets = units[:, : matrix.reader.current().format.dim]
    cosines = matrix.cosines(targets, count)
    slack = 1e-6 + 1e-7 * targets.shape[1] ** 0.5
    # A copy of all scores takes as long as a tenth of the product: the kernel gives its pages.
    scores, above = (score(cosines, 0.0), slack) if shifted else (score(cosines, slack), 0.0)
    groups = Groups(scores)
    wanted = count if topn is None else topn + len(excluded)
    while True:
        bar = -np.inf
        if wanted < count:  # so many rows are certain to score as much
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
    """Scores in groups, of which only those with a high best one are looked into.

    Parameters
    ----------
    scores
        Shape (n,).
    """

    def __init__(self, scores: npt.NDArray[Any]) -> None:
        self._scores = scores
        self._count = len(scores) // GROUP
        grouped = scores[: self._count * GROUP].reshape(GROUP, self._count)
        self._best = grouped.max(axis=0) if self._count else scores[:0]

    def nth_highest(self, n: int) -> float:
        """Give a number that at least the `n` highest scores reach, and few others."""
        scores = self._best if n < self._count else self._scores
        return float(np.partition(scores, len(scores) - n)[-n])

    def places(self, bar: float) -> npt.NDArray[np.int64]:
        """Give the places of the scores that reach a number, rising."""
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
    """Give the keys of places, and their cosines with unit vectors, shape (m, n)."""
    keys: list[str] = []
    cosines = [np.empty((len(targets), 0))]
    for names, stored in matrix.pick(places, count):
        keys += names
        vectors = unit(stored.astype(np.float64))
        # A product of matrices would round one row otherwise than another.
        cosines.append(np.array([(vectors * target).sum(1) for target in targets]))
    return keys, np.concatenate(cosines, axis=1)
