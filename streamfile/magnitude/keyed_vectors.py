"""The names by which users of gensim's KeyedVectors know things."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np

from streamfile._arrays import Array, unit
from streamfile.errors import ArgumentError
from streamfile.lookup.vectors import SCAN_ROWS, Vectors
from streamfile.magnitude.most_similar import Search
from streamfile.magnitude.shapes import Key
from streamfile.magnitude.similarity import Item


class KeyedVectorsNames(Search):
    """The part of `streamfile.Magnitude` that has gensim's names for what it does.

    Other than in gensim, keys outside the file have vectors too, and nothing is left out because
    it is missing.
    """

    index: Callable[..., Any]
    query: Callable[..., Any]
    __len__: Callable[..., int]
    __contains__: Callable[..., bool]
    _vectors: Vectors
    _given: Callable[[Array], Any]

    @property
    def vector_size(self) -> int:
        """Dimensions of the answers, as `dim`."""
        return self.dim

    @property
    def index_to_key(self) -> Sequence[str]:
        """The keys by their place in the file, read when they are asked for."""
        return KeySequence(self)

    @property
    def key_to_index(self) -> Mapping[str, int]:
        """The places of keys, looked up when they are asked for.

        It has as many items as the file has rows: a key with several rows comes several times.
        """
        return PlaceMapping(self)

    def get_vector(self, key: Key, norm: bool | None = None) -> Any:
        """Give the vector of a key, as `query`.

        Parameters
        ----------
        key
            A string or a number.
        norm
            Whether of unit length. Default: as the object's ``normalized`` is.
        """
        return self.query(key, normalized=norm)

    def get_index(self, key: str, default: int | None = None) -> int:
        """Give the place of a key in the file.

        Parameters
        ----------
        key
            A string.
        default
            The answer for a key that is not there.

        Raises
        ------
        KeyError
            The file does not have the key, and there is no default.
        """
        rowid = self._vectors.find([key]).get(key) if isinstance(key, str) else None
        if rowid is not None:
            return rowid - 1
        if default is None:
            raise KeyError(key)
        return default

    def similar_by_key(
        self, key: Key, topn: int | None = 10, restrict_vocab: int | None = None
    ) -> Any:
        """Rank the keys of the file by their similarity to one, as `most_similar`."""
        return self.most_similar([key], topn=topn, restrict_vocab=restrict_vocab)

    def similar_by_vector(
        self, vector: Any, topn: int | None = 10, restrict_vocab: int | None = None
    ) -> Any:
        """Rank the keys of the file by their similarity to a vector, as `most_similar`."""
        return self.most_similar([vector], topn=topn, restrict_vocab=restrict_vocab)

    def n_similarity(self, ws1: Sequence[Item], ws2: Sequence[Item]) -> float:
        """Give the cosine between the mean vectors of two lists of keys.

        Raises
        ------
        ArgumentError
            An empty list.
        """
        first, second = (unit(self._mean(items, None, unit_first=False)) for items in (ws1, ws2))
        return float(first @ second)

    def rank(self, key1: Item, key2: Item) -> int:
        """Give the place of `key2` among the keys most similar to `key1`, from 1."""
        return len(self.closer_than(key1, key2)) + 1

    def get_mean_vector(
        self,
        keys: Sequence[Item],
        weights: Sequence[float] | None = None,
        pre_normalize: bool = True,
        post_normalize: bool = False,
    ) -> Any:
        """Give the weighted mean of vectors.

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

    def distances(self, word_or_vector: Item, other_words: Sequence[Item] = ()) -> Any:
        """Give cosine distances, which are 1 - the cosine.

        Parameters
        ----------
        word_or_vector : key or vector
        other_words : list of keys or vectors
            Default: all of the file, in its order, which are read as `most_similar` does.

        Returns
        -------
        ndarray or list
            Shape (number of others,).
        """
        if len(other_words):
            cosines = np.array(self.similarity(word_or_vector, list(other_words)))
        else:
            count = self._searched(None, None)
            vector = unit(self._resolve([word_or_vector])[0])
            cosines = self._matrix.cosines(vector[:, : self._reader.format.dim], count)[0]
        return self._given((1 - cosines).astype(self.dtype))

    def _mean(
        self, items: Sequence[Item], weights: Sequence[float] | None, *, unit_first: bool
    ) -> Array:
        shares = np.ones(len(items)) if weights is None else np.asarray(weights, np.float64)
        if not len(items) or shares.shape != (len(items),):
            raise ArgumentError(
                f"a mean of {len(items)} keys with {len(shares)} weights: expected one key or "
                "more, and as many weights"
            )
        vectors, _ = self._resolve(items)
        total: Array = shares @ (unit(vectors) if unit_first else vectors)
        return total / (np.abs(shares).sum() or 1)


class KeySequence(Sequence[str]):
    """The keys of a file by place.

    Parameters
    ----------
    of
        The object that has them.
    """

    def __init__(self, of: KeyedVectorsNames) -> None:
        self._of = of

    def __len__(self) -> int:
        return len(self._of)

    @overload
    def __getitem__(self, at: int) -> str: ...

    @overload
    def __getitem__(self, at: slice) -> list[str]: ...

    def __getitem__(self, at: int | slice) -> str | list[str]:
        places = list(range(*at.indices(len(self)))) if isinstance(at, slice) else at
        keys: str | list[str] = self._of.index(places, return_vector=False)
        return keys

    def __iter__(self) -> Iterator[str]:
        for begin in range(0, len(self), SCAN_ROWS):
            yield from self[begin : begin + SCAN_ROWS]

    def __contains__(self, key: object) -> bool:
        return key in self._of

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """Give the first place of a key, looked up; ValueError if it is not there."""
        place = self._of.get_index(value, -1)
        if place not in range(*slice(start, stop).indices(len(self))):
            raise ValueError(f"{value!r} is not there")
        return place


class PlaceMapping(Mapping[str, int]):
    """The places of the keys of a file.

    Parameters
    ----------
    of
        The object that has them.
    """

    def __init__(self, of: KeyedVectorsNames) -> None:
        self._of = of

    def __len__(self) -> int:
        return len(self._of)

    def __getitem__(self, key: str) -> int:
        return self._of.get_index(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._of.index_to_key)

    def __contains__(self, key: object) -> bool:
        return key in self._of
