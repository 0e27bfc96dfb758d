"""What is similar to what: the comparisons that read no more than they are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from streamfile._arrays import Array, Doubles, unit
from streamfile.errors import ArgumentError
from streamfile.magnitude.shapes import as_vector, several

Item = Any  # a key or a vector


class Similarity:
    """The part of `streamfile.Magnitude` that compares vectors; it needs the rest of it.

    Keys and vectors may stand for each other in all arguments. A vector is a numpy array of one
    dimension, or a list of numbers.
    """

    dtype: np.dtype[Any]
    _each: Callable[[Sequence[Any]], Array]

    @property
    def dim(self) -> int:
        """Dimensions of the answers."""
        raise NotImplementedError

    @property
    def normalized(self) -> bool:
        """Whether vectors are of unit length unless a query says otherwise."""
        raise NotImplementedError

    def distance(self, key: Item, q: Item | Sequence[Item]) -> Any:
        """Give the Euclidean distance between a key and one or several others.

        Parameters
        ----------
        key, q : key or vector, q also a list of them

        Returns
        -------
        float or list of float
            A list for a list.
        """
        first, others, single = self._pair(key, q)
        distances = np.linalg.norm(others - first, axis=1).tolist()
        return distances[0] if single else distances

    def similarity(self, key: Item, q: Item | Sequence[Item]) -> Any:
        """Give the cosine of the angle between a key and one or several others.

        Parameters
        ----------
        key, q : key or vector, q also a list of them

        Returns
        -------
        float or list of float
            A list for a list.
        """
        first, others, single = self._pair(key, q)
        cosines = (unit(others) @ unit(first)).tolist()
        return cosines[0] if single else cosines

    def most_similar_to_given(self, key: Item, keys: Sequence[Item]) -> Item:
        """Pick the one of some keys that is most similar to a key.

        Raises
        ------
        ArgumentError
            There is none to pick from.
        """
        given, _ = several(keys)
        if not given:
            raise ArgumentError("most_similar_to_given: an empty list, there is none to pick")
        return given[int(np.argmax(self.similarity(key, given)))]

    def doesnt_match(self, keys: Sequence[Item]) -> Item:
        """Pick the one of some keys that is farthest from their unit mean.

        Raises
        ------
        ArgumentError
            There is none to pick from.
        """
        given, _ = several(keys)
        if not given:
            raise ArgumentError("doesnt_match: an empty list, there is none to pick")
        vectors = unit(self._resolve(given)[0])
        return given[int(np.argmax(np.linalg.norm(vectors - unit(vectors.mean(0)), axis=1)))]

    def _pair(self, key: Item, q: Any) -> tuple[Doubles, Doubles, bool]:
        others, single = several(q)
        vectors, _ = self._resolve([key, *others])
        return vectors[0], vectors[1:], single

    def _resolve(self, items: Sequence[Item]) -> tuple[Doubles, list[bool]]:
        """Give the vectors of items, and which of them are keys; all keys in one query."""
        given = [as_vector(item) for item in items]
        keys = [item for item, vector in zip(items, given, strict=True) if vector is None]
        known = iter(self._each(keys).astype(np.float64))
        dim = self.dim
        for vector in given:
            if vector is not None and (vector.shape != (dim,) or not np.isfinite(vector).all()):
                raise ArgumentError(
                    f"a vector of shape {vector.shape}: expected {dim} finite numbers"
                )
        found = [next(known) if vector is None else vector for vector in given]
        is_key = [vector is None for vector in given]
        return np.array(found, np.float64).reshape(len(items), dim), is_key
