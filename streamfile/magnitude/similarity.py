"""Comparisons among given keys and vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, overload

import numpy as np

from streamfile._arrays import Array, Doubles, unit
from streamfile.errors import ArgumentError
from streamfile.magnitude.calls import Calls
from streamfile.magnitude.shapes import Item, Key, as_vector, several


class Similarity(Calls, ABC):
    """Base class of models, with comparisons of the vectors of keys.

    All methods accept a vector in place of a key. A vector is a numpy array of one dimension, or a
    list of numbers.
    """

    _tuple_is_key: ClassVar[bool] = False

    dtype: np.dtype[Any]
    use_numpy: bool

    @property
    @abstractmethod
    def dim(self) -> int:
        """Number of dimensions of a result."""

    @abstractmethod
    def _of_keys(self, keys: Sequence[Key], normalized: bool | None) -> Array:
        """Return a new array of the vectors of keys, shape (n, dim).

        For an ELMo model, no key is context of another key. `normalized` tells whether the vectors
        have unit length, None for the default.
        """

    @overload
    def distance(self, key: Item, q: str) -> float: ...
    @overload
    def distance(self, key: Item, q: Item | Sequence[Item]) -> Any: ...
    def distance(self, key: Item, q: Item | Sequence[Item]) -> Any:
        """Compute the Euclidean distance between a key and one or several other keys.

        Parameters
        ----------
        key, q : key or vector, q also a list of them

        Returns
        -------
        float or list of float
            A list if `q` is a list.
        """
        first, others, single = self._pair(key, q)
        distances = np.linalg.norm(others - first, axis=1).tolist()
        return distances[0] if single else distances

    @overload
    def similarity(self, key: Item, q: str) -> float: ...
    @overload
    def similarity(self, key: Item, q: Item | Sequence[Item]) -> Any: ...
    def similarity(self, key: Item, q: Item | Sequence[Item]) -> Any:
        """Compute the cosine of the angle between a key and one or several other keys.

        Parameters
        ----------
        key, q : key or vector, q also a list of them

        Returns
        -------
        float or list of float
            A list if `q` is a list.
        """
        first, others, single = self._pair(key, q)
        cosines = (unit(others) @ unit(first)).tolist()
        return cosines[0] if single else cosines

    def distances(self, word_or_vector: Item, other_words: Sequence[Item] = ()) -> Any:
        """Compute cosine distances (1 - cosine).

        Parameters
        ----------
        word_or_vector : key or vector
        other_words : list of keys or vectors

        Returns
        -------
        ndarray or list
            Distances, shape (number of others,).

        Raises
        ------
        ArgumentError
            There is nothing to compare with.
        """
        others, _ = several(other_words, tuple_is_key=self._tuple_is_key)
        if not others:
            raise ArgumentError(
                "distances: expected other keys or vectors to compare with, for this model has no "
                "rows of its own"
            )
        cosines = np.array(self.similarity(word_or_vector, others))
        return self._given((1 - cosines).astype(self.dtype))

    def most_similar_to_given(self, key: Item, keys: Sequence[Item]) -> Item:
        """Return the one of `keys` that is most similar to `key`.

        Raises
        ------
        ArgumentError
            `keys` is empty.
        """
        given, _ = several(keys, tuple_is_key=self._tuple_is_key)
        if not given:
            raise ArgumentError("most_similar_to_given: an empty list, there is none to pick")
        best: Item = given[int(np.argmax(self.similarity(key, given)))]
        return best

    def doesnt_match(self, keys: Sequence[Item]) -> Item:
        """Return the one of `keys` whose unit vector is farthest from their unit mean vector.

        Raises
        ------
        ArgumentError
            `keys` is empty.
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
            A list is empty.
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
        """Compute the weighted mean of the vectors of keys.

        Parameters
        ----------
        keys : list of keys or vectors
        weights : list of float, optional
            A weight for each key. The weighted sum is divided by the sum of the absolute weights.
            Default: all 1.
        pre_normalize, post_normalize
            Whether to scale the vectors, and the mean, to unit length.

        Returns
        -------
        ndarray or list
            The mean, shape (dim,).

        Raises
        ------
        ArgumentError
            There are no keys, or the numbers of keys and of weights differ.
        """
        mean = self._mean(keys, weights, unit_first=pre_normalize)
        return self._given((unit(mean) if post_normalize else mean).astype(self.dtype))

    def _given(self, answer: Array) -> Any:
        """Return a result as an array, or as a list if `use_numpy` is False."""
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
        """Return the vectors of items, and whether each item is a key; all keys share a query."""
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
