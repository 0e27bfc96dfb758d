"""Comparisons of vectors: what is similar to what, among keys and vectors that are given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, overload

import numpy as np

from streamfile._arrays import Array, Doubles, unit
from streamfile.errors import ArgumentError
from streamfile.magnitude.shapes import Item, Key, as_vector, several


class Similarity(ABC):
    """Comparisons, for whatever has vectors of keys.

    Keys and vectors may stand for each other in all arguments. A vector is a numpy array of one
    dimension, or a list of numbers.
    """

    _tuple_is_key: ClassVar[bool] = False

    dtype: np.dtype[Any]
    use_numpy: bool

    @property
    @abstractmethod
    def dim(self) -> int:
        """Dimensions of the answers."""

    @abstractmethod
    def _of_keys(self, keys: Sequence[Key], normalized: bool | None) -> Array:
        """Return a new array of the vectors of keys, shape (n, dim).

        No key is the context of another. `normalized` is whether the vectors are of unit length,
        None for the usual.
        """

    @overload
    def distance(self, key: Item, q: str) -> float: ...
    @overload
    def distance(self, key: Item, q: Item | Sequence[Item]) -> Any: ...
    def distance(self, key: Item, q: Item | Sequence[Item]) -> Any:
        """Compute the Euclidean distance between a key and one or several others.

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

    @overload
    def similarity(self, key: Item, q: str) -> float: ...
    @overload
    def similarity(self, key: Item, q: Item | Sequence[Item]) -> Any: ...
    def similarity(self, key: Item, q: Item | Sequence[Item]) -> Any:
        """Compute the cosine of the angle between a key and one or several others.

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

    def distances(self, word_or_vector: Item, other_words: Sequence[Item]) -> Any:
        """Compute cosine distances, which are 1 - the cosine.

        Parameters
        ----------
        word_or_vector : key or vector
        other_words : list of keys or vectors

        Returns
        -------
        ndarray or list
            Shape (number of others,).
        """
        others, _ = several(other_words, tuple_is_key=self._tuple_is_key)
        cosines = np.array(self.similarity(word_or_vector, others))
        return self._given((1 - cosines).astype(self.dtype))

    def most_similar_to_given(self, key: Item, keys: Sequence[Item]) -> Item:
        """Pick the one of some keys that is most similar to a key.

        Raises
        ------
        ArgumentError
            There is none to pick from.
        """
        given, _ = several(keys, tuple_is_key=self._tuple_is_key)
        if not given:
            raise ArgumentError("most_similar_to_given: an empty list, there is none to pick")
        best: Item = given[int(np.argmax(self.similarity(key, given)))]
        return best

    def doesnt_match(self, keys: Sequence[Item]) -> Item:
        """Pick the one of some keys that is farthest from their unit mean.

        Raises
        ------
        ArgumentError
            There is none to pick from.
        """
        given, _ = several(keys, tuple_is_key=self._tuple_is_key)
        if not given:
            raise ArgumentError("doesnt_match: an empty list, there is none to pick")
        vectors = unit(self._resolve(given)[0])
        distances = np.linalg.norm(vectors - unit(vectors.mean(0)), axis=1)
        farthest: Item = given[int(np.argmax(distances))]
        return farthest

    def n_similarity(self, ws1: Sequence[Item], ws2: Sequence[Item]) -> float:
        """Compute the cosine between the mean vectors of two lists of keys.

        Raises
        ------
        ArgumentError
            An empty list.
        """
        first, second = (unit(self._mean(items, None, unit_first=False)) for items in (ws1, ws2))
        return float(first @ second)

    def get_mean_vector(
        self,
        keys: Sequence[Item],
        weights: Sequence[float] | None = None,
        pre_normalize: bool = True,
        post_normalize: bool = False,
    ) -> Any:
        """Compute the weighted mean of vectors.

        Parameters
        ----------
        keys : list of keys or vectors
        weights : list of float, optional
            One for each; the sum is divided by that of their absolute values. Default: all 1.
        pre_normalize, post_normalize
            Whether to scale the vectors, the mean, to unit length.

        Returns
        -------
        ndarray or list
            Shape (dim,).

        Raises
        ------
        ArgumentError
            No keys, or not as many weights as keys.
        """
        mean = self._mean(keys, weights, unit_first=pre_normalize)
        return self._given((unit(mean) if post_normalize else mean).astype(self.dtype))

    def _given(self, answer: Array) -> Any:
        """Return an answer as the options want it, an array or a list."""
        return answer if self.use_numpy else answer.tolist()

    def _mean(
        self, items: Sequence[Item], weights: Sequence[float] | None, *, unit_first: bool
    ) -> Array:
        items, _ = several(items, tuple_is_key=self._tuple_is_key)
        shares = np.ones(len(items)) if weights is None else np.asarray(weights, np.float64)
        if not len(items) or shares.shape != (len(items),):
            raise ArgumentError(
                f"a mean of {len(items)} keys with {len(shares)} weights: expected one key or "
                "more, and as many weights"
            )
        vectors, _ = self._resolve(items)
        total: Array = shares @ (unit(vectors) if unit_first else vectors)
        return total / (np.abs(shares).sum() or 1)

    def _pair(self, key: Item, q: Any) -> tuple[Doubles, Doubles, bool]:
        others, single = several(q, tuple_is_key=self._tuple_is_key)
        vectors, _ = self._resolve([key, *others])
        return vectors[0], vectors[1:], single

    def _resolve(self, items: Sequence[Item]) -> tuple[Doubles, list[bool]]:
        """Return the vectors of items, and which items are keys; all keys share a query."""
        given = [as_vector(item, tuple_is_key=self._tuple_is_key) for item in items]
        keys: list[Any] = [
            item for item, vector in zip(items, given, strict=True) if vector is None
        ]
        known = iter(self._of_keys(keys, None).astype(np.float64))
        dim = self.dim
        for vector in given:
            if vector is not None and (vector.shape != (dim,) or not np.isfinite(vector).all()):
                raise ArgumentError(
                    f"a vector of shape {vector.shape}: expected {dim} finite numbers"
                )
        found = [next(known) if vector is None else vector for vector in given]
        is_key = [vector is None for vector in given]
        return np.array(found, np.float64).reshape(len(items), dim), is_key
