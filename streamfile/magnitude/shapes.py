"""Shapes of queries and of results: a key, a list of keys, a list of lists, padding."""

from __future__ import annotations

import itertools
import numbers
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from streamfile._arrays import Array
from streamfile.errors import ArgumentError

# Numbers are keys too. A tuple is one key for a concatenation only.
Key = str | float | np.number[Any] | np.bool_ | tuple[Any, ...]
Keys = Sequence[Key] | Sequence[Sequence[Key]] | Array
Item = Key | Array | Sequence[float]  # a key or a vector


def as_list(q: Any, *, tuple_is_key: bool = False) -> Any:
    """Convert a sequence of keys to a list; return a key unchanged.

    Parameters
    ----------
    q
        A key, a sequence or an array.
    tuple_is_key
        Whether a tuple is one key, as for a concatenation, or a sequence of keys.
    """
    if isinstance(q, np.ndarray):
        return q.tolist()
    kinds = (list, range) if tuple_is_key else (list, range, tuple)
    return list(q) if isinstance(q, kinds) else q


def check_length(pad_to_length: int | None) -> int | None:
    """Check a length to which lists of keys are padded, and return it.

    Raises
    ------
    ArgumentError
        The length is negative.
    """
    if pad_to_length is not None and pad_to_length < 0:
        raise ArgumentError(f"pad_to_length={pad_to_length}: expected 0 or more")
    return pad_to_length


@dataclass(frozen=True)
class Query:
    """A query, as lists of keys.

    Attributes
    ----------
    lists
        The lists of keys; one list for a single key or a single list.
    depth
        0 for a key, 1 for a list, 2 for a list of lists.
    length
        Number of keys to which each list is padded or truncated.
    pad_left, truncate_left
        Whether to pad, and to truncate, at the left end.
    """

    lists: Sequence[list[Key]]
    depth: int
    length: int
    pad_left: bool
    truncate_left: bool

    @classmethod
    def parse(
        cls,
        q: Any,
        *,
        pad_to_length: int | None,
        pad_left: bool,
        truncate_left: bool,
        tuple_is_key: bool,
    ) -> Query:
        """Parse a query.

        Parameters
        ----------
        q
            A key, a sequence of keys, or a sequence of sequences of keys.
        pad_to_length, pad_left, truncate_left
            See `streamfile.Magnitude`. A single key is neither padded nor truncated.
        tuple_is_key
            See `as_list`.
        """
        keys = as_list(q, tuple_is_key=tuple_is_key)
        if not isinstance(keys, list):
            return cls([[keys]], 0, 1, pad_left, truncate_left)
        inner = [as_list(each, tuple_is_key=tuple_is_key) for each in keys]
        nested = bool(keys) and all(isinstance(each, list) for each in inner)
        lists = inner if nested else [keys]
        length = max(map(len, lists)) if pad_to_length is None else pad_to_length
        return cls(lists, 2 if nested else 1, length, pad_left, truncate_left)

    def of_keys(self, change: Callable[[Key], Key]) -> Query:
        """Return the same query for other keys: the results of a function for each key."""
        return replace(self, lists=[[change(key) for key in keys] for keys in self.lists])

    def keys(self) -> list[Key]:
        """List the keys that remain after truncation."""
        return [key for keys in self.lists for key in self.cut(keys)]

    def cut(self, items: Any) -> Any:
        """Truncate the keys of one list, or an array of their vectors."""
        if self.truncate_left:
            return items[max(len(items) - self.length, 0) :]
        return items[: self.length]

    def split(self, vectors: Array) -> Iterator[Array]:
        """Yield the vectors of each list, from the vectors of all `keys` in order."""
        at = 0
        for keys in self.lists:
            end = at + min(len(keys), self.length)
            yield vectors[at:end]
            at = end

    def shape(self, vectors: Iterable[Array]) -> Array:
        """Arrange vectors in the shape of the query.

        Parameters
        ----------
        vectors
            Vectors of each truncated list, shape (keys, dim) each. The result may share memory
            with these arrays.

        Returns
        -------
        ndarray
            Shape (dim,), (n, dim) or (lists, n, dim), where n is the padded length; the padding
            is zeros.
        """
        if self.depth < 2:
            (found,) = vectors
            if not self.depth:
                single: Array = found[0]
                return single
            if len(found) == self.length:
                return found
            vectors = [found]
        waiting = iter(vectors)
        first = next(waiting)
        answer = np.zeros((len(self.lists), self.length, first.shape[1]), first.dtype)
        for row, found in zip(answer, itertools.chain([first], waiting), strict=True):
            begin = self.length - len(found) if self.pad_left else 0
            row[begin : begin + len(found)] = found
        return answer if self.depth == 2 else answer[0]


def several(q: Any, *, tuple_is_key: bool = False) -> tuple[list[Any], bool]:
    """List the items of a sequence, or a single item.

    Parameters
    ----------
    q
        A key, a vector, or a sequence of keys and vectors.
    tuple_is_key
        See `as_list`.

    Returns
    -------
    items, single
        The items, and whether `q` is a single item.
    """
    if isinstance(q, np.ndarray) and q.dtype.kind not in "fiu":
        q = q.tolist()
    kinds = (list, np.ndarray) if tuple_is_key else (list, np.ndarray, tuple)
    if isinstance(q, kinds) and as_vector(q, tuple_is_key=tuple_is_key) is None:
        return list(q), False
    return [q], True


def as_vector(item: Any, *, tuple_is_key: bool = False) -> Array | None:
    """Convert a vector, which is an array or a list of numbers, to a float64 array.

    Parameters
    ----------
    item
        A key or a vector.
    tuple_is_key
        See `as_list`.

    Returns
    -------
    ndarray or None
        The vector, shape (n,); None for anything else, such as a key.
    """
    if isinstance(item, np.ndarray) and item.ndim:
        if item.ndim == 1 and item.dtype.kind in "fiu":
            return item.astype(np.float64)
        return None
    kinds = list if tuple_is_key else (list, tuple)
    numeric = isinstance(item, kinds) and all(isinstance(n, numbers.Real) for n in item)
    if numeric and len(item):
        return np.array(item, np.float64)
    return None
