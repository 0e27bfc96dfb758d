"""Methods under the names of gensim's ``KeyedVectors``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

from streamfile._arrays import unit
from streamfile.lookup.vectors import SCAN_ROWS
from streamfile.magnitude.calls import Calls
from streamfile.magnitude.most_similar import Ranking, Search
from streamfile.magnitude.shapes import Item, Key


class KeyedVectorsNames(Search):
    """A model with rows, which has methods under the names of gensim's ``KeyedVectors``.

    Unlike in gensim, a key outside the file has a vector too, so that no method leaves out missing
    keys.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of vectors in the file."""

    @abstractmethod
    def index(self, q: int | Sequence[int], return_vector: bool = True) -> Any:
        """Read keys, and with `return_vector` their vectors, by position in the file."""

    @abstractmethod
    def _place_of(self, key: object) -> int | None:
        """Return the position of a key, None if the file does not have the key."""

    @property
    def index_to_key(self) -> Sequence[str]:
        """The keys by position in the file, read at each access."""
        return KeySequence(self)

    @property
    def key_to_index(self) -> Mapping[str, int]:
        """The positions of keys, looked up at each access.

        The mapping has one item for each row; iteration yields a key once for each of its rows.
        """
        return PlaceMapping(self)

    def get_index(self, key: str, default: int | None = None) -> int:
        """Look up the position of a key in the file.

        Parameters
        ----------
        key
            A string.
        default
            Result for a key that the file does not have; None raises a KeyError instead.

        Raises
        ------
        KeyError
            The file does not have the key, and `default` is None.
        """
        place = self._place_of(key)
        if place is not None:
            return place
        if default is None:
            raise KeyError(key)
        return default

    def similar_by_key(
        self, key: Key, topn: int | None = 10, restrict_vocab: int | None = None
    ) -> Ranking:
        """Rank the keys of the file by similarity to a key, see `most_similar`."""
        return self.most_similar([key], topn=topn, restrict_vocab=restrict_vocab)

    def similar_by_vector(
        self, vector: Any, topn: int | None = 10, restrict_vocab: int | None = None
    ) -> Ranking:
        """Rank the keys of the file by similarity to a vector, see `most_similar`."""
        return self.most_similar([vector], topn=topn, restrict_vocab=restrict_vocab)

    def rank(self, key1: Item, key2: Item) -> int:
        """Return the rank of `key2` among the keys most similar to `key1`, from 1."""
        return len(self.closer_than(key1, key2)) + 1

    def distances(self, word_or_vector: Item, other_words: Sequence[Item] = ()) -> Any:
        """Compute cosine distances (1 - cosine).

        Parameters
        ----------
        word_or_vector : key or vector
        other_words : list of keys or vectors
            Default: all rows of the file in order, which are read and kept as by `most_similar`.

        Returns
        -------
        ndarray or list
            Distances, shape (number of others,).
        """
        if len(other_words):
            return super().distances(word_or_vector, other_words)
        matrix, count = self._searched(None, None)
        vector = unit(self._resolve([word_or_vector])[0])
        cosines = matrix.cosines(vector[:, : self.emb_dim], count)[0]
        return self._given((1 - cosines).astype(self.dtype))


class KeySequence(Calls, Sequence[str]):
    """The keys of a file by position.

    Parameters
    ----------
    of
        Model of the file.
    """

    def __init__(self, of: KeyedVectorsNames) -> None:
        self._of = of
        self.stream = of.stream

    @property
    def deadline(self) -> float | None:
        """The deadline of the model's calls."""
        return self._of.deadline

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
            for key in self[begin : begin + SCAN_ROWS]:
                self._of._check_open()
                yield key

    def __contains__(self, key: object) -> bool:
        return key in self._of

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """Return the first position of a key; raise a ValueError if that is out of the range."""
        place = self._of.get_index(value, -1)
        if place not in range(*slice(start, stop).indices(len(self))):
            raise ValueError(f"{value!r} is not there")
        return place


class PlaceMapping(Calls, Mapping[str, int]):
    """The positions of the keys of a file.

    Parameters
    ----------
    of
        Model of the file.
    """

    def __init__(self, of: KeyedVectorsNames) -> None:
        self._of = of
        self.stream = of.stream

    @property
    def deadline(self) -> float | None:
        """The deadline of the model's calls."""
        return self._of.deadline

    def __len__(self) -> int:
        return len(self._of)

    def __getitem__(self, key: str) -> int:
        return self._of.get_index(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._of.index_to_key)

    def __contains__(self, key: object) -> bool:
        return key in self._of
