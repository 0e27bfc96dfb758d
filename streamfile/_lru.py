"""Cache of the most recently used vectors, in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from streamfile._arrays import Array

CACHE_BYTES = 64 << 20


def capacity_for(lazy_loading: int, rows: int, dim: int, dtype: np.dtype[Any]) -> int:
    """Compute how many vectors to keep in memory.

    Parameters
    ----------
    lazy_loading
        See `streamfile.Magnitude`.
    rows
        Number of vectors in the file, which all stay in memory if `lazy_loading` is negative.
    dim, dtype
        Number of dimensions of a vector, and type of its numbers.
    """
    usual = max(1, CACHE_BYTES // (dtype.itemsize * dim))
    return usual + rows if lazy_loading < 0 else lazy_loading or usual


class RecentVectors:
    """A least-recently-used cache of vectors, in one matrix.

    Lookups and insertions handle all vectors of a query at once. The order of a dict is the order
    of use, so that an entry costs two operations on the dict.

    Parameters
    ----------
    capacity
        Greatest number of vectors in the cache. The matrix grows when needed.
    dim, dtype
        Number of dimensions of a vector, and type of its numbers.
    """

    def __init__(self, capacity: int, dim: int, dtype: npt.DTypeLike) -> None:
        self.dim = dim
        self._capacity = capacity
        self._slots: dict[Any, int] = {}
        self._matrix = np.empty((0, dim), dtype)

    def __contains__(self, name: object) -> bool:
        return name in self._slots

    def take_one(self, name: Any) -> Array | None:
        """Look up one vector, and mark it as used now.

        Returns
        -------
        ndarray or None
            A copy of the vector, shape (1, dim); None if it is not in the cache.
        """
        slot = self._slots.pop(name, None)
        if slot is None:
            return None
        self._slots[name] = slot
        return self._matrix[slot : slot + 1].copy()

    def take(self, names: Sequence[Any]) -> tuple[list[Any], Array]:
        """Look up vectors, and mark the found ones as used now.

        Returns
        -------
        names, vectors
            The names in the cache, without repeats, and a copy of their vectors, shape (n, dim).
        """
        here = self._slots.keys() & set(names)
        found = {name: self._slots.pop(name) for name in dict.fromkeys(names) if name in here}
        self._slots |= found
        return list(found), self._matrix[list(found.values())]

    def keep(self, names: Sequence[Any], vectors: Array) -> None:
        """Add vectors, which replace the least recently used ones if the cache is full.

        Parameters
        ----------
        names
            Names of the vectors, without repeats.
        vectors
            The vectors, shape (n, dim).
        """
        names, vectors = names[-self._capacity :], vectors[-self._capacity :]
        slots = [self._slots.pop(name) for name in self._slots.keys() & set(names)]
        free = range(len(self._slots) + len(slots), self._capacity)
        slots += free[: len(names) - len(slots)]
        for name in list(itertools.islice(self._slots, len(names) - len(slots))):
            slots.append(self._slots.pop(name))
        size = len(self._slots) + len(slots)
        if size > len(self._matrix):
            grown = min(max(size, 2 * len(self._matrix)), self._capacity)
            old, self._matrix = self._matrix, np.empty((grown, self.dim), self._matrix.dtype)
            self._matrix[: len(old)] = old
        self._matrix[slots] = vectors
        self._slots.update(zip(names, slots, strict=True))


def complete(
    names: Sequence[Any], known: Sequence[Any], vectors: Array, make: Callable[[list[Any]], Array]
) -> Array:
    """Return a vector for each name: those in the cache, and new ones.

    Parameters
    ----------
    names
        Names, with repeats.
    known, vectors
        Result of `RecentVectors.take` for `names`.
    make
        Function from names without repeats to their vectors, shape (n, dim). It is called only if
        a name is not among `known`.

    Returns
    -------
    ndarray
        A new array, shape (number of names, dim).
    """
    place = dict(zip(known, itertools.count()))
    absent = [name for name in dict.fromkeys(names) if name not in place]
    if absent:
        fresh = make(absent)
        if len(absent) == len(names):
            return fresh
        place |= zip(absent, itertools.count(len(known)), strict=False)
        # Without known vectors, `vectors` may have the dimensions of an earlier version.
        vectors = np.concatenate([vectors, fresh], dtype=fresh.dtype) if known else fresh
    elif len(known) == len(names):
        return vectors
    return vectors[[place[name] for name in names]]
