"""The vectors last used, in memory."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from streamfile._arrays import Array


class RecentVectors:
    """A least-recently-used cache of vectors, in one matrix.

    A query of thousands of keys goes in and out by whole arrays: an entry costs two operations on
    a dict, whose order is that of use.

    Parameters
    ----------
    capacity
        Most vectors held.
    dim, dtype
        Of the vectors. The matrix grows as it fills.
    """

    def __init__(self, capacity: int, dim: int, dtype: npt.DTypeLike) -> None:
        self.dim = dim
        self._capacity = capacity
        self._slots: dict[Any, int] = {}
        self._matrix = np.empty((0, dim), dtype)

    def __contains__(self, name: object) -> bool:
        return name in self._slots

    def take_one(self, name: Any) -> Array | None:
        """Look one vector up, as `take`.

        Returns
        -------
        ndarray or None
            A copy, shape (1, dim); None where the vector is not here.
        """
        slot = self._slots.pop(name, None)
        if slot is None:
            return None
        self._slots[name] = slot
        return self._matrix[slot : slot + 1].copy()

    def take(self, names: Sequence[Any]) -> tuple[list[Any], Array]:
        """Look vectors up; those that are here count as just used.

        Returns
        -------
        names, vectors
            The different names that are here, and a copy of their vectors, shape (n, dim).
        """
        here = self._slots.keys() & set(names)
        found = {name: self._slots.pop(name) for name in dict.fromkeys(names) if name in here}
        self._slots |= found
        return list(found), self._matrix[list(found.values())]

    def keep(self, names: Sequence[Any], vectors: Array) -> None:
        """Add vectors, in place of those unused for longest.

        Parameters
        ----------
        names
            All different.
        vectors
            Shape (n, dim).
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
