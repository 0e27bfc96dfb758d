"""The names by which users of gensim's KeyedVectors know things."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

from streamfile._arrays import unit
from streamfile.lookup.vectors import SCAN_ROWS
from streamfile.magnitude.most_similar import Ranking, Search
from streamfile.magnitude.shapes import Item, Key


class KeyedVectorsNames(Search):
    """A model with rows, which have places and keys, by the names that gensim's users know.

    Other than in gensim, keys outside the file have vectors too, and nothing is left out because
    it is missing.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Count the vectors in the file."""

    @abstractmethod
    def index(self, q: int | Sequence[int], return_vector: bool = True) -> Any:
        """Read keys by their place in the file."""

    @abstractmethod
    def _place_of(self, key: str) -> int | None:
        """Return the place of a key, None where there is none."""

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

    def get_index(self, key: str, default: int | None = None) -> int:
        """Look up the place of a key in the file.

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
        place = self._place_of(key) if isinstance(key, str) else None
        if place is not None:
            return place
        if default is None:
            raise KeyError(key)
        return default

    def similar_by_key(
        self, key: Key, topn: int | None = 10, restrict_vocab: int | None = None
    ) -> Ranking:
        """Rank the keys of the file by their similarity to one, as `most_similar`."""
        return self.most_similar([key], topn=topn, restrict_vocab=restrict_vocab)

    def similar_by_vector(
        self, vector: Any, topn: int | None = 10, restrict_vocab: int | None = None
    ) -> Ranking:
        """Rank the keys of the file by their similarity to a vector, as `most_similar`."""
        return self.most_similar([vector], topn=topn, restrict_vocab=restrict_vocab)

    def rank(self, key1: Item, key2: Item) -> int:
        """Count the place of `key2` among the keys most similar to `key1`, from 1."""
        return len(self.closer_than(key1, key2)) + 1

    def distances(self, word_or_vector: Item, other_words: Sequence[Item] = ()) -> Any:
        """Compute cosine distances, which are 1 - the cosine.

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
            return super().distances(word_or_vector, other_words)
        matrix, count = self._searched(None, None)
        vector = unit(self._resolve([word_or_vector])[0])
        cosines = matrix.cosines(vector[:, : self.emb_dim], count)[0]
        return self._given((1 - cosines).astype(self.dtype))


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
        """Look up the first place of a key; raise ValueError if it is not there."""
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
