"""Cache of the most recently used vectors, in memory."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from streamfile._arrays import Array


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
